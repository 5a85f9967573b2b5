"""`omni-vision train-retrieval`, for `accelerate launch scripts/train_retrieval.py` and torchrun."""

from modeling_omni_vision.cli.train_retrieval import main


if __name__ == "__main__":
    main()
