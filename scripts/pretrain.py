"""`omni-vision pretrain`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.pretrain import main


if __name__ == "__main__":
    main()
