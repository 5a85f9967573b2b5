"""An index of images on disk, searched by one vector an image or by late interaction: LanceDB stores.

Unusual here:
- Every score is a similarity, computed exactly from the stored 16-bit vectors: the cosine of single vectors, else
  MaxSim; never LanceDB's `_distance`. Up to a number of images all are scored; beyond, an approximate index (IvfRq)
  proposes, LanceDB refines, and the best `CANDIDATES` of several times as many are scored.
- New images are appended and only known ones merged, so that adding an image takes as long in a large index.
- An index knows the digest of the weights that made it and refuses others: vectors of two models cannot be compared.
- When `add` returns, its images are on disk, and a killed process does not lose them. A lock file lets one process
  write at a time, so that two which add the same image keep one row; readers never wait.
"""

import functools
import heapq
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from lancedb.expr import Expr, col
from lancedb.index import IvfRq

from ..data.image_files import displayed, find_images, path_of, stored_path
from ..data.image_folder import warn_of_left_out
from ..data.integrity import find_unreadable, refuse_unreadable
from ..embedding.sources import holder_of
from ..records.differences import differences
from ..records.metrics_file import write_json
from .embedded import EmbedFolder
from .table import (
    FIELDS,
    FORMAT,
    MULTI,
    SINGLE,
    Block,
    as_block,
    as_table,
    explained_filter,
    new_settings,
    schema_of,
    was_cleaned_up,
)


P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)

# Scoring all images takes no longer than the approximate index up to this many, or, of many vectors each, up to
# EXACT_PER_VECTOR for each vector of the query: the approximate index takes some 6 ms a vector, as long as 150 images.
EXACT_LIMIT, SINGLE_EXACT_LIMIT, EXACT_PER_VECTOR = 3000, 20_000, 150
# Images that the approximate index returns; LanceDB chooses them among REFINE times as many by exact distance.
CANDIDATES, REFINE, MOST_REFINE = 50, {MULTI: 20, SINGLE: 4}, 64
# As many partitions are searched, and refined, as find this share of the best ten, measured when the index is built.
RECALL, FEWEST_PROBES = 0.99, 20
COMMIT = 256  # images that are encoded for a commit: a killed run loses no more than these
SAMPLE_RATE = 64  # vectors for each partition that the approximate index is trained on
# The approximate index takes rows in when this part of the table has changed, or after so many commits. Until then
# LanceDB scores them one by one, which is exact; each time adds a segment, and many segments make queries slow.
FOLD, FOLD_COMMITS, MOST_SEGMENTS = 1 / 20, 100, 30
RETRIES = 3
TABLE, SETTINGS, LOCK = "images", "index.json", "write.lock"


@dataclass(frozen=True)
class Hit:
    """An image that a search found: its similarity to the query, and its columns in the index."""

    score: float
    id: str
    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class AddReport:
    """Result of `add_images`: numbers of images, and the files that could not be read with the reason of each."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the same for a JSON file."""
        return asdict(self) | {"failed": [{"path": path, "reason": reason} for path, reason in self.failed]}


def retried(read: Callable[P, T]) -> Callable[P, T]:
    """Read again, from the newest version, where another process has removed the one that was being read."""

    @functools.wraps(read)
    def again(*args: P.args, **options: P.kwargs) -> T:
        for _ in range(RETRIES):
            try:
                return read(*args, **options)
            except RuntimeError as error:
                if not was_cleaned_up(error):
                    raise
        return read(*args, **options)

    return again


