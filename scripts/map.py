"""`omni-vision map`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.map import main


if __name__ == "__main__":
    main()
