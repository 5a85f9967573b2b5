"""Patches of two images that are most like each other."""

from typing import NamedTuple

import torch
from torch.nn.functional import normalize


class PatchMatch(NamedTuple):
    """A patch (row, column) of the first image and one of the second, and their cosine."""

    first: tuple[int, int]
    second: tuple[int, int]
    cosine: float


def match_patches(first: torch.Tensor, second: torch.Tensor, limit: int = 12) -> list[PatchMatch]:
    """
    Return pairs of patches each of which is the most similar one to the other, the most similar pairs first.

    Args:
        first: Vectors of the patches of an image, (rows, columns, hidden).
        second: Those of another, which may have another number of rows and columns.
        limit: Pairs at most.
    """
    cosines = normalize(first.flatten(0, 1), dim=-1) @ normalize(second.flatten(0, 1), dim=-1).T
    forth, back = cosines.argmax(1), cosines.argmax(0)
    mutual = (back[forth] == torch.arange(len(forth))).nonzero().flatten().tolist()
    pairs = sorted(((float(cosines[one, forth[one]]), one, int(forth[one])) for one in mutual), reverse=True)[:limit]
    width, other_width = first.shape[1], second.shape[1]
    return [PatchMatch(divmod(one, width), divmod(other, other_width), cosine) for cosine, one, other in pairs]


__all__ = ["PatchMatch", "match_patches"]