class ImageIndex:
    """Images that can be added, changed, deleted, filtered and searched.

    Args:
        folder: Folder of the index, or of a new one.
        encoder: What makes the vectors: an `ImageTextEncoder`, or an `EmbedFolder` of vectors made by any encoder; not
            needed to read, filter or delete from an existing index.
        pool_factor: Merge similar vectors of an image until about one in this many is left; by default that of the
            index, 3 for a new one of many vectors an image. 1 merges none.
        columns: Metadata besides that of files (`folder`, `name`, `bytes`, `modified`), for a new index: names, and
            types out of "str", "int", "float" and "bool".
        make: Make an index where there is none.

    Raises:
        ValueError: if there is no index and none can be made, or the index was made with other weights or settings.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: Any = None,
        pool_factor: float | None = None,
        columns: Mapping[str, str] | None = None,
        make: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.encoder = encoder
        self._cache: tuple[Any, list[Block]] | None = None
        self.load_encoder: Callable[[], Any] | None = None
        self._ids: tuple[int, set[str]] = (-1, set())  # version and ids of the table when this process last wrote
        if not (self.folder / SETTINGS).is_file():
            self._make(encoder if make else None, pool_factor, columns)
        self.settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self._check(pool_factor, columns)
        self.embedding_dim: int = self.settings["embedding_dim"]
        self.pool_factor: float = self.settings["pool_factor"]
        self.vectors_of_an_image: str = self.settings["vectors"]
        # Queries see what any process has committed until then.
        database = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        self.table = database.create_table(TABLE, schema=schema_of(self.settings), exist_ok=True)

    def _writing(self) -> AbstractContextManager[Any]:
        """Wait until no other process writes; the system releases the lock of a killed process."""
        return FileLock(self.folder / LOCK).acquire(poll_interval=0.01)

    def record(self, **changes: Any) -> None:
        """Keep facts about how the index was made beside it."""
        with self._writing():
            self._record(**changes)

    def _record(self, **changes: Any) -> None:
        """Change settings, under the lock: another process may have written others."""
        saved = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self.settings = saved | changes
        write_json(self.folder / SETTINGS, self.settings)

    def _make(self, encoder: Any, pool_factor: float | None, columns: Mapping[str, str] | None) -> None:
        """Write the settings of a new index, unless another process was faster."""
        if encoder is None:
            raise ValueError(f"Expected an index in {str(self.folder)!r}, found none. Run `omni-vision index`.")
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
            asked |= {"embedding_dim": self.encoder.embedding_dim, "weights": self.encoder.weights_digest}
            asked |= {"pool": getattr(self.encoder, "pool", None)}
        asked = {name: got for name, got in asked.items() if got is not None}
        if other := differences({name: self.settings.get(name) for name in asked}, asked):
            raise ValueError(
                f"The index in {str(self.folder)!r} was made by {self.settings['checkpoint']!r}, with "
                f"{'; '.join(other)}. Its vectors cannot be compared with others: use what made the index, or build "
                "another one in another folder."
            )

    @property
    def columns(self) -> list[str]:
        """Names of the columns that filters can use."""
        return [name for name in self.table.schema.names if name != "vectors"]

    def __len__(self) -> int:
        return self.table.count_rows()

    def num_bytes(self) -> int:
        """Return the bytes of all files of the index, old versions included."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    # --- writing ---

    def add(self, rows: Sequence[Mapping[str, Any]], vectors: Sequence[np.ndarray]) -> None:
        """Add images, or replace those of the same id. When this returns they are on disk.

        Args:
            rows: For each image its `id`, and values of other columns.
            vectors: For each image its vectors (n, embedding_dim), of length 1; n at least 1, for single vectors 1.

        Raises:
            ValueError: if rows and vectors do not fit each other or the index. Nothing is added then.
        """
        batch = as_table(rows, vectors, self.table.schema, self.embedding_dim)
        if rows:
            self._commit(batch)

    def _commit(self, batch: pa.Table) -> tuple[int, int]:
        """Append new rows and replace known ones in one commit; return the number of each."""
        with self._writing():
            known = self._known_ids()
            ids = batch["id"].to_pylist()
            new = [one for one in ids if one not in known]
            if len(new) == len(ids):
                self.table.add(batch)
            else:
                self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch)
            known.update(new)
            self._ids = (self.table.version, known)
        return len(new), len(ids) - len(new)

    def _known_ids(self) -> set[str]:
        """Return the ids of all images, read anew where another process has written since."""
        if self._ids[0] != self.table.version:
            found = self._scan(None, ["id"]).limit(None).to_batches()
            self._ids = (self.table.version, {one for batch in found for one in batch["id"].to_pylist()})
        return self._ids[1]

    def add_images(
        self,
        places: Sequence[str | Path],
        remove_missing: bool = False,
        report: Callable[[str], None] = lambda line: None,
        on_error: str = "skip",
    ) -> AddReport:
        """Add the files named and the images below the folders named (see `find_images`), `COMMIT` at a time.

        The id of an image is its path without links, as `stored_path` stores it.

        A file of the size and date in the index is not read again, so that a stopped run continues where it was; one
        that cannot be read is left out, and its older row stays.

        Args:
            places: Files and folders.
            remove_missing: Also delete the rows of files that are gone from a folder among `places`.
            report: Called after each commit with a line about what is on disk.
            on_error: `skip` goes on without files that cannot be read; `stop` opens all files first, and refuses.

        Raises:
            ValueError: for a place that does not exist, places without an image, or `remove_missing` where files are
                gone from an empty folder, as that of a disk that is not mounted, or no folder is named. Nothing is
                added or deleted then.
        """
        done, known = AddReport(), self._stamps()
        gone = gone_from(places, known) if remove_missing else []
        todo = []
        found, left_out = find_images(places, exclude=[self.folder])
        folders: dict[Path, str] = {}
        for one in found:
            file = one.file.resolve()
            if file in folders:
                left_out.add("that links lead to twice", one.file)
            folders.setdefault(file, one.folder)
        warn_of_left_out(left_out, ", ".join(map(displayed, places)))
        if places and not found:
            raise ValueError(f"Expected image files or folders that hold some, got {[*map(displayed, places)]}.")
        for path, folder in folders.items():
            about, stored = path.stat(), stored_path(path)
            row: dict[str, Any] = {"id": stored, "path": stored, "folder": displayed(folder)}
            row |= {"name": displayed(path.name), "bytes": about.st_size, "modified": about.st_mtime_ns}
            if known.get(stored) == (about.st_size, about.st_mtime_ns):
                done.unchanged += 1
            else:
                todo.append(row)
        if on_error == "stop" and (broken := find_unreadable([path_of(row["path"]) for row in todo])):
            refuse_unreadable([(name, reason) for _, name, reason in broken], len(todo), on_error)
        for start in range(0, len(todo), COMMIT):
            chunk = {path_of(row["path"]): row for row in todo[start : start + COMMIT]}
            read, failed = self.require_encoder().files(list(chunk), self.pool_factor)
            self.add([chunk[file] for file, _ in read], [vectors for _, vectors in read])
            changed = sum(stored_path(file) in known for file, _ in read)
            done.updated, done.added = done.updated + changed, done.added + len(read) - changed
            done.failed += [(stored_path(file), why) for file, why in failed]
            report(f"{done.added + done.updated} of {len(todo)} on disk, {len(done.failed)} cannot be read")
        if remove_missing:
            done.removed = self.delete(gone)
        return done

    @retried
    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Return size and date of each image's file by id."""
        columns = ("id", "bytes", "modified")
        found = self._scan(None, columns).limit(None).to_batches()
        rows = (zip(*(batch[name].to_pylist() for name in columns), strict=True) for batch in found)
        return {name: (size, modified) for batch in rows for name, size, modified in batch}

    def add_embeddings(
        self,
        folders: Sequence[EmbedFolder],
        remove_missing: bool = False,
        report: Callable[[str], None] = lambda line: None,
    ) -> AddReport:
        """Add the vectors that `omni-vision embed` wrote, scaled to length 1; rows that are in already are compared.

        Args:
            folders: What it wrote.
            remove_missing: Also delete the rows that none of the folders has.
            report: Called after each commit with a line about what is on disk.

        Raises:
            ValueError: for rows of another image of the same id, whose file is still there, unless `remove_missing`
                says that the index shall have nothing else.
        """
        done, listed = AddReport(), set[str]()
        marks = {str(one.folder.resolve()): one.fingerprint for one in folders}
        if marks == self.settings.get("embedded") and not remove_missing:
            done.failed = [pair for one in folders for pair in one.failures()]
            without = [(path, reason) for path, reason in self.settings.get("embedded_failed", [])]
            done.failed += without
            done.unchanged = sum(one.num_vectors for one in folders) - len(without)
            return done
        without = []
        total = sum(one.num_vectors for one in folders)
        for folder in folders:
            done.failed += folder.failures()
            for batch, failed in folder.batches(self.table.schema, self.pool_factor):
                without += failed
                if remove_missing:
                    listed.update(batch["id"].to_pylist())
                other = self._changed(batch, replace=remove_missing)
                done.unchanged += len(batch) - len(other)
                if len(other):
                    added, updated = self._commit(other)
                    done.added, done.updated = done.added + added, done.updated + updated
                report(f"{done.added + done.updated + done.unchanged:,} of {total:,} on disk")
        if remove_missing:
            done.removed = self.delete(self._known_ids() - listed)
        done.failed += without
        self.record(embedded=marks, embedded_failed=without)
        return done

    @retried
    def _changed(self, batch: pa.Table, replace: bool = False) -> pa.Table:
        """Return the rows that are not in the table as they are; those of other images are refused, or `replace`."""
        known = self._known_ids()
        ids = [one for one in batch["id"].to_pylist() if one in known]
        if not ids:
            return batch
        stored = self._scan(col("id").isin(ids), batch.schema.names).limit(None).to_arrow()
        places = pc.index_in(batch["id"], stored["id"]).to_pylist()
        stored, batch = stored.combine_chunks(), batch.combine_chunks()
        if not replace:
            paths = zip(batch["id"].to_pylist(), batch["path"].to_pylist(), places, strict=True)
            before = stored["path"].to_pylist()
            pairs = [(name, before[place], path) for name, path, place in paths if place is not None]
            _refuse_others([pair for pair in pairs if pair[1] != pair[2] and not _is_gone(pair[1])])
        return batch.filter(
            [
                place is None or not batch.slice(row, 1).equals(stored.slice(place, 1))
                for row, place in enumerate(places)
            ]
        )

    def delete(self, ids: Iterable[str] = (), where: str | None = None) -> int:
        """Delete images by id, or all that match a filter, and return how many."""
        names = list(ids)
        with self._writing():
            before = len(self)
            for start in range(0, len(names), 1000):
                # An expression, not SQL: an id may contain any character.
                self.table.delete(col("id").isin(names[start : start + 1000]))
            if where is not None:
                with explained_filter(where, self.columns) as condition:
                    self.table.delete(str(condition))
            if len(self) != before and "embedded" in self.settings:
                self._record(embedded=None)  # the next run brings back what its folders have
            return before - len(self)

    def optimize(self, keep_versions: timedelta = timedelta(0), approximate: bool | None = None) -> None:
        """Join small files, remove old versions, and keep the approximate index up to date, where enough has changed.

        Args:
            keep_versions: Versions older than this are removed. Searches that read one start again by themselves.
            approximate: Build the approximate index anew, or not; by default beyond `exact_limit` images where there
                is none, or one of less than a quarter, more than twice as many images, or too many segments.
        """
        with self._writing():
            rows, made = len(self), list(self.table.list_indices())
            indexed = self.settings.get("rows_at_indexing", 0) if made else 0
            if approximate is None:
                outgrown = not indexed / 2 <= rows <= 4 * indexed
                approximate = rows > self.exact_limit and (outgrown or (made[0].num_segments or 1) > MOST_SEGMENTS)
            if not approximate and not self._is_changed(rows, made):
                return
            if approximate and made:  # or the old one would stay beside the new one
                self.table.drop_index(made[0].name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # readers of old versions fail, and start again
                # No other process writes: what else lies there was left by one that was killed.
                self.table.optimize(cleanup_older_than=keep_versions, delete_unverified=True)
            if approximate and rows:
                self._build_approximate()
                self._choose_probes()
            self._record(optimized={"version": self.table.version, "rows": rows})

    def _is_changed(self, rows: int, made: Sequence[Any]) -> bool:
        """Return whether enough has changed since the last time for rearranging an approximate index to pay off."""
        last = self.settings.get("optimized", {"version": -1, "rows": 0})
        commits = self.table.version - last["version"]
        if not made or not commits:
            return commits > 0
        unindexed = sum(one.num_unindexed_rows for one in made)
        # Rows added and updated, and the places left behind by rows updated and deleted.
        return commits > FOLD_COMMITS or 2 * unindexed + last["rows"] - rows > FOLD * rows

    @property
    def exact_limit(self) -> int:
        """Images up to which all are scored."""
        return EXACT_LIMIT if self.vectors_of_an_image == MULTI else SINGLE_EXACT_LIMIT

    def _build_approximate(self) -> None:
        """Build the approximate index, with as many partitions as the square root of the number of vectors."""
        rows, vectors = len(self), len(self)
        if self.vectors_of_an_image == MULTI:
            sample = self.table.search().select(["vectors"]).limit(100).to_arrow()
            vectors = rows * len(sample["vectors"].combine_chunks().flatten()) // len(sample)
        partitions = round(vectors**0.5)
        self.table.create_index(
            "vectors",
            config=IvfRq(distance_type="cosine", num_partitions=partitions, sample_rate=SAMPLE_RATE),
            replace=True,
            wait_timeout=timedelta(hours=24),
        )
        self._record(rows_at_indexing=rows, partitions=partitions)

    def _choose_probes(self) -> None:
        """Search as many partitions as recall needs, then refine more: the codes of narrow vectors are coarse."""
        from .recall import patch_queries, share_found

        queries = patch_queries(self)
        truths, probes, refine = self.search_exactly(queries), FEWEST_PROBES, REFINE[self.vectors_of_an_image]
        while True:
            self._record(probes=probes, refine=refine)
            recall = share_found([self._approximately(self._query(one), None, 10) for one in queries], truths)
            if recall >= RECALL or (probes >= self.settings["partitions"] and refine >= MOST_REFINE):
                return
            if probes < self.settings["partitions"]:
                probes *= 2
            else:
                refine *= 2

    # --- reading ---

    @retried
    def rows(self, where: str | None = None, columns: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
        """Return columns of all images, or of those that match a filter."""
        with explained_filter(where, self.columns) as condition:
            return self._scan(condition, columns).limit(None).to_list()

    @retried
    def vectors(self, ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the stored vectors (n, embedding_dim) of images by id."""
        found: dict[str, torch.Tensor] = {}
        for batch in self._scan(col("id").isin(list(ids)), ["id", "vectors"]).limit(None).to_batches():
            names, embeds, mask = as_block(batch)
            for number, name in enumerate(names.to_pylist()):
                rows = embeds[number : number + 1] if mask is None else embeds[number, mask[number]]
                found[name] = rows[:, : self.embedding_dim]
        return found

    def _scan(self, where: str | Expr | None, columns: Sequence[str]) -> Any:
        query = self.table.search().select(list(columns))
        return query if where is None else query.where(where)

    @retried
    def search(
        self,
        query: torch.Tensor,
        limit: int = 10,
        where: str | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """Return the most similar images, the best first, by cosine or MaxSim.

        Args:
            query: Vectors (n, embedding_dim) of length 1; for an index of single vectors n is 1.
            limit: Number of images at most.
            where: SQL condition on the columns, such as `folder = 'cats' AND bytes > 1000`.
            exact: Score every image; by default where that takes no longer.

        Raises:
            ValueError: for a query of another width, a limit below 1, or an invalid filter.
        """
        whole = self._query(query)
        if limit < 1:
            raise ValueError(f"Expected a limit of at least 1, got {limit!r}.")
        with explained_filter(where, self.columns) as condition:
            if exact is None:
                most = EXACT_PER_VECTOR * len(whole) if self.vectors_of_an_image == MULTI else 0
                rows = self.table.count_rows(condition)
                exact = rows <= max(self.exact_limit, most) or not self.table.list_indices()
            if exact:
                return self._hits(best_of([whole], self._blocks(condition), limit)[0])
            return self._approximately(whole, condition, limit)

    @retried
    def search_exactly(self, queries: Sequence[torch.Tensor], limit: int = 10) -> list[list[tuple[float, str]]]:
        """Return scores and ids of the best images for each of many queries, by one pass over all vectors."""
        return best_of([self._query(one) for one in queries], self._blocks(None), limit)

    def _query(self, query: torch.Tensor) -> torch.Tensor:
        """Return a query as its vectors are stored: with zeros up to the width of the column."""
        query = torch.as_tensor(query).detach().float().cpu()
        single = self.vectors_of_an_image == SINGLE
        if query.ndim != 2 or query.shape[1] != self.embedding_dim or not len(query) or (single and len(query) > 1):
            raise ValueError(
                f"Expected a query ({1 if single else 'n'}, {self.embedding_dim}), got {tuple(query.shape)}. Encode "
                "it with the checkpoint of the index."
            )
        kind = self.table.schema.field("vectors").type
        width = (kind if single else kind.value_type).list_size
        return torch.nn.functional.pad(query, (0, width - query.shape[1]))

    def _approximately(self, query: torch.Tensor, where: str | None, limit: int) -> list[Hit]:
        found = self._candidates(query, where, limit)
        rows = {row.pop("id"): row for row in found.drop_columns("vectors").to_pylist()}
        return self._hits(best_of([query], map(as_block, found.to_batches()), limit)[0], rows)

    def _candidates(self, query: torch.Tensor, where: str | None, limit: int) -> pa.Table:
        """Read the images that the approximate index returns, five times `limit` or more, with their vectors."""
        single = self.vectors_of_an_image == SINGLE
        near: Any = self.table.search(query[0].numpy() if single else query.numpy(), vector_column_name="vectors")
        near = (
            near.distance_type("cosine")
            .limit(max(CANDIDATES, 5 * limit))
            .refine_factor(self.settings.get("refine", REFINE[self.vectors_of_an_image]))
            .nprobes(self.settings.get("probes", FEWEST_PROBES))
            .select([*self.columns, "vectors", "_distance"])
        )
        return (near if where is None else near.where(where)).to_arrow().drop_columns("_distance")

    def _hits(self, best: Sequence[tuple[float, str]], rows: dict[str, dict[str, Any]] | None = None) -> list[Hit]:
        """Return scores and ids with the columns of each image, without those deleted meanwhile."""
        if rows is None:
            chosen = col("id").isin([name for _, name in best])
            rows = {row.pop("id"): row for row in self._scan(chosen, self.columns).to_list()} if best else {}
        return [Hit(score, name, rows[name].pop("path") or name, rows[name]) for score, name in best if name in rows]

    def search_text(self, text: str, force: bool = False, **options: Any) -> list[Hit]:
        """Return the images that fit a text; options as for `search`.

        Words that the tokenizer does not know weigh nothing. Where there are no others, there are no hits, unless
        `force` asks for what the unknown token finds.
        """
        encoded = self.require_encoder().text(text, force)
        if not len(encoded.embeds):
            logger.warning("No word of %r is known to the checkpoint: no hits. `force` searches all the same.", text)
            return []
        return self.search(encoded.embeds, **options)

    def search_image(self, image: Any, **options: Any) -> list[Hit]:
        """Return the images most similar to one (path or PIL image), whose vectors are merged as in the index."""
        return self.search(self.require_encoder().images([image], self.pool_factor)[0], **options)

    def _blocks(self, where: str | None) -> Iterator[Block]:
        """Read ids and vectors of all images, or those that match a filter; few are cached for the next query."""
        wanted = (self.table.version, where)
        if self._cache is None or self._cache[0] != wanted:
            blocks = map(as_block, self._scan(where, ["id", "vectors"]).limit(None).to_batches())
            if self.table.count_rows(where) > self.exact_limit:
                return blocks
            self._cache = (wanted, list(blocks))
        return iter(self._cache[1])

    def use(self, encoder: Any) -> None:
        """Encode with this encoder; a ValueError if it is not the one that made the index."""
        self.encoder = encoder
        self._check(None, None)

    def require_encoder(self) -> Any:
        """Return the encoder, which `load_encoder` makes when it is needed; a ValueError where there is none."""
        if self.encoder is None and self.load_encoder:
            self.use(self.load_encoder())
        if self.encoder is None:
            raise ValueError(
                f"Expected the checkpoint that made the index, {self.settings['checkpoint']!r}, got none. "
                "Pass `encoder`."
            )
        return self.encoder


def _refuse_others(pairs: Sequence[tuple[str, str, str]]) -> None:
    """Refuse ids with two paths of two images: one would be lost."""
    if pairs:
        name, path, other = pairs[0]
        raise ValueError(
            f"{len(pairs):,} images have the ids of others in the index, as {name!r}: {displayed(path)} is in it, "
            f"{displayed(other)} is new. Put a prefix before the new ids (`id_prefix`), or index into another folder."
        )


def _is_gone(path: str | None) -> bool:
    """Return whether what holds an image is known not to be there any more: not of addresses and names of datasets."""
    return path is None or (path_of(path).is_absolute() and not path_of(holder_of(path)).exists())


def best_of(queries: Sequence[torch.Tensor], blocks: Iterable[Block], limit: int) -> list[list[tuple[float, str]]]:
    """Return scores and ids of the best rows of all blocks for each query, the best first."""
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    for ids, embeds, mask in blocks:
        if not len(ids):
            continue
        for number, scores in enumerate(similarities(queries, embeds, mask)):
            near = torch.nonzero(scores >= scores.topk(min(limit, len(scores))).values[-1]).flatten().numpy()
            found = zip(scores[near].tolist(), ids.take(pa.array(near)).to_pylist(), strict=True)
            # Equal scores come in the order of their ids, whatever order the rows are stored in.
            best[number] = heapq.nsmallest(limit, [*best[number], *found], key=lambda one: (-one[0], one[1]))
    return best


def similarities(queries: Sequence[torch.Tensor], embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the similarities (queries, images): cosines of single vectors, else MaxSim."""
    if mask is None:
        return torch.cat(list(queries)) @ embeds.T
    from sentence_transformers.util import maxsim  # seconds, which a run where nothing changed does not need

    return maxsim(list(queries), embeds, b_mask=mask)


def gone_from(places: Sequence[str | Path], ids: Iterable[str]) -> list[str]:
    """Return the ids (paths) of files that are gone from folders among `places`; files elsewhere are not looked at.

    Raises:
        ValueError: if no folder is named, or files are gone from a folder that is empty now.
    """
    folders = [Path(place).resolve() for place in places if Path(place).is_dir()]
    if not folders:
        raise ValueError(
            "Expected folders that files may be gone from, got none. Name them with --images, or delete by a "
            "condition: --delete \"path LIKE '/old/%'\"."
        )
    within = [one for one in ids if any(path_of(one).is_relative_to(folder) for folder in folders)]
    gone = [one for one in within if not path_of(one).exists()]
    left = {next(folder for folder in path_of(one).parents if folder.is_dir()) for one in gone}
    for folder in sorted(left):
        if not any(folder.iterdir()):
            quoted = str(folder).replace("'", "''")
            count = sum(path_of(one).is_relative_to(folder) for one in gone)
            raise ValueError(
                f"Expected files in {str(folder)!r}, of which the index has {count} images, got an empty folder: its "
                f"disk may not be mounted. To delete them all the same: --delete \"path LIKE '{quoted}/%'\"."
            )
    return gone


__all__ = [
    "CANDIDATES",
    "EXACT_LIMIT",
    "REFINE",
    "SINGLE_EXACT_LIMIT",
    "AddReport",
    "Hit",
    "ImageIndex",
    "best_of",
    "gone_from",
]
