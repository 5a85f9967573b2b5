"""`omni-vision benchmark`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.benchmark import main


if __name__ == "__main__":
    main()
