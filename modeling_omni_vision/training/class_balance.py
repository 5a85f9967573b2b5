"""Classes of unequal size: weights for the loss, or a sampler that draws every class equally often."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return weights (classes,) by which all classes weigh alike and an image 1 on average; 0 for an absent class."""
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    weights = len(labels) / ((counts > 0).sum() * counts.clamp_min(1))
    return torch.where(counts > 0, weights, 0.0)


class BalancedSampler(Sampler[int]):
    """Draws as many rows as there are, with replacement, every class equally often; in another way in each epoch.

    Args:
        data: An `ImageDataset`, whose `labels` and `epoch` are read.
        seed: Seed of the draws, which depend on it and on the epoch alone: a resumed run repeats them.
    """

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.seed = data, seed
        labels = data.labels.cpu()
        weights = class_weights(labels, int(labels.max()) + 1)[labels].double().numpy()
        self.probabilities = weights / weights.sum()

    def __len__(self) -> int:
        return len(self.probabilities)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch that the data are in."""
        generator = np.random.default_rng([self.seed, self.data.epoch])
        return iter(generator.choice(len(self), size=len(self), p=self.probabilities).tolist())


__all__ = ["BalancedSampler", "class_weights"]
