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
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..data.stored_images import eight_bits
from .style import (
    DPI,
    FONT,
    GREY,
    KINDS,
    LINE,
    MAP_COLOURS,
    OURS,
    RIGHT_COLOURS,
    TRUTH,
    WRONG_COLOURS,
    dress,
)


# Up to so many classes every cell of a confusion matrix gets its number, and every class its name.
MAX_NUMBERED, MAX_NAMED = 20, 40
MAX_NAME, MAX_LISTED, MAX_CURVES = 18, 18, 8
MAX_COLOURS, MAX_HEADS, MAX_SIDE = 4096, 4, 512
Extent = tuple[float, float, float, float]
Z = 1.959964  # standard deviations, for intervals of 95 %


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

        Raises:
            ValueError: for NaN or infinity.
        """
        values = np.concatenate([np.ravel(one) for one in maps]) if len(maps) else np.zeros(1)
        refuse_nan(values)
        first, last = float(values.min()), float(values.max())
        note = f"\nflat: all values lie between {first:.2f} and {last:.2f}" if last - first <= least / 2 else ""
        middle = (first + last) / 2
        start = min(first, middle - least / 2) if low is None else low
        return cls(Normalize(start, max(last, start + least)), label, note)


def refuse_nan(values: np.ndarray) -> None:
    """Raise a `ValueError` for maps with NaN or infinity, which would be drawn as if there were nothing to see."""
    if not np.isfinite(values).all():
        raise ValueError("Expected numbers in a map, got NaN or infinity. The weights of the model are broken.")


def save(figure: Figure, path: Path, exact_colours: bool = False, **texts: str) -> Path:
    """Write a figure in the style of all, and texts about it, without what would make equal images differ."""
    dress(figure)
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


def wilson(right: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (low, high) of Wilson's 95 % interval of `right` out of `count`; NaN where there are none.

    Unlike the bootstrap's it has a width where all or none of few are right.
    """
    right, count = np.asarray(right, dtype=float), np.asarray(count, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share, spread = right / count, Z**2 / count
        middle = (share + spread / 2) / (1 + spread)
        half = Z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / count / 4)
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def plot_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], path: Path) -> Path:
    """
    Draw a confusion matrix (classes, classes), rows truth and columns prediction, and beside it the recall of classes.

    Above `MAX_NAMED` classes only every few are named, and beside the matrix stand the weakest classes and the most
    frequent mistakes.
    """
    counts = np.asarray(matrix)
    classes, few = len(names), len(names) <= MAX_NAMED
    labels = [shortened(name, 22 if few else 18, 7) for name in names]
    side, room = float(np.clip(0.42 * classes, 2.2, 8)), 0.4 + 0.08 * max(map(len, labels))
    widths = side + room, 2.8 if few else 1.8 + 2 * room
    figure = Figure(figsize=(sum(widths), side + room + 0.6), layout="constrained")
    right, total = counts.trace(), counts.sum()
    low, high = (float(end) for end in wilson(right, total))
    share = f"{right:,} of {total:,} right: {right / max(total, 1):.1%}"
    figure.suptitle(f"{share} (95 % interval {low:.1%} to {high:.1%})", fontsize=11, wrap=True)
    if few:
        axes, beside = figure.subplots(1, 2, width_ratios=(side, 2.2), sharey=True)
        _draw_matrix(axes, counts, labels)
        _draw_recalls(beside, counts, range(classes))
        beside.tick_params(axis="y", length=0, labelleft=False)
        return save(figure, path)
    wide, narrow = figure.subfigures(1, 2, squeeze=False, width_ratios=widths).flat
    _draw_matrix(wide.subplots(), counts, labels)
    above, below = narrow.subplots(2, 1)
    recalls = np.divide(counts.diagonal(), counts.sum(1), out=np.full(classes, 2.0), where=counts.sum(1) > 0)
    weakest = np.argsort(recalls, kind="stable")[:MAX_LISTED].tolist()
    _draw_recalls(above, counts, weakest)
    above.set_yticks(range(len(weakest)), [labels[index] for index in weakest], fontsize=8)
    above.invert_yaxis()
    _draw_mistakes(below, counts, labels)
    return save(figure, path)


