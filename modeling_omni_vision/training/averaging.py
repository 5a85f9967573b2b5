"""The exponential moving average of weights, and the files that let a run resume with it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


# `model.safetensors` of a checkpoint holds the averaged weights, the ones that were evaluated; this file those that
# training continues from.
TRAINED_WEIGHTS_FILE = "trained_weights.safetensors"
UPDATES_KEY = "average.updates"


class WeightAverage:
    """An exponential moving average of a model's weights.

    It starts as a plain average and slows down to `decay`: at update n the decay is at most (1 + n) / (10 + n), so
    that short runs are not held back by their first steps.

    Args:
        model: The model, not wrapped, that is being trained.
        decay: Weight of the past in the average, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.averaged = copy.deepcopy(model).requires_grad_(False)

    def update(self) -> None:
        """Add the weights of the model after a step to the average."""
        self.add(self.next_share())

    def next_share(self) -> float:
        """Count an update, and return the share that the weights after it have in the average."""
        count, self.updates = self.updates, self.updates + 1
        return 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0

    @torch.no_grad()
    def add(self, share: float | torch.Tensor) -> None:
        """Move the average towards the weights of the model by a share, in few kernels for all of them."""
        averages: list[torch.Tensor] = [*self.averaged.parameters()]
        weights: list[torch.Tensor] = [*self.model.parameters()]
        if not isinstance(share, torch.Tensor):
            torch._foreach_lerp_(averages, weights, share)
            return
        # As lerp takes no share from the device.
        change = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(averages, list(change))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the model and their average, in place."""
        for weight, average in zip(self.model.parameters(), self.averaged.parameters(), strict=True):
            weight.data, average.data = average.data, weight.data

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Exchange weights and average within the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def save(self, folder: str | Path) -> None:
        """Write the weights that training continues from, and how often the average was updated."""
        tensors = {name: weight.detach().contiguous() for name, weight in self.model.named_parameters()}
        tensors[UPDATES_KEY] = torch.tensor(self.updates)
        save_file(tensors, Path(folder, TRAINED_WEIGHTS_FILE))

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Restore both from a checkpoint whose (averaged) weights the model has just been given."""
        tensors = load_file(Path(folder, TRAINED_WEIGHTS_FILE))
        self.updates = int(tensors.pop(UPDATES_KEY))
        for weight, average in zip(self.model.parameters(), self.averaged.parameters(), strict=True):
            average.copy_(weight)
        for name, weight in self.model.named_parameters():
            weight.copy_(tensors[name])


__all__ = ["TRAINED_WEIGHTS_FILE", "WeightAverage"]
