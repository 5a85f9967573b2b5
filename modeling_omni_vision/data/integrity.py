"""Every image of a dataset is opened before the first step: all that cannot be read are named at once.

A check is `full` (decoded as training does it, which finds files that are cut off) or `headers` (opened). What was
found to be readable is remembered by path, size and time of the file, so that the next run does not open it again.
"""

import itertools
import json
import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict
from huggingface_hub.constants import HF_HOME
from PIL import Image as PilImage
from tqdm.auto import tqdm  # not that of transformers, whose bars commands switch off

from ..image_processing_omni_vision import read_image
from .hold_out import classes_in
from .image_files import LeftOut, displayed, files_below, path_of
from .label_lists import label_names
from .stored_images import open_stored


T = TypeVar("T")
logger = logging.getLogger(__name__)

CHECKS, ON_ERROR = ("headers", "full"), ("stop", "skip")
FULL_BELOW = 50_000  # images; more are checked by their headers
NAMED = 10  # files that a message names
REMEMBERED_AFTER = 1.0  # seconds: what takes less is checked again
SKIPPED_FILE = "skipped.jsonl"
CHUNK, GROUP = 512, 32
# States of an image that is decoded to be trained on: not looked at, cannot be read, can be, can be and is in memory.
UNSEEN, BROKEN, READABLE, KEPT = range(4)
# Other releases of Pillow read other files.
DATABASE = Path(HF_HOME, "omni_vision", f"readable-{PilImage.__version__}.sqlite")


class Unreadable(NamedTuple):
    """An image that cannot be read: its number, its name for people, and the reason."""

    number: int
    name: str
    reason: str


def find_unreadable(sources: Sequence[Any], check: str | None = None) -> list[Unreadable]:
    """Open images in parallel, with a progress bar where that takes long.

    Args:
        sources: Paths, or images as an undecoded column holds them, perhaps read from disk as they are asked for.
        check: `full` or `headers`; by default full below `FULL_BELOW` images.

    Raises:
        ValueError: for another check.
    """
    if check not in (*CHECKS, None):
        raise ValueError(f"`check` must be one of {', '.join(CHECKS)}, got {check!r}.")
    check = check or ("full" if len(sources) < FULL_BELOW else "headers")
    start, found, readable = time.monotonic(), list[Unreadable](), dict[bytes, tuple[int, int]]()
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(sources), desc="Checking images", delay=2) as bar:
        for begin in range(0, len(sources), CHUNK):
            chunk = [_stored(source) for source in sources[begin : begin + CHUNK]]
            known = [_identity(source) for source in chunk]
            remembered = _recall(check, [key for key, _ in filter(None, known)])
            todo = [number for number, key in enumerate(known) if key is None or remembered.get(key[0]) != key[1]]
            groups = [
                [chunk[number] for number in some]
                for some in (todo[start : start + GROUP] for start in range(0, len(todo), GROUP))
            ]
            reasons = pool.map(lambda group: [_reason(source, check) for source in group], groups)
            for number, reason in zip(todo, itertools.chain.from_iterable(reasons), strict=True):
                identity = known[number]
                if reason is not None:
                    found.append(Unreadable(begin + number, _name(chunk[number], begin + number), reason))
                elif identity is not None:
                    readable[identity[0]] = identity[1]
            bar.update(len(chunk))
    if time.monotonic() - start > REMEMBERED_AFTER:
        _remember(check, readable)
    return found


