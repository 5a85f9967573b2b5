"""Put images into an index that `omni-vision search` searches, or bring one up to date.

    omni-vision index --model runs/search --images my_images --index runs/index

Continues where a stopped run was: files whose size and date are known are skipped. Files that cannot be read are
listed at the end with the reason of each, and stand in skipped.jsonl in the index; --on_error stop refuses them. At
the end the index is optimised, and the recall of its approximate search is measured: by the texts of `--queries`, one
a line, or by vectors of its own images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arguments import REVISION, option, parse
from .model_kind import RETRIEVAL, check_kind
from .program import program


@dataclass
class IndexArguments:
    """What to put where."""

    model: str = option("Folder or Hub id of a retrieval checkpoint; its code runs.")
    index: str = option("Folder of the index; made when it does not exist.")
    images: list[str] = option("Files and folders of images to put in.", [])
    revision: str | None = option(REVISION, None)
    pool_factor: float | None = option("Vectors of an image merged to one of this many; 3 for a new index.", None)
    on_error: str = option("stop or skip, for files that cannot be read.", "skip")
    remove_missing: bool = option("Also delete images whose file is gone.", False)
    delete: str | None = option("Delete what this condition finds: \"folder = 'x'\".", None)
    queries: str | None = option("Text file, one query a line, to measure recall by.", None)
    measure: bool = option("Measure the recall of approximate search.", True)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(IndexArguments, argv)
    from ..data.image_files import displayed, path_of
    from ..data.integrity import check_on_error, write_skipped
    from ..embedding.encoder import ImageTextEncoder
    from ..records.metrics_file import write_json
    from ..retrieval.index import ImageIndex
    from ..retrieval.recall import measure, sentence

    check_kind(arguments.model, RETRIEVAL, revision=arguments.revision)
    check_on_error(arguments.on_error)
    texts = Path(arguments.queries).read_text(encoding="utf-8").splitlines() if arguments.queries else []
    encoder = ImageTextEncoder(arguments.model, arguments.revision)
    index = ImageIndex(arguments.index, encoder, arguments.pool_factor)
    deleted = index.delete(where=arguments.delete) if arguments.delete else 0
    done = index.add_images(
        arguments.images,
        remove_missing=arguments.remove_missing,
        report=lambda line: print(line, flush=True),
        on_error=arguments.on_error,
    )
    index.optimize()
    cost = measure(index, [text for text in texts if text.strip()]) if arguments.measure else {}
    record = done.as_json() | {"deleted": deleted, "images": len(index), "bytes": index.num_bytes(), "cost": cost}
    write_json(index.folder / "last_run.json", record)
    if done.failed:
        write_skipped(index.folder, ({"image": path, "reason": why} for path, why in done.failed))
        print(f"\n{'cannot be read':<60}reason")
        for path, why in done.failed:
            print(f"{displayed(path_of(path)):<60}{why}")
    if cost:
        print(sentence(cost))
    print(
        f"{len(index):,} images in {arguments.index}: {done.added} added, {done.updated} updated, "
        f"{done.unchanged} unchanged, {done.removed + deleted} deleted, {len(done.failed)} cannot be read; "
        f"{index.num_bytes() / max(len(index), 1):,.0f} bytes each"
    )
