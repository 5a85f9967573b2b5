"""What an index of single vectors costs as it grows: memory, CPU time, bytes, recall, and images added later.

    python -m experiments.index_scale --output docs/search/index_scale.json

Ten minutes on one core. Vectors are drawn around 2,000 centres and written as `omni-vision embed` writes them; each
`omni-vision index` is a process of its own, whose peak memory and CPU time the operating system counts. Commits of
new images are timed in this process, as are searches for images like those in the index.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.benchmark import set_torch_threads

from experiments.benchmark_peers import printed
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json
from modeling_omni_vision.retrieval.embedded import EmbedFolder
from modeling_omni_vision.retrieval.index import COMMIT, ImageIndex


CENTRES, NOISE, SHARD = 2000, 1.0, 4096
COMMITS = 10
QUERIES = 50


def drawn(count: int, width: int, seed: int) -> np.ndarray:
    """Return vectors (count, width) of length 1 around the same centres whatever the seed."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, width)).astype(np.float32)
    rng = np.random.default_rng([1, seed])
    vectors = centres[rng.integers(CENTRES, size=count)] + NOISE * rng.normal(size=(count, width)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_vectors(folder: Path, count: int, width: int) -> None:
    """Write what `omni-vision embed` writes, a shard at a time."""
    folder.mkdir()
    shards = -(-count // SHARD)
    for number in range(shards):
        rows = range(number * SHARD, min(count, (number + 1) * SHARD))
        names = [f"folder {row % 100}/{row:09d}.jpg" for row in rows]
        vectors = pa.array(drawn(len(rows), width, number).ravel())
        table = {"id": names, "path": [f"/images/{name}" for name in names]}
        table |= {side: pa.array([224] * len(rows), pa.int32()) for side in ("width", "height")}
        table |= {"vector": pa.FixedSizeListArray.from_arrays(vectors, width)}
        pq.write_table(pa.table(table), folder / f"vectors-{number:05d}-of-{shards:05d}.parquet")
    record = {"model": "drawn", "weights_digest": "0" * 64, "pool": "cls", "vector": [width], "rows": count}
    write_json(folder / "embed.json", record | {"columns": {}})


def timed_process(words: list[str]) -> dict[str, float]:
    """Run a command of omni-vision; return its CPU seconds and peak memory."""
    code = "from modeling_omni_vision.cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def bytes_of_rows(folder: EmbedFolder, index: ImageIndex) -> int:
    return sum(batch.nbytes for batch, _ in folder.batches(index.table.schema, 1))


def cpu_ms(work: Callable[..., Any], *words: Any, **options: Any) -> float:
    began = time.process_time()
    work(*words, **options)
    return 1e3 * (time.process_time() - began)


def measured(count: int, width: int) -> dict[str, Any]:
    """Index this many vectors, again without a change, add to them, and search."""
    with tempfile.TemporaryDirectory() as name:
        vectors, target = Path(name) / "vectors", Path(name) / "index"
        write_vectors(vectors, count, width)
        words = ["index", "--embeddings", str(vectors), "--index", str(target)]
        nothing = timed_process(["index", "--help"])
        first, again = timed_process(words), timed_process(words)
        index, folder = ImageIndex(target), EmbedFolder(vectors)
        row: dict[str, Any] = {
            "images": count,
            "width": width,
            "help_cpu_s": nothing["cpu_s"],
            "help_peak_mb": nothing["peak_mb"],
        }
        row |= {"index_cpu_s": first["cpu_s"], "index_peak_mb": first["peak_mb"], "unchanged_cpu_s": again["cpu_s"]}
        row["bytes_by_bytes_of_rows"] = index.num_bytes() / bytes_of_rows(folder, index)
        row["recall"] = json.loads((target / "last_run.json").read_text())["cost"]["search_recall"]
        row |= searched(index, width)
        return row | added(index, width)


def searched(index: ImageIndex, width: int) -> dict[str, float]:
    queries = [torch.from_numpy(one[None]).float() for one in drawn(QUERIES, width, 1_000_000)]
    index.search(queries[0])
    approximate = [cpu_ms(index.search, query) for query in queries]
    exact = [cpu_ms(index.search, query, exact=True) for query in queries[:10]]
    return {"search_cpu_ms": statistics.median(approximate), "exact_cpu_ms": statistics.median(exact)}


def added(index: ImageIndex, width: int) -> dict[str, float]:
    """Add new images, then change some: the CPU time of a commit, the first left out."""

    def commits(start: int) -> Iterator[float]:
        for number in range(COMMITS + 1):
            rows = [{"id": f"new/{start + number * COMMIT + one}"} for one in range(COMMIT)]
            made = list(drawn(COMMIT, width, 2_000_000 + start + number)[:, None])
            yield cpu_ms(index.add, rows, made)

    new, changed = list(commits(0)), list(commits(0))
    return {
        "commit_new_cpu_ms": statistics.median(new[1:]),
        "commit_changed_cpu_ms": statistics.median(changed[1:]),
        "images_a_commit": COMMIT,
    }


@dataclass
class IndexScaleArguments:
    """What to measure."""

    output: Path = option("JSON file to write.", Path("index_scale.json"))
    images: list[int] = option("Sizes of the index.", [25_000, 50_000, 100_000, 200_000])
    width: int = option("Width of the vectors.", 384)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(IndexScaleArguments, argv)
    with set_torch_threads(1):
        rows = printed(measured(count, args.width) for count in args.images)
    record = {
        "command": recorded_command("python", ["-m", "experiments.index_scale", *argv]),
        "machine": describe_machine() | recorded_versions("lancedb"),
        "rows": rows,
    }
    write_json(args.output, record)


if __name__ == "__main__":
    main()