def unreadable_rows(
    splits: DatasetDict,
    check: str | None = None,
    dataset: str = "",
    states: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of all splits with an image that cannot be read, as `write_skipped` writes them.

    Args:
        splits: Their column `image` or `images` holds undecoded images, or lists of them.
        check: As for `find_unreadable`.
        dataset: What they were loaded from: where images lie in Parquet files, those are named.
        states: Of splits, what was found of each row when it was decoded: those are not opened again.
    """
    found, unnamed = list[dict[str, Any]](), list[tuple[dict[str, Any], bytes | None]]()
    for split, rows in splits.items():
        images, owners = images_of(rows)
        known = (states or {}).get(split)
        for number, name, reason in (
            find_unreadable(images, check) if known is None else _undecoded(rows, known, check)
        ):
            row, image = owners[number], images[number] or {}
            found.append({"split": split, "row": row, "image": name, "reason": reason})
            if not image.get("path") or image.get("bytes") is not None:
                unnamed.append((found[-1], image.get("bytes")))
    places = _places_in_parquet(dataset, {content for _, content in unnamed}) if unnamed else {}
    for one, content in unnamed:
        one["image"] = next(places.get(content, iter(())), f"row {one['row']} of {one['split']}")
    return list({(one["split"], one["row"]): one for one in found}.values())


def _undecoded(rows: Dataset, states: np.ndarray, check: str | None) -> list[Unreadable]:
    """Check the images that were not decoded, and find out why some could not be."""
    found = list[Unreadable]()
    for state, how in ((UNSEEN, check), (BROKEN, "full")):
        numbers = np.flatnonzero(states == state).tolist()
        for one in find_unreadable(rows.select(numbers)["image"], how) if numbers else ():
            found.append(one._replace(number=numbers[one.number]))
    return sorted(found)


def _places_in_parquet(dataset: str, contents: Collection[bytes | None]) -> dict[bytes | None, Iterator[str]]:
    """Return for contents of images the rows and files of a Parquet dataset in which they lie."""
    place, found = Path(dataset).expanduser(), dict[bytes | None, list[str]]()
    files = [*files_below(place, LeftOut())] if place.is_dir() else [place]
    for file in (file for file in files if file.suffix.lower() == ".parquet" and file.is_file()):
        opened, start = pq.ParquetFile(file), 0
        names = [field.name for field in opened.schema_arrow if "binary" in str(field.type)]
        for batch in opened.iter_batches(CHUNK, columns=names):
            for column in batch.columns:
                for row, value in enumerate(column.to_pylist(), start):
                    content = value.get("bytes") if isinstance(value, dict) else value
                    if content in contents:
                        found.setdefault(content, []).append(f"row {row} of {displayed(file)}")
            start += len(batch)
    return {content: iter(places) for content, places in found.items()}


def leave_out_unreadable(
    splits: DatasetDict,
    check: str | None = None,
    on_error: str = "stop",
    dataset: str = "",
    states: Mapping[str, np.ndarray] | None = None,
) -> tuple[DatasetDict, list[dict[str, Any]]]:
    """Check the images of all splits.

    Args:
        splits: Their column `image` or `images` holds undecoded images, or lists of them.
        check: As for `find_unreadable`.
        on_error: `stop` refuses what cannot be read, `skip` leaves it out.
        dataset: As for `unreadable_rows`, like the states.
        states: See there.

    Returns:
        The splits without rows of an image that cannot be read, and what `write_skipped` writes about these.

    Raises:
        ValueError: naming up to ten images that cannot be read, or where nothing of a split, or
            of a class to train on, is left.
    """
    check_on_error(on_error)
    skipped, kept = unreadable_rows(splits, check, dataset, states), DatasetDict()
    for split, rows in splits.items():
        broken = {one["row"] for one in skipped if one["split"] == split}
        kept[split] = rows.select([row for row in range(len(rows)) if row not in broken]) if broken else rows
        label = rows.features.get("label")
        has_classes = isinstance(getattr(label, "feature", label), ClassLabel)
        if split == "train" and broken and on_error == "skip" and has_classes:
            lost = np.setdiff1d(classes_in(rows), classes_in(kept[split])).tolist()
            if lost:
                raise ValueError(
                    f"Expected readable images of each class in train, got none of "
                    f"{[label_names(rows)[number] for number in lost[:5]]}. Repair or remove them."
                )
    if skipped:
        names = [(one["image"], one["reason"]) for one in skipped]
        refuse_unreadable(names, sum(map(len, splits.values())), on_error)
    empty = [split for split, rows in kept.items() if not len(rows)]
    if empty:
        raise ValueError(f"Expected readable images in the split {empty[0]}, got none. Repair some.")
    return kept, skipped


def images_of(rows: Dataset) -> tuple[Sequence[Mapping[str, Any]], Sequence[int]]:
    """Return the undecoded images of a split, and for each the row that it belongs to."""
    if "images" not in rows.column_names:
        return rows["image"], range(len(rows))
    lists = rows["images"][:]
    return [image for many in lists for image in many], [row for row, many in enumerate(lists) for _ in many]


class UnreadableImagesError(ValueError):
    """Images cannot be read, and were not to be left out."""


def refuse_unreadable(broken: Sequence[tuple[str, str]], total: int, on_error: str) -> None:
    """Raise a `ValueError` that names the first images that cannot be read, or log that where they are skipped."""
    named = "; ".join(f"{name} ({reason})" for name, reason in broken[:NAMED])
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    message = f"{len(broken)} of {total} images cannot be read: {named}{more}."
    if on_error == "stop":
        raise UnreadableImagesError(f"{message} Repair or remove them, or leave them out with --on_error skip.")
    logger.warning("%s They are left out.", message)


def check_on_error(value: str) -> None:
    """Raise a `ValueError` unless a value says what to do about images that cannot be read."""
    if value not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}, got {value!r}.")


def write_skipped(folder: Path, skipped: Iterable[Mapping[str, Any]]) -> Path:
    """Write what was skipped into `skipped.jsonl` in a folder, one image a line with its reason."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SKIPPED_FILE
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in skipped), encoding="utf-8")
    return file


