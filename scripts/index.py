"""`omni-vision index`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.index import main


if __name__ == "__main__":
    main()
