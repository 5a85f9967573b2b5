"""Images as an undecoded column of datasets holds them: a dict of `bytes` and `path`."""

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image as PilImage

from .image_files import path_of


def open_stored(source: Mapping[str, Any]) -> PilImage.Image:
    """Open an image as an undecoded column holds it, with `bytes` or a `path`; Pillow decodes it when asked."""
    return PilImage.open(io.BytesIO(source["bytes"]) if source["bytes"] else path_of(source["path"]))


def store(image: PilImage.Image) -> dict[str, Any]:
    """Store an image without loss (PNG), as `open_stored` opens it."""
    content = io.BytesIO()
    image.save(content, format="PNG", compress_level=1)
    return {"bytes": content.getvalue(), "path": None}


__all__ = ["open_stored", "store"]
