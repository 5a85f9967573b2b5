"""What a dataset holds: images of each split and class, their sizes and modes; some of them as PNG files."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

from ..image_processing_omni_vision import read_image
from .integrity import images_of
from .label_lists import label_array, label_names
from .stored_images import eight_bits, open_stored


SAMPLE = 1000  # images of a split that are opened for their size and mode
MAX_SIZES = 12  # different sizes that are listed
# Folders of datasets for detection and segmentation.
PARTS = {"images", "imgs", "jpegimages", "leftimg8bit", "annotations", "labels", "masks", "gtfine"}
PARTS |= {"segmentationclass", "segmentationobject", "voc2007", "voc2012", "vocdevkit"}
FEW, MOSTLY = 10, 0.9  # images of a class, and fraction of one class, that deserve a hint


@dataclass(frozen=True)
class SplitSummary:
    """Images of a split, of each of its classes, and how many of `num_sampled` have which size and Pillow mode."""

    split: str
    num_images: int
    classes: dict[str, int]
    num_sampled: int
    sizes: dict[str, int]
    modes: dict[str, int]

    def lines(self) -> list[str]:
        """Return the same for people."""
        kinds = f", {len(self.classes)} class{'es' * (len(self.classes) != 1)}" if self.classes else ""
        sizes = counted(self.sizes)
        if len(self.sizes) > MAX_SIZES:
            sides = self.longer_sides()
            sizes = f"longer side {sides[0]} to {sides[-1]} pixels, half at most {sides[len(sides) // 2]}"
        return [
            f"{self.split}: {self.num_images:,} image{'s' * (self.num_images != 1)}{kinds}",
            *([f"  classes  {counted(self.classes)}"] if self.classes else []),
            f"  sizes    {sizes} (of {self.num_sampled:,} read)",
            f"  modes    {counted(self.modes)}",
        ]

    def longer_sides(self) -> list[int]:
        """Return the longer side of every image that was read, in pixels, in order."""
        return sorted(max(map(int, size.split(" x "))) for size, count in self.sizes.items() for _ in range(count))


def counted(counts: dict[str, int], most: int = 12) -> str:
    """Return counts in one line, of many the first."""
    first = [f"{name}: {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join(first) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def summarize_dataset(splits: DatasetDict) -> list[SplitSummary]:
    """Count what splits hold, with labels or without; sizes and modes of `SAMPLE` images each, spread evenly.

    Returns:
        One summary for each split; classes in the order of their numbers, sizes ("width x height") and modes by
        their frequency. What Pillow cannot open has the mode "unreadable" and no size.
    """
    return [_summarize(name, rows) for name, rows in splits.items()]


def _summarize(name: str, rows: Dataset) -> SplitSummary:
    images, classes = images_of(rows)[0], dict[str, int]()
    if "label" in rows.features:
        names, found = label_names(rows), label_array(rows)
        counts = found.sum(axis=0) if found.ndim == 2 else np.bincount(found, minlength=len(names))
        classes = dict(zip(names, counts.astype(int).tolist(), strict=True))
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    chosen = evenly_spread(len(images), SAMPLE)
    # At once: a dataset takes as long for one row as for many.
    alone = "images" not in rows.column_names
    sources = rows.select(chosen)["image"][:] if alone else [images[index] for index in chosen]
    for source in sources:
        try:
            with open_stored(source) as image:
                sizes[f"{image.width} x {image.height}"] += 1
                modes[image.mode] += 1
        except Exception:  # decoders raise many kinds
            modes["unreadable"] += 1
    return SplitSummary(name, len(images), classes, len(chosen), dict(sizes.most_common()), dict(modes.most_common()))


def class_numbers(rows: Dataset) -> tuple[list[str], list[list[int]]]:
    """Return the names of the classes, and the numbers of those of each row: one, or several where a row is a list."""
    feature, labels = rows.features["label"], rows["label"][:]
    many = not isinstance(feature, ClassLabel)
    return (feature.feature if many else feature).names, labels if many else [[number] for number in labels]


def dataset_hints(found: Sequence[SplitSummary], image_size: int | None = None) -> list[str]:
    """Return what to look at before training: images that are enlarged, small classes, one class that outweighs all.

    Args:
        found: Summaries of the splits, of which train counts.
        image_size: Longer side of the images that the model takes, in pixels.
    """
    train = next(split for split in found if split.split == "train")
    hints, sides = [], train.longer_sides()
    if image_size and sides and 2 * sides[len(sides) // 2] <= image_size:
        hints.append(
            f"Most images are at most {sides[len(sides) // 2]} pixels long and are enlarged to {image_size}: a "
            "smaller image_size and patch_size in --config cost less."
        )
    few = {name: count for name, count in train.classes.items() if count < FEW}
    if few:
        hints.append(f"Classes with fewer than {FEW} images to train on: {counted(few)}.")
    if alike := _alike(train.classes):
        hints.append(f"Classes whose names are easily taken for each other: {', '.join(alike)}. Are they one?")
    parts = [name for name in train.classes if name.casefold() in PARTS]
    if len(parts) > 1 or (parts and len(train.classes) == 1):
        hints.append(
            f"Folders called {', '.join(parts[:3])} are parts of a dataset for detection or segmentation. Classes are "
            "folders of images that show the same."
        )
    most = max(train.classes, key=lambda name: train.classes[name], default="")
    if len(train.classes) > 1 and train.classes[most] >= MOSTLY * train.num_images:
        right = train.classes[most] / train.num_images
        hints.append(
            f"{right:.0%} of train are {most}: who always answers {most} is right as often. Compare with that."
        )
    return [f"Hint: {hint}" for hint in hints]


def _alike(names: Iterable[str]) -> list[str]:
    """Return names that people read as the same, as `Cat and cat`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name.replace("\\u200b", "").replace("\\xa0", " ")).casefold()
        groups.setdefault(re.sub(r"[-_\s\u200b]+", " ", plain).strip(), []).append(repr(name))
    return [" and ".join(same) for same in groups.values() if len(same) > 1]


