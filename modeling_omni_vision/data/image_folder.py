"""A folder of images as explicit rows of file, class and split: whole names decide, no part of a name is guessed from.

| found | taken as |
|---|---|
| folders `train`, `val`, `test` and their usual spellings, in any case | splits; classes are the folders in them |
| other folders | classes, with all that lies below them; everything is trained on |
| both side by side, two names of one split, no folder to train on, splits within each class | refused |
| images outside of all classes, folders without images | counted in the warning about what is left out |

`image_files` says which files are images.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from .image_files import (
    WITHOUT_IMAGES,
    LeftOut,
    displayed,
    holds_results,
    images_below,
    is_ignored,
    is_image,
    stored_path,
)


logger = logging.getLogger(__name__)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout"),
}
BY_SPELLING = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings}
OUTSIDE = "outside of all classes"


class ImageRow(NamedTuple):
    """An image file, the class that its folder names, and its split; None where there is no such folder."""

    file: Path
    kind: str | None
    split: str | None


def split_of(name: str) -> str | None:
    """Return the split that a whole name stands for, such as `Test`, `train_set` or `val-00001-of-00004`, or None."""
    plain = re.sub(r"[-_. ]*\d+(-of-\d+)?$", "", name.casefold())
    return BY_SPELLING.get(re.sub(r"[-_ ]", "", re.sub(r"[-_ ]?(set|split)$", "", plain)))


def assign_splits(names: Iterable[str], place: str) -> dict[str, str]:
    """Return the split of each name of folders, files or splits beside each other; `train` for all if none names one.

    Raises:
        ValueError: if only some of them name a split, or none of those is to train on.
    """
    found = {name: split_of(name) for name in names}
    if not any(found.values()):
        if _are_splits_of_longer_names(found):
            raise ValueError(
                f"Expected splits in {place} called train, validation and test, got {sorted(found)[:5]}. Rename them: "
                "as they are, they would be classes, and what is to test on would be trained on."
            )
        return dict.fromkeys(found, "train")
    others = sorted(name for name, split in found.items() if split is None)
    if others:
        raise ValueError(
            f"Expected classes or splits in {place}, got both: {sorted(set(found) - set(others))} name splits, "
            f"{others[:5]} do not. Put all classes into a folder called train, or rename what is no split."
        )
    if "train" not in found.values():
        raise ValueError(
            f"Expected something to train on in {place}, got only {sorted(found)}. Add a split train, "
            "or name one of them itself."
        )
    return {name: split for name, split in found.items() if split}


def _are_splits_of_longer_names(names: Iterable[str]) -> bool:
    """Return whether names are such as `cat_train`, `cat_test`: to each test or validation belongs a train."""
    splits: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        words = [word for word in re.split(r"[-_. ]+", name.casefold()) if not word.isdecimal()]
        place = next((place for place in (-1, 0) if words and words[place] in BY_SPELLING), None)
        if place is None:
            return False
        split = BY_SPELLING[words.pop(place)]
        splits.setdefault((*words,), set()).add(split)
    return len(set().union(*splits.values())) > 1 and all("train" in found for found in splits.values())


def split_files(place: Path, suffix: str, files: Sequence[Path] | None = None) -> dict[str, list[Path]]:
    """Return the files of a suffix in a folder, such as `.jsonl`, by the split that their whole names stand for.

    Args:
        place: A folder, or one file, which is to train on unless its name says something else.
        suffix: Of the files, in any case.
        files: What to sort into splits, by default the files in the folder itself. Where the name of a file
            deeper down names no split, the name of its folder does.

    Raises:
        ValueError: as `assign_splits` does.
    """
    if files is None:
        files = sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else [place]
    files = [file for file in files if file.suffix.lower() == suffix and not file.name.startswith(".")]
    names = {
        file: file.stem if split_of(file.stem) or file.parent in (place, place.parent) else file.parent.name
        for file in files
    }
    splits = assign_splits(names.values(), repr(displayed(place)))
    return {split: [file for file in files if splits[names[file]] == split] for split in {*splits.values()}}


def resolve_images(
    folder: Path, left_out: LeftOut | None = None, files: Iterable[Path] | None = None
) -> tuple[list[ImageRow], LeftOut]:
    """Return every image below a folder once, with its class and split, by the rules at the top of this file.

    `files` are those below the folder, where they are known.

    Raises:
        ValueError: for splits as in `assign_splits`, two folders of one split, or splits within each class.
    """
    left_out, places = LeftOut() if left_out is None else left_out, dict[Path, list[Path]]()
    images = images_below(folder, left_out) if files is None else (file for file in files if is_image(file, left_out))
    for file in images:
        places.setdefault(file.parent, []).append(file)
    # Folder by folder: there are fewer of them than of images.
    parents = {place: place.relative_to(folder).parts for place in places}
    names = [*dict.fromkeys(displayed(above[0]) for above in parents.values() if above)]
    splits = assign_splits(names, repr(displayed(folder)))
    named = any(map(split_of, names))
    if named and len({*splits.values()}) < len(splits):
        twice = sorted(name for name in splits if [*splits.values()].count(splits[name]) > 1)
        raise ValueError(
            f"Expected one folder for the split {splits[twice[0]]} in {displayed(folder)}, got {twice}. Join them."
        )
    rows = []
    for place, above in parents.items():
        folders = above[1:2] if named else above[:1]
        kind, split = _class_name(folders[0]) if folders else None, splits[displayed(above[0])] if above else None
        rows += [ImageRow(file, kind, split) for file in places[place]]
    inner = {split_of(above[1]) if len(above) > 1 else None for above in parents.values()} - {None}
    if not named and len(inner) > 1:
        name, found_splits = names[0], sorted(map(str, inner))
        raise ValueError(
            f"Expected splits in {displayed(folder)}, got them in the folder {name}: {found_splits}. Name that folder."
            if len(names) == 1
            else f"Expected splits above the classes in {displayed(folder)}, as in train/{name}, got splits within "
            f"classes: {found_splits}. Turn the folders round."
        )
    used = {one for place in places for one in (place, *place.parents)}
    for place in _class_folders(folder, named):
        if place not in used and place.parent in {*used, folder}:  # of an empty split only itself
            left_out.add(WITHOUT_IMAGES, place)
    return rows, left_out


def _class_folders(folder: Path, named: bool) -> Iterator[Path]:
    """Yield the folders that splits and classes are seen in, but for results of ours and what cannot be read."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            names = [] if is_ignored(place.name) or not place.is_dir() else os.listdir(place)
        except OSError:  # named among what cannot be read
            continue
        if is_ignored(place.name) or not place.is_dir() or holds_results(names):
            continue
        yield place
        if named:
            yield from (place / name for name in sorted(names) if not is_ignored(name) and (place / name).is_dir())


