"""Labelled images from anywhere, as one `DatasetDict`: train, validation and perhaps test.

`load_images` takes a built-in name, a folder, a file or a Hub dataset and always returns the columns `image` and
`label`. Validation is held out of train, stratified and the same for every run.
"""

import contextlib
import glob
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, config, load_dataset, load_from_disk

from ..records.nearest import nearest
from .hold_out import VALIDATION_FRACTION, classes_in, hold_out, select_held_out
from .idx import find_idx_files, load_idx
from .image_files import LeftOut, displayed, files_below, images_below
from .image_folder import SPLITS, assign_splits, load_image_folder, split_files, split_of, warn_of_left_out
from .label_lists import has_label_lists, label_array, label_names, number_label_lists
from .metadata_folder import TABLES, find_metadata, load_metadata_folder
from .questions import QUESTION_SOURCES, load_questions
from .stored_images import image_fields
from .synthetic.shapes import draw_shapes


logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "fine_label")
SPLIT_COLUMNS = ("split", "splits", "subset", "partition", "data_split")
FOLDER_HINTS = {
    "image": "for a folder of images, name the folder itself",
    "label": "for a folder of images, put each class into a sub-folder, or name a label in a metadata.jsonl; a .csv "
    "file of paths and labels is a dataset, too",
    "text": "for a folder of images, name each file_name and its text in a metadata.jsonl",
}
DIGITS_TEST_FRACTION = 0.2


def load_images(
    dataset: str,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 0,
    test_fraction: float = 0,
    held_out: Mapping[str, Sequence[str]] | None = None,
    loaded: DatasetDict | None = None,
) -> DatasetDict:
    """Load labelled images and hold out a validation split.

    Args:
        dataset: What to load, the first that fits:
            `digits` (scikit-learn's 1,797 scanned digits); `shapes`, `shapes:colour`, `shapes:shape` or
            `shapes:red,blue` (drawn, see `shapes.draw_shapes`); a folder with IDX files (the MNIST family); a
            folder written by `save_to_disk`; a Parquet file, or a folder of them; a CSV file of paths, relative to
            it, and labels; a folder of images, one sub-folder per class, perhaps within `train`, `validation` and
            `test` (see `image_folder`), or with a `metadata.jsonl` (see `metadata_folder`); otherwise a dataset of the
            Hub, `owner/name` or
            `owner/name:configuration`.
        image_column: Column of the images; needed only where it cannot be inferred.
        label_column: Column of the classes; needed only where it cannot be inferred.
        validation_fraction: What to hold out of train where there is no validation split: a fraction below 1, or a
            number of images. Every class gives its part.
        seed: Seed of that choice. It does not depend on the seed of training, so that runs can be compared.
        test_fraction: What to hold out of train as a test split, before validation, in the same way; 0 for none.
        held_out: Files of the splits that a run held out, as `splits.json` names them, in place of fractions and
            seed: files that were added since are in train.
        loaded: What `load_any` returns for the dataset, where that is known.

    Returns:
        Splits `train`, `validation` and, where the source has one, `test`; columns `image` and `label`, the
        latter a `ClassLabel` of the same names everywhere, or a list of it where images have lists of labels. A
        test split without labels is left out.

        Labels are made classes by these rules, and anything else is refused by column and row:

        | labels | classes |
        |---|---|
        | `ClassLabel` | its names, in its order |
        | text, also if all of it is numbers | the texts, sorted as text (`10` before `2`) |
        | integers | the integers, sorted as numbers |
        | booleans | `False`, `True` |
        | floats, all of them whole | as integers |
        | None, -1, NaN, empty text | none: refused, but for a test split of nothing else, which is left out |

    Raises:
        ValueError: for a source that does not exist or cannot be read, columns or labels that are missing or
            cannot be inferred, fewer than two classes, classes of which there is nothing to train on, an empty
            split, a `test_fraction` where there is a test split, or too few images to hold any out.
    """
    splits = labelled_splits(load_any(dataset) if loaded is None else loaded, dataset, image_column, label_column)
    lists = has_label_lists(splits["train"])
    if held_out is not None:
        chosen = {name: files for name, files in held_out.items() if name not in splits}
        splits |= select_held_out(splits["train"], chosen, dataset)
    if test_fraction and held_out is None:
        splits = with_test_split(splits, dataset, test_fraction, seed, stratify=not lists)
    _refuse_one_class(splits["train"], dataset)
    if "validation" not in splits:
        splits |= hold_out(splits["train"], validation_fraction, seed, stratify=not lists)
    refuse_empty(splits, dataset)
    # Splits that an earlier release chose may hold out the only lists with a class: they are to be found again.
    if not lists or held_out is None:
        _refuse_untrained_classes(splits, dataset)
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def labelled_splits(
    loaded: DatasetDict, dataset: str, image_column: str | None = None, label_column: str | None = None
) -> dict[str, Dataset]:
    """Return the splits that a dataset has, with the columns `image` and `label`, by the rules of `load_images`."""
    splits = name_splits(loaded, dataset)
    train = splits["train"]
    classes = [
        name
        for name, feature in train.features.items()
        if isinstance(getattr(feature, "feature", feature), ClassLabel)
    ]
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
    splits = _class_labels(splits, dataset, label)
    return {name: _each_file_once(split, f"the {name} split of {dataset!r}") for name, split in splits.items()}


