"""Views of images that teacher and student both see: which part of an image, and whether mirrored.

A view depends on (seed, row, view) alone, so that what a teacher says about it can be kept.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torchvision.transforms.v2 import functional


GOLDEN = 0x9E3779B97F4A7C15
VIEWS_VERSION = 2  # changes with the views of a seed, so that outputs kept for others are not used


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
        return _cut(image, self.boxes([row], [view], *image.shape[1:])[0], size)

    def cut_all(
        self,
        images: torch.Tensor,
        rows: Sequence[int],
        views: Sequence[int],
        size: int,
        threads: ThreadPoolExecutor | None = None,
    ) -> torch.Tensor:
        """Return views of images (B, C, H, W): on a GPU all at once, on a CPU one by one, or on several threads.

        Those of a GPU differ by at most two levels of 255, where torchvision rounds otherwise.
        """
        boxes = self.boxes(rows, views, *images.shape[2:])
        if images.device.type != "cpu":
            return cut_together(images, boxes, size)
        each = threads.map if threads is not None else map
        return torch.stack(list(each(_cut, images, boxes, [size] * len(images))))

    def boxes(self, rows: Sequence[int], views: Sequence[int], height: int, width: int) -> np.ndarray:
        """Return top, left, height, width and whether mirrored, (rows, 5), of parts with sides 3:4 to 4:3.

        As in Szegedy et al. 2015.
        """
        areas, ratios, tops, lefts, mirrored = _draws(self.seed, rows, views, 5)
        whole = np.asarray(views) == 0
        areas = self.min_crop_scale + (1 - self.min_crop_scale) * areas
        ratios = np.exp((2 * ratios - 1) * math.log(4 / 3) / 2)
        sides = []
        for full, wanted, start in (
            (height, np.sqrt(areas) * ratios, tops),
            (width, np.sqrt(areas) / ratios, lefts),
        ):
            side = np.where(whole, full, np.clip(np.rint(full * wanted), 1, full))
            sides.append((np.floor(start * (full - side + 1)), side))
        (top, tall), (left, wide) = sides
        return np.stack([top, left, tall, wide, ~whole & self.flip & (mirrored < 0.5)], axis=1).astype(np.int64)


def _draws(seed: int, rows: Sequence[int], views: Sequence[int], count: int) -> np.ndarray:
    """Return uniform draws (count, rows) of 0..1, by SplitMix64 (Steele et al. 2014): a generator a row is slow."""
    state = np.full((count, len(rows)), seed, dtype=np.uint64)
    for key in (np.asarray(views), np.asarray(rows), np.arange(count)[:, None]):
        state = (state + key.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) / 2.0**53


def _cut(image: torch.Tensor, box: np.ndarray, size: int) -> torch.Tensor:
    top, left, height, width, mirrored = box.tolist()
    image = image[:, top : top + height, left : left + width]
    if image.shape[1:] != (size, size):
        image = functional.resize(image, [size, size], antialias=True)
    return image.flip(-1) if mirrored else image


def cut_together(images: torch.Tensor, boxes: np.ndarray, size: int) -> torch.Tensor:
    """Cut boxes out of images (B, C, H, W) in uint8 and resize them with antialiasing, as two products of matrices."""
    top, left, tall, wide, mirrored = torch.from_numpy(boxes.T.copy()).to(images.device, non_blocking=True).unbind()
    across = _resizing(left, wide, images.shape[3], size)
    across = torch.where(mirrored[:, None, None].bool(), across.flip(1), across)
    # Rounded in between, as torchvision does.
    found = (images.float() @ across[:, None].mT).round_()
    return (_resizing(top, tall, images.shape[2], size)[:, None] @ found).round_().clamp_(0, 255).to(torch.uint8)


def _resizing(start: torch.Tensor, length: torch.Tensor, full: int, size: int) -> torch.Tensor:
    """Return the weights (B, size, full) of pixels of a row in those of its resized part: a triangle around each."""
    scale = (length / size).float()[:, None, None]
    centers = scale * (torch.arange(size, device=start.device) + 0.5)[None, :, None]
    places = torch.arange(full, device=start.device)[None, None] - start[:, None, None]
    weights = (1 - ((places + 0.5 - centers) / scale.clamp_min(1)).abs()).clamp_min(0)
    weights = weights * ((places >= 0) & (places < length[:, None, None]))
    return weights / weights.sum(-1, keepdim=True)


def choose_view(row: int, epoch: int, views: int) -> int:
    """Return which view an image shows in an epoch: each in turn, beginning anywhere; any number with `views` 0."""
    return epoch + 1 if views == 0 else (epoch + row) % views


__all__ = ["VIEWS_VERSION", "Views", "choose_view", "cut_together"]
