"""The validation or test split of a dataset that has none, the same rows in every release.

Runs record the fraction: with other rows, a run would find rows again that it was trained on. Where rows are files,
the run also names those that it held out in its `splits.json`, which stays right when files are added.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .image_files import displayed, path_of


if TYPE_CHECKING:
    from datasets import Dataset


SPLITS_FILE = "splits.json"
# What is held out of train by default: training and whoever finds its split again must agree.
VALIDATION_FRACTION = 0.1


def hold_out(
    train: "Dataset",
    validation_fraction: float,
    seed: int,
    stratify: bool = False,
    order: np.ndarray | None = None,
    name: str = "validation",
) -> dict[str, "Dataset"]:
    """Divide rows into `train` and `validation`, or a split of another name, both in their old order.

    Args:
        train: All rows.
        validation_fraction: What to hold out: a fraction below 1, or a number of rows.
        seed: Seed of the choice.
        stratify: Hold out equal fractions of all classes of the column `label`. Where it holds lists instead, rows
            stay in train that have a class which no other row of train has, unless that leaves nothing to hold out.
        order: Rows in the order in which they are held out; by default scikit-learn chooses, by `seed`.
        name: Of the split that is held out.

    Raises:
        ValueError: if a split would be empty, or a class would be missing from one.
    """
    count = len(train)
    number = round(validation_fraction * count) if 0 < validation_fraction < 1 else validation_fraction
    if not 0 < validation_fraction < max(count, 1) or (order is not None and not 0 < number < count):
        raise ValueError(
            f"`{name}_fraction` must be a fraction between 0 and 1, or a number of rows, that leaves rows on both "
            f"sides, got {validation_fraction!r} of {count}. Choose another."
        )
    if order is not None:
        held_out, rows = order[: int(number)], order[int(number) :]
    else:
        # Not at the top: arguments take the default above from here, and `--help` is to answer at once.
        from sklearn.model_selection import train_test_split

        size = validation_fraction if validation_fraction < 1 else int(validation_fraction)
        labels = train["label"][:] if stratify else None
        if stratify:
            _refuse_too_few(train, validation_fraction, name)
        # Not `Dataset.train_test_split`: it reads labels one by one, seconds for 60,000, and draws others.
        rows, held_out = train_test_split(np.arange(count), test_size=size, stratify=labels, random_state=seed)
        rows, held_out = _leave_each_class(train, np.sort(rows), np.sort(held_out))
    return {"train": train.select(np.sort(rows)), name: train.select(np.sort(held_out))}


def _leave_each_class(train: "Dataset", rows: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both splits, where images have lists of labels with one row of each class in train."""
    from .label_lists import has_label_lists, label_array  # as above

    if "label" not in train.column_names or not has_label_lists(train):
        return rows, held_out
    labels = label_array(train) > 0
    trained, moved = labels[rows].any(0), []
    for row in held_out:
        if (labels[row] & ~trained).any():
            trained |= labels[row]
            moved.append(row)
    if len(moved) in (0, len(held_out)):
        return rows, held_out
    return np.append(rows, moved), np.setdiff1d(held_out, moved)


def classes_in(rows: "Dataset") -> np.ndarray:
    """Return the numbers of the classes that rows have, also in lists of labels."""
    from .label_lists import label_array  # as above

    labels = label_array(rows)
    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))


def _refuse_too_few(train: "Dataset", fraction: float, name: str) -> None:
    """Refuse rows of which no part can be held out that has a row of each class, as the rest has."""
    counts, kinds = Counter(train["label"][:]), getattr(train.features["label"], "names", None)
    single = sorted(label for label, number in counts.items() if number == 1)
    if single:
        raise ValueError(
            f"Expected at least two images of each class, one to train on and one to hold out as {name}, got one of "
            f"{[kinds[label] if kinds else label for label in single[:5]]}. Add images, or a {name} split."
        )
    count, least = len(train), len(counts)
    number = math.ceil(fraction * count) if fraction < 1 else int(fraction)
    if not least <= number <= count - least:
        raise ValueError(
            f"Expected {least} to {count - least} of {count} images of {least} classes to hold out as {name}, got "
            f"{number} by --{name}_fraction {fraction:g}. Choose --{name}_fraction {least}, or add a {name} split."
        )


def save_splits(folder: Path, splits: Mapping[str, "Dataset"], dataset: str) -> None:
    """Write beside a run the files of all splits but train, relative to the dataset; none where rows are no files."""
    files = {name: _files(rows, dataset) for name, rows in splits.items() if name != "train"}
    if all(files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPLITS_FILE).write_text(json.dumps(files, indent=2, ensure_ascii=False), encoding="utf-8")


def read_splits(folder: Path) -> dict[str, list[str]] | None:
    """Return what `save_splits` wrote, None where it wrote nothing."""
    file = folder / SPLITS_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def select_held_out(train: "Dataset", held_out: Mapping[str, Sequence[str]], dataset: str) -> dict[str, "Dataset"]:
    """Divide rows into `train` and the splits whose files are named.

    Raises:
        ValueError: if a file is gone.
    """
    rows: dict[str, list[int]] = {}
    for row, file in enumerate(_files(train, dataset)):
        rows.setdefault(file, []).append(row)
    gone = [file for files in held_out.values() for file in files if file not in rows]
    if gone:
        raise ValueError(
            f"Expected the files that the run held out of {dataset!r}, {len(gone)} of them are gone, the first "
            f"{gone[0]!r}. Put them back."
        )
    chosen = {name: sorted({row for file in files for row in rows[file]}) for name, files in held_out.items()}
    rest = np.setdiff1d(np.arange(len(train)), [row for found in chosen.values() for row in found])
    return {"train": train.select(rest), **{name: train.select(found) for name, found in chosen.items()}}


def _files(rows: "Dataset", dataset: str) -> list[str]:
    """Return the file of each row relative to the dataset, as it is displayed; none where rows are no files."""
    root = Path(dataset).expanduser().absolute()
    stored = rows["image"][:]
    if any(image["bytes"] is not None or not image["path"] for image in stored):
        return []
    return [Path(displayed(os.path.relpath(path_of(image["path"]).absolute(), root))).as_posix() for image in stored]


__all__ = [
    "SPLITS_FILE",
    "VALIDATION_FRACTION",
    "classes_in",
    "hold_out",
    "read_splits",
    "save_splits",
    "select_held_out",
]
