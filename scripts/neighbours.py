"""`omni-vision neighbours`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.neighbours import main


if __name__ == "__main__":
    main()
