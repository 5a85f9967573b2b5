"""Labelled images from anywhere, as one `DatasetDict`: train, validation and perhaps test.

`load_images` takes a built-in name, a folder, a file or a Hub dataset and always returns the columns `image` and
`label`. Validation is held out of train, stratified and the same for every run.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk

from .hold_out import VALIDATION_FRACTION, hold_out
from .idx import find_idx_files, load_idx
from .image_folder import SPLITS, assign_splits, load_image_folder, split_of
from .synthetic.shapes import draw_shapes


logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")
DIGITS_TEST_FRACTION = 0.2


def load_images(
    dataset: str,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 0,
) -> DatasetDict:
    """Load labelled images and hold out a validation split.

    Args:
        dataset: What to load, the first that fits:
            `digits` (scikit-learn's 1,797 scanned digits); `shapes`, `shapes:colour`, `shapes:shape` or
            `shapes:red,blue` (drawn, see `shapes.draw_shapes`); a folder with IDX files (the MNIST family); a
            folder written by `save_to_disk`; a Parquet file, or a folder of them; a folder of images, one
            sub-folder per class, perhaps within `train`, `validation` and `test`; otherwise a dataset of the
            Hub, `owner/name` or `owner/name:configuration`.
        image_column: Column of the images; needed only where it cannot be inferred.
        label_column: Column of the classes; needed only where it cannot be inferred.
        validation_fraction: What to hold out of train where there is no validation split: a fraction below 1, or a
            number of images. Every class gives its part.
        seed: Seed of that choice. It does not depend on the seed of training, so that runs can be compared.

    Returns:
        Splits `train`, `validation` and, where the source has one, `test`; columns `image` and `label`, the
        latter a `ClassLabel` of the same names everywhere. A test split without labels is left out.

    Raises:
        ValueError: for a source that does not exist or cannot be read, columns or labels that are missing or
            cannot be inferred, fewer than two classes, an empty split, or too few images to hold any out.
    """
    splits = name_splits(load_any(dataset), dataset)
    train = splits["train"]
    classes = [name for name, feature in train.features.items() if isinstance(feature, ClassLabel)]
    image = choose_column("image", image_column, image_columns(train), IMAGE_COLUMNS, train)
    label = choose_column("label", label_column, classes, LABEL_COLUMNS, train)
    for name, split in splits.items():
        missing = {image, label} - set(split.column_names)
        if missing:
            raise ValueError(
                f"Expected the columns {image!r} and {label!r} in the {name} split of {dataset!r}, "
                f"got {split.column_names}. Name others, or leave that split out."
            )
    splits = {name: rename_columns(split, {image: "image", label: "label"}) for name, split in splits.items()}
    splits = _class_labels(splits, dataset)
    if "validation" not in splits:
        splits |= hold_out(splits["train"], validation_fraction, seed, stratify=True)
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"Expected images in the {name} split of {dataset!r}, got none. Add some.")
    present = set(splits["train"]["label"][:])
    if len(present) < 2:
        raise ValueError(f"Expected images of at least two classes in {dataset!r}, got {len(present)}. Add a class.")
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def load_any(dataset: str) -> DatasetDict:
    """Load a named dataset or a path, with the splits and columns that it has."""
    if dataset == "digits":
        return _load_digits()
    if dataset == "shapes" or dataset.startswith("shapes:"):
        return draw_shapes(dataset)
    path = Path(dataset).expanduser()
    if path.exists():
        return _load_path(path)
    if dataset.startswith((".", "/", "~")) or path.suffix == ".parquet" or dataset.count("/") > 1:
        raise ValueError(f"Expected a folder or file, got {dataset!r}, which does not exist. Correct the path.")
    name, _, configuration = dataset.partition(":")
    try:
        return load_dataset(name, configuration or None)
    except Exception as error:  # the Hub client raises many kinds
        raise ValueError(
            f"Expected 'digits', 'shapes', an existing path, or a dataset of the Hub that can be reached, got "
            f"{dataset!r} ({type(error).__name__}: {error}). Correct the name, or download the dataset first."
        ) from error


def _load_path(path: Path) -> DatasetDict:
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"Expected a folder or a .parquet file, got {path}. Convert it, or give its folder.")
    if path.is_dir() and find_idx_files(path):
        return load_idx(path)
    is_saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    described = any(file.suffix in (".csv", ".jsonl") for file in path.rglob("metadata.*"))
    if path.is_dir() and not is_saved and not files and not described:
        return load_image_folder(path)
    splits = _splits_of_files(path, files)
    try:
        if is_saved:
            saved = load_from_disk(str(path))
            return DatasetDict({"train": saved}) if isinstance(saved, Dataset) else saved
        if files:
            return load_dataset("parquet", data_files=splits)
        return load_dataset("imagefolder", data_dir=str(path))
    except Exception as error:  # pyarrow, json and the builders each have their own
        raise ValueError(f"{path} cannot be read as a dataset ({error!r}). Repair or refill it.") from error


def _splits_of_files(place: Path, files: list[Path]) -> dict[str, list[str]]:
    """Return the files of each split, by the name of a file or, where that names none, of its folder."""
    names = {
        file: file.stem if split_of(file.stem) or file.parent in (place, place.parent) else file.parent.name
        for file in files
    }
    splits = assign_splits(names.values(), repr(str(place)))
    return {split: [str(file) for file in files if splits[names[file]] == split] for split in {*splits.values()}}


def _load_digits() -> DatasetDict:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / digits.images.max())).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    rows = {"image": list(images), "label": digits.target.tolist()}
    whole = Dataset.from_dict(rows, features=features)
    return whole.train_test_split(DIGITS_TEST_FRACTION, stratify_by_column="label", seed=0)


def name_splits(loaded: DatasetDict, dataset: str) -> dict[str, Dataset]:
    """Return the splits by the names train, validation and test; a single split of any other name is train."""
    splits: dict[str, Dataset] = {}
    for name in loaded:
        split = split_of(name) or ("train" if len(loaded) == 1 else None)
        if split in splits:
            raise ValueError(f"Expected one split {split} in {dataset!r}, got several of {list(loaded)}. Join them.")
        if split is not None:
            splits[split] = loaded[name]
    if "train" not in splits:
        raise ValueError(f"Expected a split called 'train' in {dataset!r}, got {list(loaded)}. Rename one of them.")
    unused = {name for name in loaded if split_of(name) is None} if len(loaded) > 1 else set()
    if unused:
        logger.warning("Splits of %s that are not used: %s", dataset, ", ".join(sorted(unused)))
    return splits


def image_columns(split: Dataset) -> list[str]:
    """Return the names of the columns that hold images."""
    return [name for name, feature in split.features.items() if isinstance(feature, Image) or _holds_bytes(feature)]


def choose_column(kind: str, wanted: str | None, candidates: list[str], usual: tuple[str, ...], split: Dataset) -> str:
    """Decide on a column: the wanted one, else the only candidate, else the one with the most usual name.

    Raises:
        ValueError: if the wanted one is not there, or it cannot be inferred.
    """
    if wanted is not None:
        if wanted not in split.column_names:
            raise ValueError(
                f"Expected `{kind}_column` to be one of {split.column_names}, got {wanted!r}. Choose one of these."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    named = [name for name in usual if name in (candidates or split.column_names)]
    if not named or (len(candidates) > 1 and named[0] != usual[0]):
        raise ValueError(
            f"Expected one column that is clearly the {kind}, got {split.column_names}. Name it with "
            f"--{kind}_column; for a folder of images, put each class into a sub-folder."
        )
    return named[0]


def _holds_bytes(feature: Any) -> bool:
    """Return whether a Parquet column holds encoded images without the feature `Image`."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def rename_columns(split: Dataset, names: dict[str, str]) -> Dataset:
    """Return the columns `names` under new names, one of them `image`, whose images are not decoded."""
    split = split.select_columns(list(names))
    split = split.rename_columns({old: new for old, new in names.items() if old != new})
    try:
        return split.cast_column("image", Image(decode=False))
    except Exception as error:  # a column that holds no images fails in pyarrow, in one of many ways
        raise ValueError(
            f"Expected images in the column {next(iter(names))!r}, got {split.features['image']}. Choose another."
        ) from error


def _class_labels(splits: dict[str, Dataset], dataset: str) -> dict[str, Dataset]:
    """Return the splits with one `ClassLabel`, without a test split that has no labels."""
    splits = dict(splits)
    if "test" in splits and all(value is None or value == -1 for value in splits["test"]["label"][:]):
        logger.warning("The test split of %s has no labels and is left out.", dataset)
        del splits["test"]
    feature = splits["train"].features["label"]
    columns = {name: split["label"][:] for name, split in splits.items()}
    for name, values in columns.items():
        missing = sum(value is None or value == -1 for value in values)
        if missing:
            raise ValueError(f"{missing} of {len(values)} images of the {name} split of {dataset!r} have no label.")
    if isinstance(feature, ClassLabel):
        names = feature.names
        different = [name for name, split in splits.items() if getattr(split.features["label"], "names", 0) != names]
        if different:
            raise ValueError(f"The splits {different} of {dataset!r} have other classes than train. Make them equal.")
        return splits
    every = {value for values in columns.values() for value in values}
    if not all(isinstance(value, (str, bool, int)) for value in every):
        raise ValueError(f"Expected labels that are names or integers, got {feature} in {dataset!r}. Convert them.")
    ordered = sorted(every)
    classes = ClassLabel(names=[str(value) for value in ordered])
    numbers = {value: number for number, value in enumerate(ordered)}
    return {
        name: split.remove_columns("label").add_column(
            "label", [numbers[value] for value in columns[name]], feature=classes
        )
        for name, split in splits.items()
    }


__all__ = [
    "IMAGE_COLUMNS",
    "choose_column",
    "image_columns",
    "load_any",
    "load_images",
    "name_splits",
    "rename_columns",
]
