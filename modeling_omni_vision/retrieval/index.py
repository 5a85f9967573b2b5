"""An index of images on disk that late interaction searches: LanceDB keeps and finds, sentence-transformers scores.

Unusual here:
- Every score is the exact MaxSim of the stored 16-bit vectors. Up to `EXACT_LIMIT` images all are scored; beyond, an
  IvfRq index proposes, LanceDB refines, and the best `CANDIDATES` of `REFINE` times as many are scored.
- An index knows the weights that made it and refuses others: vectors of two models cannot be compared.
- What `add` returned from is on disk, whatever kills the process next. A lock file lets one process write at a time,
  so that two which add the same image keep one row; readers never wait.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import torch
from filelock import FileLock
from lancedb.expr import Expr, col
from lancedb.index import IvfRq
from sentence_transformers.util import maxsim

from ..embedding.encoder import ImageTextEncoder, image_files
from ..records.metrics_file import write_json
from .table import FIELDS, FORMAT, Block, as_block, as_table, explained_filter, new_settings, schema_of


# Up to here scoring all images takes no longer than asking the approximate index, whose time grows with the vectors
# of the query (some 6 ms each, as much as 150 images take), as that of scoring does with the images.
EXACT_LIMIT, EXACT_PER_VECTOR = 3000, 150
# Rows that the approximate index hands over; each was chosen among REFINE times as many by its exact distance.
CANDIDATES, REFINE = 50, 20
COMMIT = 256  # images a commit; killed, a run loses the work on no more than these
SAMPLE_RATE = 64  # vectors a partition that training the approximate index looks at
KEEP_VERSIONS = timedelta(minutes=10)
TABLE, SETTINGS, LOCK = "images", "index.json", "write.lock"


@dataclass(frozen=True)
class Hit:
    """An image found: its MaxSim with the query, and everything that the index holds about it but vectors."""

    score: float
    id: str
    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class AddReport:
    """What `add_images` did: numbers of images, and the files that could not be read with the reason of each."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return asdict(self) | {"failed": [{"path": path, "reason": reason} for path, reason in self.failed]}


