"""Plots of reliability: calibration before and after scaling, accuracy under corruption."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..interpretability.plots import panel_grid, save, wilson
from ..interpretability.style import GREY, OURS
from .metrics import calibration_bins, expected_calibration_error


def plot_calibration(
    probabilities: np.ndarray, labels: np.ndarray, path: Path, scaled: np.ndarray | None = None
) -> Path:
    """
    Draw accuracy against confidence in 15 bins with Wilson's 95 % intervals, and below it the images in each bin.

    Args:
        probabilities: Shape (images, classes).
        labels: Classes, shape (images,).
        path: PNG to write.
        scaled: Probabilities after temperature scaling, drawn on the right.
    """
    titles = {"": probabilities} if scaled is None else {"as trained\n": probabilities, "after scaling\n": scaled}
    # So wide that 1.0 and 0.0 stand apart.
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(0.8 + 4.2 * len(titles), 5.6), layout=layout)
    panels = figure.subplots(2, len(titles), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
    for (above, below), (title, drawn) in zip(panels.T, titles.items(), strict=True):
        draw_calibration(above, below, drawn, labels, title)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images")
    return save(figure, path)


def draw_calibration(above: Axes, below: Axes, probabilities: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Draw one reliability diagram, accuracy above, numbers of images below."""
    confidence, accuracy, counts = calibration_bins(probabilities, labels)
    edges = np.linspace(0, 1, len(counts) + 1)
    used = counts > 0
    above.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    above.bar(
        edges[:-1][used], accuracy[used], np.diff(edges)[used], align="edge", color=OURS, alpha=0.2, edgecolor="w"
    )
    low, high = wilson(accuracy[used] * counts[used], counts[used])
    above.vlines(confidence[used], low, high, color=OURS, linewidth=1.6, alpha=0.7)
    above.plot(confidence[used], accuracy[used], "o", color=OURS, markersize=4, label="accuracy, 95 % interval")
    gap = expected_calibration_error(probabilities, labels)
    above.set(ylim=(0, 1.03), title=f"{title}expected calibration error {gap:.3f}".capitalize())
    above.title.set_fontsize(11)
    # Bins of few images, with long intervals, lie at the left.
    above.legend(loc="lower right", framealpha=0.85, edgecolor="none", fontsize=9)
    below.bar(edges[:-1], counts, np.diff(edges), align="edge", color=OURS, edgecolor="w")
    below.set(xlabel="confidence of the predicted class", xlim=(0, 1))
    if counts.max() > 50 * max(counts[used].min(), 1):
        below.set(yscale="log", ylim=(0.7, counts.max() * 2))
        below.yaxis.set_major_formatter("{x:,.0f}")
    above.grid(alpha=0.3)
    below.grid(alpha=0.3, axis="y")


def plot_robustness(curves: Mapping[str, Sequence[Mapping[str, Any]]], units: Mapping[str, str], path: Path) -> Path:
    """
    Draw accuracy against the severity of each corruption, with its 95 % interval as a band.

    Args:
        curves: For each corruption, points with `severity`, `accuracy` and `accuracy_interval`.
        units: Unit of the severities of each.
        path: PNG to write.
    """
    figure, panels = panel_grid(len(curves), 2, (4.2, 3), sharey=True)
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        severities, accuracies = ([entry[key] for entry in points] for key in ("severity", "accuracy"))
        low, high = np.transpose([entry["accuracy_interval"] for entry in points])
        axes.fill_between(severities, low, high, color=OURS, alpha=0.25, linewidth=0)
        axes.plot(severities, accuracies, color=OURS, marker=".", linewidth=1.4)
        axes.set_title(name.replace("_", " "), fontsize=11)
        axes.set(xlabel=units[name], xticks=severities, ylim=(0, 1.03))
        axes.grid(alpha=0.25)
    for axes in panels[::2]:
        axes.set_ylabel("accuracy")
    return save(figure, path)


__all__ = ["plot_calibration", "plot_robustness"]
