"""Views of images that teacher and student both see: which part of an image, and whether mirrored.

A view depends on (seed, row, view) alone, so that what a teacher says about it can be kept.
"""

import math

import numpy as np
import torch
from torchvision.transforms.v2 import functional


class Views:
    """Random-resized crops and mirror images; view 0 of each image is the whole one.

    Args:
        seed: Seed of all draws.
        min_crop_scale: Smallest fraction of the area that a view keeps.
        flip: Mirror every second view.
    """

    def __init__(self, seed: int, min_crop_scale: float, flip: bool) -> None:
        self.seed, self.min_crop_scale, self.flip = seed, min_crop_scale, flip

    def cut(self, image: torch.Tensor, row: int, view: int, size: int) -> torch.Tensor:
        """Return a view of an image (C, H, W) in uint8, resized to a square of `size` pixels."""
        if view:
            draws = np.random.default_rng([self.seed, row, view])
            top, left, height, width = self._box(draws, *image.shape[1:])
            image = image[:, top : top + height, left : left + width]
        if image.shape[1:] != (size, size):
            image = functional.resize(image, [size, size], antialias=True)
        return image.flip(-1) if view and self.flip and draws.random() < 0.5 else image

    def _box(self, draws: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a part, sides in the ratio 3:4 to 4:3 (Szegedy et al. 2015)."""
        area = draws.uniform(self.min_crop_scale, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
        rows = min(max(round(height * math.sqrt(area) * ratio), 1), height)
        columns = min(max(round(width * math.sqrt(area) / ratio), 1), width)
        return int(draws.integers(height - rows + 1)), int(draws.integers(width - columns + 1)), rows, columns


def choose_view(row: int, epoch: int, views: int) -> int:
    """Return which view an image shows in an epoch: each in turn, beginning anywhere; any number with `views` 0."""
    return epoch + 1 if views == 0 else (epoch + row) % views


__all__ = ["Views", "choose_view"]
