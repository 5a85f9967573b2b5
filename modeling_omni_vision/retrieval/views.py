"""Several views of one picture, whose mean says more than one: smaller and larger, mirrored and not.

Averaging a network over changed copies of its input at test time is old (Krizhevsky et al. 2012,
https://papers.nips.cc/paper/4824); it costs as many times more as there are views.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image as PilImage
from PIL import ImageOps
from torch.nn.functional import normalize


VIEW_SIZES = (0.85, 0.95, 1.05)


def views_of(picture: PilImage.Image) -> list[PilImage.Image]:
    """Give six views of a picture in a white frame of its size: at 85, 95 and 105 %, each mirrored and not."""
    layered, views = picture.convert("RGBA"), []
    for size in VIEW_SIZES:
        scaled = layered.resize(
            (max(1, round(layered.width * size)), max(1, round(layered.height * size))), PilImage.Resampling.BICUBIC
        )
        view = PilImage.new("RGBA", layered.size, "white")
        corner = (layered.width - scaled.width) // 2, (layered.height - scaled.height) // 2
        view.paste(scaled, corner, scaled)
        views += [view.convert("RGB"), ImageOps.mirror(view).convert("RGB")]
    return views


def view_vectors(model: Any, pictures: Sequence[PilImage.Image], **options: Any) -> torch.Tensor:
    """
    Encode pictures as the mean directions of their views.

    Args:
        model: A `SentenceTransformer`.
        pictures: Opened pictures, at least one.
        options: Of its `encode_document`; must ask for tensors.

    Returns:
        Vectors of length 1 (pictures, embedding_dim).
    """
    views = [views_of(picture) for picture in pictures]
    vectors = [
        normalize(model.encode_document(list(same), **options).cpu(), dim=-1) for same in zip(*views, strict=True)
    ]
    return normalize(torch.stack(vectors).mean(0), dim=-1)


__all__ = ["view_vectors", "views_of"]
