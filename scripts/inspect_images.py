"""`omni-vision inspect`, for `accelerate launch scripts/inspect_images.py` and torchrun."""

from modeling_omni_vision.cli.inspect import main


if __name__ == "__main__":
    main()
