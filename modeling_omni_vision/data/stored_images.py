"""Pictures as an undecoded column of datasets holds them: a dict of `bytes` and `path`."""

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image as PilImage


def open_stored(source: Mapping[str, Any]) -> PilImage.Image:
    """Open a picture as an undecoded column holds it, with `bytes` or a `path`; Pillow decodes it when asked."""
    return PilImage.open(io.BytesIO(source["bytes"]) if source["bytes"] else source["path"])


def store(picture: PilImage.Image) -> dict[str, Any]:
    """Store a picture without loss (PNG), as `open_stored` opens it."""
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_level=1)
    return {"bytes": content.getvalue(), "path": None}


__all__ = ["open_stored", "store"]
