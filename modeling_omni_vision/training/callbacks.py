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


class TimeLimitCallback(TrainerCallback):
    """Ends training after a time, with the learning rate where it would end after all steps.

    Steps that are too slow for that count more: the learning rate is that of the larger share, of steps or of time. A
    resumed run has what its checkpoint left of the time, and processes go by the slowest clock, or some would wait for
    others that have ended.

    Args:
        seconds: Time from the first step on, evaluation included.
        scheduler: Of the learning rates; made of functions of the step.
    """

    KEPT = "time_limit"

    def __init__(self, seconds: float, scheduler: Any) -> None:
        self.seconds, self.start, self.steps, self.elapsed, self.stopped = seconds, 0.0, 0, 0.0, False
        scheduler.lr_lambdas = [self._by_time(rate) for rate in scheduler.lr_lambdas]

    def _by_time(self, rate: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: rate(max(step, int(self.steps * self._share())))

    def _share(self) -> float:
        return min(1.0, self.elapsed / self.seconds)

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self._share() == 1

    def on_train_begin(self, args: TrainingArguments, state: Any, *event: Any, **kwargs: Any) -> None:
        """Start the clock."""
        kept = state.stateful_callbacks.get(self.KEPT, {})
        self.elapsed, self.steps = kept.get("elapsed", 0.0), state.max_steps
        self.start = time.monotonic() - self.elapsed

    def on_pre_optimizer_step(self, args: Any, state: Any, *event: Any, **kwargs: Any) -> None:
        """Look at the clock, before the learning rate of the next step is chosen."""
        self.elapsed = time.monotonic() - self.start
        if args.world_size > 1:
            slowest = torch.tensor(self.elapsed, device=args.device)
            torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
            self.elapsed = float(slowest)
        state.stateful_callbacks[self.KEPT] = {"elapsed": self.elapsed}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop when the time is over, with what comes after the last step."""
        if self.is_over and not control.should_training_stop:
            self.stopped = control.should_training_stop = True
            control.should_evaluate |= args.eval_strategy != "no"
            control.should_save |= args.save_strategy != "no"

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Do not evaluate and save once more, at the end of the epoch that was cut short."""
        if self.stopped:
            control.should_evaluate = control.should_save = False


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


__all__ = [
    "AfterStepCallback",
    "DataEpochCallback",
    "TimeEstimateCallback",
    "TimeLimitCallback",
    "set_frozen_to_eval",
    "unwrap",
]
