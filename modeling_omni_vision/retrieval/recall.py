"""What the shortcuts of an index cost: search against scoring all images, and pooled vectors against all of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.image_files import path_of
from ..records.metrics_file import write_json
from .index import Hit, ImageIndex
from .table import MULTI


MEASURED = "recall.json"
QUERY_VECTORS = 4  # as many as a short text has words


def patch_queries(index: ImageIndex, count: int = 50, seed: int = 0) -> list[torch.Tensor]:
    """Return queries where there are none: for each, `QUERY_VECTORS` vectors of one image of the index."""
    rng, rows = np.random.default_rng(seed), index.rows(columns=("id",))
    chosen = sorted(rng.choice(len(rows), size=min(count, len(rows)), replace=False))
    images = index.vectors([rows[number]["id"] for number in chosen]).values()
    return [one[rng.choice(len(one), size=min(QUERY_VECTORS, len(one)), replace=False)] for one in images]


def search_recall(index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, **options: Any) -> float:
    """Return the share of the best `limit` images that a search finds; options as for `ImageIndex.search`."""
    found = [index.search(query, limit=limit, **options) for query in queries]
    return share_found(found, index.search_exactly(queries, limit))


def share_found(found: Sequence[Sequence[Hit]], truths: Sequence[Sequence[tuple[float, str]]]) -> float:
    """Return the mean share of true hits, as scores and ids, that are found."""
    pairs = zip(found, truths, strict=True)
    return float(np.mean([num_right(hits, truth) / len(truth) if truth else 1.0 for hits, truth in pairs]))


def num_right(found: Sequence[Hit], truth: Sequence[tuple[float, str]]) -> int:
    """Count the images found that score no less than the last true one, but for rounding: copies of an image tie."""
    return sum(hit.score >= truth[-1][0] - 1e-5 for hit in found)


def pooling_overlap(
    index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, sample: int = 200
) -> tuple[float, int] | None:
    """Measure the share of the best `limit` images by all of their vectors that the stored, pooled ones find.

    Returns:
        The share and the number of images of the sample, encoded anew; None where fewer than `limit` can be read.
    """
    rows = index.rows(columns=("id", "path"))
    rows = rows[:: max(1, len(rows) // sample)][:sample]
    read, _ = index.require_encoder().files([path_of(row["path"]) for row in rows])
    if len(read) < limit:
        return None
    # By path on both sides: a file that can no longer be read drops out of both.
    ids = {path_of(row["path"]): row["id"] for row in rows}
    names = [ids[file] for file, _ in read]
    stored = index.vectors(names)
    return overlap([torch.from_numpy(one).float() for _, one in read], [stored[one] for one in names], queries, limit)


def overlap(
    every: Sequence[torch.Tensor], pooled: Sequence[torch.Tensor], queries: Sequence[torch.Tensor], limit: int
) -> tuple[float, int]:
    """Return the share of the best `limit` by every vector that pooled ones find too, and the number of images."""
    from sentence_transformers.util import maxsim

    sides = [maxsim(list(queries), list(side)).topk(limit).indices.tolist() for side in (every, pooled)]
    shared = [len(set(one) & set(other)) / limit for one, other in zip(*sides, strict=True)]
    return float(np.mean(shared)), len(every)


def measure(index: ImageIndex, texts: Sequence[str] = (), limit: int = 10) -> dict[str, Any]:
    """Measure both for an index, by texts or, without any, by vectors of its own images.

    What was measured is kept beside the index until it has been optimised anew or the texts are others.

    Returns:
        `search_recall`, `pooling_overlap`, on how many queries and images; empty for fewer images than `limit`.
    """
    if len(index) < limit:
        return {}
    state = {name: index.settings.get(name) for name in ("weights", "optimized", "rows_at_indexing")}
    state |= {"texts": list(texts), "limit": limit}
    kept = read_json(index.folder / MEASURED)
    if state["optimized"] is None or kept.get("state") != state:
        kept = {"state": state, "cost": _measured(index, texts, limit)}
        write_json(index.folder / MEASURED, kept)
    return kept["cost"]


def _measured(index: ImageIndex, texts: Sequence[str], limit: int) -> dict[str, Any]:
    encoded = [index.require_encoder().text(text).embeds for text in texts]
    queries = [one for one in encoded if len(one)] or patch_queries(index)  # without words, nothing is searched
    pooling = pooling_overlap(index, queries, limit) if hasattr(index.encoder, "files") else None
    many = f"{QUERY_VECTORS} vectors of an image each" if index.vectors_of_an_image == MULTI else "images of its own"
    return {
        "limit": limit,
        "queries": len(queries),
        "queries_are": "texts" if any(map(len, encoded)) else many,
        "search_recall": search_recall(index, queries, limit),
        "pooling_overlap": pooling and pooling[0],
        "pooling_sample": pooling and pooling[1],
    }


def read_json(file: Path) -> dict[str, Any]:
    """Return a JSON file that a run before this one wrote, empty where there is none that can be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def sentence(cost: dict[str, Any]) -> str:
    """Return the result of `measure` as a sentence."""
    pooling = (
        ""
        if cost["pooling_overlap"] is None
        else (
            f"; pooled vectors keep {cost['pooling_overlap']:.1%} of the top {cost['limit']} of all vectors, among "
            f"{cost['pooling_sample']} images"
        )
    )
    return (
        f"Measured by {cost['queries']} queries ({cost['queries_are']}): search finds {cost['search_recall']:.1%} of "
        f"the top {cost['limit']} that scoring every image finds{pooling}."
    )


__all__ = [
    "measure",
    "num_right",
    "overlap",
    "patch_queries",
    "pooling_overlap",
    "read_json",
    "search_recall",
    "sentence",
    "share_found",
]
