"""Recall, time and bytes of the index on drawn scenes: scoring all images against the approximate index."""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sentence_transformers.util import maxsim

from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES, draw_scene
from modeling_omni_vision.embedding.encoder import POOL_FACTOR, ImageTextEncoder
from modeling_omni_vision.records.machine import cpu_model
from modeling_omni_vision.retrieval.index import CANDIDATES, EXACT_LIMIT, REFINE, Hit, ImageIndex
from modeling_omni_vision.retrieval.recall import num_right


COUNT = 4000
SIZE = 224
LIMIT = 10
IMAGE_QUERIES = 25
CHUNK = 64


def scene(seed: int, number: int) -> Any:
    """One to three objects; the same for the same numbers."""
    rng = np.random.default_rng([seed, number])
    return draw_scene(rng, int(rng.integers(1, 4)), SIZE)


def queries_of(encoder: ImageTextEncoder) -> dict[str, list[torch.Tensor]]:
    """Queries of each kind: every colour and shape, captions, and images that are not in the index."""
    others = [scene(1, number) for number in range(IMAGE_QUERIES)]
    texts = [f"a {colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]
    texts += [other.caption.removeprefix("This is ") for other in others]
    return {
        "texts": [encoder.text(text).embeds for text in texts],
        "images": list(encoder.images([other.image for other in others], POOL_FACTOR)),
    }


def index_rows(encoder: ImageTextEncoder, count: int = COUNT) -> Iterator[dict[str, Any]]:
    """
    Measure an index of drawn scenes at its defaults.

    Recall is the share of the ten best images that are found: `recall` of those by the stored vectors, which is what
    the search costs, `recall_of_all_vectors` of those by all vectors in 32 bits, which is search and merging together.

    Args:
        encoder: The checkpoint.
        count: Images in the index.

    Yields:
        For texts and images as queries, a row for the exact and one for the approximate search.
    """
    queries = queries_of(encoder)
    pooling = HierarchicalTokenPooling(POOL_FACTOR, num_protected_tokens=0)
    with tempfile.TemporaryDirectory() as folder:
        index = ImageIndex(Path(folder) / "index", encoder)
        encoding = adding = 0.0
        scores: dict[str, list[torch.Tensor]] = {kind: [] for kind in queries}
        for start in range(0, count, CHUNK):
            drawn = [scene(0, number).image for number in range(start, min(start + CHUNK, count))]
            began = time.process_time()
            whole = encoder.images(drawn)
            merged = [one.numpy() for one in pooling.pool(whole)]
            encoding += time.process_time() - began
            for kind, some in queries.items():
                scores[kind].append(maxsim(some, list(whole)))
            began = time.process_time()
            index.add([{"id": f"{number:06d}"} for number in range(start, start + len(drawn))], merged)
            adding += time.process_time() - began
        built = {"exact": settled(index, count, adding, approximate=False)}
        built["IvfRq"] = settled(index, count, adding, approximate=True)
        for kind, some in queries.items():
            truth = torch.cat(scores[kind], 1)
            lines = (truth.topk(LIMIT).values[:, -1] - 1e-5).tolist()
            exact = [index.search(query, limit=LIMIT, exact=True) for query in some]
            for name, costs in built.items():
                found, cpu, wall = timed(index, some, exact=name == "exact")
                yield {
                    "queries": kind,
                    "search": name,
                    "images": count,
                    "pool_factor": POOL_FACTOR,
                    "num_queries": len(some),
                    "vectors_a_query": statistics.mean(map(len, some)),
                    "recall": statistics.mean(
                        num_right(hits, best) / LIMIT for hits, best in zip(found, exact, strict=True)
                    ),
                    "recall_of_all_vectors": statistics.mean(
                        sum(bool(truth[number, int(hit.id)] >= line) for hit in hits) / LIMIT
                        for number, (hits, line) in enumerate(zip(found, lines, strict=True))
                    ),
                    "cpu_ms": cpu,
                    "wall_ms": wall,
                    "encoding_cpu_ms_per_image": 1e3 * encoding / count,
                    **costs,
                }


INDEX_HEAD = (
    "| queries | vectors each | search | images | recall@10 | of all vectors | CPU ms | bytes an image | "
    "build CPU s |\n"
    "|---|--:|---|--:|--:|--:|--:|--:|--:|"
)


def index_line(row: dict[str, Any]) -> str:
    """One line of the table: recall by stored and by all vectors, medians of CPU milliseconds, what it costs."""
    return (
        f"| {row['queries']} | {row['vectors_a_query']:.0f} | {row['search']} | {row['images']:,} | "
        f"{row['recall']:.3f} | {row['recall_of_all_vectors']:.3f} | {row['cpu_ms']:.0f} | "
        f"{row['bytes_per_image']:,.0f} | {row['build_cpu_s']:.1f} |"
    )


def run_index_benchmark(
    checkpoint: str, count: int = COUNT, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure every row on one thread of torch, report each as a line, and return what the JSON file holds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoder = ImageTextEncoder(checkpoint)
        report(INDEX_HEAD)
        rows = []
        for row in index_rows(encoder, count):
            report(index_line(row))
            rows.append(row)
    finally:
        torch.set_num_threads(before)
    versions = {name: metadata.version(name) for name in ("lancedb", "sentence-transformers", "torch")}
    return {
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), **versions},
        "weights": encoder.weights_digest,
        "defaults": {"exact_limit": EXACT_LIMIT, "candidates": CANDIDATES, "refine": REFINE},
        "rows": rows,
    }


def settled(index: ImageIndex, count: int, adding: float, approximate: bool) -> dict[str, float]:
    """Optimise, drop old versions, and tell what building took so far and how many bytes lie on disk."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that readers of old versions fail: there are none
        index.optimize(timedelta(0), approximate)
    spent = time.process_time() - began
    return {"build_cpu_s": adding + spent, "bytes_per_image": index.num_bytes() / count}


def timed(index: ImageIndex, queries: Sequence[torch.Tensor], exact: bool) -> tuple[list[list[Hit]], float, float]:
    """What is found, and the median milliseconds of CPU and wall time a query."""
    index.search(queries[0], limit=LIMIT, exact=exact)
    found, cpu, wall = [], [], []
    for query in queries:
        began, started = time.process_time(), time.perf_counter()
        found.append(index.search(query, limit=LIMIT, exact=exact))
        cpu.append(1e3 * (time.process_time() - began))
        wall.append(1e3 * (time.perf_counter() - started))
    return found, statistics.median(cpu), statistics.median(wall)


__all__ = ["INDEX_HEAD", "index_line", "index_rows", "run_index_benchmark"]
