"""Duplicates within and between the splits of a dataset, which flatter a test accuracy, and labels that contradict.

    python -m experiments.duplicates --dataset data/fashion_mnist --output docs/fashion_mnist_duplicates.json

Pixels and labels only, no model. Exact duplicates have equal pixel values. How near others are is the normalised
cross-correlation (zero mean, unit norm) of each test image with all training images, mirrored and under small shifts
too, on the pixels that both share then. It measures similarity, not origin: two plain shirts are alike.

Writes the counts and a PNG sheet of the nearest pairs. Four minutes of one core for 60,000 images of 28 pixels;
`--shift 0` compares a ninth of that. `--model` writes the counts into the metrics.json of a model, for its card; if
the JSON file is there already, it is read instead of counted anew.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.evaluation.evaluate import resized
from modeling_omni_vision.image_processing_omni_vision import ImageReadError, read_image
from modeling_omni_vision.interpretability.plots import draw_sheet, shortened
from modeling_omni_vision.interpretability.style import OURS, TRUTH
from modeling_omni_vision.records.command import recorded_command, without_folder
from modeling_omni_vision.records.metrics_file import merge_metrics, write_json


THRESHOLDS = (0.999, 0.995, 0.99, 0.98, 0.95)
# Larger images are compared at this size: near duplicates stay near, and 60,000 images fit into memory.
MAX_SIDE = 32
PAIRS_DRAWN = 24
# Images in one matrix product: 40 MB of similarities.
TEST_CHUNK, TRAIN_CHUNK = 2000, 5000
# A mirror image or a shift must be nearer by more than float32 rounds.
MARGIN = 1e-6


class LabelledImages(NamedTuple):
    """Images, uint8 (images, height, width, channels), labels (images,) and digests of the images before resizing."""

    images: np.ndarray
    labels: np.ndarray
    digests: list[str]


class Nearest(NamedTuple):
    """For each test image the correlation with the nearest training image, the row of that, and the view: whether the
    test image is mirrored, and how many rows down and columns to the right of the training image it then is.
    """

    similarity: np.ndarray
    row: np.ndarray
    views: list[tuple[bool, int, int]]


def audit(
    dataset: str,
    output: Path,
    image_column: str | None = None,
    label_column: str | None = None,
    shift: int = 1,
    command: str | None = None,
) -> dict[str, Any]:
    """Count duplicates in a dataset, write them to a JSON file with a PNG sheet of the nearest pairs, and return them.

    What is held out for validation counts as training. The fraction of different labels among near duplicates
    estimates label noise, as far as near means the same.

    Raises:
        ValueError: if there is no test split, an image cannot be read, or `shift` is impossible.
    """
    splits = load_images(dataset, image_column, label_column)
    if "test" not in splits:
        raise ValueError(f"Expected a test split in {dataset!r} to compare with train, got {sorted(splits)}. Add one.")
    size = read_image(splits["train"][0]["image"], 3).shape[:2]
    size = size if max(size) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)
    train = read_splits({name: splits[name] for name in ("train", "validation")}, size)
    test = read_splits({"test": splits["test"]}, size)
    # One channel of three where all images are grey: the same similarity in a third of the time.
    grey = all((part.images == part.images[..., :1]).all() for part in (train, test))
    ours, theirs = (part.images[..., : 1 if grey else 3] for part in (test, train))
    found = nearest(ours, theirs, shift)
    order = np.argsort(-found.similarity, kind="stable")[:PAIRS_DRAWN].tolist()
    pairs = [describe_pair(index, found, splits) for index in order]
    report = {
        "dataset": without_folder(dataset),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "images": {name: len(rows) for name, rows in splits.items()},
        "exact": exact_copies(train, test),
        "near": {"size": list(ours.shape[1:]), "shift": shift, **summary(found, train, test)},
        "pairs": pairs,
    }
    write_json(output, report)
    plot_pairs([(ours[index], theirs[found.row[index]]) for index in order], pairs, output.with_suffix(".png"))
    return report


def read_splits(splits: dict[str, Dataset], size: tuple[int, int]) -> LabelledImages:
    """Decode splits to one size and to RGB, so that a grey image equals itself saved in colour."""
    images, labels, digests = [], [], []
    for name, rows in splits.items():
        for index, image in enumerate(rows["image"]):
            try:
                pixels = read_image(image, 3)
            except ImageReadError as error:
                raise ValueError(f"The image in row {index} of the {name} split cannot be read. {error}") from error
            content = repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes()
            digests.append(hashlib.blake2b(content, digest_size=16).hexdigest())
            fitted = pixels if pixels.shape[:2] == size else resized(pixels, *size)
            images.append(np.rint(fitted).clip(0, 255).astype(np.uint8))
        labels += rows["label"][:]
    return LabelledImages(np.stack(images), np.asarray(labels), digests)


def exact_copies(train: LabelledImages, test: LabelledImages) -> dict[str, dict[str, int]]:
    """Count images that occur more than once in a split, test images that stand in train, and other labels of both."""
    found: dict[str, dict[str, int]] = {}
    labels: dict[str, dict[str, list[int]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    for name, part in (("train", train), ("test", test)):
        for digest, label in zip(part.digests, part.labels.tolist(), strict=True):
            labels[name][digest].append(label)
        groups = [copies for copies in labels[name].values() if len(copies) > 1]
        found[name] = {"repeated": len(groups), "copies": sum(map(len, groups)) - len(groups)}
        found[name]["repeated_with_different_labels"] = sum(len(set(copies)) > 1 for copies in groups)
    known, asked = labels["train"], zip(test.digests, test.labels.tolist(), strict=True)
    other = [set(known[digest]) != {label} for digest, label in asked if digest in known]
    return found | {"train_and_test": {"test_images": len(other), "with_different_labels": sum(other)}}


def nearest(test: np.ndarray, train: np.ndarray, shift: int = 1) -> Nearest:
    """Find for each test image the training image that correlates most with it, by matrix products in chunks.

    Images are pixel values (images, height, width, channels); one of a single colour correlates with nothing, 0.

    Raises:
        ValueError: for a negative shift, or one that leaves no pixels.
    """
    side = min(test.shape[1:3])
    if not 0 <= shift < side:
        raise ValueError(f"`shift` must be at least 0 and below {side}, the compared size, got {shift!r}. 1 is usual.")
    # As they are first, then the smallest changes: at equal similarity the first one stays.
    steps = sorted(range(-shift, shift + 1), key=abs)
    views = sorted(itertools.product((False, True), steps, steps), key=lambda v: (abs(v[1]) + abs(v[2]), v[0]))
    best, similarity = np.full(len(test), -np.inf, dtype=np.float32), np.zeros(len(test))
    row, view = np.zeros((2, len(test)), dtype=np.int64)
    for number, (mirrored, down, right) in enumerate(views):
        for start in range(0, len(test), TEST_CHUNK):
            here = slice(start, start + TEST_CHUNK)
            ours = unit(visible(test[here], mirrored, down, right))
            for first in range(0, len(train), TRAIN_CHUNK):
                products = ours @ unit(visible(train[first : first + TRAIN_CHUNK], False, -down, -right)).T
                column = products.argmax(axis=1)
                highest = products[np.arange(len(column)), column]
                nearer = np.flatnonzero(highest > best[here] + MARGIN)
                best[here][nearer], view[here][nearer] = highest[nearer], number
                row[here][nearer] = first + column[nearer]
    chosen = [views[number] for number in view]
    # Once more in double precision.
    for index, (mirrored, down, right) in enumerate(chosen):
        one = unit(visible(test[index : index + 1], mirrored, down, right), np.float64)
        other = unit(visible(train[row[index], None], False, -down, -right), np.float64)
        similarity[index] = (one * other).sum().clip(-1, 1)
    return Nearest(similarity, row, chosen)


def visible(images: np.ndarray, mirrored: bool, down: int, right: int) -> np.ndarray:
    """Mirror images, then cut them to the pixels that they share with images that are shifted the other way."""
    height, width = images.shape[1:3]
    images = images[:, :, ::-1] if mirrored else images
    return images[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]


def unit(images: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """Return images as rows of zero mean and unit norm; those of one colour as zeros."""
    rows = images.reshape(len(images), -1).astype(dtype)
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A deviation of one pixel by one has a norm of about 1; rounding of the mean stays far below.
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.01)


def summary(found: Nearest, train: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """Count test images at each threshold, how many have a partner of another label, and all in a histogram."""
    kinds = {
        "mirrored": np.array([view[0] for view in found.views]),
        "shifted": np.array([view[1:] != (0, 0) for view in found.views]),
        "with_different_labels": train.labels[found.row] != test.labels,
    }
    thresholds = []
    for threshold in THRESHOLDS:
        near = found.similarity >= threshold
        count = int(near.sum())
        row: dict[str, Any] = {"at_least": threshold, "test_images": count, "share_of_test": count / len(near)}
        row |= {kind: int((near & those).sum()) for kind, those in kinds.items()}
        row["share_with_different_labels"] = row["with_different_labels"] / count if count else None
        thresholds.append(row)
    counts, _ = np.histogram(found.similarity.clip(0, 1), bins=100, range=(0, 1))
    return {"thresholds": thresholds, "histogram": {"lowest": 0.0, "highest": 1.0, "test_images": counts.tolist()}}


def describe_pair(index: int, found: Nearest, splits: dict[str, Dataset]) -> dict[str, Any]:
    """Describe a test image and its nearest training image; rows count within the splits of `load_images`."""
    row, (mirrored, down, right) = int(found.row[index]), found.views[index]
    split, row = ("train", row) if row < len(splits["train"]) else ("validation", row - len(splits["train"]))
    name = splits["test"].features["label"].int2str
    return {
        "similarity": float(found.similarity[index]),
        "mirrored": mirrored,
        "shift": [down, right],
        "test": {"row": index, "label": name(splits["test"]["label"][index])},
        "train": {"split": split, "row": row, "label": name(splits[split]["label"][row])},
    }


def plot_pairs(images: Sequence[tuple[np.ndarray, ...]], pairs: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw pairs of test and training images as `describe_pair` describes them; labels that differ are red."""
    both = [np.concatenate([one, np.full_like(one[:, :1], 255), other], axis=1) for one, other in images]
    above, below, colours = [], [], []
    for pair in pairs:
        test, train = pair["test"]["label"], pair["train"]["label"]
        note = " mirrored" * pair["mirrored"] + " shifted" * (pair["shift"] != [0, 0])
        above.append(f"test: {shortened(test, 14)}")
        below.append(f"train: {shortened(train, 14)}\n{pair['similarity']:.5f}{note}")
        colours.append(OURS if test == train else TRUTH)
    return draw_sheet(both, above, below, colours, "Test images and the nearest training images", path, 6, (2.1, 1.7))


