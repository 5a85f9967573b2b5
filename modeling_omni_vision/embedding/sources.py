"""Images of any source as rows that are listed once and read later: a place, and where in it.

| source | its rows | their ids |
|---|---|---|
| file, folder, glob | images below it; Parquet files and tars in it as below | path relative to the (common) folder |
| `.parquet` | rows of its image column | `FILE#ROW` |
| `.tar` (WebDataset) | image members; members of the same key are columns | `FILE/MEMBER` |
| `.txt`, `.jsonl` list | paths and addresses, one a line | as written |
| folder of `save_to_disk`, dataset of the Hub | rows of all splits | `SPLIT#ROW` |
| address of fsspec (`s3://`, `hf://` ...) | as folders and files | the address |

Ids and order depend on names alone: they are equal on every machine. An image that is named twice is listed once; of
two that have one id, as those of two lists or datasets may, the later one has its source before it, `SOURCE:ID`.
"""

import glob
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Image

from ..data.image_files import (
    METADATA,
    LeftOut,
    displayed,
    files_below,
    is_image,
    path_of,
    readable_suffixes,
    stored_path,
)
from ..data.metadata_folder import described_images, find_metadata
from ..data.sources import IMAGE_COLUMNS, image_columns, load_any


# Names for the image of a row in a list.
LIST_COLUMNS = ("file_name", "image_file_name", "image", "path", "url")
CONTAINERS = (".parquet", ".tar")
LISTS = (".txt", ".jsonl")
SIDECAR_BYTES = 65536
SPLIT = "\0"  # between a dataset and its split: what no path can hold
# What the paths of rows look like that are no files: `FILE#ROW`, `DATASET:SPLIT#ROW` and `TAR/MEMBER`.
IN_PARQUET = re.compile(r"(.+\.parquet)#\d+", re.DOTALL | re.IGNORECASE)
IN_DATASET = re.compile(r"(.+):[^:#]+#\d+", re.DOTALL)
END_OF_TAR = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class Row(NamedTuple):
    """An image: its id, its address for people, where it is read from, and its metadata as JSON, "" for none.

    `offset` is a row, or the first byte of a member of a tar, -1 for a file. `bytes` and `modified` (nanoseconds; 0
    where unknown) are those of the file or member.
    """

    id: str
    path: str
    place: str
    offset: int
    bytes: int
    modified: int
    metadata: str = ""


def list_rows(sources: Sequence[str], exclude: Sequence[Path], left_out: LeftOut) -> Iterator[Row]:
    """Yield the images of sources in order, each id once; `exclude` are folders that are not entered.

    Raises:
        ValueError: for a source that does not exist, or of which the content is not what its name says.
    """
    # Of ids and of places: those of an address are one, which halves what a long list of them takes.
    seen, closed, places = set[int](), frozenset(map(os.path.realpath, exclude)), list[tuple[str, bool]]()
    for source in sources:
        local = (
            [str(source)]
            if os.path.exists(source) or is_address(source)
            else sorted(glob.glob(source, recursive=True))
        )
        places += [(place, is_address(place)) for place in local or [source]]
    folders = [
        place if os.path.isdir(place) else os.path.dirname(place) or "." for place, remote in places if not remote
    ]
    root = Path(os.path.commonpath(map(os.path.abspath, folders)) if folders else ".")
    for place, remote in places:
        for row in _remote(place) if remote else _local(place, root, closed, left_out):
            at, name = row.place if row.offset < 0 else f"{row.place}#{row.offset}", row.id
            image = _digest(at)
            key = image if at == name else _digest(name)
            if key in seen and image not in seen:
                name = next((one for one in (f"{_as_text(place)}:{name}", row.path) if _digest(one) not in seen), name)
                key = _digest(name)
            if image in seen or key in seen:
                left_out.add("named twice", Path(row.id))
                continue
            seen.add(image)
            seen.add(key)
            yield row if name == row.id else row._replace(id=name)


