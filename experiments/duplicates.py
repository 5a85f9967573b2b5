"""Duplicates within and between the splits of a dataset, which flatter a test accuracy, and labels that contradict.

Pixels and labels only, no model. Exact duplicates have equal levels. How near others are is told by the normalised
cross-correlation (zero mean, unit norm) of each test image with all training images and their mirror images,
under small shifts, on the pixels that both share then. It tells likeness, not origin: two plain shirts are alike.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.evaluation.evaluate import resized
from modeling_omni_vision.image_processing_omni_vision import ImageReadError, read_image
from modeling_omni_vision.interpretability.plots import plot_pairs
from modeling_omni_vision.records.command import without_folder
from modeling_omni_vision.records.metrics_file import write_json


THRESHOLDS = (0.999, 0.995, 0.99, 0.98, 0.95)
BINS = 100
# Larger images are compared at this size: near duplicates stay near, and 60,000 images fit into memory.
MAX_SIDE = 32
PAIRS_SHOWN = 24
# Images in one matrix product: 40 MB of similarities.
TEST_CHUNK, TRAIN_CHUNK = 2000, 5000
# A mirror image or a shift must be nearer by more than float32 rounds.
MARGIN = 1e-6

# Whether the test image is mirrored, and how many rows down and columns to the right of the training one it then is.
View = tuple[bool, int, int]


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size.

    Attributes:
        images: Levels, uint8 of shape (images, height, width, channels).
        labels: Classes, shape (images,).
        digests: Of each image's levels as decoded, before any resizing: equal for exact duplicates.
    """

    images: np.ndarray
    labels: np.ndarray
    digests: list[bytes]


@dataclass(frozen=True)
class Nearest:
    """For each test image the nearest training image, and the view under which it is.

    Attributes:
        similarity: Normalised cross-correlation, shape (test images,).
        row: Training image, shape (test images,).
        view: Index into `views`, shape (test images,).
        views: What was tried; the first is the image as it is.
    """

    similarity: np.ndarray
    row: np.ndarray
    view: np.ndarray
    views: list[View]


def audit(
    dataset: str,
    output: str | Path,
    image_column: str | None = None,
    label_column: str | None = None,
    shift: int = 1,
    command: str | None = None,
) -> dict[str, Any]:
    """
    Look for duplicates in a dataset; write a JSON file, and beside it a PNG sheet of the nearest pairs.

    Args:
        dataset: Anything that `load_images` reads; what it holds out for validation counts as training.
        output: JSON file to write.
        image_column: Column of the images, where it cannot be told.
        label_column: Column of the classes, where it cannot be told.
        shift: Largest shift in pixels of the compared size; each costs time, 1 means nine times as much as 0.
        command: What to record as the command that measured this.

    Returns:
        What stands in the JSON file. Where two images show one thing and carry different labels, at least one label
        is wrong: the share of such pairs among near duplicates estimates label noise, as far as near means the same.

    Raises:
        `ValueError`: if there is no test split, an image cannot be read, or `shift` is impossible.
    """
    splits = load_images(dataset, image_column, label_column)
    if "test" not in splits:
        raise ValueError(f"Expected a test split in {dataset!r} to compare with train, got {sorted(splits)}. Add one.")
    size = compared_size(splits["train"])
    parts = {name: read_split(name, rows, size) for name, rows in splits.items()}
    train, test = joined([parts["train"], parts["validation"]]), parts["test"]
    train, test = without_repeated_channels(train, test)
    found = nearest(test.images, train.images, shift)
    names = splits["test"].features["label"].names
    order = np.argsort(-found.similarity, kind="stable")[:PAIRS_SHOWN]
    pairs = [describe_pair(index, found, train, test, names, len(splits["train"])) for index in order]
    report = {
        "dataset": without_folder(dataset),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "images": {name: len(rows) for name, rows in splits.items()},
        "exact": {
            "train": exact_within(train),
            "test": exact_within(test),
            "train_and_test": exact_between(train, test),
        },
        "near": {"size": list(test.images.shape[1:]), "shift": shift, **summary(found, train, test)},
        "pairs": pairs,
    }
    path = write_json(Path(output), report)
    draw_pairs(pairs, [(test.images[index], train.images[found.row[index]]) for index in order], path)
    return report


