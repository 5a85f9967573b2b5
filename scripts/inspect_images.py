"""`omni-vision inspect`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.inspect import main


if __name__ == "__main__":
    main()
