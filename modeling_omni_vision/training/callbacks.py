"""What happens around each step: epochs for the data, centring, averaging, stopping in good order."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling_omni_vision import OmniVisionPreTrainedModel
from .averaging import WeightAverage


logger = logging.getLogger(__name__)


class TrainingInterruptedError(Exception):
    """Training was asked to stop and did, after saving a checkpoint to resume from."""


class NonFiniteLossError(ValueError):
    """The loss or a gradient became NaN or infinite; the message names the step and the rows of the batch."""


class DataEpochCallback(TrainerCallback):
    """
    Tells the training images which epoch it is; accelerate does so only on some of its roads.

    Args:
        data: What has a `set_epoch`, by default the training dataset.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = data

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set the epoch, counted from 0."""
        # A resumed epoch starts at a fraction; the tiny step up is for sums of fractions that fall just short of one.
        data = train_dataloader.dataset if self.data is None else self.data
        data.set_epoch(int((state.epoch or 0) + 1e-6))


class CenteringCallback(TrainerCallback):
    """Keeps everything that writes into the residual stream at zero mean, after each optimizer step."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Centre the model in place; wrapped models (DDP, compiled) share its parameters."""
        plain = unwrap(model)
        if isinstance(plain, OmniVisionPreTrainedModel):
            plain.center_residual_()


class AveragingCallback(TrainerCallback):
    """Takes each step's weights into their average; must come after centring."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the average."""
        self.average.update()


class StopOnSigterm(TrainerCallback):
    """On SIGTERM saves a checkpoint at the end of the running step, then stops; every process at the same step.

    Use as a context manager around training: the former handler is put back at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self.stopped = False
        self._former: Any = None

    def __enter__(self) -> "StopOnSigterm":
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._request)
        else:
            logger.warning("SIGTERM is not caught: training does not run in the main thread.")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop here, unless the epoch ends too: then after its evaluation."""
        if not self.stopped and not self._any_process_asked(args):
            return
        self.stopped = control.should_training_stop = True
        control.should_evaluate = False
        control.should_save = not self._at_epoch_end(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the evaluation of an epoch that was cut short to the resumed run."""
        if self.stopped:
            at_end = self._at_epoch_end(state)
            control.should_evaluate = control.should_evaluate and at_end
            control.should_save = at_end

    def _at_epoch_end(self, state: TrainerState) -> bool:
        return abs((state.epoch or 0) - round(state.epoch or 0)) < 1e-6

    def _any_process_asked(self, args: TrainingArguments) -> bool:
        if args.world_size <= 1:
            return self.requested
        asked = torch.tensor(int(self.requested), device=args.device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        return bool(asked)


def unwrap(model: nn.Module | None) -> nn.Module | None:
    """Take a model out of DDP and `torch.compile`."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    return getattr(model, "_orig_mod", model)


def set_frozen_to_eval(model: nn.Module) -> None:
    """Put the parts of a model that are not trained into evaluation mode: dropout is for what can learn from it."""
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


@contextmanager
def exit_when_interrupted() -> Iterator[None]:
    """End the process where training was interrupted, with the message and the exit status of SIGTERM."""
    try:
        yield
    except TrainingInterruptedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


def train_until_done(trainer: Trainer, checkpoint: Path | None) -> float:
    """Train, from a checkpoint if there is one, and tell how many seconds it took.

    Raises:
        TrainingInterruptedError: after SIGTERM, once a checkpoint is saved.
    """
    began = time.monotonic()
    with StopOnSigterm() as stop:
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.stopped:
        raise TrainingInterruptedError(
            f"SIGTERM: stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, saved "
            f"checkpoint-{trainer.state.global_step}. Continue with --resume_from_checkpoint true."
        )
    return time.monotonic() - began


__all__ = [
    "AveragingCallback",
    "CenteringCallback",
    "DataEpochCallback",
    "NonFiniteLossError",
    "StopOnSigterm",
    "TrainingInterruptedError",
    "exit_when_interrupted",
    "set_frozen_to_eval",
    "train_until_done",
    "unwrap",
]
