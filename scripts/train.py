"""`omni-vision train`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.train import main


if __name__ == "__main__":
    main()
