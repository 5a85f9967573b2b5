"""One module a command: dataclass arguments, `main(argv)`, one call."""
