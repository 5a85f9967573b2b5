"""`omni-vision ask`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.ask import main


if __name__ == "__main__":
    main()
