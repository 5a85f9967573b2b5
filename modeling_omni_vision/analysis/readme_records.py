"""What all blocks of README.md and of the recipes are made from: the files that hold the numbers."""

import json
from pathlib import Path
from typing import Any


def read(root: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of the repository."""
    return json.loads((root / name).read_text(encoding="utf-8"))


def last_part(training: dict[str, Any]) -> str:
    """Say so where the minutes of a run are not all: it went on from another, or from a checkpoint of its own."""
    before = [training.get("arguments", {}).get("model"), training.get("resumed_from")]
    return f" for the last part, after {' and '.join(name for name in before if name)}" if any(before) else ""


def where(training: dict[str, Any], more: str = "") -> str:
    """Say where and how long a training ran, as a line of a recipe; `more` instead of what it went on from."""
    machine, took = training["machine"], f"{training['minutes']:.0f} minutes{more or last_part(training)}"
    return f"# {machine['cpu']}, {machine['threads']} thread(s), shared; {took}."


__all__ = ["last_part", "read", "where"]
