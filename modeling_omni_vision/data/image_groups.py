"""Which rows show the same image, by path or content: they are held out together."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def image_keys(rows: Iterable[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """Return a key of each image of each row, equal for equal files; images have `bytes` or a `path`."""
    listed = [[*row] for row in rows]
    paths = {str(image["path"]) for row in listed for image in row if not image["bytes"]}
    sizes = {path: Path(path).stat().st_size for path in paths}
    # Only files of one size can be equal: others need not be read.
    several = Counter(sizes.values())
    known = {path: _digest(Path(path).read_bytes()) if several[size] > 1 else path for path, size in sizes.items()}

    def key(image: Mapping[str, Any]) -> str:
        return _digest(image["bytes"]) if image["bytes"] else known[str(image["path"])]

    return [[key(image) for image in row] for row in listed]


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


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


__all__ = ["group_rows", "image_keys", "order_groups"]
