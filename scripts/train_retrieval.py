"""`omni-vision train-retrieval`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.train_retrieval import main


if __name__ == "__main__":
    main()
