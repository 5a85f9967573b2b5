"""What happens around each step: epochs for the data, functions after it; models without their wrappers."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments


class DataEpochCallback(TrainerCallback):
    """
    Sets the epoch of the training data; accelerate does so only for some kinds of data loaders.

    Args:
        data: What has a `set_epoch`, by default the training dataset if it has one.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = data

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *event: Any, **kwargs: Any) -> None:
        """Set the epoch, counted from 0."""
        data = kwargs["train_dataloader"].dataset if self.data is None else self.data
        set_epoch = getattr(data, "set_epoch", None)
        if set_epoch is not None:
            # A resumed epoch starts at a fraction; the tiny step up is for sums that fall just short of one.
            set_epoch(int((state.epoch or 0) + 1e-6))


class TimeEstimateCallback(TrainerCallback):
    """Prints once how long training will take, by the steps after the first, which warms up."""

    STEPS = 10
    start: tuple[int, float] | None = None

    def on_train_begin(self, *event: Any, **kwargs: Any) -> None:
        """Forget an earlier start."""
        self.start = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *event: Any, **kwargs: Any) -> None:
        """Print the estimate after `STEPS` steps, where more than these are left."""
        if self.start is None:
            self.start = (state.global_step, time.monotonic())
        left = state.max_steps - state.global_step
        if state.global_step - self.start[0] == self.STEPS < left and state.is_world_process_zero:
            each = (time.monotonic() - self.start[1]) / self.STEPS
            duration = f"{each * left / 60:.0f} min" if each * left >= 90 else f"{each * left:.0f} s"
            print(f"About {duration} for {left:,} more steps ({each:.2g} s each), without evaluation.", flush=True)


class AfterStepCallback(TrainerCallback):
    """Calls a function without arguments after each optimizer step; several are called in the order they were added.

    Args:
        function: Changes weights in place. Wrapped models (DDP, compiled) share the parameters of the plain one.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    @torch.no_grad()
    def on_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        """Call the function."""
        self.function()


def unwrap(model: nn.Module | None) -> nn.Module | None:
    """Return a model without the wrappers of DDP and `torch.compile`."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    return getattr(model, "_orig_mod", model)


def set_frozen_to_eval(model: nn.Module) -> None:
    """Put the parts of a model that are not trained into evaluation mode: dropout is for what can learn from it."""
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


__all__ = ["AfterStepCallback", "DataEpochCallback", "TimeEstimateCallback", "set_frozen_to_eval", "unwrap"]
