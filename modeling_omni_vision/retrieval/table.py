"""The table of an index: a row for each image, with columns and any number of 16-bit vectors, and its settings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..embedding.encoder import POOL_FACTOR, ImageTextEncoder


FORMAT = 1
FIELDS = ("id", "path", "folder", "name", "bytes", "modified")
TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

# Ids; their vectors (images, most vectors, embedding_dim), padded; the mask (images, most vectors) of real ones.
Block = tuple[list[str], torch.Tensor, torch.Tensor]


def as_block(batch: pa.RecordBatch) -> Block:
    """Return ids and float32 vectors of a batch of rows, padded as MaxSim takes them."""
    column = batch["vectors"]
    lengths = torch.from_numpy(np.diff(column.offsets.to_numpy()).astype(np.int64))
    vectors = column.flatten()
    flat = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
    rows = torch.tensor(flat).float().split(lengths.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return batch["id"].to_pylist(), padded, torch.arange(padded.shape[1]) < lengths[:, None]


def as_lists(vectors: Sequence[np.ndarray], width: int) -> pa.Array:
    """Return vectors (n, width) of each image, n differing, as a column of lists of 16-bit vectors."""
    flat = np.concatenate([np.zeros((0, width)), *vectors]).astype(np.float16)
    ends = np.cumsum([0, *map(len, vectors)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), width))


def new_settings(
    encoder: ImageTextEncoder, pool_factor: float | None, columns: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return what an index records of how it was made.

    Raises:
        ValueError: for a factor below 1, or columns of another type or a reserved name.
    """
    factor = POOL_FACTOR if pool_factor is None else pool_factor
    if factor < 1:
        raise ValueError(f"`pool_factor` must be at least 1, got {pool_factor!r}. 1 keeps every vector.")
    columns = dict(columns or {})
    wrong = {name: kind for name, kind in columns.items() if kind not in TYPES or name in (*FIELDS, "vectors")}
    if wrong:
        raise ValueError(
            f"`columns` must map names other than {[*FIELDS, 'vectors']} to types out of {list(TYPES)}, got {wrong}. "
            "Correct or leave out these."
        )
    return {
        "format": FORMAT,
        "checkpoint": encoder.name,
        "weights": encoder.weights_digest,
        "embedding_dim": encoder.embedding_dim,
        "pool_factor": factor,
        "columns": columns,
    }


@contextmanager
def explained_filter(where: str | None, columns: Sequence[str]) -> Iterator[str | None]:
    """Yield a filter as LanceDB takes it; what a wrong one raises becomes a ValueError that names the columns."""
    try:
        # In brackets: otherwise LanceDB silently ignores what follows a semicolon.
        yield None if where is None else f"({where})"
    except (RuntimeError, ValueError, OSError) as error:
        if where is None:
            raise
        raise ValueError(
            f"Expected an SQL condition on {', '.join(columns)}, such as \"folder = 'cats'\", got {where!r}: "
            f"{' '.join(str(error).split())[:200]}. Correct it."
        ) from error


def schema_of(settings: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of an index with these settings."""
    types = {name: pa.int64() if name in ("bytes", "modified") else pa.string() for name in FIELDS}
    types |= {name: TYPES[kind] for name, kind in settings["columns"].items()}
    return pa.schema([*types.items(), ("vectors", pa.list_(pa.list_(pa.float16(), settings["embedding_dim"])))])


def as_table(rows: Sequence[Mapping[str, Any]], vectors: Sequence[np.ndarray], schema: pa.Schema) -> pa.Table:
    """Return rows and their vectors (n, embedding_dim) as a table of this schema.

    Raises:
        ValueError: if they do not fit each other or the schema.
    """
    names = [name for name in schema.names if name != "vectors"]
    ids = [row.get("id") for row in rows]
    if len(rows) != len(vectors) or len(set(ids)) != len(ids) or not all(isinstance(one, str) for one in ids):
        raise ValueError(
            f"Expected as many vectors as rows, each row with its own `id` (str), got {len(rows)} rows with "
            f"{len(set(ids))} ids and {len(vectors)} vectors. Correct them."
        )
    unknown = sorted({name for row in rows for name in row} - set(names))
    if unknown:
        raise ValueError(f"Expected columns out of {names}, got {unknown}. Name them when the index is made.")
    width = schema.field("vectors").type.value_type.list_size
    for one, made in zip(ids, vectors, strict=True):
        lengths = np.linalg.norm(np.asarray(made, dtype=np.float32), axis=-1) if np.ndim(made) == 2 else np.zeros(0)
        # An image without a vector, or with one of no direction, could never be found.
        if not len(lengths) or np.shape(made)[1] != width or not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError(
                f"Expected at least one vector of width {width}, finite and none of them zero, got an array of shape "
                f"{np.shape(made)} for {one!r}. Encode it with the checkpoint of the index."
            )
    try:
        columns = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"Expected values of the types {dict(zip(names, schema.types, strict=False))}, got {error}."
        ) from error
    return pa.table([*columns, as_lists(vectors, width)], schema=schema)


__all__ = ["FIELDS", "FORMAT", "Block", "as_block", "as_table", "explained_filter", "new_settings", "schema_of"]
