"""The exponential moving average of weights, and the files that let a run resume with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


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
        def update(averages: PARAM_LIST, current: PARAM_LIST, updates: torch.Tensor | int) -> None:
            warm = min(decay, (1 + int(updates)) / (10 + int(updates)))
            get_ema_multi_avg_fn(warm)(averages, current, updates)

        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=update)
        self.averaged.requires_grad_(False)

    def update(self) -> None:
        """Add the weights of the model after a step to the average."""
        self.averaged.update_parameters(self.model)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the model and their average, in place."""
        for weight, average in zip(self.model.parameters(), self.averaged.module.parameters(), strict=True):
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
        tensors[UPDATES_KEY] = self.averaged.n_averaged
        save_file(tensors, Path(folder, TRAINED_WEIGHTS_FILE))

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Restore both from a checkpoint whose (averaged) weights the model has just been given."""
        tensors = load_file(Path(folder, TRAINED_WEIGHTS_FILE))
        self.averaged.n_averaged.copy_(tensors.pop(UPDATES_KEY))
        for weight, average in zip(self.model.parameters(), self.averaged.module.parameters(), strict=True):
            average.copy_(weight)
        for name, weight in self.model.named_parameters():
            weight.copy_(tensors[name])


__all__ = ["TRAINED_WEIGHTS_FILE", "WeightAverage"]
