"""`omni-vision duplicates`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.duplicates import main


if __name__ == "__main__":
    main()
