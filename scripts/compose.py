"""`omni-vision compose`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.compose import main


if __name__ == "__main__":
    main()
