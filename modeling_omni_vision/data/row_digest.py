"""A digest of the rows of a split, by which a run knows its data again without opening an image."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .stored_images import image_fields


if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 2**16  # rows that are looked at at a time
# Of an image that a table holds: others of its size differ at its end where it is compressed, and within where not.
LAST_BYTES, BYTES_WITHIN = 64, 64


def describe_rows(rows: "Dataset") -> dict[str, Any]:
    """Return the number of rows and a digest of them.

    It has the paths of images below the folder that is common to all of them, since data may be moved; of images in
    tables their sizes and some bytes; names of classes; and all other columns whole, but for `source`, which says
    where a row was found.
    """
    prefixes = {name: _common_folder(rows, name) for name, kind in rows.features.items() if _holds_images(kind)}
    classes = {name: getattr(getattr(kind, "feature", kind), "names", None) for name, kind in rows.features.items()}
    blocks = (rows.select(range(start, min(start + BLOCK, len(rows)))) for start in range(0, len(rows), BLOCK))
    found = digest(itertools.chain([classes], (_values(block, prefixes) for block in blocks)))
    return {"rows": len(rows), "content": found["digest"]}


def digest(values: Iterable[Any]) -> dict[str, Any]:
    """Return how many values there are, as rows, and a digest of them."""
    found, number = hashlib.sha256(), 0
    for value in values:
        found.update(json.dumps(value, default=str).encode())
        number += 1
    return {"rows": number, "digest": found.hexdigest()[:16]}


def _holds_images(kind: Any) -> bool:
    from datasets import Image  # not at the top: `--help` is to answer at once

    return isinstance(getattr(kind, "feature", kind), Image)


def _values(rows: "Dataset", prefixes: dict[str, str]) -> dict[str, Any]:
    return {
        name: _images(rows, name, prefixes[name]) if name in prefixes else rows[name][:]
        for name in sorted(rows.features)
        if name != "source"
    }


def _images(rows: "Dataset", name: str, prefix: str) -> list[Any]:
    """Return for the images of each row how many there are, and of all of them paths, numbers and ends of bytes."""
    column, chosen = rows.data.column(name), np.arange(len(rows.data))
    if rows._indices is not None:
        chosen = rows._indices.column(0).to_numpy()
    lengths = None
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        every = pc.list_value_length(column).fill_null(0).to_numpy()
        firsts, lengths = np.cumsum(every) - every, every[chosen]
        ranges = [np.arange(firsts[row], firsts[row] + every[row]) for row in chosen]
        chosen = np.concatenate(ranges) if ranges else chosen
    paths, contents = image_fields(column)
    stored = contents.null_count < len(contents)
    return [
        None if lengths is None else lengths.tolist(),
        # Of a member of an archive, its own path comes first.
        [path and path.removeprefix(prefix).partition("::")[0] for path in paths.take(chosen).to_pylist()],
        pc.binary_length(contents).take(chosen).to_pylist(),
        [_some_bytes(contents[row]) for row in chosen.tolist()] if stored else None,
    ]


def _some_bytes(content: pa.BinaryScalar) -> bytes | None:
    buffer = content.as_buffer()  # without a copy of the whole
    if buffer is None:
        return None
    every = np.frombuffer(buffer, np.uint8)
    return every[_places(len(every))].tobytes() + every[-LAST_BYTES:].tobytes()


@lru_cache(maxsize=2**12)
def _places(length: int) -> np.ndarray:
    """Return where to look: at random, since even steps would follow a column of an image that is not compressed."""
    return np.random.default_rng(length).integers(0, length, BYTES_WITHIN if length else 0)


def _common_folder(rows: "Dataset", name: str) -> str:
    paths = image_fields(rows.data.column(name))[0]
    if rows._indices is not None and pa.types.is_struct(rows.data.column(name).type):
        paths = paths.take(rows._indices.column(0))
    first, last = pc.min_max(paths).as_py().values()  # all others lie between
    pairs = enumerate(zip(first or "", last or "", strict=False))
    equal = next((place for place, (one, other) in pairs if one != other), min(len(first or ""), len(last or "")))
    return (first or "")[: max(first.rfind("/", 0, equal), first.rfind(os.sep, 0, equal)) + 1] if first else ""


__all__ = ["describe_rows", "digest"]
