"""The table of an index: a row for each image, with columns and one or many 16-bit vectors, and its settings.

Vectors are stored with zeros up to a multiple of 8, which the approximate index needs and no cosine notices.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch


FORMAT = 2
POOL_FACTOR = 3
SINGLE, MULTI = "single_vector", "multi_vector"
FIELDS = ("id", "path", "folder", "name", "bytes", "modified")
# Names that Lance refuses, and the one that its searches add.
LANCE_FIELDS = ("_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version")
RESERVED = ("", *FIELDS, "vectors", *LANCE_FIELDS, "_distance")
TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

# Ids; their vectors (images, width), or padded (images, most vectors, width) with the mask of real ones.
Block = tuple[pa.Array, torch.Tensor, torch.Tensor | None]


def as_block(batch: pa.RecordBatch) -> Block:
    """Return ids and float32 vectors of a batch of rows, padded as MaxSim takes them."""
    column, ids = batch["vectors"], batch["id"]
    if pa.types.is_fixed_size_list(column.type):
        return ids, torch.tensor(flat_vectors(column)).float(), None
    lengths = torch.from_numpy(np.diff(column.offsets.to_numpy()).astype(np.int64))
    rows = torch.tensor(flat_vectors(column.flatten())).float().split(lengths.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, padded, torch.arange(padded.shape[1]) < lengths[:, None]


def flat_vectors(column: pa.Array) -> np.ndarray:
    """Return a column of vectors of a fixed width as an array (n, width)."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def as_vectors(flat: np.ndarray, kind: pa.DataType, lengths: Sequence[int]) -> pa.Array:
    """Return vectors (n, embedding_dim) as a column of this type; `lengths` are the numbers of vectors of each row."""
    multi = not pa.types.is_fixed_size_list(kind)
    width = (kind.value_type if multi else kind).list_size
    padded = np.pad(flat.astype(np.float16), ((0, 0), (0, width - flat.shape[1])))
    values = pa.FixedSizeListArray.from_arrays(pa.array(padded.ravel()), width)
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]).astype(np.int32)), values) if multi else values


def new_settings(encoder: Any, pool_factor: float | None, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what an index records of how it was made.

    Raises:
        ValueError: for a factor below 1, or columns of another type, or a name that is reserved or cannot be stored.
    """
    vectors = getattr(encoder, "vectors", MULTI)
    factor = (POOL_FACTOR if vectors == MULTI else 1) if pool_factor is None else pool_factor
    if factor < 1 or (vectors == SINGLE and factor > 1):
        raise ValueError(f"`pool_factor` must be at least 1, and 1 for {SINGLE}, got {pool_factor!r}. 1 keeps all.")
    columns = dict(columns or {})
    wrong = {
        name: kind
        for name, kind in columns.items()
        if kind not in TYPES or name in RESERVED or name != storable_name(name)
    }
    if wrong:
        raise ValueError(
            f"`columns` must map names other than {[*RESERVED]}, without dots and backticks, to types out of "
            f"{list(TYPES)}, got {wrong}. Correct or leave out these."
        )
    return {
        "format": FORMAT,
        "checkpoint": encoder.name,
        "weights": encoder.weights_digest,
        "embedding_dim": encoder.embedding_dim,
        "vectors": vectors,
        "metric": "cosine",
        "pool": getattr(encoder, "pool", None),
        "pool_factor": factor,
        "columns": columns,
    }


def storable_name(name: str) -> str:
    """Return a name with `_` for the characters that Lance does not take in that of a column."""
    return re.sub("[.`\0\ud800-\udfff]", "_", name)


@contextmanager
def explained_filter(where: str | None, columns: Sequence[str]) -> Iterator[str | None]:
    """Yield a filter as LanceDB takes it; what a wrong one raises becomes a ValueError that names the columns."""
    try:
        # In brackets: otherwise LanceDB silently ignores what follows a semicolon.
        yield None if where is None else f"({where})"
    except (RuntimeError, ValueError, OSError) as error:
        if where is None or was_cleaned_up(error):
            raise
        raise ValueError(
            f"Expected an SQL condition on {', '.join(columns)}, such as \"folder = 'cats'\", got {where!r}: "
            f"{' '.join(str(error).split())[:200].rstrip(' .')}. Correct it."
        ) from error


def was_cleaned_up(error: Exception) -> bool:
    """Return whether LanceDB read files of a version that another process has removed since."""
    return isinstance(error, RuntimeError) and "Not found:" in str(error)


def schema_of(settings: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of an index with these settings."""
    types = {name: pa.int64() if name in ("bytes", "modified") else pa.string() for name in FIELDS}
    types |= {name: TYPES[kind] for name, kind in settings["columns"].items()}
    vector = pa.list_(pa.float16(), -(-settings["embedding_dim"] // 8) * 8)
    return pa.schema([*types.items(), ("vectors", vector if settings["vectors"] == SINGLE else pa.list_(vector))])


def as_table(
    rows: Sequence[Mapping[str, Any]], vectors: Sequence[np.ndarray], schema: pa.Schema, width: int
) -> pa.Table:
    """Return rows and their vectors (n, width), for single vectors (1, width), as a table of this schema.

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
    kind = schema.field("vectors").type
    most = 1 if pa.types.is_fixed_size_list(kind) else None
    for one, made in zip(ids, vectors, strict=True):
        # An image without a vector, or with one of no direction, could never be found.
        if np.ndim(made) != 2 or np.shape(made)[1] != width or len(made) != (most or len(made)) or not directed(made):
            raise ValueError(
                f"Expected {most or 'at least one'} vector of width {width}, finite and none of them zero, got an "
                f"array of shape {np.shape(made)} for {one!r}. Encode it with the checkpoint of the index."
            )
    try:
        columns = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"Expected values of the types {dict(zip(names, schema.types, strict=False))}, got {error}."
        ) from error
    flat = np.concatenate([np.zeros((0, width)), *vectors])
    return pa.table([*columns, as_vectors(flat, kind, [len(one) for one in vectors])], schema=schema)


def directed(vectors: np.ndarray) -> bool:
    """Return whether there are vectors, and all of them have a length that is finite and not zero."""
    lengths = np.linalg.norm(np.asarray(vectors, dtype=np.float32), axis=-1)
    return bool(len(lengths) and (np.isfinite(lengths) & (lengths > 0)).all())


__all__ = [
    "FIELDS",
    "FORMAT",
    "MULTI",
    "POOL_FACTOR",
    "RESERVED",
    "SINGLE",
    "TYPES",
    "Block",
    "as_block",
    "as_table",
    "as_vectors",
    "directed",
    "explained_filter",
    "flat_vectors",
    "new_settings",
    "schema_of",
    "storable_name",
    "was_cleaned_up",
]