class ImageIndex:
    """
    Images that can be added, changed, deleted, filtered and found.

    Args:
        folder: Where the index is, or is to be made.
        encoder: The checkpoint that makes the vectors. An index that exists can be read, filtered and deleted from
            without one.
        pool_factor: Merge like vectors of an image to about one of this many; by default what the index has, 3 for a
            new one. 1 merges none.
        columns: Metadata beside what files tell by themselves (`folder`, `name`, `bytes`, `modified`), for a new
            index: names and types out of "str", "int", "float" and "bool".
        make: Make the index where there is none.

    Raises:
        ValueError: if there is no index and none can be made, or the index was made by other weights or settings.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: ImageTextEncoder | None = None,
        pool_factor: float | None = None,
        columns: Mapping[str, str] | None = None,
        make: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.encoder = encoder
        self._kept: tuple[Any, list[Block]] | None = None
        if not (self.folder / SETTINGS).is_file():
            self._make(encoder if make else None, pool_factor, columns)
        self.settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self._check(pool_factor, columns)
        # A reader sees what any process has committed at the moment of its query.
        database = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        self.table = database.create_table(TABLE, schema=schema_of(self.settings), exist_ok=True)

    def _writing(self) -> AbstractContextManager[Any]:
        """Wait until no other process writes; the system frees the lock of a process that is killed."""
        return FileLock(self.folder / LOCK).acquire(poll_interval=0.01)

    def _make(
        self, encoder: ImageTextEncoder | None, pool_factor: float | None, columns: Mapping[str, str] | None
    ) -> None:
        """Write the settings of a new index, unless another process is a moment earlier."""
        if encoder is None:
            raise ValueError(f"Expected an index in {str(self.folder)!r}, found none. Build one: scripts/index.py.")
        settings = new_settings(encoder, pool_factor, columns)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            others = {file.name for file in self.folder.iterdir()} - {SETTINGS, LOCK, f"{TABLE}.lance"}
        except OSError as error:
            raise ValueError(f"Expected a folder for the index, got {str(self.folder)!r}: {error}.") from error
        if any(not name.startswith(".") for name in others):
            raise ValueError(
                f"Expected an index or an empty folder, got {str(self.folder)!r} with other files. Name another."
            )
        with self._writing():
            if not (self.folder / SETTINGS).is_file():
                write_json(self.folder / SETTINGS, settings)

    def _check(self, pool_factor: float | None, columns: Mapping[str, str] | None) -> None:
        """Refuse a checkpoint or settings other than those that made the index."""
        asked: dict[str, Any] = {"format": FORMAT, "pool_factor": pool_factor}
        asked["columns"] = None if columns is None else dict(columns)
        if self.encoder is not None:
            asked |= {"embedding_dim": self.encoder.embedding_dim, "weights": self.encoder.fingerprint}
        for name, got in asked.items():
            expected = self.settings.get(name)
            if got is None or got == expected:
                continue
            if name == "weights":
                expected = f"{expected[:12]}... of {self.settings['checkpoint']!r}"
                got = f"{got[:12]}... of {getattr(self.encoder, 'name', None)!r}"
            raise ValueError(
                f"The index in {str(self.folder)!r} expected {name} {expected}, got {got}. Vectors of two kinds "
                "cannot be compared: use what made the index, or build another one in another folder."
            )

    @property
    def embedding_dim(self) -> int:
        """Width of every vector."""
        return self.settings["embedding_dim"]

    @property
    def pool_factor(self) -> float:
        """How many vectors of an image became one, about."""
        return self.settings["pool_factor"]

    @property
    def columns(self) -> list[str]:
        """Names that filters and metadata can use."""
        return [name for name in self.table.schema.names if name != "vectors"]

    def __len__(self) -> int:
        return self.table.count_rows()

    def num_bytes(self) -> int:
        """Bytes that all files of the index take, old versions included."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    # --- writing ---

    def add(self, rows: Sequence[Mapping[str, Any]], vectors: Sequence[np.ndarray]) -> None:
        """
        Put images in; one whose id is there replaces it. When this returns they are on disk.

        Args:
            rows: `id`, and what else is known of the columns, for each image.
            vectors: Its vectors (n, embedding_dim), n at least 1, none of them zero.

        Raises:
            ValueError: if rows and vectors do not fit each other or the index. Nothing is put in then.
        """
        batch = as_table(rows, vectors, self.table.schema)
        if rows:
            with self._writing():
                (self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch))

    def add_images(
        self,
        places: Sequence[str | Path],
        metadata: Callable[[Path], Mapping[str, Any]] | None = None,
        remove_missing: bool = False,
        report: Callable[[str], None] = lambda line: None,
    ) -> AddReport:
        """
        Put in the files named and all below the folders named, `COMMIT` at a time.

        The id of an image is its path. A file whose size and date are those in the index is left alone, so a run that
        was stopped goes on where it was; one that cannot be read is left out, and its older row stays.

        Args:
            places: Files and folders.
            metadata: Gives what else to write into the columns of a file.
            remove_missing: Also delete the rows whose file no longer exists.
            report: Called after each commit with what is on disk now.
        """
        done, known = AddReport(), {row["id"]: row for row in self.rows(columns=("id", "bytes", "modified"))}
        todo = []
        for path, folder in image_files(places):
            about = path.stat()
            row: dict[str, Any] = {"id": str(path), "path": str(path), "folder": folder, "name": path.name}
            row |= {"bytes": about.st_size, "modified": about.st_mtime_ns}
            old = known.get(str(path))
            if old and (old["bytes"], old["modified"]) == (about.st_size, about.st_mtime_ns):
                done.unchanged += 1
            else:
                todo.append(row | dict(metadata(path) if metadata else {}))
        for start in range(0, len(todo), COMMIT):
            chunk = {Path(row["path"]): row for row in todo[start : start + COMMIT]}
            read, failed = self.needs_encoder().files(list(chunk), self.pool_factor)
            self.add([chunk[file] for file, _ in read], [vectors for _, vectors in read])
            changed = sum(str(file) in known for file, _ in read)
            done.updated, done.added = done.updated + changed, done.added + len(read) - changed
            done.failed += [(str(file), why) for file, why in failed]
            report(f"{done.added + done.updated} of {len(todo)} on disk, {len(done.failed)} cannot be read")
        if remove_missing:
            done.removed = self.delete(one for one in known if not Path(one).exists())
        return done

    def delete(self, ids: Iterable[str] = (), where: str | None = None) -> int:
        """Delete images by id, or all that a filter finds; returns how many."""
        names = list(ids)
        with self._writing():
            before = len(self)
            for start in range(0, len(names), 1000):
                # An expression, not SQL text: an id may hold any character.
                self.table.delete(col("id").isin(names[start : start + 1000]))
            if where is not None:
                with explained_filter(where, self.columns) as condition:
                    self.table.delete(str(condition))
            return before - len(self)

    def optimize(self, keep_versions: timedelta = KEEP_VERSIONS, approximate: bool | None = None) -> None:
        """
        Join small files, let the approximate index take in what was added, and make or remake it where that is due.

        Args:
            keep_versions: Versions older than this are removed; a query that still reads one fails.
            approximate: Make the approximate index anew, or do not; by default where it is due.
        """
        with self._writing():
            rows, made = len(self), self.table.list_indices()
            indexed = self.settings.get("rows_at_indexing", 0) if made else 0
            if approximate is None:
                approximate = rows > EXACT_LIMIT and not indexed <= rows <= 4 * indexed
            # Where nothing is new LanceDB would rearrange the partitions all the same, for long and not for the
            # better; for the same reason the index is made after, not before.
            if not made or any(one.num_unindexed_rows for one in made):
                self.table.optimize(cleanup_older_than=keep_versions)
            # The number of partitions fits the number of vectors when it is made, and no longer long after.
            if approximate and rows:
                self._make_approximate()

    def _make_approximate(self) -> None:
        rows, sample = len(self), self.table.search().select(["vectors"]).limit(100).to_arrow()
        vectors = rows * len(sample["vectors"].combine_chunks().flatten()) / len(sample)
        self.table.create_index(
            "vectors",
            config=IvfRq(distance_type="cosine", num_partitions=round(vectors**0.5), sample_rate=SAMPLE_RATE),
            replace=True,
            wait_timeout=timedelta(hours=24),
        )
        self.settings["rows_at_indexing"] = rows
        write_json(self.folder / SETTINGS, self.settings)

    # --- reading ---

    def rows(
        self, where: str | None = None, columns: Sequence[str] = FIELDS, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """What the index holds about images, all or those that a filter finds."""
        with explained_filter(where, self.columns) as condition:
            return self._scan(condition, columns).limit(limit).to_list()

    def vectors(self, ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """Vectors (n, embedding_dim) that the index holds of some images, by id."""
        blocks = map(as_block, self._scan(col("id").isin(list(ids)), ["id", "vectors"]).limit(None).to_batches())
        return {
            name: embeds[number, mask[number]] for names, embeds, mask in blocks for number, name in enumerate(names)
        }

    def _scan(self, where: str | Expr | None, columns: Sequence[str]) -> Any:
        query = self.table.search().select(list(columns))
        return query if where is None else query.where(where)

    def search(
        self,
        query: torch.Tensor,
        limit: int = 10,
        where: str | None = None,
        exact: bool | None = None,
        candidates: int = CANDIDATES,
        refine: int = REFINE,
    ) -> list[Hit]:
        """
        Find the images with the highest MaxSim.

        Args:
            query: Vectors (n, embedding_dim) of length 1.
            limit: How many images.
            where: SQL condition on the columns, such as `folder = 'cats' AND bytes > 1000`.
            exact: Score every image; by default where that takes no longer.
            candidates: How many the approximate index hands over; at least five times `limit`.
            refine: It chooses each among this many by exact distance. More of both finds more, and takes longer.

        Raises:
            ValueError: for a query of another width, a limit below 1, or a filter that is none.
        """
        query = torch.as_tensor(query).detach().float().cpu()
        if query.ndim != 2 or query.shape[1] != self.embedding_dim or not len(query) or limit < 1:
            raise ValueError(
                f"Expected a query (n, {self.embedding_dim}) and a limit of at least 1, got {tuple(query.shape)} and "
                f"{limit!r}. Encode it with the checkpoint of the index."
            )
        with explained_filter(where, self.columns) as condition:
            if exact is None:
                limit_of_all = max(EXACT_LIMIT, EXACT_PER_VECTOR * len(query))
                exact = self.table.count_rows(condition) <= limit_of_all or not self.table.list_indices()
            if exact:
                found = self._scored(query, self._blocks(condition))
            else:
                asked: Any = self.table.search(query.numpy(), vector_column_name="vectors")
                asked = (
                    asked.distance_type("cosine")
                    .limit(max(candidates, 5 * limit))
                    .refine_factor(refine)
                    .select(["id", "vectors", "_distance"])
                )
                near = (asked if condition is None else asked.where(condition)).to_arrow()
                found = self._scored(query, map(as_block, near.drop_columns("_distance").to_batches()))
        # Equal scores come in the order of their ids, whatever order the rows are stored in.
        best = heapq.nsmallest(limit, found, key=lambda one: (-one[0], one[1]))
        return self._hits(best)

    def _hits(self, best: Sequence[tuple[float, str]]) -> list[Hit]:
        chosen = [name for _, name in best]
        about = {row["id"]: row for row in self._scan(col("id").isin(chosen), self.columns).to_list()} if best else {}
        return [
            Hit(
                score,
                name,
                about[name].pop("path") or name,
                {key: about[name][key] for key in about[name] if key != "id"},
            )
            for score, name in best
            if name in about  # deleted by another process meanwhile
        ]

    def search_text(self, text: str, **options: Any) -> list[Hit]:
        """Find images by words; options as for `search`."""
        return self.search(self.needs_encoder().text(text).embeds, **options)

    def search_image(self, image: Any, **options: Any) -> list[Hit]:
        """Find images like one (path or PIL image), whose vectors are merged as those of the index are."""
        return self.search(self.needs_encoder().images([image], self.pool_factor)[0], **options)

    def _blocks(self, where: str | None) -> Iterator[Block]:
        """Read ids and vectors of all images, or those a filter finds; what is small stays for the next query."""
        wanted = (self.table.version, where)
        if self._kept is not None and self._kept[0] == wanted:
            return iter(self._kept[1])
        blocks = map(as_block, self._scan(where, ["id", "vectors"]).limit(None).to_batches())
        if self.table.count_rows(where) > EXACT_LIMIT:
            return blocks
        self._kept = (wanted, list(blocks))
        return iter(self._kept[1])

    def _scored(self, query: torch.Tensor, blocks: Iterator[Block]) -> Iterator[tuple[float, str]]:
        for ids, embeds, mask in blocks:
            yield from zip(maxsim([query], embeds, b_mask=mask)[0].tolist(), ids, strict=True)

    def needs_encoder(self) -> ImageTextEncoder:
        """Return the checkpoint, or say that it is wanted."""
        if self.encoder is None:
            raise ValueError(
                f"Expected the checkpoint that made the index, {self.settings['checkpoint']!r}, got none. "
                "Pass `encoder`."
            )
        return self.encoder


__all__ = ["CANDIDATES", "EXACT_LIMIT", "REFINE", "AddReport", "Hit", "ImageIndex"]
