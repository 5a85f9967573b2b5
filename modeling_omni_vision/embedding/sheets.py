"""Sheets and tables of images in groups."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.image_files import displayed
from ..interpretability.plots import draw_sheet, shortened
from ..interpretability.style import OURS


LENGTH = 22
MAX_COLUMNS, MAX_ROWS = 11, 30
# An image, the line above it, and its path.
Cell = tuple[Image.Image, str, str]


def draw_rows(rows: Sequence[Sequence[Cell]], title: str, path: str) -> Path:
    """Draw a row of images for each group, as many as fit, and return the PNG."""
    rows = [row[:MAX_COLUMNS] for row in rows[:MAX_ROWS]]
    columns = max(map(len, rows), default=1)
    blank: Cell = (Image.new("RGB", (8, 8), "white"), "", "")
    cells = [cell for row in rows for cell in [*row, *[blank] * (columns - len(row))]] or [blank]
    images, above, below = zip(*cells, strict=True)
    tails = [shortened(displayed(name), LENGTH, LENGTH - 3) for name in below]
    return draw_sheet(
        [np.asarray(one) for one in images], above, tails, [OURS] * len(cells), title, Path(path), columns
    )


def write_csv(path: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a table; `columns` are its header where there are no rows."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else list(columns))
        writer.writeheader()
        writer.writerows(rows)


__all__ = ["draw_rows", "write_csv"]