def load_image_folder(
    folder: Path, left_out: LeftOut | None = None, labelled: bool = True, files: Iterable[Path] | None = None
) -> DatasetDict:
    """Load a folder of images with one sub-folder for each class, by the rules at the top of this file.

    Args:
        folder: Of images.
        left_out: What to add what is left out to.
        labelled: False to take no folder for a class, and images wherever they lie.
        files: Those below the folder, where they are known.

    Returns:
        Splits with the columns `image` (not decoded) and `label`, a `ClassLabel` of the folders' names in order;
        without `label` where there are no classes at all.

    Raises:
        ValueError: as `resolve_images` does, for no images, or classes that train does not have.
    """
    left_out = LeftOut() if left_out is None else left_out
    try:
        found, _ = resolve_images(folder, left_out, files)
    except ValueError:
        warn_of_left_out(left_out, displayed(folder))  # perhaps the reason
        raise
    with_classes = labelled and any(kind for _, kind, _ in found)
    one_class = with_classes and len({kind for _, kind, _ in found}) == 1
    within = {file.relative_to(folder).parts[1:-1][:1] for file, _, _ in found} if one_class else set()
    if len(within) > 1 and () not in within:
        raise ValueError(
            f"Expected classes in {displayed(folder)}, got the folder {found[0].kind} alone, with "
            f"{sorted(displayed(one[0]) for one in within)[:5]} in it. Name that folder if these are the classes."
        )
    rows: dict[str, list[tuple[str, str | None]]] = {}
    for file, kind, split in found:
        if with_classes and kind is None:
            left_out.add(OUTSIDE, file)
        else:
            rows.setdefault(split or "train", []).append((stored_path(file), kind))
    warn_of_left_out(left_out, displayed(folder))
    if not rows:
        raise ValueError(f"Expected images, Parquet or IDX files in {displayed(folder)}, got none. Correct the path.")
    if not with_classes:
        images = Features({"image": Image(decode=False)})
        return DatasetDict({name: Dataset.from_dict(_images(rows[name]), images) for name in SPLITS if name in rows})
    return _dataset(rows, folder)


def warn_of_left_out(left_out: LeftOut, where: str) -> None:
    """Log in one warning what is left out of a place, if anything."""
    if left_out.counts:
        total = left_out.counts.total()
        logger.warning("%s: %d %s left out: %s.", where, total, "files" if total > 1 else "file", left_out)


def _class_name(folder: str) -> str:
    """Return the name of a folder as people see it: macOS takes accents apart, other systems do not."""
    return unicodedata.normalize("NFC", displayed(folder))


def _images(rows: Sequence[tuple[str, str | None]]) -> dict[str, list[Any]]:
    return {"image": pa.array([file for file, _ in rows], pa.string())}  # not a dictionary for each


def _dataset(rows: Mapping[str, list[tuple[str, str | None]]], folder: Path) -> DatasetDict:
    names = sorted({str(kind) for _, kind in rows.get("train", [])})
    if not names:
        raise ValueError(
            f"Expected classes to train on in {displayed(folder)}, got none: put each class into a sub-folder."
        )
    for split, found in rows.items():
        unknown = sorted({str(kind) for _, kind in found} - set(names))
        if unknown:
            raise ValueError(
                f"Expected the classes {names[:5]} in the {split} split of {displayed(folder)}, got {unknown[:5]} "
                "too, of which there is nothing to train on. Remove or rename them."
            )
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    numbers = {name: number for number, name in enumerate(names)}
    columns = {
        split: {**_images(found), "label": pa.array([numbers[str(kind)] for _, kind in found], pa.int64())}
        for split, found in rows.items()
    }
    return DatasetDict({split: Dataset.from_dict(found, features=features) for split, found in columns.items()})


__all__ = [
    "SPLITS",
    "ImageRow",
    "assign_splits",
    "load_image_folder",
    "resolve_images",
    "split_files",
    "split_of",
    "warn_of_left_out",
]
