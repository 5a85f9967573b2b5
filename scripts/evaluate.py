"""`omni-vision evaluate`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.evaluate import main


if __name__ == "__main__":
    main()
