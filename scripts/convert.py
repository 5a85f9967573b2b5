"""`omni-vision convert`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.convert import main


if __name__ == "__main__":
    main()
