"""Turn any number of images into vectors on disk; a stopped run goes on with the same command.

    omni-vision embed --model checkpoints/omni-vision-fashion-mnist --images my_images --output runs/vectors

`--images` are files, folders, globs, Parquet files, WebDataset tars, lists (.txt, .jsonl), datasets and addresses of
fsspec. The output holds Parquet shards (id, path, width, height, vector, and the columns of the source),
failures.jsonl with the reason of each image that cannot be read, and embed.json. Where some cannot be read the exit
status is 3; --on_error stop ends at the first shard with such an image, which is not written. Several processes may
share one output, also by --shard i/n.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .arguments import REVISION, option, parse
from .program import SOME_UNREADABLE, program


@dataclass
class EmbedArguments:
    """What to embed, how, and where to."""

    model: str = option("Folder or Hub id of a vision model: ours, exported, or any image model of transformers.")
    images: list[str] = option("Files, folders, globs, Parquet files, tars, lists, datasets or addresses of images.")
    output: str = option("Folder of the vectors; made when it does not exist.", folder=True)
    pool: str = option("cls, mean (of the patches) or grid (all patches).", "cls")
    normalize: bool = option("Scale vectors to length 1.", False)
    engine: str = option(
        "auto (the fastest by a short calibration), torch, openvino, onnx, or exactly one, as torch sdpa bfloat16.",
        "auto",
        words=True,
    )
    decode: str = option("exact (the image processor's pixels) or fast (JPEG is scaled while it is decoded).", "exact")
    batch_size: int = option("Images in one forward.", 16, least=1)
    shard_rows: int = option("Images of one file.", 4096, least=1)
    workers: int | None = option("Threads that decode; one for each core if left out.", None, least=1)
    on_error: str = option("stop or skip, for images that cannot be read.", "skip", choices=("stop", "skip"))
    limit: int | None = option("Take the first images alone.", None, least=1)
    shard: str | None = option("i/n: every n-th file from i on, 0/4 to 3/4; auto: as torchrun or SLURM says.", None)
    cluster: str | None = option("ray: the machines of a Ray cluster write the files.", None)
    npy: bool = option("Also write vectors.npy.", False)
    dry_run: bool = option("Count the images and stop.", False)
    revision: str | None = option(REVISION, None)
    trust_remote_code: bool = option("Run the code of a checkpoint that is not ours.", False)


@partial(program, go_on="The files that are written stay; the same command goes on.")
def main(argv: Sequence[str]) -> None:
    arguments = parse(EmbedArguments, argv)
    from ..data.image_files import LeftOut
    from ..embedding.embed import embed
    from ..embedding.sources import list_rows

    options = {**vars(arguments)}
    if options.pop("dry_run"):
        left_out, count, size = LeftOut(), 0, 0
        rows = list_rows(arguments.images, [Path(arguments.output)], left_out)
        for row in itertools.islice(rows, arguments.limit):
            count, size = count + 1, size + max(row.bytes, 0)
        print(f"{count:,} images, {size / 1e6:,.1f} MB; left out: {left_out if left_out.counts else 'none'}")
        return
    record = embed(**options, report=lambda line: print(line, flush=True))
    if record is None:
        print("This part is written. The run is finished when the others are.")
        return
    run = record["last_run"]
    print(
        f"{record['rows']:,} vectors of shape {tuple(record['vector'])} in {arguments.output}, {record['failed']:,} "
        f"images failed (failures.jsonl); {run['images']:,} images in {run['seconds']:,} s, "
        f"{run['images_per_cpu_second']:,} a CPU second"
    )
    if record["failed"] and arguments.shard is None:  # torchrun would end the other processes
        raise SystemExit(SOME_UNREADABLE)
