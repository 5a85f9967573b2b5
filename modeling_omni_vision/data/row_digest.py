"""A digest of the rows of a split, by which a run knows its data again without opening an image."""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc


if TYPE_CHECKING:
    from datasets import Dataset

PARTS_OF_PATHS = 2  # file and folder, which often is the class; above them, data may have moved


def describe_rows(rows: "Dataset") -> dict[str, Any]:
    """Return the number of rows and a digest of them: names and sizes of images, all other columns whole."""
    from datasets import Image  # not at the top: `--help` is to answer at once

    columns = sorted(rows.features.items())
    values = [_images(rows, name) if isinstance(kind, Image) else rows[name][:] for name, kind in columns]
    return digest(zip([name for name, _ in columns], values, strict=True), len(rows))


def digest(values: Iterable[Any], rows: int | None = None) -> dict[str, Any]:
    """Return the number of rows, by default that of the values, and a digest of the values."""
    found, values = hashlib.sha256(), [*values]
    for value in values:
        found.update(json.dumps(value, default=str).encode())
    return {"rows": len(values) if rows is None else rows, "digest": found.hexdigest()[:16]}


def _images(rows: "Dataset", name: str) -> list[Any]:
    """Return the end of the path of each image, and how many bytes it has where the table holds them."""
    column = rows.data.column(name)
    if not pa.types.is_struct(column.type):
        return []
    paths, sizes = (
        pa.chunked_array([pc.struct_field(chunk, part) for chunk in column.chunks], column.type.field(part).type)
        for part in ("path", "bytes")
    )
    sizes = pc.binary_length(sizes)
    if rows._indices is not None:
        chosen = rows._indices.column(0)
        paths, sizes = paths.take(chosen), sizes.take(chosen)
    return [_ends(paths.to_pylist()), sizes.to_pylist()]


def _ends(paths: list[str | None]) -> list[str | None]:
    # Of a member of an archive, its own path comes first.
    return [
        path and "/".join(path.partition("::")[0].replace(os.sep, "/").rsplit("/", PARTS_OF_PATHS)[-PARTS_OF_PATHS:])
        for path in paths
    ]


__all__ = ["describe_rows", "digest"]
