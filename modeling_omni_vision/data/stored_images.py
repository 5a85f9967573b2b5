"""Images as an undecoded column of datasets holds them: a dict of `bytes` and `path`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image as PilImage

from ..image_processing_omni_vision import open_undecoded
from .image_files import path_of


def open_stored(source: Mapping[str, Any]) -> PilImage.Image:
    """Open an image as an undecoded column holds it, with `bytes` or a `path`; Pillow decodes it when asked."""
    return open_undecoded(io.BytesIO(source["bytes"]) if source["bytes"] else path_of(source["path"]))


def store(image: PilImage.Image) -> dict[str, Any]:
    """Store an image without loss (PNG), as `open_stored` opens it."""
    content = io.BytesIO()
    image.save(content, format="PNG", compress_level=1)
    return {"bytes": content.getvalue(), "path": None}


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return pixel values 0..255 as bytes: bytes as they are, of which `np.rint` would make slow float16."""
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def netpbm_header(height: int, width: int, channels: int) -> bytes:
    """Return what stands before the pixels of an 8-bit PGM (grey) or PPM file (RGB)."""
    return f"{'P6' if channels == 3 else 'P5'} {width} {height} 255\n".encode()


def raw_pixels(sources: Sequence[Any], size: tuple[int, int], channels: int | None) -> torch.Tensor | None:
    """Return the pixels (N, C, H, W) of stored PGM or PPM files of this size as they are, None for anything else."""
    if channels not in (1, 3):
        return None
    header, contents = netpbm_header(*size, channels), []
    for source in sources:
        content = source.get("bytes") if isinstance(source, Mapping) else None
        if content is None or not content.startswith(header):
            return None
        contents.append(content)
    length = len(header) + channels * size[0] * size[1]
    if any(len(content) != length for content in contents):
        return None
    pixels = np.frombuffer(b"".join(contents), np.uint8).reshape(len(contents), length)[:, len(header) :]
    return torch.from_numpy(pixels.reshape(-1, *size, channels).transpose(0, 3, 1, 2).copy())


def image_fields(column: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    """Return paths and bytes of a column of images, also of those in lists, without a copy of the bytes.

    Chunk by chunk: to combine them copies the bytes of all images.
    """
    chunks, kind = column.chunks, column.type
    if not pa.types.is_struct(kind):
        chunks, kind = [chunk.flatten() for chunk in chunks], kind.value_type
    return [
        pa.chunked_array([pc.struct_field(chunk, part) for chunk in chunks], kind.field(part).type)
        for part in ("path", "bytes")
    ]


__all__ = ["image_fields", "netpbm_header", "open_stored", "raw_pixels", "store"]
