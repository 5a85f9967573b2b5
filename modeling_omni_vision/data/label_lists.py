"""Labels of images as columns hold them: one class for each image, or a list of classes (multi-label)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Sequence


def has_label_lists(rows: Dataset) -> bool:
    """Return whether the column `label` holds a list of labels for each image."""
    return _item(rows.features["label"]) is not None


def label_names(rows: Dataset) -> list[str]:
    """Return the names of the classes of the column `label`."""
    feature: Any = rows.features["label"]
    return list((_item(feature) or feature).names)


def label_array(rows: Dataset) -> np.ndarray:
    """Return the class of each image (images,), or of lists whether each class is among them: (images, classes)."""
    if not has_label_lists(rows):
        # By Arrow: all ways of `datasets` take a second and 20 MB for 40,000 rows that were selected, one by one.
        labels = rows.data.column("label").to_numpy()
        return labels.copy() if rows._indices is None else labels[rows._indices.column(0).to_numpy()]
    found = np.zeros((len(rows), len(label_names(rows))), np.float32)
    for row, labels in enumerate(rows["label"][:]):
        found[row, labels] = 1
    return found


def number_label_lists(splits: Mapping[str, Dataset], dataset: str) -> dict[str, Dataset]:
    """Return splits whose `label` holds lists of `ClassLabel` of the same names everywhere; an empty list is no label.

    Lists of one length with a 0 or 1 for each class, as losses of several labels take them, have classes `0`, `1` ...

    Raises:
        ValueError: for a row that is no list of names or integers, classes that train does not have, or less than
            two.
    """
    columns = {name: split["label"][:] for name, split in splits.items()}
    if not isinstance(_item(splits["train"].features["label"]), ClassLabel) and _are_indicators(columns):
        columns = {name: [np.flatnonzero(row).tolist() for row in lists] for name, lists in columns.items()}
    for name, lists in columns.items():
        for row, labels in enumerate(lists):
            if labels is None or not all(isinstance(value, (str, int)) for value in labels):
                raise ValueError(
                    f"Expected a list of names or integers as labels of row {row} of the {name} split of {dataset!r}, "
                    f"got {labels!r}. Correct it; an image without a label has an empty list, and a list may also "
                    "have a 0 or 1 for each class."
                )
    names, numbers = _classes(splits["train"], columns, dataset)
    feature = Features({"label": Sequence(ClassLabel(names=names))})["label"]
    numbered = {name: [sorted({numbers[v] for v in labels}) for labels in lists] for name, lists in columns.items()}
    return {
        name: split.remove_columns("label").add_column("label", numbered[name], feature=feature)
        for name, split in splits.items()
    }


def _are_indicators(columns: Mapping[str, Any]) -> bool:
    """Return whether all lists have one length above 1 and hold nothing but 0 and 1: as lists of classes, no more than
    two classes, and most of them twice in a list.
    """
    lists = [labels for found in columns.values() for labels in found]
    lengths = {-1 if labels is None else len(labels) for labels in lists}
    return len(lengths) == 1 and min(lengths) > 1 and all(value in (0, 1) for labels in lists for value in labels)


def _classes(train: Dataset, columns: Mapping[str, Any], dataset: str) -> tuple[list[str], dict[Any, int]]:
    item = _item(train.features["label"])
    used = {name: {value for labels in lists for value in labels} for name, lists in columns.items()}
    ordered = list(range(len(item.names))) if isinstance(item, ClassLabel) else sorted(used["train"])
    names = item.names if isinstance(item, ClassLabel) else [str(value) for value in ordered]
    said = dict(enumerate(names)) if isinstance(item, ClassLabel) else {}
    unseen = {
        name: sorted(str(said.get(value, value)) for value in values - used["train"]) for name, values in used.items()
    }
    unseen = {name: values[:6] for name, values in unseen.items() if values}
    if unseen or len(ordered) < 2:
        raise ValueError(
            f"Expected at least two classes in the train split of {dataset!r}, and no others elsewhere, got "
            f"{len(ordered)} classes, and only elsewhere {unseen}. Add images to train, or remove these labels."
        )
    return names, {value: number for number, value in enumerate(ordered)}


def _item(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


__all__ = ["has_label_lists", "label_array", "label_names", "number_label_lists"]
