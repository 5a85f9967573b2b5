"""`omni-vision distill`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.distill import main


if __name__ == "__main__":
    main()