def _refuse_one_class(train: Dataset, dataset: str) -> None:
    if has_label_lists(train) or not len(train):
        return
    present = np.unique(label_array(train)).tolist()
    if len(present) < 2:
        name = train.features["label"].names[present[0]]
        raise ValueError(f"Expected images of at least two classes in {dataset!r}, got {name!r} alone. Add a class.")


def _refuse_untrained_classes(splits: Mapping[str, Dataset], dataset: str) -> None:
    present, names = classes_in(splits["train"]), label_names(splits["train"])
    for name, split in splits.items():
        unknown = np.setdiff1d(classes_in(split), present).tolist()
        if unknown:
            raise ValueError(
                f"Expected the classes of train in the {name} split of {dataset!r}, got "
                f"{[names[number] for number in unknown[:5]]} too, of which there is nothing to train on. Remove them."
            )


def load_to_inspect(
    dataset: str,
    image_column: str | None = None,
    label_column: str | None = None,
    left_out: LeftOut | None = None,
) -> tuple[DatasetDict, str | None]:
    """Load a dataset as `load_images` does; without a column of labels, or of conversations, as images alone.

    Returns:
        The splits, and why nothing can be trained on them: then they are those that the dataset has.
    """
    if dataset.partition(":")[0] in QUESTION_SOURCES or dataset.lower().endswith(".jsonl"):
        return load_questions(dataset), None
    loaded = load_any(dataset, left_out)
    features = next(iter(loaded.values())).features
    labelled = label_column or any(isinstance(kind, ClassLabel) for kind in features.values())
    if labelled or {*LABEL_COLUMNS} & {*map(str.casefold, features)}:
        try:
            return load_images(dataset, image_column, label_column, loaded=loaded), None
        except ValueError as error:
            splits = labelled_splits(loaded, dataset, image_column, label_column)
            return DatasetDict({name: splits[name] for name in SPLITS if name in splits}), str(error)
    return DatasetDict(images_alone(loaded, dataset, image_column)), None


def images_alone(loaded: DatasetDict, dataset: str, image_column: str | None = None) -> dict[str, Dataset]:
    """Return the splits that a dataset has, with the column `image` alone."""
    splits = name_splits(loaded, dataset)
    image = choose_column("image", image_column, image_columns(splits["train"]), IMAGE_COLUMNS, splits["train"])
    splits = {name: rename_columns(split, {image: "image"}) for name, split in splits.items()}
    return {name: _each_file_once(split, f"the {name} split of {dataset!r}") for name, split in splits.items()}


