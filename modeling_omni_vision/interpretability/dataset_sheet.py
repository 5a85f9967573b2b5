"""One PNG of what a dataset holds: images of each class, how many each class has, and how large images are."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from ..data.integrity import images_of
from ..data.stored_images import eight_bits
from ..data.summary import SplitSummary, class_numbers, evenly_spread
from ..image_processing_omni_vision import ImageReadError, read_image
from .plots import save, shortened
from .style import GREY, OURS, THIRD, TRUTH


MAX_CLASSES, MAX_BARS, COLUMNS = 12, 30, 10
CELL, GAP, BACKGROUND = 84, 6, 245  # pixels of an image, between two, and their grey
SPLIT_COLOURS = {"train": OURS, "validation": THIRD, "test": TRUTH}
FEW_SIZES, BINS = 8, 24
WIDTH, NAME_LENGTH = 11.0, 20


def plot_dataset(splits: DatasetDict, found: list[SplitSummary], path: Path) -> Path:
    """Draw images of train in rows of classes, a bar for each class and the sizes of images.

    Args:
        splits: Columns `image` or `images`, and perhaps `label`.
        found: Their summaries.
        path: PNG to write. Of many classes, `MAX_CLASSES` are drawn, spread evenly.
    """
    rows = _sample_rows(splits["train"])
    bars = min(_num_bars(found), MAX_BARS)
    chart = max(2.6, 0.9 + 0.2 * bars) if bars or len(_sizes(found)) > 1 else 0.4
    heights = (0.35 + len(rows) * (WIDTH - 1.8) / COLUMNS, chart)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False).flat
    draw_grid(above.subplots(), rows, _title(found))
    panels = below.subplots(1, 2) if _num_bars(found) else [None, below.subplots()]
    if panels[0] is not None:
        _draw_classes(panels[0], found)
    _draw_sizes(panels[1], found)
    return save(figure, path)


def _num_bars(found: list[SplitSummary]) -> int:
    return len(found[0].classes)


def _title(found: list[SplitSummary]) -> str:
    return "   ".join(f"{split.split} {split.num_images:,}" for split in found)


def _sample_rows(rows: Dataset) -> dict[str, list[np.ndarray]]:
    """Return thumbnails of some classes by their names, or of all images in a row without a name."""
    images, owners = images_of(rows)
    if "label" not in rows.features:
        chosen = evenly_spread(len(images), 3 * COLUMNS)
        cells = [_thumbnail(images[number]) for number in chosen]
        return {" " * row: cells[start : start + COLUMNS] for row, start in enumerate(range(0, len(cells), COLUMNS))}
    names, numbers = class_numbers(rows)
    members: dict[int, list[int]] = {}
    for image, owner in enumerate(owners):
        for number in numbers[owner]:
            members.setdefault(number, []).append(image)
    present = sorted(members)
    chosen_classes = [present[index] for index in evenly_spread(len(present), MAX_CLASSES)]
    return {
        names[number]: [
            _thumbnail(images[members[number][index]]) for index in evenly_spread(len(members[number]), COLUMNS)
        ]
        for number in chosen_classes
    }


def _thumbnail(stored: Any) -> np.ndarray:
    """Return an image (CELL, CELL, 3) in the middle of its cell; a cross where it cannot be read."""
    try:
        return in_cell(eight_bits(read_image(stored, num_channels=3)))
    except (ImageReadError, TypeError):  # a row without an image
        cell = Image.new("RGB", (CELL, CELL), (BACKGROUND,) * 3)
        cross = np.abs(np.subtract.outer(np.arange(CELL), np.arange(CELL))) < 2
        pixels = np.array(cell)
        pixels[cross | cross[:, ::-1]] = (192, 57, 43)
        return pixels


def in_cell(pixels: np.ndarray) -> np.ndarray:
    """Return an image (height, width, 3) of 8 bits in the middle of its cell (CELL, CELL, 3)."""
    image, cell = Image.fromarray(pixels), Image.new("RGB", (CELL, CELL), (BACKGROUND,) * 3)
    small = max(image.size) <= CELL // 2
    image = ImageOps.contain(image, (CELL, CELL), Image.Resampling.NEAREST if small else Image.Resampling.BILINEAR)
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return np.array(cell)


def draw_grid(axes: Any, rows: dict[str, list[np.ndarray]], title: str) -> None:
    """Draw rows of up to `COLUMNS` cells, each with its name, as one image."""
    step = CELL + GAP
    page = np.full((step * len(rows), step * COLUMNS, 3), 255, dtype=np.uint8)
    for row, cells in enumerate(rows.values()):
        for column, cell in enumerate(cells):
            page[row * step : row * step + CELL, column * step : column * step + CELL] = cell
    axes.imshow(page, interpolation="none" if len(rows) < 2 else "antialiased")
    axes.set_yticks([row * step + CELL / 2 for row in range(len(rows))], [*map(wrapped, rows)], fontsize=9)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11, loc="left")


def wrapped(name: str, length: int = NAME_LENGTH) -> str:
    """Return a name on up to two lines that end between words; a longer word is shortened."""
    words = name.replace("_", "_ ").split(" ")
    lines = textwrap.wrap(" ".join(shortened(word, length) for word in words), length, max_lines=2, placeholder=" ...")
    return "\n".join(lines).replace("_ ", "_")


def _draw_classes(axes: Any, found: list[SplitSummary]) -> None:
    """Draw a bar for each class, the largest above; of many classes the largest and the smallest."""
    totals = {name: sum(split.classes[name] for split in found) for name in found[0].classes}
    names = sorted(totals, key=lambda name: -totals[name])
    title = "images of each class"
    if len(names) > MAX_BARS:
        title = f"images of each class: {MAX_BARS // 2} largest and {MAX_BARS // 2} smallest of {len(names)}"
        names = [*names[: MAX_BARS // 2], *names[-MAX_BARS // 2 :]]
    start = np.zeros(len(names))
    for split in found:
        counts = np.array([split.classes[name] for name in names])
        axes.barh(range(len(names)), counts, left=start, color=SPLIT_COLOURS[split.split], label=split.split)
        start += counts
    for row, total in enumerate(start):
        axes.text(total, row, f" {total:,.0f}", va="center", fontsize=7, color=GREY)
    axes.set_yticks(range(len(names)), [wrapped(name).replace("\n", " ") for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _sizes(found: list[SplitSummary]) -> Counter[str]:
    return sum((Counter(split.sizes) for split in found), Counter[str]())


def _draw_sizes(axes: Any, found: list[SplitSummary]) -> None:
    """Draw the sizes of images: a bar for each of few, otherwise a histogram of the longer side; one in words."""
    sizes = _sizes(found)
    if len(sizes) == 1:
        axes.axis("off")
        axes.text(0.5, 0.5, f"all {sizes.total():,} images that were read: {next(iter(sizes))} pixels", ha="center")
        return
    if len(sizes) <= FEW_SIZES:
        names = sorted(sizes, key=lambda size: -sizes[size])
        axes.bar(names, [sizes[name] for name in names], color=OURS, width=0.6)
        beside = max(0.0, (5 - len(names)) / 2)  # so that few bars are not wider than many
        axes.set_xlim(-0.5 - beside, len(names) - 0.5 + beside)
        axes.set_title("sizes (width x height in pixels)", fontsize=10)
        axes.tick_params(axis="x", labelsize=8, rotation=30 if len(names) > 4 else 0)
    else:
        sides = [max(map(int, size.split(" x "))) for size in sizes]
        edges = np.geomspace(min(sides), max(sides) + 1, BINS + 1)
        axes.hist(sides, bins=edges, weights=list(sizes.values()), color=OURS)
        axes.set_xscale("log")
        ticks = [
            side for side in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if edges[0] <= side <= edges[-1]
        ]
        axes.set_xticks(ticks or [min(sides), max(sides)], [str(tick) for tick in ticks or (min(sides), max(sides))])
        axes.minorticks_off()
        axes.set_title("longer side of images in pixels", fontsize=10)
    axes.set_ylabel("images that were read")


__all__ = ["COLUMNS", "WIDTH", "draw_grid", "in_cell", "plot_dataset", "wrapped"]
