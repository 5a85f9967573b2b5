"""Put images into an index that scripts/search.py searches, or bring one up to date.

    python scripts/index.py --model runs/search --images my_images --index runs/index

Goes on where a stopped run was: files whose size and date are known are left alone. Files that cannot be read are
listed at the end with the reason of each, and stand in last_run.json in the index. At the end the index is optimised,
and what its shortcuts cost is measured: by the texts of `--queries`, one a line, or by vectors of its own images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..embedding.encoder import ImageTextEncoder
from ..records.metrics_file import write_json
from ..retrieval.index import ImageIndex
from ..retrieval.recall import measure, sentence


@dataclass
class IndexArguments:
    """What to put where."""

    model: str = field(metadata={"help": "Folder or Hub id of a retrieval checkpoint; its code runs."})
    index: str = field(metadata={"help": "Folder of the index; made when it does not exist."})
    images: list[str] = field(default_factory=list, metadata={"help": "Files and folders of images to put in."})
    revision: str | None = field(default=None, metadata={"help": "Commit of the checkpoint on the Hub."})
    pool_factor: float | None = field(
        default=None, metadata={"help": "Vectors of an image merged to one of this many; 3 for a new index."}
    )
    remove_missing: bool = field(default=False, metadata={"help": "Also delete images whose file is gone."})
    delete: str | None = field(default=None, metadata={"help": "Delete what this condition finds: \"folder = 'x'\"."})
    queries: str | None = field(default=None, metadata={"help": "Text file, one query a line, to measure recall by."})
    measure: bool = field(default=True, metadata={"help": "Measure what the shortcuts of the index cost."})


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(IndexArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    texts = Path(arguments.queries).read_text(encoding="utf-8").splitlines() if arguments.queries else []
    encoder = ImageTextEncoder(arguments.model, arguments.revision)
    index = ImageIndex(arguments.index, encoder, arguments.pool_factor)
    deleted = index.delete(where=arguments.delete) if arguments.delete else 0
    done = index.add_images(
        arguments.images,
        remove_missing=arguments.remove_missing,
        report=lambda line: print(line, flush=True),
    )
    index.optimize()
    cost = measure(index, [text for text in texts if text.strip()]) if arguments.measure else {}
    record = done.as_json() | {"deleted": deleted, "images": len(index), "bytes": index.num_bytes(), "cost": cost}
    write_json(index.folder / "last_run.json", record)
    if done.failed:
        print(f"\n{'cannot be read':<60}reason")
        for path, why in done.failed:
            print(f"{path:<60}{why}")
    if cost:
        print(sentence(cost))
    print(
        f"{len(index):,} images in {arguments.index}: {done.added} added, {done.updated} updated, "
        f"{done.unchanged} unchanged, {done.removed + deleted} deleted, {len(done.failed)} cannot be read; "
        f"{index.num_bytes() / max(len(index), 1):,.0f} bytes each"
    )


if __name__ == "__main__":
    main()
