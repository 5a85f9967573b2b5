"""The folder that embedding writes: Parquet shards, and the manifest that says which of them are whole.

    manifest/engine.json     what computes the vectors; chosen by the first process
    manifest/settings.json   what was asked; written once, after the plan
    manifest/plan.parquet    every image in order; row group n is shard n
    manifest/00003.json      shard 3 is on disk, with the images that failed
    vectors-00003-of-00012.parquet

A file appears under its name after it is whole and synced, the shard before its entry in the manifest. Processes, on
other machines too, hold the lock of the shard that they write, so that each is written by one of them.
"""

import errno
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..records.differences import differences
from ..records.metrics_file import finite
from .sources import Row


logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST, SETTINGS, PLAN, FAILURES = "manifest", "settings.json", "plan.parquet", "failures.jsonl"
ENGINE = "engine.json"
OWN_COLUMNS = ("id", "path", "width", "height", "vector", "vectors")
KINDS = {bool: "bool", float: "double", str: "string"}
EXACT_IN_DOUBLE, INT64 = range(-(2**53), 2**53 + 1), range(-(2**63), 2**63)
LONE_SURROGATES = re.compile("[\ud800-\udfff]")
PLAN_SCHEMA = pa.schema(
    [(name, pa.int64() if kind is int else pa.string()) for name, kind in Row.__annotations__.items()]
)
NAMED = 5  # images that a message names
# What another machine may have without making other vectors of it.
TOLD_ONLY = ("versions", "cpu")


