"""A field of the arguments of a command. Without torch, so that `--help` answers at once."""

from dataclasses import MISSING, field
from typing import Any


def option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    """
    Describe a field of arguments.

    Args:
        help: One or two sentences.
        default: Its value where the flag is left out; a flag without one is required. A list is copied.
        metadata: `positional=True` for a word without a flag, `bare=value` for what the flag means without a value,
            `choices` for the only values it takes, `least` and `most` for the smallest and the largest number,
            `folder=True` for a folder to write, `words=True` for a text that may stand there without quotes.
    """
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


__all__ = ["option"]