def _draw_matrix(axes: Axes, counts: np.ndarray, labels: Sequence[str]) -> None:
    """Draw right answers in one colour and mistakes in another, each row by its fractions."""
    total, classes = counts.sum(axis=1, keepdims=True), len(counts)
    fractions = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    right = np.eye(classes, dtype=bool)
    # Of mistakes by the square root, so that two in a hundred are seen.
    scales = Normalize(0, 1), PowerNorm(0.5, 0, 0.5, clip=True)
    axes.imshow(np.ma.masked_array(fractions, ~right), RIGHT_COLOURS, scales[0], aspect="auto")
    wrong = np.ma.masked_array(fractions, right | (counts == 0))
    shown = axes.imshow(wrong, WRONG_COLOURS, scales[1], aspect="auto")
    named = range(0, classes, -(-classes // MAX_NAMED))
    size = 9.0 if classes <= MAX_NUMBERED else 7.5 if classes <= MAX_NAMED else 6.5
    upright = max(map(len, labels)) * classes > 24
    axes.set_xticks(named, [labels[index] for index in named], rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(named, [labels[index] for index in named], fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= MAX_NUMBERED:
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=LINE, linewidth=0.5)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(counts > 0):
            dark = scales[int(row != column)](fractions[row, column]) > 0.6
            colour = "white" if dark else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=8)
    else:
        bar = axes.figure.colorbar(shown, ax=axes, location="bottom", aspect=50, fraction=0.02, pad=0.01)
        bar.set_label("mistakes: fraction of the true class", fontsize=8)
        bar.ax.tick_params(labelsize=8)


def _draw_recalls(axes: Axes, counts: np.ndarray, chosen: Sequence[int]) -> None:
    """Draw the recall of some classes as points with their intervals, and how many images each has."""
    right, total = counts.diagonal()[chosen], counts.sum(axis=1)[chosen]
    low, high = wilson(right, total)
    places = np.arange(len(chosen))
    axes.hlines(places, low, high, color=OURS, alpha=0.45, linewidth=3)
    shares = np.divide(right, total, out=np.full(len(chosen), np.nan), where=total > 0)
    axes.plot(shares, places, "o", color=OURS, markersize=4)
    least = float(np.nanmin(low, initial=0.9))
    start = max(0.0, np.floor(10 * least) / 10)
    for place, number in enumerate(total):
        beside = axes.get_yaxis_transform()
        axes.text(1.04, place, f"{number:,}", va="center", fontsize=7.5, color=GREY, transform=beside)
    axes.set(xlim=(start, 1 + 0.03 * (1 - start)))
    axes.set_xlabel("recall; at the right: images", fontsize=9)
    axes.set_title("recall, 95 % interval" if len(chosen) == len(counts) else "weakest classes", fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _draw_mistakes(axes: Axes, counts: np.ndarray, labels: Sequence[str]) -> None:
    """Draw how often the most frequent mistakes are made."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    most = np.argsort(-wrong, axis=None, kind="stable")[:MAX_LISTED]
    pairs = [pair for pair in np.transpose(np.unravel_index(most, wrong.shape)) if wrong[tuple(pair)]]
    axes.barh(range(len(pairs)), [wrong[tuple(pair)] for pair in pairs], color=TRUTH, height=0.7)
    axes.set_yticks(
        range(len(pairs)), [f"{labels[true]} \u2192 {labels[answer]}" for true, answer in pairs], fontsize=7.5
    )
    axes.set(ylim=(max(len(pairs), 1) - 0.4, -0.6), xlabel="images")
    axes.set_title("most frequent mistakes", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="x")


def plot_training(training: Mapping[str, Any], path: Path) -> Path | None:
    """
    Draw loss and what was measured on validation over epochs, and which step was chosen.

    Args:
        training: The `training` section of metrics.json: `history` (epoch, loss) and `evaluations` (step, epoch and
            any numbers by their names), of which incomplete entries are left out.
        path: PNG to write.

    Returns:
        The path; None where there is not a single loss to draw.
    """
    history = complete(training.get("history"), "epoch", "loss")
    if not history:
        return None
    found = complete(training.get("evaluations"), "epoch")
    measured = [name for name in dict.fromkeys(name for one in found for name in one) if name not in ("step", "epoch")]
    of_loss = [name for name in measured if name == "loss" or name.endswith("_loss")]
    # Fractions share a panel, anything else has one of its own.
    fractions = [name for name in measured if name not in of_loss and _are_fractions(found, name)][:MAX_CURVES]
    groups = [[name] for name in measured if name not in of_loss and not _are_fractions(found, name)]
    groups = [fractions] * bool(fractions) + groups
    figure, panels = panel_grid(1 + len(groups), 2, (5.0, 3.7))
    chosen = chosen_evaluation(training, found)
    draw(panels[0], history, "loss", "training", OURS, "." if len(history) < 40 else "")
    for name in of_loss:
        label = "validation" if name == "loss" else name.replace("_", " ")
        draw(panels[0], complete(found, name), name, label, TRUTH, ".")
    panels[0].set_title("loss", fontsize=11)
    low, high = panels[0].dataLim.intervaly
    panels[0].set_ylim(min(0, low), high + 0.05 * (high - min(0, low)))
    for axes, names in zip(panels[1:], groups, strict=True):
        colours = [TRUTH] if len(names) == 1 else [TRUTH, OURS] if len(names) == 2 else KINDS
        for name, colour in zip(names, colours, strict=False):
            draw(axes, complete(found, name), name, drawable(name.replace("_", " ")), colour, ".")
        value = chosen.get(names[0]) if chosen else None
        shown = drawable(names[0].replace("_", " "))
        axes.set_ylabel(shown if len(names) == 1 else "fraction")
        said = f"{value:.2%}" if names == fractions and value is not None else f"{value:.4g}" if value else ""
        axes.set_title(f"{shown} on validation" + (f": {said} as chosen" if said else ""), fontsize=11)
    last = max(entry["epoch"] for entry in (*history, *found))
    for axes in panels:
        if chosen:
            axes.axvline(chosen["epoch"], color=GREY, linestyle=":", linewidth=1.4, label="chosen", zorder=1)
        axes.set(xlabel="epoch", xlim=(0, last * 1.03))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, ncols=2 if len(axes.lines) > 5 else 1)
    return save(figure, path)


def _are_fractions(entries: Sequence[Mapping[str, float]], name: str) -> bool:
    return all(0 <= entry[name] <= 1 for entry in complete(entries, name))


def chosen_evaluation(
    training: Mapping[str, Any], entries: Sequence[Mapping[str, float]]
) -> Mapping[str, float] | None:
    """Return the evaluation of the weights that a run kept: its `chosen_step`, in older records its `best_epoch`."""
    for name, key in (("chosen_step", "step"), ("best_epoch", "epoch")):
        if training.get(name) is not None:
            return next((entry for entry in entries if entry.get(key) == training[name]), None)
    return max(complete(entries, "accuracy"), key=lambda entry: entry["accuracy"], default=None)


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
        [shortened(name, 20, 7) for name in truth],
        [f"{shortened(name, 17, 6)} {sure:.0%}" for name, sure in zip(predicted, confidence, strict=True)],
        [TRUTH] * len(images),
        "Most confident mistakes\ntrue class above, predicted class and its probability below",
        path,
        columns=8,
        panel=(1.7, 2.25) if len(images) > 3 else (6 / (len(images) + 1), 6 / (len(images) + 1) + 0.7),
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
    figure.suptitle(f"{title}{scale.note if scale else ''}", fontsize=11, wrap=True)
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


def show(axes: Axes, image: np.ndarray, extent: Extent | None = None) -> None:
    """Show an image of pixel values 0..255 without ticks, small ones without smoothing."""
    pixels = eight_bits(_reduced(image))
    grey = pixels.shape[-1] == 1
    small = max(pixels.shape[:2]) < 100
    axes.imshow(
        pixels[..., 0] if grey else pixels[..., :3],
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest" if small else "antialiased",
        extent=extent or _extent(image),
    )
    axes.set_xticks([])
    axes.set_yticks([])


def _extent(image: np.ndarray) -> Extent:
    height, width = image.shape[:2]
    return -0.5, width - 0.5, height - 0.5, -0.5


def _reduced(image: np.ndarray) -> np.ndarray:
    """Return every n-th row and column of an image far larger than any panel: matplotlib would resample all."""
    step = max(1, max(image.shape[:2]) // MAX_SIDE)
    return image[::step, ::step]


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
    refuse_nan(maps)
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
    extent = _extent(image)
    show(axes, 50 + 0.6 * _reduced(image).mean(axis=-1, keepdims=True), extent)
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


__all__ = ["plot_attention", "plot_confusion", "plot_mistakes", "plot_training", "wilson"]
