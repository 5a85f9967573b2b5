"""`omni-vision search`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.search import main


if __name__ == "__main__":
    main()
