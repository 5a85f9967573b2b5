r"""Images that a `metadata.jsonl`, `.csv` or `.parquet` in a folder, or any `.csv` or `.tsv`, describes row by row.

Names are relative to the folder of the metadata file, with `/` or `\`. They lead to no place outside of it, since a
folder may come from anybody; a table that the user names by itself may list images anywhere. The folder under the root
that holds an image decides its split, by the rules of `image_folder`, or a column `split` does; images without a row
are left out and counted.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image

from .image_files import METADATA, LeftOut, displayed, images_below, stored_path
from .image_folder import assign_splits, warn_of_left_out


FILE_COLUMNS = ("file_name", "image_file_name")  # as in `imagefolder` of datasets
# What tables of other hands call them.
TABLE_COLUMNS = (
    *FILE_COLUMNS,
    "filename",
    "file",
    "path",
    "filepath",
    "file_path",
    "image_path",
    "image_name",
    "image",
)
TABLES, DELIMITERS = (".csv", ".tsv"), ",;\t"
MISSING = ("", None)


def find_metadata(files: Iterable[Path]) -> list[Path]:
    """Return the metadata files among those below a folder."""
    files = [file for file in files if file.name.casefold() in METADATA]
    return [file for file in files if file.suffix.lower() != ".parquet" or {*FILE_COLUMNS} & _columns(file)]


def load_metadata_folder(
    folder: Path, files: list[Path], left_out: LeftOut | None = None, whole: bool = True
) -> DatasetDict:
    """Load a folder of images with what its metadata files say about them; rows that repeat another are left out.

    Images of the `whole` folder without a row are counted as left out. Without it, files are tables by themselves,
    whose images may lie anywhere: the folder is then the nearest one that holds them all.

    Returns:
        Splits with the columns `image` (not decoded) and those of the metadata.

    Raises:
        ValueError: naming the line, for a file that is missing or lies outside of the folder, or what is no JSON;
            for splits as `assign_splits` does.
    """
    left_out = LeftOut() if left_out is None else left_out
    found = [row for file in files for row in described_images(file, anywhere=not whole)]
    once = {(image, json.dumps(row, sort_keys=True, default=str)): row for image, row in found}
    rows = [(image, row) for (image, _), row in once.items()]
    for image, count in (Counter(one for one, _ in found) - Counter(one for one, _ in rows)).items():
        for _ in range(count):
            left_out.add("in a row that repeats another", image)
    if not rows:
        raise ValueError(f"Expected rows in {displayed(files[0])}, got none. Describe some images.")
    folder, described = Path(os.path.abspath(folder)), {image for image, _ in rows}
    if any(not image.is_relative_to(folder) for image in described):
        folder = _nearest_folder(described)
    for image in images_below(folder, left_out) if whole else ():
        if image not in described:
            left_out.add("without a row in the metadata", image)
    warn_of_left_out(left_out, displayed(folder))
    places = [displayed(_first_folder(image, folder)) for image, _ in rows]
    splits = assign_splits(places, repr(displayed(folder)))
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns: dict[str, dict[str, list[Any]]] = {}
    for place, (image, row) in zip(places, rows, strict=True):
        values = columns.setdefault(splits[place], {"image": [], **{name: [] for name in names}})
        values["image"].append({"path": stored_path(image), "bytes": None})
        for name in names:
            values[name].append(row.get(name))
    return DatasetDict({split: _dataset(values, folder) for split, values in columns.items()})


def _dataset(columns: dict[str, list[Any]], folder: Path) -> Dataset:
    for name, values in columns.items():
        if any(isinstance(value, list) for value in values):
            columns[name] = [[value] if isinstance(value, str) else value for value in values]
    try:
        return Dataset.from_dict(columns).cast_column("image", Image(decode=False))
    except Exception as error:  # pyarrow has many
        raise ValueError(
            f"Expected values of one type in each column of the metadata in {displayed(folder)}, got {error}."
        ) from error


def described_images(file: Path, anywhere: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each image of a metadata file with its row; a `ValueError` names a row that leads to none.

    Images lie below the folder of the file, or `anywhere`.
    """
    root = Path(os.path.abspath(file.parent))  # below "." is everything: `..`, too
    for number, row in _lines(file):
        where = f"row {number} of {displayed(file)}"
        usual = TABLE_COLUMNS if file.suffix.lower() in TABLES else FILE_COLUMNS
        column = next((name for one in usual for name in row if name.casefold() == one), None)
        if column is None:
            raise ValueError(
                f"Expected a column file_name in {where}, got {[*map(str, row)][:5]}. Name the image that it is "
                "about; the first line of a CSV names its columns."
            )
        name = row.pop(column)
        if not isinstance(name, str) or not name:
            raise ValueError(f"Expected a file_name in {where}, got {name!r}. Name the image that it is about.")
        if "image" in row:
            raise ValueError(f"Expected no column image beside file_name in {where}. Rename it.")
        image = Path(os.path.abspath(root / name))
        if not image.is_file():  # as Windows writes it
            image = Path(os.path.abspath(root / name.replace("\\", "/")))
        if not anywhere and (os.path.isabs(name) or not image.is_relative_to(root)):
            raise ValueError(
                f"Expected a file_name within the folder of its metadata in {where}, got {name!r}. Move the image."
            )
        if not image.is_file():
            raise ValueError(
                f"Expected the file_name of an image in {where}, got {name!r}, which is not there. Correct it: "
                "names are relative to the folder of that file."
            )
        yield image, row


def _columns(file: Path) -> set[str]:
    try:
        return {*pq.read_schema(file).names}
    except Exception as error:  # pyarrow has many
        raise ValueError(f"Expected a Parquet file, got {displayed(file)} ({error}). Repair or remove it.") from error


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix.lower() == ".parquet":
        yield from enumerate(pq.read_table(file).to_pylist(), 1)
        return
    try:
        file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 in {displayed(file)}, got {error.reason}. Save it as UTF-8.") from error
    with file.open(encoding="utf-8-sig", newline=None if file.suffix.lower() == ".jsonl" else "") as lines:
        if file.suffix.lower() in TABLES:
            header = next(lines, "")
            lines.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            reader = csv.DictReader(lines, skipinitialspace=True, delimiter=delimiter)
            names = reader.fieldnames or ()
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise ValueError(f"Expected each column of {displayed(file)} once, got {twice} twice. Rename one.")
            yield from enumerate(_typed(list(reader)), 1)
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"Expected JSON in row {number} of {displayed(file)}, got {error}.") from error
                if not isinstance(row, dict):
                    raise ValueError(f"Expected an object in row {number} of {displayed(file)}, got {line[:50]!r}.")
                yield number, row


def _typed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a CSV file; a column of nothing but whole numbers holds numbers, `NA` and `007` stay text."""
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"Expected a value for each column in row {number} of the CSV, got more. Quote commas.")
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        known = [value for value in values if value not in MISSING]
        whole = (
            bool(known)
            and name.casefold() not in TABLE_COLUMNS
            and all(value.isdecimal() and str(int(value)) == value for value in known)
        )
        for row, value in zip(rows, values, strict=True):
            row[name] = None if value in MISSING else int(value) if whole else value
    return rows


def _nearest_folder(images: Iterable[Path]) -> Path:
    try:
        return Path(os.path.commonpath([image.parent for image in images]))
    except ValueError as error:
        raise ValueError("Expected images of a table on one drive, got several. Move them.") from error


def _first_folder(image: Path, folder: Path) -> str:
    parts = image.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else "."


__all__ = ["TABLES", "described_images", "find_metadata", "load_metadata_folder"]
