"""Which patches of an image are masked, as in SimMIM (https://huggingface.co/papers/2111.09886), and such batches.

Masks depend on (seed, epoch, row) alone, not on workers, processes, batch size or a resumed run. Validation images
have the same masks in every epoch.
"""

import math
from typing import Any

import numpy as np
import torch

from ..configuration_omni_vision import OmniVisionConfig
from ..data.augmentation import Rows
from ..data.image_dataset import ImageCollator, Sample


TRAINING, VALIDATION = 0, 1  # streams of random numbers


class PatchMasks:
    """Draws masks of the patches of images.

    Args:
        config: Of the model: grid and size of its patches.
        ratio: Fraction of an image that is masked, rounded up; some of it is always left.
        side: Height and width of a mask in pixels; None for one patch.
        seed: Seed of all draws.

    Raises:
        ValueError: for a side that patches or images cannot be divided into, or that leaves one mask for an image.
    """

    def __init__(self, config: OmniVisionConfig, ratio: float, side: int | None, seed: int) -> None:
        patch, self.grid, self.seed = config.patch_size_hw, config.grid_size, seed
        self.scale = (1, 1) if side is None else (side // patch[0], side // patch[1])
        sizes = zip(config.image_size_hw, patch, strict=True)
        if side is not None and (side < 1 or any(side % one or size % side for size, one in sizes)):
            raise ValueError(
                f"`mask_patch_size` must be a multiple of the patch size {patch} that divides the image size "
                f"{config.image_size_hw}, got {side}. Choose another, or leave it out for masks of one patch."
            )
        self.cells = (self.grid[0] // self.scale[0], self.grid[1] // self.scale[1])
        total = math.prod(self.cells)
        if total < 2:
            raise ValueError(
                f"Expected at least two masks in an image of {config.image_size_hw}, so that one part is seen, got "
                f"one of {side or patch}. Choose a smaller `mask_patch_size`, or patch_size in --config."
            )
        self.count = min(math.ceil(ratio * total), total - 1)

    def __call__(self, rows: Rows, epoch: int | None) -> torch.Tensor:
        """Return masks of rows (rows, patches), those of an epoch or, for None, of validation."""
        stream = (VALIDATION, 0) if epoch is None else (TRAINING, epoch)
        chosen = np.zeros((len(rows), math.prod(self.cells)), dtype=bool)
        for masked, row in zip(chosen, rows, strict=True):
            masked[np.random.default_rng([self.seed, *stream, int(row)]).permutation(len(masked))[: self.count]] = True
        grid = chosen.reshape(-1, *self.cells).repeat(self.scale[0], axis=1).repeat(self.scale[1], axis=2)
        return torch.from_numpy(grid.reshape(len(rows), -1))


class MaskingCollator(ImageCollator):
    """Turn a batch of `ImageDataset` into one for masked images: `pixel_values` and `bool_masked_pos`, no labels."""

    def __init__(self, processor: Any, masks: PatchMasks) -> None:
        super().__init__(processor)
        self.masks = masks

    def __call__(self, samples: Sample | list[Sample]) -> dict[str, Any]:
        """Normalise the batch and mask it; without an augmentation it is one of validation."""
        inputs, rows, epoch = self.without_labels(samples)
        return {**inputs, "bool_masked_pos": self.masks(rows, epoch)}


__all__ = ["MaskingCollator", "PatchMasks"]
