"""Plots of results as PNG: confusion, training curves, mistakes, attention. No display is needed.

Every function takes plain arrays and writes one file; equal input gives equal bytes.
"""

import functools
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo


DPI, FONT = 130, "DejaVu Sans"
OURS, TRUTH, GREY = "#1f5fa8", "#c0392b", "#888888"
# Up to so many classes every cell of a confusion matrix gets its number, and every class its name.
MAX_NUMBERED, MAX_NAMED = 20, 40
MAX_NAME = 18
MAX_COLOURS, MAX_HEADS = 4096, 4
MAP_COLOURS = "viridis"  # as bright for the colour-blind, and grey where it is printed


@dataclass(frozen=True)
class Scale:
    """What the colours of all maps of a figure mean; a note for its title where the maps hardly differ anywhere."""

    norm: Normalize
    label: str
    note: str = ""

    @classmethod
    def of(cls, maps: Sequence[np.ndarray], label: str, least: float, low: float | None = None) -> "Scale":
        """Return a scale from the smallest (or `low`) to the largest value, never narrower than `least`.

        Smaller differences would look like large ones: within `least` / 2 the figure says that its maps are flat.
        """
        values = np.concatenate([np.ravel(one) for one in maps]) if len(maps) else np.zeros(1)
        first, last = float(values.min()), float(values.max())
        note = f"\nflat: all values lie between {first:.2f} and {last:.2f}" if last - first <= least / 2 else ""
        middle = (first + last) / 2
        start = min(first, middle - least / 2) if low is None else low
        return cls(Normalize(start, max(last, start + least)), label, note)


