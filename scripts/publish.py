"""`omni-vision publish`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.publish import main


if __name__ == "__main__":
    main()
