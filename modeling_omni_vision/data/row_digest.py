"""A digest of the rows of a split, by which a run knows its data again without opening an image."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 2**16  # rows that are looked at at a time
PARTS_OF_PATHS = 2  # file and folder, which often is the class; above them, data may have moved


def describe_rows(rows: "Dataset") -> dict[str, Any]:
    """Return the number of rows and a digest of them: names and sizes of images, all other columns whole."""
    blocks = (rows.select(range(start, min(start + BLOCK, len(rows)))) for start in range(0, len(rows), BLOCK))
    return {**digest(map(_values, blocks)), "rows": len(rows)}


def digest(values: Iterable[Any]) -> dict[str, Any]:
    """Return how many values there are, as rows, and a digest of them."""
    found, number = hashlib.sha256(), 0
    for value in values:
        found.update(json.dumps(value, default=str).encode())
        number += 1
    return {"rows": number, "digest": found.hexdigest()[:16]}


def _values(rows: "Dataset") -> dict[str, list[Any]]:
    from datasets import Image  # not at the top: `--help` is to answer at once

    return {
        name: _images(rows, name) if isinstance(getattr(kind, "feature", kind), Image) else rows[name][:]
        for name, kind in sorted(rows.features.items())
    }


def _images(rows: "Dataset", name: str) -> list[Any]:
    """Return the end of the path of each image of each row, and how many bytes it has where the table holds them."""
    column, kind = rows.data.column(name), rows.data.column(name).type
    chosen = np.arange(len(column)) if rows._indices is None else rows._indices.column(0).to_numpy()
    chunks, ends = column.chunks, None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(column).fill_null(0).to_numpy()
        firsts = np.cumsum(lengths) - lengths
        chunks, kind = [chunk.flatten() for chunk in chunks], kind.value_type
        ends = np.cumsum([0, *lengths[chosen]]).tolist()
        chosen = np.concatenate([np.arange(firsts[row], firsts[row] + lengths[row]) for row in chosen] or [chosen])
    # Neither copies the bytes themselves.
    paths, contents = (
        pa.chunked_array([pc.struct_field(chunk, part) for chunk in chunks], kind.field(part).type)
        for part in ("path", "bytes")
    )
    found = _ends(paths.take(chosen).to_pylist()), pc.binary_length(contents).take(chosen).to_pylist()
    images = [*zip(*found, strict=True)]
    return images if ends is None else [images[start:end] for start, end in itertools.pairwise(ends)]


def _ends(paths: list[str | None]) -> list[str | None]:
    # Of a member of an archive, its own path comes first.
    return [
        path and "/".join(path.partition("::")[0].replace(os.sep, "/").rsplit("/", PARTS_OF_PATHS)[-PARTS_OF_PATHS:])
        for path in paths
    ]


__all__ = ["describe_rows", "digest"]
