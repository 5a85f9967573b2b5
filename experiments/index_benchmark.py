"""Recall, time and bytes of the search index on 4,000 drawn scenes: exact search against the approximate index.

    python -m experiments.index_benchmark --model runs/search --output docs/search/index.json

Four minutes on one core. Recall is the share of the ten best images that are found: `recall` of those by the stored
vectors, which is what the approximate search costs, `recall_of_all_vectors` of those by all vectors in 32 bits, which
is search and token pooling together.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sentence_transformers.util import maxsim
from torch.utils.benchmark import set_torch_threads

from experiments.benchmark_peers import printed
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES, Scene, draw_scene
from modeling_omni_vision.embedding.encoder import ImageTextEncoder
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json
from modeling_omni_vision.retrieval.index import CANDIDATES, EXACT_LIMIT, REFINE, ImageIndex
from modeling_omni_vision.retrieval.recall import num_right
from modeling_omni_vision.retrieval.table import MULTI, POOL_FACTOR


SIZE = 224
LIMIT = 10
IMAGE_QUERIES = 25
CHUNK = 64


def scene(seed: int, number: int) -> Scene:
    rng = np.random.default_rng([seed, number])
    return draw_scene(rng, int(rng.integers(1, 4)), SIZE)


def draw_queries(encoder: ImageTextEncoder) -> dict[str, list[torch.Tensor]]:
    """Return the vectors of each query: every colour and shape, captions, and images that are not in the index."""
    others = [scene(1, number) for number in range(IMAGE_QUERIES)]
    texts = [f"a {colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]
    texts += [other.caption.removeprefix("This is ") for other in others]
    return {
        "texts": [encoder.text(text).embeds for text in texts],
        "images": list(encoder.images([other.image for other in others], POOL_FACTOR)),
    }


def index_rows(encoder: ImageTextEncoder, count: int) -> Iterator[dict[str, Any]]:
    """Yield a row for the exact and one for the approximate search, of an index of drawn scenes at its defaults."""
    queries = draw_queries(encoder)
    pooling = HierarchicalTokenPooling(POOL_FACTOR, num_protected_tokens=0)
    with tempfile.TemporaryDirectory() as folder:
        index = ImageIndex(Path(folder) / "index", encoder)
        encoding = adding = 0.0
        scores: dict[str, list[torch.Tensor]] = {kind: [] for kind in queries}
        for start in range(0, count, CHUNK):
            drawn = [scene(0, number).image for number in range(start, min(start + CHUNK, count))]
            began = time.process_time()
            whole = encoder.images(drawn)
            pooled = [one.numpy() for one in pooling.pool(whole)]
            encoding += time.process_time() - began
            for kind, some in queries.items():
                scores[kind].append(maxsim(some, list(whole)))
            began = time.process_time()
            index.add([{"id": f"{number:06d}"} for number in range(start, start + len(drawn))], pooled)
            adding += time.process_time() - began
        fixed = {"images": count, "pool_factor": POOL_FACTOR, "encoding_cpu_ms_per_image": 1e3 * encoding / count}
        built = {name: fixed | optimised(index, count, adding, name == "IvfRq") for name in ("exact", "IvfRq")}
        for (kind, some), (name, costs) in product(queries.items(), built.items()):
            measured = searched(index, some, torch.cat(scores[kind], 1), exact=name == "exact")
            yield {"queries": kind, "search": name, **measured, **costs}


def optimised(index: ImageIndex, count: int, adding: float, approximate: bool) -> dict[str, float]:
    """Optimise, drop old versions, and return what building took so far and how many bytes lie on disk."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that readers of old versions fail: there are none
        index.optimize(timedelta(0), approximate)
    adding += time.process_time() - began
    return {"build_cpu_s": adding, "bytes_per_image": index.num_bytes() / count}


def searched(index: ImageIndex, queries: Sequence[torch.Tensor], truth: torch.Tensor, exact: bool) -> dict[str, Any]:
    """Search, and return recall and the median milliseconds a query; `truth` holds scores (queries, images)."""
    bests = index.search_exactly(queries, LIMIT)
    index.search(queries[0], limit=LIMIT, exact=exact)
    stored, whole, cpu, wall = [], [], [], []
    for query, best, scores in zip(queries, bests, truth, strict=True):
        began, started = time.process_time(), time.perf_counter()
        hits = index.search(query, limit=LIMIT, exact=exact)
        cpu.append(1e3 * (time.process_time() - began))
        wall.append(1e3 * (time.perf_counter() - started))
        stored.append(num_right(hits, best) / LIMIT)
        line = float(scores.topk(LIMIT).values[-1]) - 1e-5
        whole.append(sum(float(scores[int(hit.id)]) >= line for hit in hits) / LIMIT)
    return {
        "num_queries": len(queries),
        "vectors_a_query": statistics.mean(map(len, queries)),
        "recall": statistics.mean(stored),
        "recall_of_all_vectors": statistics.mean(whole),
        "cpu_ms": statistics.median(cpu),
        "wall_ms": statistics.median(wall),
    }


@dataclass
class IndexArguments:
    """What to measure."""

    model: str = option("A retrieval checkpoint.")
    output: Path = option("JSON file to write.", Path("index.json"))
    count: int = option("Images in the index.", 4000)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(IndexArguments, argv)
    with set_torch_threads(1):
        encoder = ImageTextEncoder(args.model)
        rows = printed(index_rows(encoder, args.count))
    record = {
        "command": recorded_command("python", ["-m", "experiments.index_benchmark", *argv]),
        "machine": describe_machine() | recorded_versions("lancedb", "sentence-transformers"),
        "weights": encoder.weights_digest,
        "defaults": {"exact_limit": EXACT_LIMIT, "candidates": CANDIDATES, "refine": REFINE[MULTI]},
        "rows": rows,
    }
    write_json(args.output, record)


if __name__ == "__main__":
    main()
