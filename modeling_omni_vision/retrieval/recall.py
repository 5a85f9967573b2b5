"""What the shortcuts of an index cost: found against scoring all, and merged vectors against all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import maxsim

from .index import Hit, ImageIndex


QUERY_VECTORS = 4  # as many as a short text has words


def patch_queries(index: ImageIndex, count: int = 50, seed: int = 0) -> list[torch.Tensor]:
    """Queries where nobody gave any: for each, `QUERY_VECTORS` vectors of one image of the index."""
    rng, rows = np.random.default_rng(seed), index.rows(columns=("id",))
    chosen = sorted(rng.choice(len(rows), size=min(count, len(rows)), replace=False))
    queries = []
    for vectors in index.vectors([rows[number]["id"] for number in chosen]).values():
        queries.append(vectors[rng.choice(len(vectors), size=min(QUERY_VECTORS, len(vectors)), replace=False)])
    return queries


def search_recall(index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, **options: Any) -> float:
    """
    Share of the best `limit` images that a search finds; options as for `ImageIndex.search`.

    An image that scores as the last of the best does counts as one of them: copies of an image tie.
    """
    shares = []
    for query in queries:
        truth = index.search(query, limit=limit, exact=True)
        found = index.search(query, limit=limit, **options)
        shares.append(right(found, truth) / len(truth) if truth else 1.0)
    return float(np.mean(shares))


def right(found: Sequence[Hit], truth: Sequence[Hit]) -> int:
    """How many of the images found score no less than the last true one, but for the rounding of a sum."""
    return sum(hit.score >= truth[-1].score - 1e-5 for hit in found)


def pooling_overlap(
    index: ImageIndex, queries: Sequence[torch.Tensor], limit: int = 10, sample: int = 200
) -> tuple[float, int] | None:
    """
    Share of the best `limit` images by all of their vectors that the stored, merged ones find, among a sample.

    Returns:
        The share and the number of images of the sample, encoded anew; None where fewer than `limit` can be read.
    """
    rows = index.rows(columns=("id", "path"))
    rows = rows[:: max(1, len(rows) // sample)][:sample]
    read, _ = index.needs_encoder().files([Path(row["path"]) for row in rows])
    if len(read) < limit:
        return None
    # By path on both sides: a file that can no longer be read drops out of both.
    ids = {row["path"]: row["id"] for row in rows}
    names = [ids[str(file)] for file, _ in read]
    stored = index.vectors(names)
    return overlap([torch.from_numpy(one).float() for _, one in read], [stored[one] for one in names], queries, limit)


def overlap(
    whole: Sequence[torch.Tensor], merged: Sequence[torch.Tensor], queries: Sequence[torch.Tensor], limit: int
) -> tuple[float, int]:
    """Share of the best `limit` by whole vectors that merged ones find too, and the number of images."""
    sides = [maxsim(list(queries), list(side)).topk(limit).indices.tolist() for side in (whole, merged)]
    shared = [len(set(one) & set(other)) / limit for one, other in zip(*sides, strict=True)]
    return float(np.mean(shared)), len(whole)


def measure(index: ImageIndex, texts: Sequence[str] = (), limit: int = 10) -> dict[str, Any]:
    """
    Measure both for an index, by texts or, without any, by vectors of its own images.

    Returns:
        `search_recall`, `pooling_overlap`, on how many queries and images; nothing for fewer images than `limit`.
    """
    if len(index) < limit:
        return {}
    encoder = index.needs_encoder()
    queries = [encoder.text(text).embeds for text in texts] or patch_queries(index)
    merged = pooling_overlap(index, queries, limit)
    return {
        "limit": limit,
        "queries": len(queries),
        "queries_are": "texts" if texts else f"{QUERY_VECTORS} vectors of an image each",
        "search_recall": search_recall(index, queries, limit),
        "pooling_overlap": merged and merged[0],
        "pooling_sample": merged and merged[1],
    }


def sentence(cost: dict[str, Any]) -> str:
    """Say what `measure` found."""
    merged = (
        ""
        if cost["pooling_overlap"] is None
        else (
            f"; merged vectors keep {cost['pooling_overlap']:.1%} of the top {cost['limit']} of all vectors, among "
            f"{cost['pooling_sample']} images"
        )
    )
    return (
        f"Measured by {cost['queries']} queries ({cost['queries_are']}): search finds {cost['search_recall']:.1%} of "
        f"the top {cost['limit']} that scoring every image finds{merged}."
    )


__all__ = ["measure", "overlap", "patch_queries", "pooling_overlap", "right", "search_recall", "sentence"]
