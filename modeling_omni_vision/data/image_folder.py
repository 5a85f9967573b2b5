"""A folder of images as explicit rows of file, class and split: whole names decide, no part of a name is guessed from.

| found | taken as |
|---|---|
| folders `train`, `val`, `test` and their usual spellings, in any case | splits; classes are the folders in them |
| other folders | classes, with all that lies below them; everything is trained on |
| both side by side, two names of one split, no folder to train on | refused |
| files that Pillow opens, by its own registry; links are followed | images |
| hidden files, `Thumbs.db`, `desktop.ini` | ignored |
| any other file, images outside of all classes | left out, counted by reason in one warning |
"""

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PilImage

from ..image_processing_omni_vision import NOT_READ, register_plugins


logger = logging.getLogger(__name__)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout"),
}
BY_SPELLING = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings}
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}


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
        return dict.fromkeys(found, "train")
    others = sorted(name for name, split in found.items() if split is None)
    if others:
        raise ValueError(
            f"Expected classes or splits in {place}, got both: {sorted(set(found) - set(others))} name splits, "
            f"{others[:5]} do not. Put all classes into a folder called train, or rename what is no split."
        )
    if "train" not in found.values():
        raise ValueError(f"Expected something to train on in {place}, got only {sorted(found)}. Add a split train.")
    return {name: split for name, split in found.items() if split}


def load_image_folder(folder: Path) -> DatasetDict:
    """Load a folder of images with one sub-folder for each class, by the rules at the top of this file.

    Returns:
        Splits with the columns `image` (not decoded) and `label`, a `ClassLabel` of the folders' names in order.

    Raises:
        ValueError: for splits as in `assign_splits`, no images, no classes, or classes that train does not have.
    """
    left_out: Counter[str] = Counter()
    files = {place: [*_images(place, left_out)] for place in _folders(folder)}
    with_images = [place for place, found in files.items() if found]
    splits = assign_splits((place.name for place in with_images), repr(str(folder)))
    outside = [file for file in folder.iterdir() if file.is_file() and _is_image(file, left_out)]
    if not with_images:
        if not outside:
            raise ValueError(f"Expected images, Parquet or IDX files in {folder}, got none. Correct the path.")
        raise ValueError(
            f"Expected classes in {folder}, got {len(outside)} images in none: put each class into a sub-folder, or "
            "describe the images in a metadata.jsonl."
        )
    rows: dict[str, list[tuple[str, str]]] = {}
    for place in with_images:
        split, is_split = splits[place.name], split_of(place.name) is not None
        if is_split and split in rows:
            raise ValueError(f"Expected one folder for the split {split} in {folder}, got several. Join them.")
        kept = rows.setdefault(split, [])
        for file in files[place]:
            below = file.relative_to(place).parts
            if is_split and len(below) == 1:
                outside.append(file)
            else:
                kept.append((str(file), below[0] if is_split else place.name))
    left_out["outside of all classes"] = len(outside)
    _warn_of(+left_out, folder)
    return _dataset({split: found for split, found in rows.items() if found}, folder)


def _dataset(rows: Mapping[str, list[tuple[str, str]]], folder: Path) -> DatasetDict:
    names = sorted({kind for _, kind in rows.get("train", [])})
    if not names:
        raise ValueError(f"Expected classes to train on in {folder}, got none: put each class into a sub-folder.")
    for split, found in rows.items():
        unknown = sorted({kind for _, kind in found} - set(names))
        if unknown:
            raise ValueError(
                f"Expected the classes {names[:5]} in the {split} split of {folder}, got {unknown[:5]} too, of which "
                "there is nothing to train on. Remove or rename them."
            )
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    numbers = {name: number for number, name in enumerate(names)}
    columns = {
        split: {
            "image": [{"path": file, "bytes": None} for file, _ in found],
            "label": [numbers[kind] for _, kind in found],
        }
        for split, found in rows.items()
    }
    return DatasetDict({split: Dataset.from_dict(found, features=features) for split, found in columns.items()})


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not _is_ignored(path.name))


def _images(place: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the images below a place, sorted; count the other files. Links are followed, circles end."""
    above: dict[str, frozenset[str]] = {}
    for parent, folders, files in os.walk(place, followlinks=True):
        real, before = os.path.realpath(parent), above.get(os.path.dirname(parent), frozenset())
        if real in before:
            folders.clear()
            continue
        above[parent] = before | {real}
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        yield from (Path(parent, name) for name in sorted(files) if _is_image(Path(name), left_out))


def _is_image(file: Path, left_out: Counter[str]) -> bool:
    suffix = file.suffix.lower()
    if _is_ignored(file.name) or suffix in _suffixes():
        return not _is_ignored(file.name)
    left_out[f"{suffix or 'no suffix'}" + (f" (install {PLUGINS[suffix]})" if suffix in PLUGINS else "")] += 1
    return False


@functools.cache
def _suffixes() -> frozenset[str]:
    register_plugins()
    formats = PilImage.registered_extensions()  # loads all plugins of Pillow
    return frozenset(suffix for suffix, kind in formats.items() if kind in PilImage.OPEN and kind not in NOT_READ)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in IGNORED


def _warn_of(left_out: Counter[str], folder: Path) -> None:
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        logger.warning("%d files in %s are no images of a class, left out: %s.", left_out.total(), folder, reasons)


__all__ = ["assign_splits", "load_image_folder", "split_of"]
