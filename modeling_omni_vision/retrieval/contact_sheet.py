"""The images that a search found on one sheet, each with its rank, score and path, and where each word looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers.multi_vector_encoder.interpretability import render_similarity_map_on_image

from ..embedding.encoder import ImageTextEncoder
from ..image_processing_omni_vision import ImageReadError, read_image
from ..interpretability.plots import OURS, TRUTH, draw_sheet
from .index import Hit


SIDE = 224
PER_LINE, LINES = 24, 2


def contact_sheet(
    hits: Sequence[Hit], path: Path, title: str, encoder: ImageTextEncoder | None = None, text: str | None = None
) -> Path:
    """
    Draw what was found.

    Args:
        hits: The images, the best first.
        path: PNG to write.
        title: Stands above all.
        encoder: With `text`: draw beside each image how like each of its patches is to each word. Brightness means
            the same on the whole sheet.
        text: The words.

    Returns:
        The path.
    """
    if not hits:
        nothing = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
        return draw_sheet([nothing], ["no image found"], [""], [TRUTH], escaped(title), path, 1)
    images = [thumbnail(hit.path) for hit in hits]
    above = [f"{rank}. score {hit.score:.3f}" for rank, hit in enumerate(hits, 1)]
    below = [
        tail(hit.path) if seen else f"cannot be read:\n{tail(hit.path)}"
        for hit, seen in zip(hits, images, strict=True)
    ]
    shown = [np.asarray(one or Image.new("RGB", (SIDE, SIDE), "lightgrey")) for one in images]
    colours = [OURS if one else TRUTH for one in images]
    if encoder is None or text is None:
        return draw_sheet(shown, above, below, colours, escaped(title), path, min(5, len(hits)), panel=(1.9, 2.35))
    words, maps = word_maps(
        encoder, text, [hit.path if seen else None for hit, seen in zip(hits, images, strict=True)]
    )
    cells: list[tuple[Any, ...]] = []
    for hit, parts in enumerate(zip(shown, above, below, colours, strict=True)):
        cells += [parts, *heat(images[hit], words, maps[hit], span(maps))]
    drawn, over, under, tints = zip(*cells, strict=True)
    return draw_sheet(drawn, over, under, tints, escaped(title), path, 1 + len(words), panel=(1.9, 2.35))


def word_maps(
    encoder: ImageTextEncoder, text: str, paths: Sequence[str | None]
) -> tuple[tuple[str, ...], list[torch.Tensor | None]]:
    """The words of a text, and for each image that there is its maps (words, rows, columns)."""
    read = encoder.text(text)
    return read.words, [None if path is None else encoder.word_maps(read, Path(path)) for path in paths]


def span(maps: Sequence[torch.Tensor | None]) -> tuple[float, float]:
    """Lowest and highest similarity on a sheet."""
    known = [one for one in maps if one is not None]
    return (min(float(one.min()) for one in known), max(float(one.max()) for one in known)) if known else (0.0, 1.0)


def heat(
    image: Image.Image | None, words: Sequence[str], maps: torch.Tensor | None, limits: tuple[float, float]
) -> list[tuple[Any, ...]]:
    """Cells of a sheet, one for each word: its map over the image, the word, its highest similarity, a colour."""
    blank = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    if image is None or maps is None:
        return [(blank, "", "", TRUTH)] * len(words)
    drawn = [render_similarity_map_on_image(image, one, alpha=0.6, normalization_range=limits) for one in maps]
    return [
        (np.asarray(over.convert("RGB")), escaped(word), f"at most {float(one.max()):.2f}", OURS)
        for over, word, one in zip(drawn, words, maps, strict=True)
    ]


def thumbnail(path: str) -> Image.Image | None:
    """A small upright image, or None where the file cannot be read any more."""
    try:
        image = Image.fromarray(np.clip(np.rint(read_image(path)), 0, 255).astype(np.uint8))
    except ImageReadError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def tail(path: str) -> str:
    """The end of a path, on as many lines as there is room for."""
    short = path if len(path) <= PER_LINE * LINES else "..." + path[3 - PER_LINE * LINES :]
    return escaped("\n".join(short[start : start + PER_LINE] for start in range(0, len(short), PER_LINE)))


def escaped(text: str) -> str:
    """Keep a dollar sign from being read as the start of a formula."""
    return text.replace("$", r"\$")


__all__ = ["contact_sheet", "word_maps"]
