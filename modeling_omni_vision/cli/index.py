"""Put images into an index that `omni-vision search` searches, or bring one up to date.

    omni-vision index --model runs/search --images my_images --index runs/index
    omni-vision index --embeddings runs/vectors --index runs/index

`--images` are encoded by a retrieval checkpoint, and found by words and by images; `--embeddings` is what
`omni-vision embed` wrote with any encoder, found by images. Continues where a stopped run was: files whose size and
date are known are skipped. Images that cannot be read or have no vector are listed at the end with the reason of each,
and stand in skipped.jsonl in the index, and the exit status is then 3; --on_error stop refuses them. At the end the
index is optimised where enough has changed, and the recall of its search is measured then: by the texts of
`--queries`, one a line, or by its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .arguments import REVISION, option, parse
from .model_kind import RETRIEVAL, check_kind
from .program import SOME_UNREADABLE, program


@dataclass
class IndexArguments:
    """What to put where."""

    index: str = option("Folder of the index; made when it does not exist.", folder=True)
    model: str | None = option("Folder or Hub id of a retrieval checkpoint, for --images; its code runs.", None)
    images: list[str] = option("Files and folders of images to put in.", [])
    embeddings: str | None = option("Folder of vectors that `omni-vision embed` wrote, to put in.", None)
    id_prefix: str = option("Put before the ids of --embeddings, where other images have the same: 2021/.", "")
    revision: str | None = option(REVISION, None)
    pool_factor: float | None = option("Vectors of an image merged to one of this many; 3 for a new index.", None)
    on_error: str = option("stop or skip, for files that cannot be read.", "skip")
    remove_missing: bool = option("Also delete images whose file is gone, or that the folder of vectors lacks.", False)
    delete: str | None = option("Delete what this condition finds: \"folder = 'x'\".", None)
    queries: str | None = option("Text file, one query a line, to measure recall by.", None)
    measure: bool = option("Measure the recall of approximate search.", True)


@partial(program, go_on="What is in the index stays; the same command goes on.")
def main(argv: Sequence[str]) -> None:
    arguments = parse(IndexArguments, argv)
    if (arguments.model is None) == (not arguments.embeddings) or (arguments.embeddings and arguments.images):
        raise ValueError(
            f"Expected --model, with --images to encode, or --embeddings, got model {arguments.model!r}, images "
            f"{arguments.images}, embeddings {arguments.embeddings!r}. Correct them."
        )
    if arguments.id_prefix and not arguments.embeddings:
        raise ValueError("--id_prefix is for the ids of --embeddings; those of --images are paths. Leave it out.")
    from ..data.image_files import displayed, path_of
    from ..data.integrity import check_on_error, refuse_unreadable, write_skipped
    from ..records.metrics_file import write_json
    from ..retrieval.recall import measure, sentence

    check_on_error(arguments.on_error)
    texts = Path(arguments.queries).read_text(encoding="utf-8").splitlines() if arguments.queries else []
    options: dict[str, Any] = {"remove_missing": arguments.remove_missing, "report": print_at_once}
    if arguments.embeddings:
        index, folders = opened_for_embeddings(arguments)
        broken = [pair for folder in folders for pair in folder.failures()]
        if broken and arguments.on_error == "stop":
            refuse_unreadable(broken, len(broken) + sum(folder.num_vectors for folder in folders), "stop")
        deleted = index.delete(where=arguments.delete) if arguments.delete else 0
        done = index.add_embeddings(folders, **options)
    else:
        index = opened_for_images(arguments)
        deleted = index.delete(where=arguments.delete) if arguments.delete else 0
        done = index.add_images(arguments.images, on_error=arguments.on_error, **options)
    index.optimize()
    cost = measure(index, [text for text in texts if text.strip()]) if arguments.measure else {}
    record = done.as_json() | {"deleted": deleted, "images": len(index), "bytes": index.num_bytes(), "cost": cost}
    write_json(index.folder / "last_run.json", record)
    if done.failed:
        write_skipped(index.folder, ({"image": path, "reason": why} for path, why in done.failed))
        print(f"\n{'without a vector':<60}reason")
        for path, why in done.failed:
            print(f"{displayed(path_of(path)):<60}{why}")
    if cost:
        print(sentence(cost))
    print(
        f"{len(index):,} images in {arguments.index}: {done.added} added, {done.updated} updated, "
        f"{done.unchanged} unchanged, {done.removed + deleted} deleted, {len(done.failed)} without a vector; "
        f"{index.num_bytes() / max(len(index), 1):,.0f} bytes each"
    )
    if done.failed:
        raise SystemExit(SOME_UNREADABLE)


def print_at_once(line: str) -> None:
    print(line, flush=True)


def opened_for_images(arguments: IndexArguments) -> Any:
    """Return the index; the checkpoint is loaded at once unless its files are those of the last run."""
    from ..retrieval.embedded import stamps_of
    from ..retrieval.index import SETTINGS, ImageIndex
    from ..retrieval.recall import read_json

    model, folder = str(arguments.model), Path(arguments.index)
    stamps = [model, arguments.revision, stamps_of(sorted(Path(model).rglob("*.*")))]

    def load() -> Any:
        from ..embedding.encoder import ImageTextEncoder

        check_kind(model, RETRIEVAL, revision=arguments.revision)
        return ImageTextEncoder(model, arguments.revision)

    if stamps[-1] and read_json(folder / SETTINGS).get("checkpoint_files") == stamps:
        index = ImageIndex(folder, pool_factor=arguments.pool_factor)
        index.load_encoder = load
    else:
        index = ImageIndex(folder, load(), arguments.pool_factor)
        index.record(checkpoint_files=stamps)
    return index


def opened_for_embeddings(arguments: IndexArguments) -> tuple[Any, list[Any]]:
    """Return the index and its folders of vectors, which must all be of one encoder."""
    from ..retrieval.embedded import EmbedFolder
    from ..retrieval.index import SETTINGS, ImageIndex

    folders = [EmbedFolder(folder, arguments.id_prefix) for folder in [arguments.embeddings] if folder]
    is_new = not (Path(arguments.index) / SETTINGS).is_file()
    columns = {name: kind for folder in folders for name, kind in folder.columns.items()} if is_new else None
    index = ImageIndex(arguments.index, folders[0], arguments.pool_factor, columns)
    for folder in folders:
        index.use(folder)
    return index, folders