def compared_size(train: Dataset) -> tuple[int, int]:
    """Height and width that all images are brought to: those of the first one, unless it is large."""
    height, width = read_image(train[0]["image"], 3).shape[:2]
    return (height, width) if max(height, width) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)


def read_split(name: str, rows: Dataset, size: tuple[int, int]) -> LabelledImages:
    """Decode a split to RGB, so that a grey image equals itself saved in colour, and to one size."""
    images = np.empty((len(rows), *size, 3), dtype=np.uint8)
    digests = []
    for index, image in enumerate(rows["image"]):
        try:
            levels = read_image(image, 3)
        except ImageReadError as error:
            raise ValueError(f"The image in row {index} of the {name} split cannot be read. {error}") from error
        content = repr((levels.shape, levels.dtype.str)).encode() + levels.tobytes()
        digests.append(hashlib.blake2b(content, digest_size=16).digest())
        images[index] = np.rint(levels if levels.shape[:2] == size else resized(levels, *size)).clip(0, 255)
    return LabelledImages(images, np.asarray(rows["label"][:]), digests)


def joined(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Put splits behind one another."""
    return LabelledImages(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [digest for part in parts for digest in part.digests],
    )


def without_repeated_channels(*parts: LabelledImages) -> list[LabelledImages]:
    """Keep one channel of three where all images are grey: the same likeness in a third of the time."""
    grey = all((part.images == part.images[..., :1]).all() for part in parts)
    return [LabelledImages(p.images[..., :1], p.labels, p.digests) for p in parts] if grey else list(parts)


def rows_by_digest(part: LabelledImages) -> dict[bytes, list[int]]:
    """Rows that hold the same image, for every image."""
    rows = defaultdict(list)
    for row, digest in enumerate(part.digests):
        rows[digest].append(row)
    return rows


def exact_within(part: LabelledImages) -> dict[str, int]:
    """Count images that occur more than once in a split, and those of them that carry different labels."""
    groups = [rows for rows in rows_by_digest(part).values() if len(rows) > 1]
    return {
        "repeated": len(groups),
        "copies": sum(map(len, groups)) - len(groups),
        "repeated_with_different_labels": sum(len(set(part.labels[rows])) > 1 for rows in groups),
    }


def exact_between(train: LabelledImages, test: LabelledImages) -> dict[str, int]:
    """Count test images that also stand in train, and those of them that carry another label there."""
    known = rows_by_digest(train)
    also = [(row, known[digest]) for row, digest in enumerate(test.digests) if digest in known]
    return {
        "test_images": len(also),
        "with_different_labels": sum(bool((train.labels[rows] != test.labels[row]).any()) for row, rows in also),
    }


def nearest(test: np.ndarray, train: np.ndarray, shift: int = 1) -> Nearest:
    """
    Find for each test image the training image that correlates most with it, by matrix products in chunks.

    Args:
        test: Levels of shape (images, height, width, channels).
        train: The same.
        shift: Largest shift in rows and in columns.

    Returns:
        What was found. An image of a single level correlates with nothing, 0.

    Raises:
        `ValueError`: if nothing would be left of a shifted image.
    """
    if not 0 <= shift < min(test.shape[1:3]):
        raise ValueError(
            f"`shift` must be at least 0 and below {min(test.shape[1:3])}, the compared size, got {shift!r}. "
            "1 is usual."
        )
    # As they are first, then the smallest changes: at equal likeness the first one stays.
    steps = sorted(range(-shift, shift + 1), key=abs)
    views = sorted(itertools.product((False, True), steps, steps), key=lambda v: (abs(v[1]) + abs(v[2]), v[0]))
    best = np.full(len(test), -np.inf, dtype=np.float32)
    row, view = np.zeros(len(test), dtype=np.int64), np.zeros(len(test), dtype=np.int64)
    for number, (mirrored, down, right) in enumerate(views):
        for here in chunks(len(test), TEST_CHUNK):
            ours = unit(seen(test[here], mirrored, down, right))
            for there in chunks(len(train), TRAIN_CHUNK):
                similarity = ours @ unit(seen(train[there], False, -down, -right)).T
                column = similarity.argmax(axis=1)
                highest = similarity[np.arange(len(column)), column]
                nearer = np.flatnonzero(highest > best[here] + MARGIN)
                best[here][nearer], view[here][nearer] = highest[nearer], number
                row[here][nearer] = there.start + column[nearer]
    return Nearest(exactly(test, train, row, view, views), row, view, views)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Cut a range into slices."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def seen(images: np.ndarray, mirrored: bool, down: int, right: int) -> np.ndarray:
    """Mirror images, then leave out what a partner that is shifted the other way does not show."""
    height, width = images.shape[1:3]
    images = images[:, :, ::-1] if mirrored else images
    return images[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]


def unit(images: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """Turn images into rows of zero mean and unit norm; those of a single level into zeros."""
    rows = images.reshape(len(images), -1).astype(dtype)
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A deviation of one level in one pixel has a norm of about 1; rounding of the mean stays far below.
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.01)


def exactly(test: np.ndarray, train: np.ndarray, row: np.ndarray, view: np.ndarray, views: list[View]) -> np.ndarray:
    """Compute the similarities that were found once more, in double precision."""
    similarity = np.zeros(len(test))
    for number, (mirrored, down, right) in enumerate(views):
        members = np.flatnonzero(view == number)
        for part in chunks(len(members), TEST_CHUNK):
            here = members[part]
            ours = unit(seen(test[here], mirrored, down, right), np.float64)
            theirs = unit(seen(train[row[here]], False, -down, -right), np.float64)
            similarity[here] = (ours * theirs).sum(axis=1).clip(-1, 1)
    return similarity


def summary(found: Nearest, train: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """Count test images at each threshold, how many have a partner of another label, and all in a histogram."""
    conflict = train.labels[found.row] != test.labels
    mirrored = np.array([view[0] for view in found.views])[found.view]
    shifted = np.array([view[1:] != (0, 0) for view in found.views])[found.view]
    thresholds = []
    for threshold in THRESHOLDS:
        # Rounding must not part an image from itself under a threshold of 1.
        near = found.similarity >= threshold - 1e-12
        count, conflicts = int(near.sum()), int((near & conflict).sum())
        thresholds.append(
            {
                "at_least": threshold,
                "test_images": count,
                "share_of_test": count / len(test.labels),
                "mirrored": int((near & mirrored).sum()),
                "shifted": int((near & shifted).sum()),
                "with_different_labels": conflicts,
                "share_with_different_labels": conflicts / count if count else None,
            }
        )
    counts, edges = np.histogram(found.similarity.clip(0, 1), bins=BINS, range=(0, 1))
    return {
        "thresholds": thresholds,
        "histogram": {"lowest": float(edges[0]), "highest": float(edges[-1]), "test_images": counts.tolist()},
    }


def describe_pair(
    index: int,
    found: Nearest,
    train: LabelledImages,
    test: LabelledImages,
    names: Sequence[str],
    held_out_from: int,
) -> dict[str, Any]:
    """Describe a test image and its nearest training image; rows count within the splits of `load_images`."""
    row, (mirrored, down, right) = int(found.row[index]), found.views[found.view[index]]
    split, first = ("train", 0) if row < held_out_from else ("validation", held_out_from)
    return {
        "similarity": float(found.similarity[index]),
        "mirrored": mirrored,
        "shift": [down, right],
        "test": {"row": int(index), "label": names[test.labels[index]]},
        "train": {"split": split, "row": row - first, "label": names[train.labels[row]]},
    }


def draw_pairs(pairs: Sequence[dict[str, Any]], images: Sequence[tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """Draw the sheet of nearest pairs beside the JSON file."""
    notes = [" mirrored" * one["mirrored"] + " shifted" * (one["shift"] != [0, 0]) for one in pairs]
    return plot_pairs(
        images,
        [one["test"]["label"] for one in pairs],
        [one["train"]["label"] for one in pairs],
        [f"{one['similarity']:.5f}{note}" for one, note in zip(pairs, notes, strict=True)],
        path.with_suffix(".png"),
    )


def card_section(report: dict[str, Any]) -> dict[str, Any]:
    """Choose from a report of `audit` what a model card says of the data, as the section `data_audit`."""
    exact = report["exact"]["train_and_test"]
    rows = {"test images that stand in train": exact["test_images"]}
    for found in report["near"]["thresholds"]:
        rows[f"test images that correlate at {found['at_least']} or more"] = found["test_images"]
        rows[f"of these, with another label ({found['at_least']})"] = found["with_different_labels"]
    return rows


__all__ = ["audit", "card_section", "nearest"]
