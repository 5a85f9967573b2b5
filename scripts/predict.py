"""`omni-vision predict`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.predict import main


if __name__ == "__main__":
    main()
