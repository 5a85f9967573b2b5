"""`omni-vision export`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.export import main


if __name__ == "__main__":
    main()
