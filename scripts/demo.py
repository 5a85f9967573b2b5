"""`omni-vision demo`, from a checkout."""

from modeling_omni_vision.cli.demo import main


if __name__ == "__main__":
    main()
