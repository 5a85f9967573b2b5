"""A contact sheet of search results: each image with its rank, score and name, and a similarity map for each word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.image_files import displayed, path_of
from ..embedding.embedded import small_images
from ..embedding.encoder import ImageTextEncoder
from ..embedding.sources import rows_at
from ..interpretability.plots import Scale, draw_sheet, drawable, shortened
from ..interpretability.style import OURS, TRUTH
from .index import Hit


SIDE = 224
CHARACTERS_PER_LINE = 26
# What `draw_sheet` draws in one place: pixel values, the line above, the line below, its colour, a map over it.
Cell = tuple[np.ndarray, str, str, str, np.ndarray | None]


def contact_sheet(
    hits: Sequence[Hit],
    path: Path,
    title: str,
    encoder: ImageTextEncoder | None = None,
    text: str | None = None,
    score: str = "MaxSim",
) -> Path:
    """Draw search results as a PNG, and return its path.

    Args:
        hits: The images, the best first.
        path: PNG to write.
        title: Stands above all.
        encoder: With `text`: draw beside each image its similarity map for each word. One scale for the whole sheet.
        text: The words.
        score: What the scores are called.
    """
    if not hits:
        return draw_sheet([_blank("white")], ["no image found"], [""], [TRUTH], drawable(title), path, 1)
    images = thumbnails([hit.path for hit in hits])
    words: tuple[str, ...] = ()
    maps: list[torch.Tensor | None] = [None] * len(hits)
    if encoder is not None and text is not None:
        encoded = encoder.text(text)
        words = encoded.words
        maps = [
            encoder.similarity_maps(encoded, path_of(hit.path)) if image else None
            for hit, image in zip(hits, images, strict=True)
        ]
    scale = Scale.of([one.numpy() for one in maps if one is not None], "cosine with the word", least=0.1)
    cells = list[Cell]()
    for rank, (hit, image, some) in enumerate(zip(hits, images, maps, strict=True), 1):
        cells += [image_cell(rank, hit, image, score), *map_cells(image, words, some)]
    drawn, above, below, colours, values = zip(*cells, strict=True)
    columns, panel = (1 + len(words) if words else min(5, len(hits))), (1.9, 2.35)
    return draw_sheet(
        drawn, above, below, colours, drawable(title), path, columns, panel, values, scale if words else None
    )


def image_cell(rank: int, hit: Hit, image: Image.Image | None, score: str = "MaxSim") -> Cell:
    """Return the image of a hit, grey where it cannot be read, with rank, score and name."""
    drawn = np.asarray(image) if image else _blank("lightgrey")
    name = short_path(hit.path) if image else f"{short_path(hit.path)}\ncannot be read"
    return drawn, f"{rank}. {score} {hit.score:.3f}", name, OURS if image else TRUTH, None


def map_cells(image: Image.Image | None, words: Sequence[str], maps: torch.Tensor | None) -> list[Cell]:
    """Return each word with its map (rows, columns) and its largest value, or blanks."""
    if image is None or maps is None:
        return [(_blank("white"), "", "", TRUTH, None)] * len(words)
    return [
        (np.asarray(image), shortened(word), f"at most {float(one.max()):.2f}", OURS, one.numpy())
        for word, one in zip(words, maps, strict=True)
    ]


def thumbnails(paths: Sequence[str]) -> list[Image.Image | None]:
    """Return small upright images of the paths of hits, None where one cannot be read any more."""
    rows = rows_at(paths)
    return list(small_images((rows[path] for path in paths), SIDE))


def short_path(path: str) -> str:
    """Return the folder and the name of a file, each in a line of its own, long ones shortened in the middle."""
    place = path_of(path)
    parts = [displayed(part) for part in (place.parent.name, place.name) if part]
    return "\n".join(shortened(part, CHARACTERS_PER_LINE, 11) for part in parts)


def _blank(colour: str) -> np.ndarray:
    return np.asarray(Image.new("RGB", (SIDE, SIDE), colour))


__all__ = ["contact_sheet"]