def card_section(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a model card says of the data, the section `data_audit`, from a report of `audit`."""
    rows = {"test images that stand in train": report["exact"]["train_and_test"]["test_images"]}
    for found in report["near"]["thresholds"]:
        rows[f"test images that correlate at {found['at_least']} or more"] = found["test_images"]
        rows[f"of these, with another label ({found['at_least']})"] = found["with_different_labels"]
    return rows


@dataclass
class DuplicateArguments:
    """What to compare."""

    dataset: str = option("As for train: digits, shapes, a folder, or a dataset of the Hub.")
    output: Path = option("JSON file; the sheet is a PNG beside it.", Path("duplicates.json"))
    model: Path | None = option("Folder whose metrics.json takes the counts too.", None)
    shift: int = option("Largest shift in pixels under which images are compared.", 1)
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(DuplicateArguments, argv)
    if args.model and args.output.is_file():
        report = json.loads(args.output.read_text(encoding="utf-8"))
    else:
        command = recorded_command("python", ["-m", "experiments.duplicates", *argv])
        report = audit(args.dataset, args.output, args.image_column, args.label_column, args.shift, command)
    if args.model:
        merge_metrics(args.model, {"data_audit": card_section(report)})
    exact, near = report["exact"]["train_and_test"], report["near"]["thresholds"][0]
    print(
        f"{report['dataset']}: {exact['test_images']} test images stand in train too, "
        f"{exact['with_different_labels']} with another label; {near['test_images']} correlate with one at "
        f"{near['at_least']} or more, {near['with_different_labels']} with another label. "
        f"Numbers: {args.output}. Pairs: {args.output.with_suffix('.png')}"
    )


if __name__ == "__main__":
    main()
