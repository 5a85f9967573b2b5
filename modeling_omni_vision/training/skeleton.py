"""What every training has in common: the Trainer that all tasks extend, and the run from arguments to a folder."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from ..records.machine import has_bf16_instructions
from ..records.metrics_file import METRICS_FILE, merge_metrics
from .callbacks import DataEpochCallback, TimeEstimateCallback, set_frozen_to_eval, unwrap
from .data_report import DataReport
from .interruption import train_until_done
from .optimizer import make_optimizer, parameter_groups
from .run_record import describe_run


logger = logging.getLogger(__name__)

WATCHED = 256  # numbers after which an accelerator is asked for them


class NonFiniteLossError(ValueError):
    """The loss or a gradient became NaN or infinite; the message names the step and, where known, the rows."""


class SkeletonTrainer(Trainer):
    """The Trainer of every task; with a Trainer of sentence-transformers as second base also theirs.

    Beside what `Trainer` does: a non-finite loss or gradient stops training before it reaches the weights; frozen
    parts are in evaluation mode; evaluation leaves the random state of training alone; the data know the epoch;
    parameter groups choose AdamW or Muon; checkpoints hold no pickle.

    Args:
        *args: As for `Trainer`.
        epoch_data: What has a `set_epoch`, by default the training dataset if it has one.
        **kwargs: As for `Trainer`.
    """

    layer_decay = 1.0  # learning rate of each layer of the encoder relative to the one above it
    muon_learning_rate = 0.0  # for the matrices of these layers; 0 leaves them to AdamW
    cuda_graphs = False  # whether steps are replayed, for which our optimizer is needed

    def __init__(self, *args: Any, epoch_data: Any = None, **kwargs: Any) -> None:
        self._rows: list[int] = []
        self._watched: list[tuple[str, torch.Tensor, int, list[int]]] = []
        self._flops_of_a_number: int | None = None
        super().__init__(*args, **kwargs)
        self.add_callback(DataEpochCallback(epoch_data))
        self.add_callback(TimeEstimateCallback())

    @property
    def core(self) -> Any:
        """The model that is trained and published, without wrappers."""
        return unwrap(self.model)

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """Return groups with a learning rate per layer of the encoder, and for Muon; None for the Trainer's own."""
        if self.layer_decay == 1 and not self.muon_learning_rate and not self.cuda_graphs:
            return None
        config, args = self.core.config, self.args
        layers = getattr(config, "vision_config", config).num_hidden_layers
        rates = (args.learning_rate, args.weight_decay, self.layer_decay, self.muon_learning_rate)
        return parameter_groups(self.core, layers, *rates)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer from `parameter_groups`."""
        groups = self.parameter_groups() if self.optimizer is None else None
        if groups is not None:
            self.optimizer = make_optimizer(groups, self.args, self.core)
        return super().create_optimizer(*args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, which must not divide losses by the accumulation steps.

        The Trainer does so itself; in transformers 5.5 accelerate would do it once more.
        """
        super().create_accelerator_and_postprocess()
        self.accelerator.gradient_accumulation_steps = 1

    def compute_loss_context_manager(self) -> Any:
        """Put frozen parts into evaluation mode: the Trainer has just put the whole model into training mode."""
        set_frozen_to_eval(self.core)
        return super().compute_loss_context_manager()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do one forward and backward pass.

        Raises:
            NonFiniteLossError: if the loss or a gradient is not finite.
        """
        rows = inputs.pop("rows", None)
        self._rows += [] if rows is None else rows.tolist()
        loss = self.forward_backward(model, inputs, *args, **kwargs)
        self.watch("loss", loss)
        return loss

    def forward_backward(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of a batch, and add its gradients to those of the parameters."""
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # A gradient scaler (fp16) expects overflows now and then, and skips those steps itself.
        if self.accelerator.scaler is None:
            self.watch("gradient norm", norm)
        self._rows = []
        return norm

    def watch(self, name: str, value: torch.Tensor) -> None:
        """Check that a number of this step is finite; on an accelerator later, since looking at it waits for it."""
        self._watched.append((name, value.detach().clone(), self.state.global_step + 1, self._rows))
        if value.device.type == "cpu" or len(self._watched) == WATCHED:
            self.check_watched()

    def check_watched(self) -> None:
        """Look at the numbers watched since the last time, in one transfer from the device.

        Raises:
            NonFiniteLossError: if one of them is not finite.
        """
        watched, self._watched = self._watched, []
        values = torch.stack([value.float() for _, value, _, _ in watched]).tolist() if watched else []
        for value, (name, _, step, rows) in zip(values, watched, strict=True):
            if not math.isfinite(value):
                batch = f", in the batch of rows {rows} of the training split" if rows else ""
                changed = "not changed by it" if self.args.device.type == "cpu" else "not saved since"
                raise NonFiniteLossError(
                    f"Expected a finite {name}, got {value} at step {step}{batch}. The weights were {changed} and "
                    "earlier checkpoints are intact: look at these rows, lower --learning_rate or "
                    "--muon_learning_rate, set --max_grad_norm, or use bf16 in place of fp16."
                )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save only what is known to be finite."""
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self.check_watched()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count operations as `Trainer` does, but parameters only once: that takes as long as a small step."""
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        if main is None:
            return super().floating_point_ops(inputs)
        if self._flops_of_a_number is None:
            self._flops_of_a_number = super().floating_point_ops(inputs) // max(main.numel(), 1)
        return self._flops_of_a_number * main.numel()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, with the random state of training as it was afterwards: a resumed run evaluates less often."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with paths of this machine, which nothing reads back.
        Path(str(output_dir or self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)


class TrainingRun(DataReport):
    """One run of a task, from arguments to a folder that can go to the Hub, with its numbers in `metrics.json`.

    A task says what differs: `build`, `describe`, `save`, `measure`.

    Args:
        recipe: Data, model, and what is trained of it.
        args: Everything that the Trainer knows.
    """

    packages: tuple[str, ...] = ()  # whose versions are recorded beside those of all
    evaluated = {"eval_accuracy": "accuracy", "eval_loss": "loss"}  # names of an evaluation, logged and recorded
    trainer: Any

    def __init__(self, recipe: Any, args: Any) -> None:
        self.recipe, self.args, self.folder = recipe, args, Path(str(args.output_dir))

    def build(self) -> SkeletonTrainer:
        """Load the data, make or load the model, and return their Trainer."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what the task adds to the record of the run, such as the recipe and the sizes of the data."""
        raise NotImplementedError

    def save(self) -> None:
        """Write the published model; runs in every process, of which the first one writes."""
        self.trainer.save_model()

    def measure(self) -> dict[str, Any]:
        """Return sections of `metrics.json` measured once on what was saved; runs in the first process."""
        return {}

    def run(self) -> Path:
        """Train, save, record and measure.

        Returns:
            `args.output_dir`: model, processor and code as the Hub wants them, and `metrics.json`.

        Raises:
            TrainingInterruptedError: after SIGTERM or Ctrl-C, once a checkpoint is saved.
            NonFiniteLossError: if the loss or a gradient becomes NaN or infinite.
            ValueError: for arguments, data or checkpoints that cannot be used.
        """
        checkpoint = find_checkpoint(self.folder, self.args.resume_from_checkpoint)
        warn_of_imitated_bf16(self.args)
        set_seed(self.args.seed)
        self.trainer = self.build()
        self.report_model()
        if self.args.dry_run:
            return self.folder
        self._check_that_a_batch_is_filled()
        seconds = train_until_done(self.trainer, checkpoint)
        common = describe_run(self.trainer, seconds, checkpoint, self.evaluated, self.packages)
        training = {**self.describe(), **common}
        self.save()
        if self.trainer.is_world_process_zero():
            # On disk before anything is measured: whatever is refused there, no training is lost.
            merge_metrics(self.folder, {"training": training})
            self.save_skipped()
            if self.args.do_predict:
                merge_metrics(self.folder, self.measure())
        return self.folder

    def _check_that_a_batch_is_filled(self) -> None:
        rows, batch = len(self.trainer.train_dataset), self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and rows < batch:
            raise ValueError(
                f"Expected at least one step of training, got none: {rows} rows to train on do not fill a batch of "
                f"{batch}, and incomplete ones are dropped. Lower --per_device_train_batch_size."
            )


def warn_of_imitated_bf16(args: Any) -> None:
    """Warn of bf16 on a processor without instructions for it; weights stay in float32 either way."""
    if args.bf16 and torch.device(args.device).type == "cpu" and not has_bf16_instructions():
        logger.warning(
            "This processor has no bfloat16 instructions: they are imitated, many times slower than float32. "
            "Leave out --bf16."
        )


def find_checkpoint(output_dir: Path, resume: str | bool | None) -> Path | None:
    """Return the checkpoint that a run starts from, None for the beginning.

    Args:
        output_dir: Folder of the run.
        resume: None or `false` to start a new run, `true` for the newest complete checkpoint (the beginning, with a
            warning, where there is none yet), or the path of a checkpoint.

    Raises:
        ValueError: if a new run would overwrite something, a run is finished, or a checkpoint is not complete.
    """
    wanted = str(resume or "false").strip()
    if (output_dir / METRICS_FILE).is_file():
        raise ValueError(
            f"{output_dir} holds a finished run, and the test split is opened once. Choose another --output_dir; to "
            f"train further, start from this one with --model {output_dir}. If its test split is still closed, "
            "omni-vision evaluate opens it."
        )
    if wanted.lower() in ("false", "no", "0"):
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise ValueError(
                f"Expected an empty --output_dir, got {output_dir} with files in it. Choose another, or continue its "
                "run with --resume_from_checkpoint true."
            )
        return None
    if wanted.lower() in ("true", "yes", "1"):
        complete = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
        if not complete:
            logger.warning("No complete checkpoint in %s yet: training starts at the beginning.", output_dir)
            return None
        return max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise ValueError(f"Expected 'true' or the folder of a complete checkpoint to resume, got {wanted!r}.")
    return Path(wanted)


__all__ = ["NonFiniteLossError", "SkeletonTrainer", "TrainingRun", "find_checkpoint", "warn_of_imitated_bf16"]