class Manifest:
    """What is to be embedded into a folder, and which shards of it are done.

    Args:
        folder: The output.
        settings: What makes the vectors, as JSON.
        rows: The images, read once.
        shard_rows: Images of a shard.

    Raises:
        ValueError: if the folder holds vectors of another model, other settings or other images.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rows: Iterable[Row], shard_rows: int) -> None:
        self.folder, self.manifest = folder, folder / MANIFEST
        self.manifest.mkdir(parents=True, exist_ok=True)
        with FileLock(self.manifest / "start.lock"):
            new = self.manifest / f".{PLAN}.{os.getpid()}.{secrets.token_hex(4)}.partial"
            try:
                listed = {**settings, **_write_plan(new, rows, shard_rows)}
                if (self.manifest / SETTINGS).is_file():
                    self.settings = read_json(self.manifest / SETTINGS)
                    _refuse_other(self.settings, listed, self.manifest / PLAN, new)
                elif not listed["images"]:  # a wrong path, which the next run may have corrected
                    self.images = self.shards = 0
                    return
                else:
                    new.replace(self.manifest / PLAN)
                    self.settings = {"schema_version": SCHEMA_VERSION, **listed}
                    write_whole(self.manifest / SETTINGS, _as_json(self.settings))
            finally:
                new.unlink(missing_ok=True)
        self._open()

    @classmethod
    def begun(cls, folder: Path) -> "Manifest":
        """Return the manifest of a run that another process has begun, without listing its images again."""
        manifest = cls.__new__(cls)
        manifest.folder, manifest.manifest = folder, folder / MANIFEST
        manifest.settings = read_json(manifest.manifest / SETTINGS)
        manifest._open()
        return manifest

    def _open(self) -> None:
        self.plan = pq.ParquetFile(self.manifest / PLAN)
        self.images = int(self.settings["images"])
        self.shards = self.plan.metadata.num_row_groups if self.images else 0

    def rows(self, number: int) -> list[Row]:
        """Return the images of a shard."""
        return [Row(**row) for row in self.plan.read_row_group(number).to_pylist()]

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"vectors-{number:05d}-of-{self.shards:05d}.parquet"

    def entry(self, number: int) -> dict[str, Any] | None:
        """Return what the manifest says about a shard that is on disk, None where it is not."""
        try:
            entry = read_json(self.manifest / f"{number:05d}.json")
            return entry if self.shard(number).stat().st_size == entry["bytes"] else None
        except FileNotFoundError:
            return None

    @contextmanager
    def claim(self, number: int, wait: bool) -> Iterator[bool]:
        """Hold the lock of a shard; yield whether it is ours to write: not done, and no other process at it."""
        lock = FileLock(self.manifest / f"{number:05d}.lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            for partial in self.folder.glob(f".{self.shard(number).name}.*.partial"):  # of a process that was killed
                partial.unlink(missing_ok=True)
            yield self.entry(number) is None
        finally:
            lock.release()

    def write(
        self, number: int, rows: Sequence[Row], results: Sequence["np.ndarray | str"], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """Write a shard: the vector of each row, or the reason why it has none; then its entry in the manifest."""
        read = [position for position, result in enumerate(results) if not isinstance(result, str)]
        table = self._table([rows[one] for one in read], [results[one] for one in read], [sizes[one] for one in read])
        path = self.shard(number)
        with _partial(path) as partial:
            pq.write_table(table, partial, compression="zstd", use_dictionary=False, write_statistics=False)
        failed = [
            {"id": row.id, "path": row.path, "reason": result}
            for row, result in zip(rows, results, strict=True)
            if isinstance(result, str)
        ]
        entry = {"rows": len(read), "bytes": path.stat().st_size, "failures": failed}
        write_whole(self.manifest / f"{number:05d}.json", _as_json(entry))
        return entry

    def _table(self, rows: Sequence[Row], vectors: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> pa.Table:
        shape, columns = self.settings["vector"], dict[str, pa.Array]()
        columns["id"] = pa.array([row.id for row in rows], pa.string())
        columns["path"] = pa.array([row.path for row in rows], pa.string())
        for position, name in enumerate(("width", "height")):
            columns[name] = pa.array([size[position] for size in sizes], pa.int32())
        flat = np.concatenate([vector.reshape(-1) for vector in vectors]) if vectors else np.zeros(0, np.float16)
        values = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), shape[-1])
        if len(shape) == 2:  # as many vectors as an image has patches
            counts = np.cumsum([0, *(len(vector) for vector in vectors)], dtype=np.int32)
            columns["vectors"] = pa.ListArray.from_arrays(counts, values)
        else:
            columns["vector"] = values
        metadata = [json.loads(row.metadata) if row.metadata else {} for row in rows]
        names = free_names(self.settings["columns"], OWN_COLUMNS)
        for name, kind in self.settings["columns"].items():
            column = [_as_kind(one.get(name), kind) for one in metadata]
            columns[names[name]] = pa.array(column, getattr(pa, KIND_TYPES[kind])())
        told = {key: self.settings[key] for key in ("schema_version", "weights_digest", "pool", "normalize")}
        return pa.table(columns).replace_schema_metadata({"omni_vision": json.dumps(told)})

    def finish(self, summary: Mapping[str, Any], npy: bool) -> dict[str, Any] | None:
        """Write failures.jsonl, embed.json and perhaps vectors.npy; None while shards are missing."""
        entries = [self.entry(number) for number in range(self.shards)]
        if None in entries:
            return None
        done = [entry for entry in entries if entry]
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for entry in done for one in entry["failures"]]
        rows = sum(entry["rows"] for entry in done)
        record = {**self.settings, "rows": rows, "failed": len(lines), "shards": self.shards, **summary}
        with FileLock(self.manifest / "start.lock"):
            write_whole(self.folder / FAILURES, "".join(lines))
            if npy:
                self._write_npy(rows)
            write_whole(self.folder / "embed.json", _as_json(record))
        return record

    def _write_npy(self, rows: int) -> None:
        shape, position = self.settings["vector"], 0
        with _partial(self.folder / "vectors.npy") as partial:
            array = np.lib.format.open_memmap(partial, "w+", np.float16, (rows, *shape))
            for number in range(self.shards):
                for batch in pq.ParquetFile(self.shard(number)).iter_batches(4096, columns=[vector_column(shape)]):
                    values = _flat(batch.column(0)).reshape(-1, *shape)
                    array[position : position + len(values)] = values
                    position += len(values)
            array.flush()
            del array


KIND_TYPES = {"bool": "bool_", "int64": "int64", "double": "float64", "string": "string"}


def vector_column(shape: Sequence[int]) -> str:
    """Return the name of the column that holds one vector of an image, or its many."""
    return "vector" if len(shape) == 1 else "vectors"


def free_names(names: Iterable[str], reserved: Container[str], wished: Callable[[str], str] = str) -> dict[str, str]:
    """Return the name of a column for each column of a source, so that none is reserved and no two are equal.

    Args:
        names: Those of the source.
        reserved: Names that no column may have: `metadata_` comes before these, as often as it takes.
        wished: Makes a name that can be stored; names that it leaves as they are have precedence.
    """
    names = list(names)
    found = {name: name for name in names if name not in reserved and wished(name) == name}
    taken = {*found}
    for name in names:
        if name not in found:
            free = wished(name)
            while free in reserved or free in taken:
                free = f"metadata_{free}"
            found[name] = free
            taken.add(free)
    return {name: found[name] for name in names}


def _flat(column: Any) -> np.ndarray:
    while pa.types.is_nested(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False)


def read_vectors(folder: str | Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Read what `embed` wrote: id, path, width and height of each image, and the vectors (rows, dimension) in float16.

    Raises:
        ValueError: if the folder is not one of a finished run, or holds many vectors for each image.
    """
    folder = Path(folder)
    try:
        record = read_json(folder / "embed.json")
    except FileNotFoundError as error:
        raise ValueError(
            f"Expected the output of a finished `omni-vision embed`, got {str(folder)!r} without embed.json. Run it "
            "with this output, again if it was stopped."
        ) from error
    if len(record["vector"]) != 1:
        raise ValueError(
            f"Expected one vector for each image in {str(folder)!r}, got `pool` grid. Embed with another."
        )
    vectors, rows, position = np.empty((record["rows"], *record["vector"]), np.float16), list[dict[str, Any]](), 0
    for file in sorted(folder.glob("vectors-*-of-*.parquet")):
        table = pq.read_table(file, columns=["id", "path", "width", "height", "vector"])
        vectors[position : position + len(table)] = _flat(table["vector"].combine_chunks()).reshape(
            -1, *record["vector"]
        )
        rows += table.drop_columns("vector").to_pylist()
        position += len(table)
    return rows, vectors


