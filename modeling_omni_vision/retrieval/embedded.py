"""The folders that `omni-vision embed` writes, as rows of an index, and their encoder, for images as queries."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ..embedding.shards import OWN_COLUMNS, free_names
from .table import MULTI, RESERVED, SINGLE, as_vectors, flat_vectors, storable_name


logger = logging.getLogger(__name__)

OWN = ("id", "path", "width", "height")
KINDS = {"string": "str", "int64": "int", "double": "float", "bool": "bool"}
# Images read, and committed, at the same time: few enough for a commit of grids to fit into memory.
ROWS_OF_ONE, ROWS_OF_MANY = 16_384, 1024


class EmbedFolder:
    """Vectors of a finished `omni-vision embed`: read a batch at a time, whatever their number.

    Args:
        folder: The output of the command.
        id_prefix: Comes before its ids, as `2021/` where another folder of images has the same ones.

    Raises:
        ValueError: if it is not the output of a finished run.
    """

    def __init__(self, folder: str | Path, id_prefix: str = "") -> None:
        self.folder, self.id_prefix = Path(folder), id_prefix
        try:
            self.record: dict[str, Any] = json.loads((self.folder / "embed.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected the output of a finished `omni-vision embed`, got {str(folder)!r} ({error}). Run it with "
                "this output, again if it was stopped."
            ) from error
        self.name, self.weights_digest = str(self.record["model"]), str(self.record["weights_digest"])
        self.pool, self.num_vectors = str(self.record["pool"]), int(self.record["rows"])
        *patches, self.embedding_dim = self.record["vector"]
        self.vectors = MULTI if patches else SINGLE
        self.shards = sorted(self.folder.glob("vectors-*-of-*.parquet"))

    @cached_property
    def names(self) -> dict[str, str]:
        """The column of a shard for each column of an index that is not one of vectors."""
        stored = [*free_names(self.record["columns"], OWN_COLUMNS).values()]
        named = free_names(stored, (*OWN_COLUMNS, *RESERVED), storable_name)
        return {name: name for name in OWN} | {named[name]: name for name in stored}

    @property
    def columns(self) -> dict[str, str]:
        """Columns of an index beside those of files: width, height and the metadata of the images."""
        kinds = (KINDS[kind] for kind in self.record["columns"].values())
        return {"width": "int", "height": "int"} | dict(zip([*self.names][len(OWN) :], kinds, strict=True))

    @cached_property
    def fingerprint(self) -> list[list[Any]]:
        """Name, size and date of every file of vectors, and the prefix of ids."""
        return [*stamps_of([*self.shards, self.folder / "embed.json"]), [self.id_prefix]]

    def failures(self) -> list[tuple[str, str]]:
        """Return path and reason of the images that have no vector."""
        file = self.folder / "failures.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [(one["path"], one["reason"]) for one in map(json.loads, lines)]

    def batches(self, schema: pa.Schema, pool_factor: float) -> Iterator[tuple[pa.Table, list[tuple[str, str]]]]:
        """Yield rows of an index, and path and reason of those whose vectors no search could find."""
        left_out = sorted(set(self.columns) - set(schema.names))
        if left_out:
            logger.warning("%s: the index has no columns %s; they are left out.", self.folder, ", ".join(left_out))
        rows = ROWS_OF_ONE if self.vectors == SINGLE else ROWS_OF_MANY
        for shard in self.shards:
            for batch in pq.ParquetFile(shard).iter_batches(rows):
                yield self._rows(batch, schema, pool_factor)

    def _rows(
        self, batch: pa.RecordBatch, schema: pa.Schema, pool_factor: float
    ) -> tuple[pa.Table, list[tuple[str, str]]]:
        lengths, flat = _vectors(batch)
        norms = np.linalg.norm(flat, axis=1)
        valid = np.isfinite(norms) & (norms > 0)
        # All vectors of an image, and at least one.
        counts = np.add.reduceat(np.append(valid, 0), np.cumsum([0, *lengths])[:-1]) if len(lengths) else lengths
        kept = (counts == lengths) & (lengths > 0)
        failed = [(one, "its vector is empty, zero or not finite") for one in batch["path"].filter(~kept).to_pylist()]
        of_kept = np.repeat(kept, lengths)
        flat, numbers = _pooled(flat[of_kept] / norms[of_kept, None], lengths[kept], pool_factor)
        columns = self._columns(batch.filter(pa.array(kept)), schema)
        return pa.table([*columns, as_vectors(flat, schema.field("vectors").type, numbers)], schema=schema), failed

    def _columns(self, batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.Array]:
        ids = [self.id_prefix + one for one in batch["id"].to_pylist()]
        names = [PurePosixPath(one) for one in ids]
        made = {"id": ids, "folder": [str(one.parent) for one in names], "name": [one.name for one in names]}
        for field in schema:
            if field.name in made:
                yield pa.array(made[field.name], field.type)
            elif self.names.get(field.name) in batch.schema.names:  # shards of old lack one of `id` and `metadata_id`
                yield batch[self.names[field.name]].cast(field.type)
            elif field.name != "vectors":
                yield pa.nulls(len(batch), field.type)


class EmbedEncoder:
    """The encoder of an embed folder, for images as queries.

    Args:
        checkpoint: Folder or Hub id of the vision model.
        settings: Those of the index: `vectors`, `pool`.
        revision: Commit, branch or tag on the Hub.
        trust_remote_code: Run code that comes with the checkpoint.
    """

    def __init__(
        self,
        checkpoint: str,
        settings: Mapping[str, Any],
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from ..embedding.pixels import PixelReader
        from ..embedding.vision_encoder import VisionEncoder

        self.name, self.pool, self.vectors = checkpoint, settings["pool"], settings["vectors"]
        encoder = VisionEncoder(checkpoint, self.pool, True, revision, trust_remote_code)
        self.weights_digest, self.embedding_dim = encoder.weights_digest, encoder.vector_shape[-1]
        self._pixels = PixelReader(encoder.processor, encoder.num_channels)
        self._engine = encoder.engine("auto" if encoder.exported else "torch", 1, lambda line: None)

    def images(self, sources: Sequence[Any], pool_factor: float = 1) -> list[torch.Tensor]:
        """Return the vectors (n, embedding_dim) of images (paths or PIL images), of length 1."""
        found = []
        for source in sources:
            vectors = self._engine.run(self._pixels.batch([self._pixels.read(source)]))[0]
            vectors = vectors.reshape(-1, self.embedding_dim)
            found += [torch.from_numpy(_pooled(vectors.numpy(), [len(vectors)], pool_factor)[0])]
        return found


def stamps_of(files: Sequence[Path]) -> list[list[Any]]:
    """Return name, size and date of files."""
    stats = [(file.name, file.stat()) for file in files]
    return [[name, about.st_size, about.st_mtime_ns] for name, about in stats]


def _vectors(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of vectors of each image, and all of them in 32 bits (n, width)."""
    if "vectors" in batch.schema.names:
        column = batch["vectors"]
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return lengths, flat_vectors(column.flatten()).astype(np.float32)
    column = batch["vector"]
    return column.is_valid().to_numpy(zero_copy_only=False).astype(int), flat_vectors(column).astype(np.float32)


def _pooled(flat: np.ndarray, lengths: Sequence[int], factor: float) -> tuple[np.ndarray, list[int]]:
    """Merge similar vectors of each image until about one in `factor` is left."""
    if factor == 1:
        return flat, list(lengths)
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    rows = torch.from_numpy(flat).split(list(map(int, lengths)))
    pooled = HierarchicalTokenPooling(factor, num_protected_tokens=0).pool(list(rows))
    return torch.cat(pooled).numpy(), [len(one) for one in pooled]


__all__ = ["EmbedEncoder", "EmbedFolder", "stamps_of"]
