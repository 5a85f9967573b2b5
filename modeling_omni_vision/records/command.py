"""Commands as they are recorded beside numbers: repeatable, without folders of this machine."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path


def recorded_command(program: str, argv: Sequence[str]) -> str:
    """Return a command with local paths shortened to their last part, also in `--name=path`."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(f"{name}={without_folder(value)}" if equals and name.startswith("--") else without_folder(word))
    return shlex.join([program, *words])


def without_folder(text: str) -> str:
    """Return the last part of a local path; names of datasets and anything else as they are."""
    path = Path(text).expanduser()
    # Unlike `Path.exists`, which raises for a word longer than a file name can be, such as JSON.
    local = os.path.exists(path) or path.is_absolute() or text.startswith(("./", "../"))
    return path.resolve().name if local else text


__all__ = ["recorded_command", "without_folder"]
