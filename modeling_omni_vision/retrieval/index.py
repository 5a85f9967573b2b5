"""An index of images on disk, searched by late interaction: LanceDB stores, sentence-transformers scores.

Unusual here:
- Every score is the exact MaxSim of the stored 16-bit vectors. Up to `EXACT_LIMIT` images all are scored; beyond, an
  approximate index (IvfRq) proposes, LanceDB refines, and the best `CANDIDATES` of `REFINE` times as many are scored.
- An index knows the digest of the weights that made it and refuses others: vectors of two models cannot be compared.
- When `add` returns, its images are on disk, and a killed process does not lose them. A lock file lets one process
  write at a time, so that two which add the same image keep one row; readers never wait.
"""

import heapq
import json
import logging
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

from ..data.image_files import displayed, find_images, path_of, stored_path
from ..data.image_folder import warn_of_left_out
from ..data.integrity import find_unreadable, refuse_unreadable
from ..embedding.encoder import ImageTextEncoder
from ..records.metrics_file import write_json
from .table import FIELDS, FORMAT, Block, as_block, as_table, explained_filter, new_settings, schema_of


logger = logging.getLogger(__name__)

# Scoring all images takes no longer than the approximate index up to this many, or up to EXACT_PER_VECTOR for each
# vector of the query: the approximate index takes some 6 ms a vector, as long as scoring 150 images.
EXACT_LIMIT, EXACT_PER_VECTOR = 3000, 150
# Images that the approximate index returns; LanceDB chooses them among REFINE times as many by exact distance.
CANDIDATES, REFINE = 50, 20
COMMIT = 256  # images a commit: a killed run loses no more than these
SAMPLE_RATE = 64  # vectors for each partition that the approximate index is trained on
KEEP_VERSIONS = timedelta(minutes=10)
TABLE, SETTINGS, LOCK = "images", "index.json", "write.lock"


@dataclass(frozen=True)
class Hit:
    """An image that a search found: its MaxSim with the query, and its columns in the index."""

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