def _digest(text: str) -> int:
    """Return what is remembered of a name: of millions, names themselves would take several times the memory."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def holder_of(path: str) -> str:
    """Return the file, tar or dataset in which the image of a row's `path` is: the path itself where it is a file."""
    if os.path.isfile(path_of(path)):  # whatever its name looks like
        return path
    tars = (path[: match.end()] for match in END_OF_TAR.finditer(path))
    found = IN_PARQUET.fullmatch(path)
    # The first tar: members may be named like tars too.
    if not found and (tar := next((tar for tar in tars if is_address(tar) or os.path.isfile(path_of(tar))), None)):
        return tar
    found = found or (None if is_address(path) else IN_DATASET.fullmatch(path))
    return found[1] if found else path


def rows_at(paths: Sequence[str]) -> dict[str, Row]:
    """Return for each `path` of a row where its image is read from: an index keeps no more of it."""
    rows, members = {path: Row(path, path, path, -1, 0, 0) for path in paths}, dict[str, set[str]]()
    for path in paths:
        holder = holder_of(path)
        split, _, row = path.removeprefix(holder).rpartition("#")
        if path.startswith(f"{holder}/"):
            members.setdefault(holder, set()).add(path)
        elif holder != path:
            place = f"{holder}{SPLIT}{split.removeprefix(':')}" if split else holder
            rows[path] = Row(path, path, place, int(row), 0, 0)
    for tar, wanted in members.items():
        # What cannot be listed any more cannot be read either; file systems raise many kinds.
        with suppress(Exception):
            for found in list_rows([tar if is_address(tar) else os.fspath(path_of(tar))], [], LeftOut()):
                path = tar + found.path.removeprefix(found.place)
                if path in wanted:
                    rows[path] = found
                    wanted.remove(path)
                if not wanted:
                    break
    return rows


def is_address(source: str) -> bool:
    """Return whether a source is an address of fsspec or the web and no path."""
    return "://" in source and not source.startswith("file://") and not os.path.exists(source)


