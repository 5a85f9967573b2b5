"""The commands: one module each with dataclass arguments, `main(argv)` and one call; `main.py` names them."""