def load_unlabelled(
    dataset: str,
    image_column: str | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 0,
    test_fraction: float = 0,
) -> DatasetDict:
    """Load images without their labels, and hold out a validation split and perhaps a test split.

    Arguments are those of `load_images`, as is what they refuse. Folders need no classes, and images that are in
    folders of classes lose them.
    """
    splits = images_alone(load_any(dataset, labelled=False), dataset, image_column)
    if test_fraction:
        splits = with_test_split(splits, dataset, test_fraction, seed, stratify=False)
    if "validation" not in splits:
        splits |= hold_out(splits["train"], validation_fraction, seed)
    refuse_empty(splits, dataset)
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def with_test_split(
    splits: Mapping[str, Dataset], dataset: str, fraction: float, seed: int, stratify: bool
) -> dict[str, Dataset]:
    """Return splits with a test split out of train, where they have none."""
    if "test" in splits:
        raise ValueError(f"`test_fraction` must be 0 where there is a test split, as in {dataset!r}. Leave it out.")
    return {**splits, **hold_out(splits["train"], fraction, seed, stratify=stratify, name="test")}


def refuse_empty(splits: Mapping[str, Dataset], dataset: str) -> None:
    """Raise a `ValueError` for a split without images."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"Expected images in the {name} split of {dataset!r}, got none. Add some.")


def load_any(dataset: str, left_out: LeftOut | None = None, labelled: bool = True) -> DatasetDict:
    """Load a named dataset or a path, with the splits and columns that it has, and count what is left out.

    Without `labelled`, folders of images are no classes.
    """
    if dataset == "digits":
        return _load_digits()
    if dataset == "shapes" or dataset.startswith("shapes:"):
        return draw_shapes(dataset)
    path = Path(dataset).expanduser()
    if path.exists():
        return _load_path(path, LeftOut() if left_out is None else left_out, labelled)
    if dataset.startswith((".", "/", "~")) or path.suffix == ".parquet" or dataset.count("/") > 1:
        raise ValueError(f"Expected a folder or file, got {dataset!r}, which does not exist. Correct the path.")
    name, _, configuration = dataset.partition(":")
    try:
        return load_dataset(name, configuration or None)
    except Exception as error:  # the Hub client raises many kinds
        raise ValueError(
            f"Expected 'digits', 'shapes', an existing path, or a dataset of the Hub that can be reached, got "
            f"{dataset!r} ({type(error).__name__}: {error}). Correct the name, or download the dataset first"
            + (nearest(name, ("digits", "shapes", "scenes")) or ".")
        ) from error


def _load_path(path: Path, left_out: LeftOut, labelled: bool = True) -> DatasetDict:
    if path.is_file() and path.suffix.lower() in TABLES:
        return load_metadata_folder(path.parent, [path], left_out, whole=False)
    if not path.is_dir() and path.suffix.lower() != ".parquet":
        raise ValueError(
            f"Expected a folder, a .parquet or a .csv file, got {displayed(path)}. Unpack or convert it, or give its "
            "folder."
        )
    if path.is_dir() and find_idx_files(path):
        _warn_of_images_beside(path, left_out)
        return load_idx(path)
    is_saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    walked = LeftOut()
    files = [*files_below(path, walked)] if path.is_dir() else [path]
    described = find_metadata(files) if path.is_dir() and not is_saved else []
    if described:
        return load_metadata_folder(path, described, left_out)
    tables = [file for file in files if file.suffix.lower() == ".parquet"]
    if not is_saved and not tables:
        left_out.update(walked)
        return load_image_folder(path, left_out, labelled, files)
    if not is_saved and path.is_dir():
        _refuse_two_datasets(path, tables[0])
    if path.is_dir():
        _warn_of_images_beside(path, left_out)
    return _load_tables(path, None if is_saved else tables)


def _load_tables(path: Path, tables: Sequence[Path] | None) -> DatasetDict:
    """Load Parquet files of a folder, or the only one, or where there are none what `save_to_disk` wrote."""
    by_split = split_files(path, ".parquet", tables or [])
    _refuse_other_columns(path, tables or [])
    try:
        if tables is None:
            saved = load_from_disk(_plain(path)).with_format(None)  # a format is saved too
            return DatasetDict({"train": saved}) if isinstance(saved, Dataset) else saved
        patterns = {split: [glob.escape(_plain(file)) for file in found] for split, found in by_split.items()}
        return load_dataset("parquet", data_files=patterns)
    except Exception as error:  # pyarrow, json and the builders each have their own
        reason = error.__cause__ or error
        raise ValueError(
            f"{displayed(path)} cannot be read as a dataset ({reason!r}). Repair or refill it."
        ) from error


def _refuse_two_datasets(path: Path, table: Path) -> None:
    image = next((file for file in images_below(path, LeftOut()) if file.parent != path), None)
    if image is not None:
        raise ValueError(
            f"Expected images or Parquet files in {displayed(path)}, got both: {displayed(image.relative_to(path))} "
            f"and {displayed(table.relative_to(path))}. Name the folder of one of them."
        )


def _refuse_other_columns(path: Path, tables: Sequence[Path]) -> None:
    """Refuse Parquet files of different columns, for which `datasets` has a page of words."""
    found: dict[tuple[str, ...], Path] = {}
    for table in tables:
        with contextlib.suppress(Exception):  # what cannot be read is refused where it is
            found.setdefault((*sorted(pq.read_schema(table).names),), table)
    if len(found) > 1:
        (columns, table), (others, other) = [*found.items()][:2]
        raise ValueError(
            f"Expected the same columns in all Parquet files of {displayed(path)}, got {[*columns][:8]} in "
            f"{displayed(table.name)} and {[*others][:8]} in {displayed(other.name)}. Rename them, or leave them out."
        )


def _warn_of_images_beside(path: Path, left_out: LeftOut) -> None:
    for image in images_below(path, LeftOut()):
        left_out.add("beside the dataset", image)
    warn_of_left_out(left_out, displayed(path))


def _plain(path: Path) -> str:
    """Return a path that `datasets` takes as it is: it takes `::` for the end of an address, and bytes for text."""
    if path.as_posix().isprintable() and "::" not in str(path):
        return str(path)
    link = Path(config.HF_DATASETS_CACHE, "links", hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16])
    link = link.with_suffix(path.suffix.lower())
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(path.absolute())
    return str(link)


def _load_digits() -> DatasetDict:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / digits.images.max())).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    rows = {"image": list(images), "label": digits.target.tolist()}
    whole = Dataset.from_dict(rows, features=features)
    return whole.train_test_split(DIGITS_TEST_FRACTION, stratify_by_column="label", seed=0)


def name_splits(loaded: DatasetDict, dataset: str) -> dict[str, Dataset]:
    """Return the splits by the names train, validation and test; a single split of any other name is train.

    A single split with a column `split` is divided by it.
    """
    loaded, splits = _by_split_column(loaded, dataset), dict[str, Dataset]()
    for column in next(iter(loaded.values())).column_names:
        if column.casefold().startswith("is_") and split_of(column[3:]):
            logger.warning(
                "%s: the column %s is not used. A column split with train, validation and test divides the rows.",
                *(dataset, column),
            )
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


def _by_split_column(loaded: DatasetDict, dataset: str) -> DatasetDict:
    """Divide a single split by its column of splits; of several, warn where that column says something else."""
    for name, rows in loaded.items():
        column = next((one for one in rows.column_names if one.casefold() in SPLIT_COLUMNS), None)
        if column is None:
            continue
        names = getattr(rows.features[column], "names", None)
        values = [names[value] if names and value is not None else str(value) for value in rows[column][:]]
        if not any(map(split_of, {*values})):
            logger.warning("%s: the column %s names no split and is not used.", dataset, column)
        elif len(loaded) == 1:
            splits, rows = assign_splits(values, f"the column {column} of {dataset!r}"), rows.remove_columns(column)
            numbers = {one: [row for row, value in enumerate(values) if splits[value] == one] for one in SPLITS}
            return DatasetDict({one: rows.select(found) for one, found in numbers.items() if found})
        elif {*map(split_of, {*values})} != {split_of(name)}:
            logger.warning(
                "%s: the split %s has %s in its column %s, which is not used.",
                *(dataset, name, sorted({*values})[:5], column),
            )
    return loaded


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
    names = sorted(candidates or split.column_names, key=lambda name: name not in usual)  # as it is before in capitals
    named = [name for one in usual for name in names if name.casefold() == one]
    if not named or (len(candidates) > 1 and named[0].casefold() != usual[0]):
        raise ValueError(
            f"Expected one column that is clearly the {kind}, got {split.column_names}. Name it with "
            f"--{kind}_column; {FOLDER_HINTS[kind]}."
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


def _class_labels(splits: dict[str, Dataset], dataset: str, column: str) -> dict[str, Dataset]:
    """Return the splits with one `ClassLabel`, without a test split that has no labels; rules as in `load_images`."""
    if has_label_lists(splits["train"]):
        return number_label_lists(splits, dataset)
    splits = dict(splits)
    if "test" in splits and all(map(_is_missing, splits["test"]["label"][:])):
        logger.warning("The test split of %s has no labels and is left out.", dataset)
        del splits["test"]
    feature = splits["train"].features["label"]
    columns = {name: split["label"][:] for name, split in splits.items()}
    for name, values in columns.items():
        missing = [row for row, value in enumerate(values) if _is_missing(value)]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(values)} images of the {name} split of {dataset!r} have no label in the "
                f"column {column!r}, the first in row {missing[0]}. Label them, or leave them out."
            )
    if isinstance(feature, ClassLabel):
        names = feature.names
        different = [name for name, split in splits.items() if getattr(split.features["label"], "names", 0) != names]
        if different:
            raise ValueError(f"The splits {different} of {dataset!r} have other classes than train. Make them equal.")
        return splits
    columns = {
        name: _class_values(values, f"the {name} split of {dataset!r}", column) for name, values in columns.items()
    }
    kinds = {type(value).__name__ for values in columns.values() for value in values}
    if len(kinds) > 1:
        raise ValueError(f"Expected labels of one type in {dataset!r}, got {sorted(kinds)} in the column {column!r}.")
    ordered = sorted({value for values in columns.values() for value in values})
    classes = ClassLabel(names=[str(value) for value in ordered])
    numbers = {value: number for number, value in enumerate(ordered)}
    return {
        name: split.remove_columns("label").add_column(
            "label", [numbers[value] for value in columns[name]], feature=classes
        )
        for name, split in splits.items()
    }


def _each_file_once(split: Dataset, where: str) -> Dataset:
    """Return one row of each file: of several, some could be trained on and others be held out. Refuse two labels."""
    paths, contents = image_fields(split.with_format("arrow")[:]["image"])
    stored = contents.null_count < len(split)
    if stored or pc.count_distinct(paths).as_py() == len(split):
        return split
    labels, kept = dict[str, Any](), list[int]()
    given = split["label"][:] if "label" in split.column_names else [None] * len(split)
    for row, (path, label) in enumerate(zip(paths.to_pylist(), given, strict=True)):
        if not path or path not in labels:
            kept.append(row)
        if path and labels.setdefault(path, label) != label:
            raise ValueError(
                f"Expected one label for each image of {where}, got two for {displayed(path)}. Remove one of them."
            )
    if len(kept) == len(split):
        return split
    logger.warning("%s: %d rows repeat the file of another and are left out.", where, len(split) - len(kept))
    return split.select(kept)


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, (str, int, float)) and label in ("", -1)) or label != label


def _class_values(values: list[Any], where: str, column: str) -> list[str | bool | int]:
    """Return labels as what classes are made of; refuse the first that is none."""
    if all(isinstance(value, float) and value.is_integer() for value in values):
        values = [int(value) for value in values]
    for row, value in enumerate(values):
        whole = isinstance(value, float) and value.is_integer()  # beside others that are not
        if not isinstance(value, (str, bool, int)) and not whole:
            raise ValueError(
                f"Expected names or integers in the column {column!r} of {where}, got {value!r} in row {row}. "
                "Convert it, or name another column with --label_column."
            )
    return values


__all__ = [
    "IMAGE_COLUMNS",
    "choose_column",
    "image_columns",
    "labelled_splits",
    "load_any",
    "load_images",
    "load_to_inspect",
    "load_unlabelled",
    "name_splits",
    "rename_columns",
]