class ImageIndex:
    """Images that can be added, changed, deleted, filtered and searched.

    Args:
        folder: Folder of the index, or of a new one.
        encoder: The checkpoint that makes the vectors; not needed to read, filter or delete from an existing index.
        pool_factor: Merge similar vectors of an image until about one in this many is left; by default that of the
            index, 3 for a new one. 1 merges none.
        columns: Metadata besides that of files (`folder`, `name`, `bytes`, `modified`), for a new index: names, and
            types out of "str", "int", "float" and "bool".
        make: Make an index where there is none.

    Raises:
        ValueError: if there is no index and none can be made, or the index was made with other weights or settings.
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
        self._cache: tuple[Any, list[Block]] | None = None
        if not (self.folder / SETTINGS).is_file():
            self._make(encoder if make else None, pool_factor, columns)
        self.settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self._check(pool_factor, columns)
        self.embedding_dim: int = self.settings["embedding_dim"]
        self.pool_factor: float = self.settings["pool_factor"]
        # Queries see what any process has committed until then.
        database = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        self.table = database.create_table(TABLE, schema=schema_of(self.settings), exist_ok=True)

    def _writing(self) -> AbstractContextManager[Any]:
        """Wait until no other process writes; the system releases the lock of a killed process."""
        return FileLock(self.folder / LOCK).acquire(poll_interval=0.01)

    def _make(
        self, encoder: ImageTextEncoder | None, pool_factor: float | None, columns: Mapping[str, str] | None
    ) -> None:
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
        for name, got in asked.items():
            if got is not None and got != self.settings.get(name):
                raise ValueError(
                    f"The index in {str(self.folder)!r}, made with {self.settings['checkpoint']!r}, expected {name} "
                    f"{self.settings.get(name)}, got {got}. Its vectors cannot be compared with others: use what made "
                    "the index, or build another one in another folder."
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
            vectors: For each image its vectors (n, embedding_dim), n at least 1, none of them zero.

        Raises:
            ValueError: if rows and vectors do not fit each other or the index. Nothing is added then.
        """
        batch = as_table(rows, vectors, self.table.schema)
        if rows:
            with self._writing():
                self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(batch)

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
        done, known = AddReport(), {row["id"]: row for row in self.rows(columns=("id", "bytes", "modified"))}
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
            old = known.get(stored)
            if old and (old["bytes"], old["modified"]) == (about.st_size, about.st_mtime_ns):
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
            return before - len(self)

    def optimize(self, keep_versions: timedelta = KEEP_VERSIONS, approximate: bool | None = None) -> None:
        """Join small files, bring the approximate index up to date, and build it anew where that is due.

        Args:
            keep_versions: Versions older than this are removed; a query that still reads one fails.
            approximate: Build the approximate index anew, or not; by default beyond `EXACT_LIMIT` images where there
                is none, or one built of more images than now or of less than a quarter of them.
        """
        with self._writing():
            rows, made = len(self), self.table.list_indices()
            indexed = self.settings.get("rows_at_indexing", 0) if made else 0
            if approximate is None:
                approximate = rows > EXACT_LIMIT and not indexed <= rows <= 4 * indexed
            # Without new rows LanceDB would rearrange the partitions all the same, slowly and not for the better; for
            # the same reason the index is built after, not before.
            if not made or any(one.num_unindexed_rows for one in made):
                self.table.optimize(cleanup_older_than=keep_versions)
            if approximate and rows:
                self._build_approximate()

    def _build_approximate(self) -> None:
        """Build the approximate index, with as many partitions as the square root of the number of vectors."""
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

    def rows(self, where: str | None = None, columns: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
        """Return columns of all images, or of those that match a filter."""
        with explained_filter(where, self.columns) as condition:
            return self._scan(condition, columns).limit(None).to_list()

    def vectors(self, ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the stored vectors (n, embedding_dim) of images by id."""
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
    ) -> list[Hit]:
        """Return the images with the highest MaxSim, the best first.

        Args:
            query: Vectors (n, embedding_dim) of length 1.
            limit: Number of images at most.
            where: SQL condition on the columns, such as `folder = 'cats' AND bytes > 1000`.
            exact: Score every image; by default where that takes no longer.

        Raises:
            ValueError: for a query of another width, a limit below 1, or an invalid filter.
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
            blocks = self._blocks(condition) if exact else self._candidates(query, condition, limit)
            scores = ((maxsim([query], embeds, b_mask=mask)[0].tolist(), ids) for ids, embeds, mask in blocks)
            found = (pair for block in scores for pair in zip(*block, strict=True))
        # Equal scores come in the order of their ids, whatever order the rows are stored in.
        return self._hits(heapq.nsmallest(limit, found, key=lambda one: (-one[0], one[1])))

    def _candidates(self, query: torch.Tensor, where: str | None, limit: int) -> Iterator[Block]:
        """Read ids and vectors of the images that the approximate index returns, five times `limit` or more."""
        near: Any = self.table.search(query.numpy(), vector_column_name="vectors")
        near = (
            near.distance_type("cosine")
            .limit(max(CANDIDATES, 5 * limit))
            .refine_factor(REFINE)
            .select(["id", "vectors", "_distance"])
        )
        found = (near if where is None else near.where(where)).to_arrow()
        return map(as_block, found.drop_columns("_distance").to_batches())

    def _hits(self, best: Sequence[tuple[float, str]]) -> list[Hit]:
        """Return scores and ids with the columns of each image, without those deleted meanwhile."""
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
            if self.table.count_rows(where) > EXACT_LIMIT:
                return blocks
            self._cache = (wanted, list(blocks))
        return iter(self._cache[1])

    def require_encoder(self) -> ImageTextEncoder:
        """Return the encoder; a ValueError where the index was opened without one."""
        if self.encoder is None:
            raise ValueError(
                f"Expected the checkpoint that made the index, {self.settings['checkpoint']!r}, got none. "
                "Pass `encoder`."
            )
        return self.encoder


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


__all__ = ["CANDIDATES", "EXACT_LIMIT", "REFINE", "AddReport", "Hit", "ImageIndex", "gone_from"]