def without_skipped(splits: DatasetDict, folder: Path) -> DatasetDict:
    """Return splits without the rows that a run skipped, as its `skipped.jsonl` says."""
    file, kept = folder / SKIPPED_FILE, DatasetDict(splits)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for split, rows in splits.items():
        skipped = {one["row"] for one in map(json.loads, lines) if one.get("split") == split}
        kept[split] = rows.select([row for row in range(len(rows)) if row not in skipped]) if skipped else rows
    return kept


def read_each(
    files: Sequence[Path], function: Callable[[Sequence[Path]], Sequence[T]]
) -> tuple[list[tuple[Path, T]], list[tuple[Path, str]]]:
    """Apply a function to a batch of image files; where it raises, to each alone, so that one costs only itself.

    Returns:
        The files that it could read, each with its result, and the others with the reason.
    """
    try:
        return list(zip(files, function(files), strict=True)), []
    except Exception as error:  # decoders raise many kinds
        if len(files) == 1:
            return [], [(files[0], read_failure(error, files[0]))]
    found = [read_each([file], function) for file in files]
    return [one for read, _ in found for one in read], [one for _, failed in found for one in failed]


def read_failure(error: Exception, file: str | Path) -> str:
    """Return in one line why a file cannot be read, without its name, which is reported beside it."""
    text = " ".join(str(error).split())
    # The longest first: a relative path is within the others.
    for path in (str(Path(file).absolute()), os.path.abspath(file), os.path.realpath(file), str(file)):
        for name in (repr(path), path):
            text = text.replace(name, "the file")
    text = re.sub(r"^(image 0: )?((the file|\d+ bytes): )?", "", text)
    text = re.sub(r"^cannot be read \((.*)\): replace or remove it$", r"\1", text)
    text = re.sub(r" <_io.BytesIO object at \w+>|(?<=image file) the file", "", text)
    return displayed(text[:200]) or type(error).__name__


def _stored(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    return {"bytes": None, "path": None if source is None else str(source)}


def _reason(source: Mapping[str, Any], check: str) -> str | None:
    """Return why an image cannot be read, None where it can."""
    content = source.get("bytes")
    try:
        if content is None:
            if not source["path"]:
                return "no image in this row"
            file = path_of(source["path"])
            if not stat.S_ISREG(file.stat().st_mode):
                return "no regular file"
        if check == "full":
            read_image(file if content is None else content, num_channels=None)
        else:
            with open_stored(source):
                pass
    except Exception as error:  # decoders raise many kinds
        return read_failure(error, str(source.get("path")))
    return None


def _name(source: Mapping[str, Any], number: int) -> str:
    path = source.get("path")
    return displayed(path_of(path)) if path else f"row {number}"


def _identity(source: Mapping[str, Any]) -> tuple[bytes, tuple[int, int]] | None:
    """Return what a file is remembered by: its path, and its size and time; None for what is no file."""
    if source.get("bytes") is not None or not source.get("path"):
        return None
    path = os.path.join(os.getcwd(), path_of(source["path"]))
    try:
        about = os.stat(path)
    except OSError:
        return None
    return os.fsencode(path), (about.st_size, about.st_mtime_ns)


def _database() -> sqlite3.Connection:
    DATABASE.parent.mkdir(parents=True, exist_ok=True)
    opened = sqlite3.connect(DATABASE, timeout=30)
    opened.execute("CREATE TABLE IF NOT EXISTS files (path PRIMARY KEY, how, size, time)")
    return opened


def _recall(check: str, paths: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
    if not DATABASE.exists():
        return {}
    marks = ",".join("?" * len(paths))
    query = f"SELECT path, size, time FROM files WHERE how IN ('full', ?) AND path IN ({marks})"
    try:
        with closing(_database()) as database:
            return {path: (size, when) for path, size, when in database.execute(query, (check, *paths))}
    except (OSError, sqlite3.Error):  # a home that cannot be written: nothing is remembered
        return {}


def _remember(check: str, readable: Mapping[bytes, tuple[int, int]]) -> None:
    rows = [(path, check, *about) for path, about in readable.items()]
    try:
        with closing(_database()) as database, database:
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error) as error:
        logger.info("What was checked is not remembered: %s", error)


__all__ = [
    "CHECKS",
    "FULL_BELOW",
    "ON_ERROR",
    "SKIPPED_FILE",
    "Unreadable",
    "UnreadableImagesError",
    "check_on_error",
    "find_unreadable",
    "images_of",
    "leave_out_unreadable",
    "read_each",
    "read_failure",
    "refuse_unreadable",
    "without_skipped",
    "write_skipped",
]
