"""SIGTERM and Ctrl-C: a checkpoint at the end of the running step, and an error that says how to continue."""

import logging
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from ..records.metrics_file import write_json
from .checkpoints import complete_checkpoints
from .resumption import RUN_FILE, Resumed, read_start


logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The terminal and a launcher may both pass on one Ctrl-C: within so many seconds it is the same one.
SAME_PRESS = 0.5


class TrainingInterruptedError(Exception):
    """Training was asked to stop and did, after saving a checkpoint to resume from.

    Args:
        message: The step, the checkpoint, and how to continue.
        signum: Number of the signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C saves a checkpoint at the end of the running step, then stops; all processes together.

    An evaluation that is due at this step follows: see `SavesBeforeEvaluation`.

    Use as a context manager around training: the former handlers are put back at the end. A second Ctrl-C raises
    `KeyboardInterrupt` at once.
    """

    def __init__(self) -> None:
        self.requested = 0  # number of the signal
        self.stopped = False
        self._former: dict[signal.Signals, Any] = {}
        self._process, self._first = os.getpid(), 0.0

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._former = {signum: signal.signal(signum, self._request) for signum in SIGNALS}
        else:
            logger.warning("SIGTERM and Ctrl-C are not caught: training does not run in the main thread.")
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that loads data: Ctrl-C in a terminal reaches it too, and the last step needs it
        if self.requested and signum == signal.SIGINT and time.monotonic() - self._first > SAME_PRESS:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._first = signum, time.monotonic()
            # Not `print`, which may be at work when the signal comes.
            os.write(2, b"\nStopping after this step, with a checkpoint. Ctrl-C ends at once, without one.\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop here."""
        if not self.stopped and not self.any_process_asked(args):
            return
        self.stopped = control.should_training_stop = control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the evaluation of an epoch that was cut short to the resumed run."""
        if self.stopped:
            control.should_evaluate = control.should_evaluate and _at_epoch_end(state)

    def any_process_asked(self, args: TrainingArguments) -> bool:
        """Return whether one of the processes got a signal; all of them ask."""
        if args.world_size > 1:
            asked = torch.tensor(self.requested, device=args.device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            self.requested = int(asked)
        return bool(self.requested)


class SavesBeforeEvaluation(Trainer):
    """A Trainer that, once it was asked to stop, saves first and then makes the evaluation that is due.

    Whoever sent the signal may not wait for an evaluation, and a resumed run begins after it: so it is added to the
    checkpoint that is already on disk, which until then says that it is due.
    """

    start: dict[str, Any] | None = None  # what each checkpoint says about its run, see `describe_start`
    stop: StopOnSignal | None = None
    began = 0.0  # of the clock, so that what was spent before the run was resumed counts
    cpu_before = 0.0  # seconds of processors that were spent before
    _saved_step, _evaluation_due = -1, False

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        if self.stop is not None and self.stop.stopped and self.control.should_save:
            ends = self.args.eval_strategy == IntervalStrategy.EPOCH and _at_epoch_end(self.state)
            self._evaluation_due = self.control.should_evaluate or ends
            self._save_checkpoint(model, trial)
            self._saved_step = self.state.global_step
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._saved_step == self.state.global_step:
            self._add_to_checkpoint(trial)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super()._evaluate(*args, **kwargs)
        self._evaluation_due = False
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(str(output_dir or self.args.output_dir))
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            self._write_start(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved_step != self.state.global_step:
            super()._save_checkpoint(model, trial)

    def _add_to_checkpoint(self, trial: Any) -> None:
        """Write what log and evaluation changed since the checkpoint of this step was saved."""
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
        if self.args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):  # which an evaluation moves
            self._save_optimizer_and_scheduler(str(folder))
        if self.args.should_save:
            stored: Any = self.state.stateful_callbacks
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ExportableState):
                    stored[type(callback).__name__] = callback.state()
            write_json(folder / TRAINER_STATE_NAME, asdict(self.state))
            self._write_start(folder)

    def _write_start(self, checkpoint: Path) -> None:
        if self.start is not None:
            seconds, cpu_seconds = self.spent()
            spent = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
            write_json(checkpoint / RUN_FILE, {**self.start, "evaluation_due": self._evaluation_due, **spent})

    def spent(self) -> tuple[float, float]:
        """Return the seconds, and those of processors, that the run took up to now, with all before it was resumed."""
        return time.monotonic() - self.began, time.process_time() + self.cpu_before


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a warning of the Trainer says anything.

    Not that it orders checkpoints saved within a second by their numbers, nor that a fraction of all steps (our
    `logging_steps`) is not the number that it had become.
    """
    first, *others = record.getMessage().strip().splitlines() or [""]
    return not first.startswith("mtime may not") and not (others and all(": 0." in line for line in others))


def train_until_done(trainer: Any, checkpoint: Any = None) -> tuple[float, float]:
    """Train, from a checkpoint if there is one, and return the seconds that it took, and those of processors.

    Raises:
        TrainingInterruptedError: after SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    folder, before = Path(str(trainer.args.output_dir)), (read_start(checkpoint) if checkpoint else None) or {}
    trainer.began = time.monotonic() - before.get("seconds", 0.0)
    trainer.cpu_before = before.get("cpu_seconds", 0.0)
    logging.getLogger("transformers.trainer_utils").addFilter(is_news)
    with StopOnSignal() as stop:
        trainer.add_callback(stop)
        trainer.stop = stop
        if checkpoint is not None:
            trainer.add_callback(Resumed(trainer, checkpoint))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # A signal in the last evaluation comes after the last step: its checkpoint is all that is needed, if there is one.
    last = folder / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    if stop.stopped or (stop.any_process_asked(trainer.args) and (last / TRAINER_STATE_NAME).is_file()):
        # `true` takes the one of the most steps, which may be of an earlier attempt.
        newest = complete_checkpoints(folder)[-1:] == [last]
        if trainer.args.save_only_model:
            how = f"It holds the model alone, so that no run can go on; one without LoRA can start by --model {last}"
        else:
            how = f"Continue with --resume_from_checkpoint {'true' if newest else last}"
        raise TrainingInterruptedError(
            f"{signal.Signals(stop.requested).name}: stopped at step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}, saved {last.name}. {how}.",
            stop.requested,
        )
    return trainer.spent()


def _at_epoch_end(state: TrainerState) -> bool:
    """Whether an epoch ends here, or the training within one."""
    return abs((state.epoch or 0) - round(state.epoch or 0)) < 1e-6 or state.global_step >= state.max_steps


__all__ = ["SavesBeforeEvaluation", "StopOnSignal", "TrainingInterruptedError", "train_until_done"]
