"""Values of `metrics.json` for a card: checked as what can be measured, readable, safe in a table, no local paths."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


# Absolute, below the home or the current folder; on Windows too.
LOCAL_PATH = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]")

# What sections call the number of images or questions they were measured on.
COUNTS = ("num_examples", "questions", "images", "n")


def basename(text: str) -> str:
    """Shorten a local path to its last part; names of datasets and anything else stay as they are."""
    if LOCAL_PATH.match(text):
        return Path(text).name or "a local folder"
    # As in emoji:FOLDER; an address has two slashes there.
    kind, colon, path = text.partition(":")
    return f"{kind}:{basename(path)}" if colon and re.fullmatch(r"\w{2,}", kind) and path[:2] != "//" else text


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def get_section(section: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object in a section, empty where there is none; raise `ValueError` for anything but an object."""
    found = section.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"metrics.json: {name} must be an object, got {found!r}. Run the evaluation again.")
    return found


def check_fraction(value: Any, name: str) -> float:
    """Return a measured number from 0 to 1; raise `ValueError` for anything else."""
    return check_nonnegative(value, name, highest=1)


def check_nonnegative(value: Any, name: str, highest: float = math.inf) -> float:
    """Return a measured number from 0 to `highest`; raise `ValueError` for anything else."""
    if not is_number(value) or not 0 <= value <= highest:
        limits = "from 0" if math.isinf(highest) else f"from 0 to {highest}"
        raise ValueError(f"metrics.json: {name} must be a number {limits}, got {value!r}. Run the evaluation again.")
    return float(value)


def format_interval(interval: Any, name: str) -> str:
    """Format an interval of fractions in percent; raise `ValueError` for anything but [low, high]."""
    if not isinstance(interval, list) or len(interval) != 2:
        raise ValueError(f"metrics.json: {name} must be [low, high], got {interval!r}. Run the evaluation again.")
    return " to ".join(f"{check_fraction(end, name):.2%}" for end in interval)


def format_value(value: Any) -> str:
    """Format a value for a table: at most six significant digits, integers in full."""
    if not is_number(value):
        return table_cell(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def format_size(size: int | Sequence[int]) -> str:
    """Format an image size in pixels, height first."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width}"


def single_line(text: Any) -> str:
    """Join the lines of a text; "" for anything but a text."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def table_cell(value: Any) -> str:
    """Escape what would break a Markdown table."""
    return single_line(str(value)).replace("|", "\\|")


def flatten(section: dict[str, Any]) -> list[tuple[str, str]]:
    """Format the numbers and texts of a section and of the objects in it, in their order; lists are left out."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            rows += [(f"{table_cell(name)}: {label}", text) for label, text in flatten(value)]
        elif isinstance(value, bool | int | float | str):
            rows.append((table_cell(name), format_value(basename(value) if isinstance(value, str) else value)))
    return rows


def count_of(section: dict[str, Any]) -> str | None:
    """Format the number of images or questions that a section was measured on, None where it does not say so."""
    return next((format_value(section[name]) for name in COUNTS if is_number(section.get(name))), None)


# What templates call them.
FILTERS: dict[str, Callable[..., Any]] = {
    "cell": table_cell,
    "count": lambda value, name: format_value(int(check_nonnegative(value, name))),
    "count_of": count_of,
    "fraction": lambda value, name: f"{check_fraction(value, name):.4f}",
    "interval": format_interval,
    "nonnegative": lambda value, name: f"{check_nonnegative(value, name):.4f}",
    "percent": lambda value, name: f"{check_fraction(value, name):.2%}",
    "section": get_section,
    "value": format_value,
}


__all__ = ["FILTERS", "basename", "check_fraction", "check_nonnegative", "flatten", "format_size", "format_value"]
__all__ += ["get_section", "is_number", "single_line", "table_cell"]
