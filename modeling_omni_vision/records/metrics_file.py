"""`metrics.json`, the only source of numbers in cards and README: read, merged and written here alone."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


try:
    import fcntl
except ImportError:  # Windows, where writers must not meet
    fcntl = None  # type: ignore[assignment]

METRICS_FILE = "metrics.json"
PROOF_NAME = "proof.json"


def results_folder(folder: Path) -> Path:
    """Return where results about a checkpoint are written: beside a published folder, whose proof covers its files."""
    if not (folder / PROOF_NAME).is_file():
        return folder
    place = folder.resolve()
    return place.with_name(f"{place.name}-evaluation")


def merge_metrics(folder: Path, sections: dict[str, Any]) -> Path:
    """Write sections into `metrics.json` and keep the others; several writers wait for each other.

    Returns:
        The file, which is replaced whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        return write_json(folder / METRICS_FILE, {**read_metrics(folder), **sections})


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the sections of `metrics.json`, none where there is no file; refuse what is not a JSON object."""
    path = folder / METRICS_FILE
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} must hold a JSON object, got {error}. Repair or remove it: it is not written over."
        ) from error


def write_json(path: Path, value: dict[str, Any]) -> Path:
    """Write a JSON file, whole or not at all, with null for numbers that JSON does not know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A name of its own for each writer, threads of one process included.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: on the folder itself, since a lock file would be published with it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


__all__ = ["METRICS_FILE", "PROOF_NAME", "finite", "merge_metrics", "read_metrics", "results_folder", "write_json"]
