"""What the shortcuts of an index cost: search against scoring all images, and pooled vectors against all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import maxsim

from .index import Hit, ImageIndex


QUERY_VECTORS = 4  # as many as a short text has words


def patch_queries(index: ImageIndex, count: int = 50, seed: int = 0) -> list[torch.Tensor]:
    """Return queries where there are none: for each, `QUERY_VECTORS` vectors of one image of the index."""
    rng, rows = np.random.default_rng(seed), index.rows(columns=("id",))
    chosen = sorted(rng.choice(len(rows), size=min(count, len(rows)), replace=False))
    images = index.vectors([rows[number]["id"] for number in chosen]).values()
    return [one[rng.choice(len(one), size=min(QUERY_VECTORS, len(one)), replace=False)] for one in images]


def search_recall(index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, **options: Any) -> float:
    """Return the share of the best `limit` images that a search finds; options as for `ImageIndex.search`."""
    shares = []
    for query in queries:
        truth = index.search(query, limit=limit, exact=True)
        found = index.search(query, limit=limit, **options)
        shares.append(num_right(found, truth) / len(truth) if truth else 1.0)
    return float(np.mean(shares))


def num_right(found: Sequence[Hit], truth: Sequence[Hit]) -> int:
    """Count the images found that score no less than the last true one, but for rounding: copies of an image tie."""
    return sum(hit.score >= truth[-1].score - 1e-5 for hit in found)


def pooling_overlap(
    index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, sample: int = 200
) -> tuple[float, int] | None:
    """Measure the share of the best `limit` images by all of their vectors that the stored, pooled ones find.

    Returns:
        The share and the number of images of the sample, encoded anew; None where fewer than `limit` can be read.
    """
    rows = index.rows(columns=("id", "path"))
    rows = rows[:: max(1, len(rows) // sample)][:sample]
    read, _ = index.require_encoder().files([Path(row["path"]) for row in rows])
    if len(read) < limit:
        return None
    # By path on both sides: a file that can no longer be read drops out of both.
    ids = {row["path"]: row["id"] for row in rows}
    names = [ids[str(file)] for file, _ in read]
    stored = index.vectors(names)
    return overlap([torch.from_numpy(one).float() for _, one in read], [stored[one] for one in names], queries, limit)


def overlap(
    every: Sequence[torch.Tensor], pooled: Sequence[torch.Tensor], queries: Sequence[torch.Tensor], limit: int
) -> tuple[float, int]:
    """Return the share of the best `limit` by every vector that pooled ones find too, and the number of images."""
    sides = [maxsim(list(queries), list(side)).topk(limit).indices.tolist() for side in (every, pooled)]
    shared = [len(set(one) & set(other)) / limit for one, other in zip(*sides, strict=True)]
    return float(np.mean(shared)), len(every)


def measure(index: ImageIndex, texts: Sequence[str] = (), limit: int = 10) -> dict[str, Any]:
    """Measure both for an index, by texts or, without any, by vectors of its own images.

    Returns:
        `search_recall`, `pooling_overlap`, on how many queries and images; empty for fewer images than `limit`.
    """
    if len(index) < limit:
        return {}
    encoder = index.require_encoder()
    encoded = [encoder.text(text).embeds for text in texts]
    queries = [one for one in encoded if len(one)] or patch_queries(index)  # without words, nothing is searched
    pooling = pooling_overlap(index, queries, limit)
    return {
        "limit": limit,
        "queries": len(queries),
        "queries_are": "texts" if any(map(len, encoded)) else f"{QUERY_VECTORS} vectors of an image each",
        "search_recall": search_recall(index, queries, limit),
        "pooling_overlap": pooling and pooling[0],
        "pooling_sample": pooling and pooling[1],
    }


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


__all__ = ["measure", "num_right", "overlap", "patch_queries", "pooling_overlap", "search_recall", "sentence"]
