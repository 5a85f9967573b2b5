"""A contact sheet of search results: each image with its rank, score and path, and a similarity map for each word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sentence_transformers.multi_vector_encoder.interpretability import render_similarity_map_on_image

from ..embedding.encoder import ImageTextEncoder
from ..image_processing_omni_vision import ImageReadError, read_image
from ..interpretability.plots import OURS, TRUTH, draw_sheet
from .index import Hit


SIDE = 224
CHARACTERS_PER_LINE, LINES = 24, 2
# What `draw_sheet` draws in one place: pixel values, the line above, the line below, its colour.
Cell = tuple[np.ndarray, str, str, str]


def contact_sheet(
    hits: Sequence[Hit], path: Path, title: str, encoder: ImageTextEncoder | None = None, text: str | None = None
) -> Path:
    """Draw search results as a PNG, and return its path.

    Args:
        hits: The images, the best first.
        path: PNG to write.
        title: Stands above all.
        encoder: With `text`: draw beside each image its similarity map for each word. Equal brightness means equal
            similarity on the whole sheet.
        text: The words.
    """
    if not hits:
        return draw_sheet([_blank("white")], ["no image found"], [""], [TRUTH], escaped(title), path, 1)
    images = [thumbnail(hit.path) for hit in hits]
    words: tuple[str, ...] = ()
    maps: list[torch.Tensor | None] = [None] * len(hits)
    if encoder is not None and text is not None:
        encoded = encoder.text(text)
        words = encoded.words
        maps = [
            encoder.similarity_maps(encoded, Path(hit.path)) if image else None
            for hit, image in zip(hits, images, strict=True)
        ]
    values = torch.cat([one.flatten() for one in maps if one is not None] or [torch.tensor([0.0, 1.0])])
    limits, cells = (float(values.min()), float(values.max())), list[Cell]()
    for rank, (hit, image, some) in enumerate(zip(hits, images, maps, strict=True), 1):
        cells += [image_cell(rank, hit, image), *heatmap_cells(image, words, some, limits)]
    drawn, above, below, colours = zip(*cells, strict=True)
    columns = 1 + len(words) if words else min(5, len(hits))
    return draw_sheet(drawn, above, below, colours, escaped(title), path, columns, panel=(1.9, 2.35))


def image_cell(rank: int, hit: Hit, image: Image.Image | None) -> Cell:
    """Return the image of a hit, grey where it cannot be read, with rank, score and path."""
    name = path_tail(hit.path) if image else f"cannot be read:\n{path_tail(hit.path)}"
    drawn = np.asarray(image) if image else _blank("lightgrey")
    return drawn, f"{rank}. score {hit.score:.3f}", name, OURS if image else TRUTH


def heatmap_cells(
    image: Image.Image | None, words: Sequence[str], maps: torch.Tensor | None, limits: tuple[float, float]
) -> list[Cell]:
    """Return each word with its map (rows, columns) over the image, darkest and brightest at `limits`, or blanks."""
    if image is None or maps is None:
        return [(_blank("white"), "", "", TRUTH)] * len(words)
    drawn = [render_similarity_map_on_image(image, one, alpha=0.6, normalization_range=limits) for one in maps]
    return [
        (np.asarray(over.convert("RGB")), escaped(word), f"at most {float(one.max()):.2f}", OURS)
        for over, word, one in zip(drawn, words, maps, strict=True)
    ]


def thumbnail(path: str) -> Image.Image | None:
    """Return a small upright image, or None where the file cannot be read any more."""
    try:
        image = Image.fromarray(np.clip(np.rint(read_image(path)), 0, 255).astype(np.uint8))
    except ImageReadError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def path_tail(path: str) -> str:
    """Return the end of a path, broken into the lines that fit below an image."""
    length = CHARACTERS_PER_LINE * LINES
    short = path if len(path) <= length else "..." + path[3 - length :]
    lines = (short[start : start + CHARACTERS_PER_LINE] for start in range(0, len(short), CHARACTERS_PER_LINE))
    return escaped("\n".join(lines))


def escaped(text: str) -> str:
    """Keep matplotlib from reading dollar signs as the start of a formula."""
    return text.replace("$", r"\$")


def _blank(colour: str) -> np.ndarray:
    return np.asarray(Image.new("RGB", (SIDE, SIDE), colour))


__all__ = ["contact_sheet", "escaped"]
