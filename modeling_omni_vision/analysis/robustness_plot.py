"""The picture of robustness: one panel for each corruption, in the style of the other plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .plots import OURS, save


def plot_robustness(curves: Mapping[str, Sequence[Mapping[str, Any]]], units: Mapping[str, str], path: Path) -> Path:
    """
    Draw accuracy against the severity of each corruption, with its 95 % interval as a band.

    Args:
        curves: For each corruption, points with `severity`, `accuracy` and `accuracy_interval`.
        units: What the severities of each are counted in.
        path: PNG to write.
    """
    rows = -(-len(curves) // 2)
    figure = Figure(figsize=(8.4, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False, sharey=True)
    for axes, (name, points) in zip(panels.flat, curves.items(), strict=False):
        severities, accuracies = ([entry[key] for entry in points] for key in ("severity", "accuracy"))
        low, high = np.transpose([entry["accuracy_interval"] for entry in points])
        axes.fill_between(severities, low, high, color=OURS, alpha=0.25, linewidth=0)
        axes.plot(severities, accuracies, color=OURS, marker=".", linewidth=1.4)
        axes.set_title(name.replace("_", " "), fontsize=11)
        axes.set(xlabel=units[name], xticks=severities, ylim=(0, 1.03))
        axes.grid(alpha=0.25)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    for axes in panels.flat[len(curves) :]:
        axes.axis("off")
    return save(figure, path)


__all__ = ["plot_robustness"]