def save(figure: Figure, path: Path, exact_colours: bool = False, **texts: str) -> Path:
    """Write a figure, and texts about it, without the date and version that would make equal images differ."""
    for written in figure.findobj(Text):
        families = dict.fromkeys(filter(None, map(font_with, written.get_text())))
        if {*families} - {FONT}:
            written.set_fontfamily([FONT, *families])
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # A palette halves the bytes of charts; photographs have too many colours for one, maps are read by theirs.
    if not exact_colours and drawn.getcolors(MAX_COLOURS) is not None:
        drawn = drawn.quantize()
    about = PngInfo()
    for name, text in texts.items():
        about.add_text(name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(path, dpi=(DPI, DPI), pnginfo=about, optimize=True)
    return path


def panel_grid(
    count: int, columns: int, panel: tuple[float, float], title_height: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its first `count` axes in rows of `columns`, of `panel` inches each; the others are off."""
    rows, columns = -(-count // columns), min(columns, count)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows + title_height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in panels[count:]:
        axes.axis("off")
    return figure, panels[:count]


def shortened(name: str, length: int = MAX_NAME, tail: int = 0) -> str:
    """Return a name `drawable`, a long one without what stands before its last `tail` signs."""
    signs = [*map(drawable, name)]
    if sum(map(len, signs)) <= length:
        return "".join(signs)
    first = _fitting(signs, length - 3 - tail)
    return "".join([*first, "...", *reversed(_fitting(signs[::-1], tail))])


def _fitting(signs: Sequence[str], length: int) -> list[str]:
    ends = itertools.accumulate(map(len, signs))
    return [sign for sign, end in zip(signs, ends, strict=True) if end <= length]


def drawable(text: str) -> str:
    r"""Return a text as it can be drawn: with $ escaped, which would begin a formula, and signs that no font has.

    These are written as in Python, symbols as `\N{CAT}` and letters as `\u732b`: as boxes all would look the same.
    """
    written = ""
    for sign in text:
        named = "namereplace" if unicodedata.category(sign).startswith("S") else "backslashreplace"
        written += sign if font_with(sign) else sign.encode("ascii", named).decode()
    return written.replace("$", r"\$")


@functools.cache
def font_with(sign: str) -> str | None:
    """Return the family of an installed font that has a sign, matplotlib's own first; None where none has it."""
    if sign.isascii():
        return FONT
    # Emoji in colour cannot be drawn; the last resort has a box for everything.
    fonts = [font for font in fontManager.ttflist if "Emoji" not in font.name and "Last Resort" not in font.name]
    fonts.sort(key=lambda font: (font.name != FONT, font.style != "normal", font.weight != 400, font.name))
    return next((font.name for font in fonts if ord(sign) in _signs_of(font.fname)), None)


@functools.cache
def _signs_of(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap())


def plot_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], path: Path) -> Path:
    """
    Draw a confusion matrix (classes, classes), rows truth and columns prediction, shaded by fraction of the row.

    Above `MAX_NAMED` classes only every few are named.
    """
    counts = np.asarray(matrix)
    total = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    classes = len(names)
    side = float(np.clip(0.42 * classes + 2.6, 4.2, 13))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the true class", fraction=0.046, pad=0.03)
    named = range(0, classes, -(-classes // MAX_NAMED))
    size = float(np.clip(130 / max(len(named), 1), 6, 10))
    labels = [shortened(names[index]) for index in named]
    upright = max(map(len, labels)) * len(labels) > 24
    axes.set_xticks(named, labels, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(named, labels, fontsize=size)
    if classes <= MAX_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if fractions[row, column] > 0.55 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=size - 1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{counts.trace():,} of {counts.sum():,} right ({counts.trace() / max(counts.sum(), 1):.1%})")
    return save(figure, path)


def plot_training(training: Mapping[str, Any], path: Path) -> Path | None:
    """
    Draw loss, and accuracy on validation, over epochs; return None where there is not a single loss to draw.

    Args:
        training: The `training` section of metrics.json: `history` (epoch, loss) and `evaluations` (epoch,
            accuracy, loss), of which incomplete entries are left out.
        path: PNG to write.
    """
    history = complete(training.get("history"), "epoch", "loss")
    evaluations = complete(training.get("evaluations"), "epoch", "loss", "accuracy")
    if not history:
        return None
    figure, panels = panel_grid(2 if evaluations else 1, 2, (4.5 if evaluations else 5, 3.6))
    marker = "." if len(history) < 40 else ""
    draw(panels[0], history, "loss", "training", OURS, marker)
    if evaluations:
        draw(panels[0], evaluations, "loss", "validation", TRUTH, ".")
        draw(panels[1], evaluations, "accuracy", "validation", TRUTH, ".")
        best = max(evaluations, key=lambda entry: entry["accuracy"])
        panels[1].set_title(f"best {best['accuracy']:.2%} in epoch {best['epoch']:g}", fontsize=11)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
    panels[0].set_title("loss", fontsize=11)
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    return save(figure, path)


def complete(entries: Sequence[Mapping[str, float]] | None, *names: str) -> list[Mapping[str, float]]:
    """Return the entries that have a value under all names."""
    return [entry for entry in entries or () if all(entry.get(name) is not None for name in names)]


def draw(axes: Axes, entries: Sequence[Mapping[str, float]], key: str, label: str, colour: str, marker: str) -> None:
    """Add one curve over epochs."""
    x, y = zip(*((entry["epoch"], entry[key]) for entry in entries), strict=True)
    axes.plot(x, y, color=colour, marker=marker, linewidth=1.4, label=label)
    axes.set_ylabel(key)


def plot_mistakes(
    images: Sequence[np.ndarray],
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    path: Path,
) -> Path:
    """
    Draw a sheet of wrongly classified images, each with its true and its predicted class.

    Args:
        images: Arrays (height, width, 1 or 3) of pixel values 0..255, the most confident first; may be empty.
        truth: True class of each.
        predicted: Predicted class of each.
        confidence: Probability of the predicted class.
        path: PNG to write.
    """
    if not images:
        figure = Figure(figsize=(4, 1.2))
        figure.text(0.5, 0.5, "No mistakes.", ha="center", va="center", fontsize=14)
        return save(figure, path)
    return draw_sheet(
        images,
        [f"true: {shortened(name, 14)}" for name in truth],
        [f"pred.: {shortened(name, 14)}, {sure:.0%}" for name, sure in zip(predicted, confidence, strict=True)],
        [TRUTH] * len(images),
        "Most confident mistakes",
        path,
        columns=8,
    )


def draw_sheet(
    images: Sequence[np.ndarray],
    above: Sequence[str],
    below: Sequence[str],
    colours: Sequence[str],
    title: str,
    path: Path,
    columns: int,
    panel: tuple[float, float] = (1.7, 2.25),
    maps: Sequence[np.ndarray | None] | None = None,
    scale: Scale | None = None,
) -> Path:
    """Draw images in rows, each with a line above it and, in its own colour, one or two below it.

    Where `maps` has one (rows, columns) it is drawn over its image, by the one `scale` of the sheet.
    """
    figure, panels = panel_grid(len(images), columns, panel, 0.4)
    figure.suptitle(f"{title}{scale.note if scale else ''}", fontsize=12, wrap=True)
    for axes, image, over, under, colour, one in zip(
        panels, images, above, below, colours, maps or [None] * len(images), strict=True
    ):
        if one is None or scale is None:
            show(axes, image)
        else:
            overlay(axes, image, one, scale)
        axes.set_title(over, fontsize=8.5, color=OURS, pad=3)
        axes.set_xlabel(under, fontsize=8.5, color=colour, labelpad=3)
    if scale is not None:
        add_colour_bar(figure, panels, scale)
    return save(figure, path, exact_colours=scale is not None)


def show(axes: Axes, image: np.ndarray) -> None:
    """Show an image of pixel values 0..255 without ticks, small ones without smoothing."""
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    grey = pixels.shape[-1] == 1
    small = max(pixels.shape[:2]) < 100
    axes.imshow(
        pixels[..., 0] if grey else pixels[..., :3],
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest" if small else "antialiased",
    )
    axes.set_xticks([])
    axes.set_yticks([])


def plot_attention(images: Sequence[np.ndarray], maps: np.ndarray, captions: Sequence[str], path: Path) -> Path:
    """
    Draw the attention of CLS: each image, the mean over heads on top of it, and up to four single heads.

    Args:
        images: Arrays (height, width, 1 or 3) of pixel values 0..255, of the model's size.
        maps: Attention of one layer, shape (images, heads, rows, columns); drawn in multiples of what every patch
            would get from even attention, all by one scale.
        captions: One or two lines for each image.
        path: PNG to write.
    """
    heads = min(maps.shape[1], MAX_HEADS)
    total = maps.sum((-2, -1), keepdims=True)
    maps = np.divide(maps * maps[0, 0].size, total, out=np.zeros(maps.shape), where=total > 0)
    means = maps.mean(axis=1)
    scale = Scale.of([means, maps[:, :heads]], "times an even share", least=2.0, low=0.0)
    figure = Figure(figsize=(1.75 * (2 + heads) + 0.9, 1.8 * len(images) + 0.7), layout="constrained")
    figure.suptitle(f"Attention of CLS to patches in the last layer{scale.note}", fontsize=11)
    panels = figure.subplots(len(images), 2 + heads, squeeze=False)
    titles = ["image", "mean of heads", *(f"head {index}" for index in range(heads))]
    for row, image, attention, mean, caption in zip(panels, images, maps, means, captions, strict=True):
        show(row[0], image)
        row[0].set_ylabel("\n".join(map(shortened, caption.splitlines())), fontsize=8.5)
        for axes, one in zip(row[1:], [mean, *attention], strict=False):
            overlay(axes, image, one, scale)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=9.5)
    add_colour_bar(figure, list(panels.flat), scale)
    return save(figure, path, exact_colours=True)


def overlay(axes: Axes, image: np.ndarray, values: np.ndarray, scale: Scale) -> None:
    """Draw a map (rows, columns) over a grey image of any size."""
    height, width = image.shape[:2]
    show(axes, 50 + 0.6 * image.mean(axis=-1, keepdims=True))
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(values, MAP_COLOURS, scale.norm, alpha=0.65, extent=extent, interpolation="nearest")


def add_colour_bar(figure: Figure, panels: list[Axes], scale: Scale) -> None:
    """Add the scale of all maps of a figure at its right."""
    # A bar that is higher than some four rows is hard to find on a long sheet, and as easily read.
    rows = panels[0].get_gridspec().nrows  # type: ignore[union-attr]
    bar = figure.colorbar(
        ScalarMappable(scale.norm, MAP_COLOURS),
        ax=panels,
        label=scale.label,
        aspect=30,
        shrink=min(1, 4 / rows),
        pad=0.01,
    )
    bar.ax.tick_params(labelsize=8)


__all__ = ["plot_attention", "plot_confusion", "plot_mistakes", "plot_training"]
