"""What a labelled dataset holds: images of each split and class, their sizes and modes; some of them as PNG files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from ..image_processing_omni_vision import read_image
from .stored_images import open_stored


SAMPLE = 1000  # images of a split that are opened for their size and mode


@dataclass(frozen=True)
class SplitSummary:
    """Images of a split, of each of its classes, and how many of `num_sampled` have which size and Pillow mode."""

    split: str
    num_images: int
    classes: dict[str, int]
    num_sampled: int
    sizes: dict[str, int]
    modes: dict[str, int]


def summarize_dataset(splits: DatasetDict) -> list[SplitSummary]:
    """Count what splits hold, as `load_images` returns them; sizes and modes of `SAMPLE` images each, spread evenly.

    Returns:
        One summary for each split; classes in the order of their numbers, sizes ("width x height") and modes by
        their frequency. What Pillow cannot open has the mode "unreadable" and no size.
    """
    return [_summarize(name, rows, evenly_spread(len(rows), SAMPLE)) for name, rows in splits.items()]


def _summarize(name: str, rows: Dataset, chosen: Sequence[int]) -> SplitSummary:
    labels = rows.features["label"]
    classes = dict.fromkeys(labels.names, 0) | Counter(map(labels.int2str, rows["label"][:]))
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    for stored in rows.select(chosen)["image"]:
        try:
            with open_stored(stored) as image:
                sizes[f"{image.width} x {image.height}"] += 1
                modes[image.mode] += 1
        except OSError:
            modes["unreadable"] += 1
    return SplitSummary(name, len(rows), classes, len(chosen), dict(sizes.most_common()), dict(modes.most_common()))


def export_images(splits: DatasetDict, split: str, count: int, folder: Path) -> list[Path]:
    """Write up to `count` images of a split, spread evenly over it, as PNG files in one folder for each label.

    Returns:
        The paths `folder/label/split_number.png`; folders are made when they do not exist.

    Raises:
        ValueError: for a split that is not there, or a count below 1.
    """
    if split not in splits or count < 1:
        raise ValueError(f"Expected a split of {[*splits]} and a count of at least 1, got {split!r} and {count}.")
    rows, written = splits[split], []
    for index in evenly_spread(len(rows), count):
        row = rows[index]
        path = folder / rows.features["label"].int2str(row["label"]) / f"{split}_{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(read_image(row["image"], num_channels=None)).astype(np.uint8)
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)
        written.append(path)
    return written


def evenly_spread(length: int, count: int) -> Sequence[int]:
    """Return up to `count` numbers below `length`, at equal distances from 0."""
    return range(0, length, max(length // count, 1))[:count]


__all__ = ["SplitSummary", "evenly_spread", "export_images", "summarize_dataset"]
