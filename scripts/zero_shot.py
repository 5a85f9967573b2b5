"""`omni-vision zero-shot`, for `accelerate launch` and torchrun."""

from modeling_omni_vision.cli.zero_shot import main


if __name__ == "__main__":
    main()
