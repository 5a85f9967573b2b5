"""Which rows show the same image, by path or content: they are held out together."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def image_keys(rows: Iterable[Iterable[Mapping[str, Any]]]) -> list[list[str]]:
    """Return a key of each image of each row, which only images of the same bytes share.

    Args:
        rows: Images, not decoded: `bytes`, or a `path`. Each row is gone through twice, so that columns of a dataset
            need not fit into memory.
    """
    listed = [*rows]
    sizes = [[_size(image) for image in row] for row in listed]
    # Files of a size of their own need not be read.
    several = Counter(size for found in sizes for size in found)
    return [
        [f"{size} {_digest(image) if several[size] > 1 else ''}" for size, image in zip(found, row, strict=True)]
        for found, row in zip(sizes, listed, strict=True)
    ]


def group_rows(keys: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the group of each row, numbered by its first row: rows that share an image, directly or by others."""
    parents = np.arange(len(keys))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    first: dict[str, int] = {}
    for row, found in enumerate(keys):
        for key in found:
            one, other = sorted((root(first.setdefault(key, row)), root(row)))
            parents[other] = one
    return np.array([root(row) for row in range(len(keys))], dtype=int)


def order_groups(order: np.ndarray, groups: np.ndarray, number: int) -> tuple[np.ndarray, int]:
    """Return rows in an order in which those of a group stand together, and `number` raised to the end of a group."""
    ranks = np.empty(len(order), dtype=int)
    ranks[order] = np.arange(len(order))
    firsts = np.full(len(order), len(order))
    np.minimum.at(firsts, groups, ranks)
    ordered = np.lexsort((ranks, firsts[groups]))
    held_out = groups[ordered]
    while 0 < number < len(ordered) and held_out[number] == held_out[number - 1]:
        number += 1
    return ordered, number


def _size(image: Mapping[str, Any]) -> int | str:
    if image["bytes"] is not None:
        return len(image["bytes"])
    # What cannot be found is refused where it is read; until then it is an image of its own.
    return os.path.getsize(image["path"]) if os.path.isfile(image["path"]) else str(image["path"])


def _digest(image: Mapping[str, Any]) -> str:
    if image["bytes"] is None and not os.path.isfile(image["path"]):
        return ""
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


__all__ = ["group_rows", "image_keys", "order_groups"]