def export_images(splits: DatasetDict, split: str, count: int, folder: Path) -> list[Path]:
    """Write up to `count` images of a split, spread evenly over it, as PNG files in one folder for each label.

    Returns:
        The paths `folder/label/split_number.png`; folders are made when they do not exist. What a label cannot have as
        the name of one folder is escaped as in addresses: `a/b` is `a%2Fb`.

    Raises:
        ValueError: for a split that is not there, a count below 1, or images without one label each.
    """
    if split not in splits or count < 1:
        raise ValueError(f"Expected a split of {[*splits]} and a count of at least 1, got {split!r} and {count}.")
    rows, written = splits[split], []
    labels = rows.features.get("label")
    if not isinstance(labels, ClassLabel):
        raise ValueError(f"Expected images with one label each to export, got the columns {rows.column_names}.")
    for index in evenly_spread(len(rows), count):
        row = rows[index]
        path = folder / _folder_name(labels.int2str(row["label"])) / f"{split}_{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = eight_bits(read_image(row["image"], num_channels=None))
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)
        written.append(path)
    return written


def _folder_name(label: str) -> str:
    """Return the name of one folder for a label, another for each: labels may come from anybody."""
    name = re.sub(r"[%/\\:\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", label)
    return name if name.strip(".") else name.replace(".", "%2E") or "%"  # "%" alone is the name of no other


def evenly_spread(length: int, count: int) -> Sequence[int]:
    """Return up to `count` numbers below `length`, at equal distances from 0."""
    return range(0, length, max(length // count, 1))[:count]


__all__ = [
    "SplitSummary",
    "class_numbers",
    "counted",
    "dataset_hints",
    "evenly_spread",
    "export_images",
    "summarize_dataset",
]
