"""What every training has in common: the Trainer that all tasks extend, and the run from arguments to a folder."""

import difflib
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from ..data.row_digest import describe_rows
from ..interop.folder import share_weights
from ..records.machine import has_bf16_instructions
from ..records.metrics_file import merge_metrics
from .callbacks import DataEpochCallback, TimeEstimateCallback, TimeLimitCallback, set_frozen_to_eval, unwrap
from .checkpoints import (
    are_intact,
    bring_back,
    find_checkpoint,
    forget_replaced,
    has_adapters,
    held,
    restore_weights,
    save_weights,
    set_aside,
)
from .data_report import DataReport
from .interruption import SavesBeforeEvaluation, train_until_done
from .optimizer import make_optimizer, parameter_groups
from .progress import Progress
from .report import Picture, one_line, write_report
from .resumption import check_same_run, describe_config, describe_start, weights_started_from
from .run_record import describe_run


logger = logging.getLogger(__name__)

WATCHED = 256  # numbers after which an accelerator is asked for them
SEEN_AT_ONCE = ("cpu",)  # devices whose numbers cost no waiting


class NonFiniteLossError(ValueError):
    """The loss or a gradient became NaN or infinite; the message names the step and, where known, the rows."""


class SkeletonTrainer(SavesBeforeEvaluation):
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
        for theirs in (PrinterCallback, ProgressCallback):
            self.remove_callback(theirs)
        self.add_callback(Progress())
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

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the scheduler, which goes by time where `max_minutes` limit training.

        Raises:
            ValueError: for a limit of a learning rate that is no function of the step.
        """
        is_new, scheduler = self.lr_scheduler is None, super().create_scheduler(*args, **kwargs)
        minutes = getattr(self.args, "max_minutes", 0.0)
        if is_new and minutes:
            if not hasattr(scheduler, "lr_lambdas"):
                kind = self.args.lr_scheduler_type
                raise ValueError(f"`max_minutes` cannot end {kind!s}. Choose cosine, linear or constant_with_warmup.")
            self.add_callback(TimeLimitCallback(60 * minutes, scheduler))
        return scheduler

    def get_train_dataloader(self) -> Any:
        """Return the batches to train on.

        Workers that stay are started once, others in each epoch, which draws a number: it must not be one of those of
        dropout, since a resumed run starts them once more.
        """
        loader = super().get_train_dataloader()
        if self.args.dataloader_persistent_workers:
            inner = getattr(loader, "base_dataloader", loader)  # which accelerate goes over
            inner.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return all batches to validate, also with `dataloader_drop_last`, which is meant for training."""
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops

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

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Do not train on a run that was complete within an epoch: transformers asks only after a further step."""
        limits = [one for one in self.callback_handler.callbacks if isinstance(one, TimeLimitCallback)]
        if self.state.global_step < self.state.max_steps and not any(one.is_over for one in limits):
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

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
        if value.device.type in SEEN_AT_ONCE or len(self._watched) == WATCHED:
            self.check_watched()

    def check_watched(self) -> None:
        """Look at the numbers watched since the last time, in one transfer from the device.

        Raises:
            NonFiniteLossError: if one of them is not finite.
        """
        seen, self._watched = self._watched, []
        values = torch.stack([value.float() for _, value, _, _ in seen]).tolist() if seen else []
        broken = next((index for index, value in enumerate(values) if not math.isfinite(value)), None)
        if self._anywhere(broken is not None):
            name, _, step, rows = seen[-1 if broken is None else broken]
            value = math.nan if broken is None else values[broken]
            self._stop(name, value, step, () if broken is None else rows)

    def _anywhere(self, here: bool) -> bool:
        """Return whether something holds in any process: all stop together, or the others would wait for one."""
        if self.args.world_size == 1:
            return here
        found = torch.tensor(here, dtype=torch.int32, device=self.args.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return bool(found)

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

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate within training, and stop at what is not finite before a checkpoint of it is saved."""
        with watched(self.core) as broken:
            metrics = super()._evaluate(*args, **kwargs)
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                self._stop(name, value, self.state.global_step)
        if broken:
            self._stop(f"output of `{broken[0]}` in evaluation", math.nan, self.state.global_step)
        return metrics

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(*args, **kwargs)

    def check_weights(self) -> None:
        """Raise `NonFiniteLossError` where a weight is not finite: a step itself can overflow."""
        for name, weight in self.core.named_parameters():
            if weight.requires_grad and not weight.isfinite().all():
                self._stop(f"`{name}`", math.nan, self.state.global_step)

    def _stop(self, name: str, value: float, step: int, rows: Collection[int] = ()) -> None:
        batch = f", in the batch of rows {list(rows)} of the training split" if rows else ""
        # An accelerator is asked later, after the step.
        is_new = step > self.state.global_step and self.args.device.type == "cpu"
        unchanged = "The weights were not changed by it. " if is_new else ""
        intact = "Earlier checkpoints are intact. " if are_intact(Path(str(self.args.output_dir))) else ""
        raise NonFiniteLossError(
            f"Expected a finite {name}, got {value} at step {step}{batch}. {unchanged}{intact}"
            f"{'Look at these rows, lower' if rows else 'Lower'} --learning_rate or --muon_learning_rate, set "
            "--max_grad_norm, or use bf16 in place of fp16."
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(str(output_dir or self.args.output_dir))
        if has_adapters(self.core):
            save_weights(self.core, folder)
        # A pickle with paths of this machine, which nothing reads back.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.restore(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        self.restore(str(self.state.best_model_checkpoint))

    def restore(self, folder: str) -> None:
        """Put the weights of a checkpoint into the model."""
        restore_weights(self.core, folder)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list that gets the names of the parts of a model whose outputs are not finite within the block."""
    broken: list[str] = []

    def look(name: str, output: Any) -> None:
        tensor = output if isinstance(output, torch.Tensor) else next(iter(output.values()), None)
        if isinstance(tensor, torch.Tensor) and not tensor.isfinite().all():
            broken.append(name)

    parts = [(name, part) for name, part in model.named_children() if any(True for _ in part.parameters())]
    hooks = [part.register_forward_hook(lambda _, __, out, name=name: look(name, out)) for name, part in parts]
    try:
        yield broken
    finally:
        for hook in hooks:
            hook.remove()


class TrainingRun(DataReport):
    """One run of a task, from arguments to a folder that can go to the Hub, with its numbers in `metrics.json`.

    A task says what differs: `build`, `describe`, `save`, `measure`, and what its report shows: `pictures`.

    Args:
        recipe: Data, model, and what is trained of it.
        args: Everything that the Trainer knows.
    """

    program = ""  # command that starts such a run, for tasks whose record does not hold it
    packages: tuple[str, ...] = ()  # whose versions are recorded beside those of all
    evaluated = {"eval_accuracy": "accuracy", "eval_loss": "loss"}  # names of an evaluation, logged and recorded
    trainer: Any

    def __init__(self, recipe: Any, args: Any) -> None:
        self.recipe, self.args, self.folder = recipe, args, Path(str(args.output_dir))

    def build(self) -> SkeletonTrainer:
        """Load the data, make or load the model, and return their Trainer."""
        raise NotImplementedError

    @property
    def metrics(self) -> Collection[str]:
        """Names of the metrics that an evaluation gives, one of which chooses the best model."""
        return self.evaluated

    def describe(self) -> dict[str, Any]:
        """Return what the task adds to the record of the run, such as the recipe and the sizes of the data."""
        raise NotImplementedError

    def save(self) -> None:
        """Write the published model; runs in every process, of which the first one writes."""
        self.trainer.save_model()

    def rows_seen(self) -> dict[str, dict[str, Any]]:
        """Return number and digest of the rows to train on and to validate."""
        return {name: describe_rows(self.data[name]) for name in ("train", "validation") if name in self.data}

    @property
    def compares_images_of_a_batch(self) -> bool:
        """Whether the images of a batch act on each other, so that a step may not be divided in another way."""
        return False

    def seen(self) -> dict[str, Any]:
        """Return what a resumed run must find again beside its arguments: rows, model, and how many rows at once."""
        args, model, processor = self.args, self.trainer.core, self.trainer.processing_class
        return {
            "data": self.rows_seen(),
            "started from": weights_started_from(self.recipe),
            "model": describe_config(getattr(model, "config", None)),
            "images": describe_config(getattr(processor, "image_processor", processor)),
            "rows of a step": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            **({"images of a batch": args.per_device_train_batch_size} if self.compares_images_of_a_batch else {}),
        }

    def measure(self) -> dict[str, Any]:
        """Return sections of `metrics.json` measured once on what was saved; runs in the first process."""
        return {}

    def pictures(self, folder: Path) -> Iterator[Picture | Mapping[str, Any]]:
        """Draw what `report.html` shows beside data, curves and results, into a folder that is removed afterwards.

        A mapping among them holds numbers of a classifier on validation, as `classification_metrics` returns them.
        """
        yield from ()

    def save_report(self) -> None:
        """Write `report.html`; whatever fails there, the run is complete without it."""
        try:
            print(f"Report: {write_report(self)}", flush=True)
        except Exception as error:
            logger.warning("The run is complete, only its report could not be written: %s", one_line(error))

    def run(self) -> Path:
        """Train, save, record, measure and report.

        Returns:
            `args.output_dir`: model, processor and code as the Hub wants them, `metrics.json`, and `report.html`.

        Raises:
            TrainingInterruptedError: after SIGTERM or Ctrl-C, once a checkpoint is saved.
            NonFiniteLossError: if the loss or a gradient becomes NaN or infinite.
            ValueError: for arguments, data or checkpoints that cannot be used.
        """
        with ExitStack() as stack:
            for option, folder in self.own_folders().items():
                stack.enter_context(held(folder, self.args.process_index == 0, option))
            return self._run()

    def own_folders(self) -> dict[str, Path]:
        """Return, by the option that names it, each folder that no other run may write to meanwhile."""
        return {"--output_dir": self.folder}

    def _run(self) -> Path:
        args = self.args
        checkpoint = find_checkpoint(self.folder, args.resume_from_checkpoint, args.overwrite_output_dir)
        warn_of_imitated_bf16(args)
        set_seed(args.seed)
        is_new = not self.folder.exists()
        self.trainer = self.build()
        self.report_model()
        if self.args.dry_run:
            if is_new and self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()  # which the Trainer made
            return self.folder
        self._check_that_a_batch_is_filled()
        self._check_metric()
        changed: list[str] = []
        if checkpoint is not None or args.should_save:  # a process that neither reads nor writes it need not look
            start = describe_start(self.recipe, args, self.seen())
            changed = [] if checkpoint is None else check_same_run(checkpoint, start)
            self.trainer.start = {**start, "changed": changed}
        with self._replaced():
            spent = train_until_done(self.trainer, checkpoint)
            self.trainer.check_weights()
            common = describe_run(self.trainer, *spent, checkpoint, self.evaluated, self.packages)
            training = {**self.describe(), **common, **({"changed_by_resuming": changed} if changed else {})}
            self.save()
        if self.trainer.is_world_process_zero():
            share_weights(self.folder)
            # On disk before anything is measured: whatever is refused there, no training is lost.
            merge_metrics(self.folder, {"training": training})
            self.save_skipped()
            try:
                if self.args.do_predict:
                    merge_metrics(self.folder, self.measure())
            except ValueError:
                self.save_report()
                raise
            self.save_report()
        return self.folder

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        """Set aside an old run that this one replaces; it comes back if this one fails before it saves anything."""
        first = self.trainer.is_world_process_zero()
        if first and self.args.overwrite_output_dir:
            set_aside(self.folder)
        try:
            yield
        except BaseException:
            if first and self.args.overwrite_output_dir:
                bring_back(self.folder)
            raise
        if first:
            forget_replaced(self.folder)

    def _check_metric(self) -> None:
        wanted = self.args.metric_for_best_model
        if wanted is None or f"eval_{wanted.removeprefix('eval_')}" in self.metrics:
            return
        known = sorted(name.removeprefix("eval_") for name in self.metrics)
        near = difflib.get_close_matches(wanted.removeprefix("eval_"), known, 1, cutoff=0.4)
        raise ValueError(
            f"`metric_for_best_model` must be one of {', '.join(known)}, got {wanted!r}."
            + (f" Did you mean {near[0]}?" if near else " Name one of them.")
        )

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


__all__ = ["NonFiniteLossError", "SkeletonTrainer", "TrainingRun", "warn_of_imitated_bf16", "watched"]
