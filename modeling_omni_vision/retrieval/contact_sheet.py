"""A contact sheet of search results: each image with its rank, score and name, and a similarity map for each word."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.image_files import LeftOut, displayed, path_of
from ..data.stored_images import eight_bits
from ..embedding.encoder import ImageTextEncoder
from ..embedding.sources import SPLIT, Reader, Row, is_address, list_rows
from ..image_processing_omni_vision import read_image
from ..interpretability.plots import Scale, draw_sheet, drawable, shortened
from ..interpretability.style import OURS, TRUTH
from .index import Hit


SIDE = 224
CHARACTERS_PER_LINE = 26
# Addresses, as `list_rows` makes them, of images that are no files: `FILE#ROW`, `DATASET:SPLIT#ROW` and `TAR/MEMBER`.
IN_PARQUET = re.compile(r"(.+\.parquet)#(\d+)", re.DOTALL | re.IGNORECASE)
IN_DATASET = re.compile(r"(.+):([^:#]+)#(\d+)", re.DOTALL)
END_OF_TAR = re.compile(r"\.tar(?=/)", re.IGNORECASE)
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


def thumbnail(path: str) -> Image.Image | None:
    """Return a small upright image, or None where it cannot be read any more."""
    return thumbnails([path])[0]


def thumbnails(paths: Sequence[str]) -> list[Image.Image | None]:
    """Return small upright images of the paths of hits, None where one cannot be read any more."""
    rows, reader, found = rows_at(paths), Reader(), list[Image.Image | None]()
    for path in paths:
        try:
            image = Image.fromarray(eight_bits(read_image(reader.read(rows[path]))))
            image.thumbnail((SIDE, SIDE))
            found.append(image)
        except Exception:  # file systems and formats raise many kinds
            found.append(None)
    return found


def rows_at(paths: Sequence[str]) -> dict[str, Row]:
    """Return for each path of a hit where its image is read from: an index keeps the address alone."""
    rows, members = {path: Row(path, path, path, -1, 0, 0) for path in paths}, dict[str, set[str]]()
    for path in paths:
        if os.path.isfile(path_of(path)):  # whatever its name looks like
            continue
        if match := IN_PARQUET.fullmatch(path):
            rows[path] = Row(path, path, match[1], int(match[2]), 0, 0)
        elif tar := _tar_of(path):
            members.setdefault(tar, set()).add(path)
        elif (match := IN_DATASET.fullmatch(path)) and not is_address(path):
            rows[path] = Row(path, path, f"{match[1]}{SPLIT}{match[2]}", int(match[3]), 0, 0)
    for tar, wanted in members.items():
        # What cannot be listed any more cannot be read either; file systems raise many kinds.
        with suppress(Exception):
            for row in list_rows([tar if is_address(tar) else os.fspath(path_of(tar))], [], LeftOut()):
                address = tar + row.path.removeprefix(row.place)
                if address in wanted:
                    rows[address] = row
                    wanted.remove(address)
                if not wanted:
                    break
    return rows


def _tar_of(path: str) -> str | None:
    """Return the tar that an address leads into: the first one, since members may be named like tars too."""
    tars = (path[: match.end()] for match in END_OF_TAR.finditer(path))
    return next((tar for tar in tars if is_address(tar) or os.path.isfile(path_of(tar))), None)


def short_path(path: str) -> str:
    """Return the folder and the name of a file, each in a line of its own, long ones shortened in the middle."""
    place = path_of(path)
    parts = [displayed(part) for part in (place.parent.name, place.name) if part]
    return "\n".join(shortened(part, CHARACTERS_PER_LINE, 11) for part in parts)


def _blank(colour: str) -> np.ndarray:
    return np.asarray(Image.new("RGB", (SIDE, SIDE), colour))


__all__ = ["contact_sheet"]
