"""Drawn scenes as maps of symbols: patches at an object encode in bars all that questions are about.

For such a map a vision tower has nothing to recognise; it gets without error the labels of `scene_patches`. Answers
that are still wrong are not the fault of the tower.
"""

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image as PilImage

from modeling_omni_vision.data.synthetic.scene_questions import GRID, MOST_OBJECTS
from modeling_omni_vision.data.synthetic.scenes import SCENE_SIDE
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES


PATCH = 8  # pixels, and as many patches side by side in an image of 64
OBJECT = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) (\d+) (\d+)")
AROUND = 2  # squared distance of the centre's patch to its eight neighbours, at most
# Background, and a bar that is off or on. The processor makes about 0, -1 and 1 of them.
GREY, OFF, ON = 128, 0, 255


def draw_symbol_map(symbols: str) -> PilImage.Image:
    """
    Draw objects, named with the column and row (0 to 31) of their centre: "red square 3 4, blue circle 20 9".

    The patch where the centre of an object lies, and the eight around it unless another object is nearer, have a row
    of bars for each fact. One bar is on for its colour (two rows) and for its shape; as many are on as there are
    objects, objects of its colour, and objects of its shape; and all up to the column and to the row of its centre.
    The other patches are grey.

    Returns:
        An RGB image of 64 by 64 pixels, for a tower of that size whose patches have 8.

    Raises:
        ValueError: for anything else than such objects, or two whose centres lie in the same patch.
    """
    found = [OBJECT.fullmatch(item) for item in symbols.split(", ")]
    if not all(found) or len(found) > MOST_OBJECTS:
        raise ValueError(
            f"A map of symbols needs one to {MOST_OBJECTS} objects such as 'red square 3 4, blue circle 20 9', got "
            f"{symbols!r}. Choose data that have them, such as scenes."
        )
    objects = [match.groups() for match in found if match]
    places = [(int(x) * SCENE_SIDE // (GRID * PATCH), int(y) * SCENE_SIDE // (GRID * PATCH)) for *_, x, y in objects]
    if len(set(places)) < len(places) or max(map(max, places)) >= SCENE_SIDE // PATCH:
        raise ValueError(
            f"Objects of a map need patches of their own, up to column and row {GRID - 1}, got {symbols!r}."
        )
    codes = [_code(item, objects, place) for item, place in zip(objects, places, strict=True)]
    pixels = np.full((SCENE_SIDE, SCENE_SIDE), GREY, np.uint8)
    for row, column in np.ndindex(SCENE_SIDE // PATCH, SCENE_SIDE // PATCH):
        distances = [(column - x) ** 2 + (row - y) ** 2 for x, y in places]
        if min(distances) <= AROUND:
            top, left = PATCH * row, PATCH * column
            pixels[top : top + PATCH, left : left + PATCH] = codes[np.argmin(distances)]
    return PilImage.fromarray(pixels).convert("RGB")


def _code(item: Sequence[str], objects: Sequence[Sequence[str]], place: tuple[int, int]) -> np.ndarray:
    """Draw the bars of an object as pixels (PATCH, PATCH)."""
    colour, shape, *_ = item
    alike = (sum(other[part] == item[part] for other in objects) for part in (0, 1))
    rows = [np.array([*COLOURS]) == colour] * 2 + [np.array(SHAPES) == shape]
    rows += [np.arange(MOST_OBJECTS) < number for number in (len(objects), *alike)]
    rows += [np.arange(PATCH) <= position for position in place]
    patch = np.full((PATCH, PATCH), GREY, np.uint8)
    for row, bars in enumerate(rows):
        patch[row, : len(bars)] = np.where(bars, ON, OFF)
    return patch


__all__ = ["PATCH", "draw_symbol_map"]
