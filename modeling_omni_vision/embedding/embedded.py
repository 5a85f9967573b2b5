"""A folder that `embed` wrote, for reading: its images, their vectors, and what is near to what."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from ..data.image_files import LeftOut
from ..data.stored_images import eight_bits
from ..image_processing_omni_vision import read_image
from .embed import Pipeline
from .pixels import PixelReader
from .shards import MANIFEST, PLAN, read_vectors
from .sources import Reader, Row, list_rows
from .vision_encoder import VisionEncoder


CHUNK = 4096
BLANK = Image.new("RGB", (8, 8), "lightgrey")


class Embedded:
    """The images and vectors of a finished run.

    Args:
        folder: Output of `embed`, with one vector for each image.

    Raises:
        ValueError: if it is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows, self.vectors = read_vectors(folder)
        self.record: dict[str, Any] = json.loads((self.folder / "embed.json").read_text(encoding="utf-8"))
        if not self.rows:
            raise ValueError(f"Expected vectors in {str(folder)!r}, got none: all of its images failed.")

    @cached_property
    def unit(self) -> np.ndarray:
        """The vectors (rows, D) in float32, scaled to length 1."""
        vectors = self.vectors.astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    @cached_property
    def _places(self) -> dict[str, Row]:
        rows = pq.read_table(self.folder / MANIFEST / PLAN).to_pylist()
        return {row["id"]: Row(**row) for row in rows}

    def images(self, positions: Sequence[int], side: int) -> Iterator[Image.Image]:
        """Yield small upright images to look at, grey ones in place of those that cannot be read any more."""
        return (BLANK if image is None else image for image in self.readable_images(positions, side))

    def readable_images(self, positions: Sequence[int], side: int) -> Iterator[Image.Image | None]:
        """Yield small upright images, None in place of those that cannot be read any more."""
        return small_images((self._places[self.rows[position]["id"]] for position in positions), side)

    def encoder(self, revision: str | None = None, trust_remote_code: bool = False) -> "Encode":
        """Return the model that made the vectors.

        Raises:
            ValueError: if it is not there any more, or has other weights.
        """
        return Encode(self.record, revision, trust_remote_code)

    def nearest(self, queries: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and cosines (queries, limit) of the nearest images, in order; all are compared."""
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
        cosines = np.concatenate(
            [queries @ self.unit[at : at + CHUNK].T for at in range(0, len(self.unit), CHUNK)], axis=1
        )
        positions = np.argsort(-cosines, axis=1, kind="stable")[:, :limit]
        return positions, np.take_along_axis(cosines, positions, axis=1)


class Encode:
    """The model of a run with its settings: sources to vectors in memory."""

    def __init__(
        self, record: dict[str, Any], revision: str | None, trust_remote_code: bool, workers: int | None = None
    ) -> None:
        encoder = VisionEncoder(record["model"], record["pool"], record["normalize"], revision, trust_remote_code)
        if encoder.weights_digest != record["weights_digest"]:
            raise ValueError(f"The weights of {record['model']!r} are not those that made the vectors. Embed again.")
        pixels = PixelReader(encoder.processor, encoder.num_channels, record["decode"])
        engine = encoder.engine(record["engine"], record["batch_size"], lambda line: None)
        self.pipeline = Pipeline(pixels, engine, encoder.vector_shape, record["batch_size"], workers)

    def read(self, sources: Sequence[str]) -> tuple[list[Row], np.ndarray, list[tuple[str, str]]]:
        """Return the images of sources that can be read, their vectors (images, D), and address and reason of others.

        Raises:
            ValueError: where there is no image, or none that can be read.
        """
        rows = list(list_rows(sources, [], LeftOut()))
        found = [(row, vector) for row, (vector, _) in zip(rows, self.pipeline.run(rows), strict=True)]
        broken = [(row.path, vector) for row, vector in found if isinstance(vector, str)]
        if not found:
            raise ValueError(f"Expected images, got none in {list(sources)}.")
        if len(broken) == len(found):
            path, reason = broken[0]
            others = f", nor can {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(f"{path} cannot be read: {reason}{others}. Repair it, or name another.")
        read = [(row, vector.astype(np.float32)) for row, vector in found if not isinstance(vector, str)]
        return [row for row, _ in read], np.stack([vector for _, vector in read]), broken


def small_images(rows: Iterable[Row], side: int) -> Iterator[Image.Image | None]:
    """Yield small upright images of rows, None in place of those that cannot be read any more."""
    reader = Reader()
    for row in rows:
        try:
            image = thumbnail(reader.read(row), side)
        except Exception:  # file systems and formats raise many kinds
            image = None
        yield image


def thumbnail(source: Any, side: int) -> Image.Image:
    """Return a small upright image."""
    image = Image.fromarray(eight_bits(read_image(source)))
    image.thumbnail((side, side))
    return image


__all__ = ["BLANK", "Embedded", "Encode", "small_images", "thumbnail"]
