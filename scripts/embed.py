"""`omni-vision embed`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.embed import main


if __name__ == "__main__":
    main()
