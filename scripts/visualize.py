"""`omni-vision visualize`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.visualize import main


if __name__ == "__main__":
    main()