def _write_plan(path: Path, rows: Iterable[Row], shard_rows: int) -> dict[str, Any]:
    """Write the images, a row group for each shard; return how many there are, and the types of their metadata."""
    kinds, block, images = dict[str, set[str]](), list[Row](), 0
    with pq.ParquetWriter(path, PLAN_SCHEMA, compression="zstd") as writer:

        def flush() -> None:
            columns = zip(*block, strict=True) if block else []
            table = pa.table([*map(list, columns)] or [[]] * len(PLAN_SCHEMA), schema=PLAN_SCHEMA)
            writer.write_table(table)
            block.clear()

        for row in rows:
            images += 1
            if LONE_SURROGATES.search(row.metadata):
                # UTF-8 has none: such a character becomes the six that JSON writes for it.
                metadata = LONE_SURROGATES.sub(lambda found: f"\\\\u{ord(found[0]):04x}", row.metadata)
                row = row._replace(metadata=metadata)
            block.append(row)
            for name, value in json.loads(row.metadata).items() if row.metadata else ():
                if value is not None:
                    kinds.setdefault(name, set()).add(_kind(value))
            if len(block) == shard_rows:
                flush()
        if block:
            flush()
    _sync(path)
    columns = {name: _common_kind(found) for name, found in sorted(kinds.items())}
    return {"images": images, "shard_rows": shard_rows, "columns": columns}


def _kind(value: Any) -> str:
    if type(value) is not int:
        return KINDS.get(type(value), "string")
    return "int64" if value in EXACT_IN_DOUBLE else "long" if value in INT64 else "string"


def _common_kind(kinds: set[str]) -> str:
    """Return the kind of a column with values of these; `string` where another would change some or not hold them."""
    if kinds <= {"int64", "long"}:
        return "int64"
    return next(iter(kinds)) if len(kinds) == 1 else "double" if kinds == {"int64", "double"} else "string"


def _as_kind(value: Any, kind: str) -> Any:
    if value is None or (kind != "string" and not isinstance(value, float)):
        return value
    return value if isinstance(value, str) or kind == "double" else json.dumps(value, ensure_ascii=False)


def _refuse_other(old: Mapping[str, Any], new: Mapping[str, Any], old_plan: Path, new_plan: Path) -> None:
    """Raise a `ValueError` that says what is not as it was when the run began."""
    asked = [name for name in new if name not in (*TOLD_ONLY, "images", "columns")]
    if other := differences(_part_of(old, asked), _part_of(new, asked)):
        raise ValueError(
            f"{str(old_plan.parents[1])!r} was begun with {'; '.join(other)}. Vectors of both cannot be compared: "
            "name another output, or go on with what it was begun with."
        )
    if other := differences(_part_of(old, TOLD_ONLY), _part_of(new, TOLD_ONLY)):
        logger.warning("Begun with %s: vectors may differ in their last bits.", "; ".join(other))
    if _same_plan(old_plan, new_plan):
        return
    before, after = _identities(old_plan), _identities(new_plan)
    kinds = {
        "new": [one for one in after if one not in before],
        "gone": [one for one in before if one not in after],
        "changed": [one for one in after if one in before and before[one] != after[one]],
    }
    said = "; ".join(f"{len(ids)} {kind} ({', '.join(ids[:NAMED])})" for kind, ids in kinds.items() if ids)
    raise ValueError(
        f"The images are not those that {str(old_plan.parents[1])!r} was begun with: {said or 'another order'}. Name "
        "another output, or restore them."
    )


def _part_of(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: settings.get(name) for name in names}


def _same_plan(old: Path, new: Path) -> bool:
    first, second = pq.ParquetFile(old), pq.ParquetFile(new)
    groups = first.metadata.num_row_groups
    return groups == second.metadata.num_row_groups and all(
        first.read_row_group(number).equals(second.read_row_group(number)) for number in range(groups)
    )


def _identities(plan: Path) -> dict[str, tuple[Any, ...]]:
    rows = pq.read_table(plan).to_pylist()
    return {row["id"]: tuple(row.values()) for row in rows}


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside a file; what is written there is synced and takes the file's place.

    Raises:
        ValueError: where the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ValueError(
            f"{path.name} could not be written: {error.strerror}. What is finished stays: make room and start the "
            "same command again."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with _partial(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_json(value: Any) -> str:
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


__all__ = [
    "FAILURES",
    "MANIFEST",
    "OWN_COLUMNS",
    "SCHEMA_VERSION",
    "Manifest",
    "free_names",
    "read_vectors",
    "vector_column",
    "write_whole",
]
