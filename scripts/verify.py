"""`omni-vision verify`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.verify import main


if __name__ == "__main__":
    main()