def _local(place: str, root: Path, closed: frozenset[str], left_out: LeftOut) -> Iterator[Row]:
    path = Path(os.path.abspath(place))
    if not path.exists() or (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _dataset(str(path) if path.exists() else place)
    elif path.is_dir():
        metadata = find_metadata(files_below(path, LeftOut()))
        described = {image: row for file in metadata for image, row in described_images(file)}
        for file in files_below(path, left_out, closed):
            is_container = file.suffix.lower() in CONTAINERS and file.name.casefold() not in METADATA
            if is_container or is_image(file, left_out):
                yield from _file(file, _id(file, root), described.get(file))
    elif path.suffix.lower() in LISTS:
        yield from _list(str(path), str(path.parent))
    else:
        yield from _file(path, _id(path, root))


def _id(file: Path, root: Path) -> str:
    return _as_text(Path(os.path.relpath(file, root)).as_posix())


def _as_text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no text
        return f"file:{quote_from_bytes(os.fsencode(name))}"
    return name


def _file(file: Path, name: str, metadata: Mapping[str, Any] | None = None) -> Iterator[Row]:
    about, place = file.stat(), stored_path(file)
    yield from _content(place, name, about.st_size, about.st_mtime_ns, metadata)


def _remote(address: str) -> Iterator[Row]:
    if address.startswith(("http://", "https://")) and Path(address).suffix.lower() not in (*CONTAINERS, *LISTS):
        yield Row(address, address, address, -1, 0, 0)
        return
    try:
        system, path = fsspec.core.url_to_fs(address)
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
        else:
            found = system.find(path, detail=True) if system.isdir(path) else {path: system.info(path)}
    except Exception as error:  # each file system has its own
        raise ValueError(
            f"Expected images at {address!r}, got {type(error).__name__}: {error}. Correct it."
        ) from error
    for name in sorted(found):
        place, suffix = system.unstrip_protocol(name), Path(name).suffix.lower()
        if suffix in LISTS:
            yield from _list(place, os.path.dirname(place))
        elif suffix in readable_suffixes() or suffix in CONTAINERS:
            yield from _content(place, place, found[name].get("size") or 0, 0)


def _content(
    place: str, name: str, size: int, modified: int, metadata: Mapping[str, Any] | None = None
) -> Iterator[Row]:
    suffix = Path(place).suffix.lower()
    if suffix in CONTAINERS:
        listing = _parquet if suffix == ".parquet" else _tar
        for row in listing(place, name):
            yield row._replace(modified=modified)
    else:
        yield Row(name, place, place, -1, size, modified, _as_json(metadata))


def _as_json(metadata: Mapping[str, Any] | None) -> str:
    return json.dumps(metadata, ensure_ascii=False, default=str, sort_keys=True) if metadata else ""


def open_place(place: str) -> Any:
    """Open a file or an address for reading bytes."""
    return fsspec.open(place, "rb").open() if is_address(place) else path_of(place).open("rb")


def _list(place: str, folder: str) -> Iterator[Row]:
    with open_place(place) as lines:
        for number, raw in enumerate(lines, 1):
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").strip("\r\n")
            if not text.strip():
                continue
            metadata: dict[str, Any] = {}
            if place.lower().endswith(".jsonl"):
                where = f"line {number} of {displayed(place)}"
                metadata = _json_object(text, where)
                text = next((metadata.pop(name) for name in LIST_COLUMNS if name in metadata), "")
                if not isinstance(text, str) or not text:
                    raise ValueError(f"Expected one of {LIST_COLUMNS} in {where}, got {text!r}. Name the image.")
            file = text if is_address(text) else os.path.join(folder, path_of(text))
            if is_address(file):
                yield Row(_as_text(text), file, file, -1, 0, 0, _as_json(metadata))
            elif not os.path.exists(file):
                yield Row(_as_text(text), stored_path(file), stored_path(file), -1, 0, 0, _as_json(metadata))
            else:
                yield from _file(Path(file), _as_text(text), metadata)


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Expected JSON in {where}, got {error}. Repair it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected an object in {where}, got {text[:50]!r}. Repair it.")
    return found


def _tar(place: str, name: str) -> Iterator[Row]:
    key, images, metadata = "", list[tarfile.TarInfo](), dict[str, Any]()

    def finished() -> Iterator[Row]:
        for one in images:
            at = _as_text(one.name)
            yield Row(f"{name}/{at}", f"{place}/{at}", place, one.offset_data, one.size, 0, _as_json(metadata))

    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                base = os.path.join(os.path.dirname(member.name), os.path.basename(member.name).partition(".")[0])
                if base != key:
                    yield from finished()
                    key, images, metadata = base, [], {}
                if not member.isfile() or os.path.basename(member.name).startswith("."):
                    continue
                if Path(member.name).suffix.lower() in readable_suffixes():
                    images.append(member)
                elif member.size <= SIDECAR_BYTES:
                    content = members.extractfile(member)
                    text = content.read().decode("utf-8", "replace") if content else ""
                    suffix = os.path.basename(member.name).partition(".")[2]
                    metadata |= _json_object(text, member.name) if suffix == "json" else {suffix: text}
            yield from finished()
    except tarfile.TarError as error:
        raise ValueError(
            f"Expected a tar without compression, got {displayed(place)!r} ({error}). Unpack or repair it."
        ) from error


def _parquet(place: str, name: str) -> Iterator[Row]:
    with open_place(place) as content:
        try:
            file = pq.ParquetFile(content)
        except pa.ArrowException as error:
            raise ValueError(f"Expected a Parquet file, got {displayed(place)!r} ({error}). Repair it.") from error
        column, number = image_column_of(file.schema_arrow, place), 0
        others = [one.name for one in file.schema_arrow if one.name != column]
        if not others:
            for number in range(file.metadata.num_rows):
                yield Row(f"{name}#{number}", f"{place}#{number}", place, number, 0, 0)
            return
        for batch in file.iter_batches(1024, columns=others):
            for metadata in batch.to_pylist():
                yield Row(f"{name}#{number}", f"{place}#{number}", place, number, 0, 0, _as_json(metadata))
                number += 1


def image_column_of(schema: pa.Schema, place: str) -> str:
    """Return the column of images: of a usual name, or else the only one of bytes.

    Raises:
        ValueError: where there is none, or more than one.
    """
    binary = [one.name for one in schema if _holds_bytes(one.type)]
    named = [name for name in binary if name in IMAGE_COLUMNS]
    if len(named or binary) != 1:
        raise ValueError(
            f"Expected one column of images as bytes in {displayed(place)!r}, got {named or binary} among "
            f"{schema.names}. Store them so in {IMAGE_COLUMNS[0]!r}, or list paths in a .txt or .jsonl."
        )
    return (named or binary)[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(number).name for number in range(kind.num_fields)}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _dataset(name: str) -> Iterator[Row]:
    for split, rows in _splits(name).items():
        others = [column for column in rows.column_names if column != "image"]
        metadata = rows.select_columns(others) if others else [{}] * len(rows)
        place, shown = f"{name}{SPLIT}{split}", f"{_as_text(name)}:{split}"
        for number, one in enumerate(metadata):
            yield Row(f"{split}#{number}", f"{shown}#{number}", place, number, 0, 0, _as_json(one))


@lru_cache(maxsize=2)
def _splits(name: str) -> Any:
    splits = load_any(name)
    for split, rows in splits.items():
        column = next(iter(image_columns(rows)), None)
        if column is None:
            raise ValueError(f"Expected images in the split {split!r} of {name!r}, got {rows.column_names}.")
        rows = rows.rename_column(column, "image") if column != "image" else rows
        splits[split] = rows.cast_column("image", Image(decode=False))
    return splits


class Reader:
    """Reads what `read_image` opens of one row after the other: a path, a URL or bytes."""

    def __init__(self) -> None:
        self._parquet: Callable[[int], Any] | None = None
        self._place = ""

    def read(self, row: Row) -> Any:
        """Return the source of an image; errors are those of its file system."""
        if SPLIT in row.place:
            name, _, split = row.place.partition(SPLIT)
            return _image_of(_splits(name)[split][row.offset]["image"], ".")
        if row.offset < 0:
            if row.place.startswith(("http://", "https://")) or not is_address(row.place):
                return row.place if is_address(row.place) else path_of(row.place)
            with open_place(row.place) as file:
                return file.read()
        if Path(row.place).suffix.lower() != ".parquet":
            with open_place(row.place) as file:
                file.seek(row.offset)
                return file.read(row.bytes)
        if self._place != row.place or self._parquet is None:
            self._place, self._parquet = row.place, _parquet_rows(row.place)
        return _image_of(self._parquet(row.offset), os.path.dirname(row.place))


def _image_of(value: Any, folder: str) -> Any:
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else os.path.join(folder, value["path"])
    if value is None:
        raise ValueError("no image in its row")
    return value


def _parquet_rows(place: str) -> Callable[[int], Any]:
    """Return a function that gives the image of a row; rows asked for in order are read once."""
    file = pq.ParquetFile(open_place(place))
    column, groups = image_column_of(file.schema_arrow, place), file.metadata.num_row_groups
    state: dict[str, Any] = {"next": -1, "values": iter(())}

    def row_group(row: int) -> tuple[int, int]:
        first = 0
        for number in range(groups):
            count = file.metadata.row_group(number).num_rows
            if row < first + count:
                return number, first
            first += count
        raise ValueError(f"row {row} is no longer in it")

    def values(group: int) -> Iterator[Any]:
        for batch in file.iter_batches(16, row_groups=list(range(group, groups)), columns=[column]):
            yield from batch.column(0).to_pylist()

    def read(row: int) -> Any:
        group, first = row_group(row)
        if not first <= state["next"] <= row:
            state.update(next=first, values=values(group))
        for value in state["values"]:
            state["next"] += 1
            if state["next"] == row + 1:
                return value
        raise ValueError(f"row {row} is no longer in it")

    return read


__all__ = ["Reader", "Row", "holder_of", "image_column_of", "is_address", "list_rows", "open_place", "rows_at"]
