"""How values of `metrics.json` are spelled in a card: readable, safe in a table, without folders of a machine."""

import math
import re
from pathlib import Path
from typing import Any


# Absolute, below the home or the current folder; on Windows too.
LOCAL_PATH = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]")


def leaf(text: str) -> str:
    """Shorten a path of a machine to its last part: what is published does not tell where somebody keeps files."""
    if LOCAL_PATH.match(text):
        return Path(text).name or "a local folder"
    # As in emoji:FOLDER; an address has two slashes there.
    kind, colon, path = text.partition(":")
    return f"{kind}:{leaf(path)}" if colon and re.fullmatch(r"\w{2,}", kind) and path[:2] != "//" else text


def table(section: dict[str, Any]) -> list[tuple[str, str]]:
    """Spell the plain values of a section and of the objects in it, in their order, without lists and nothing."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            rows += [(f"{cell(name)}: {label}", text) for label, text in table(value)]
        elif isinstance(value, bool | int | float | str):
            rows.append((cell(name), spelled(leaf(value) if isinstance(value, str) else value)))
    return rows


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def spelled(value: Any) -> str:
    """Spell a value for a table: at most six significant digits, whole numbers whole."""
    if isinstance(value, bool) or not number(value):
        return cell(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def cell(value: Any) -> str:
    """Escape a value that would break a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def one_line(command: Any) -> str | None:
    """Spell a command for a block of code, None where there is none."""
    return " ".join(command.split()) if isinstance(command, str) and command else None


def by(size: int | list[int] | tuple[int, int]) -> str:
    """Spell an image size, height first."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width}"


__all__ = ["by", "cell", "leaf", "number", "one_line", "spelled", "table"]
