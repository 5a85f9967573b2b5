"""`omni-vision train-language`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.train_language import main


if __name__ == "__main__":
    main()
