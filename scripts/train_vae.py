"""`omni-vision train-vae`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.train_vae import main


if __name__ == "__main__":
    main()
