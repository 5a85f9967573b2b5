"""What each checkpoint says about its run, so that none goes on with other data or arguments than it began with.

The Trainer itself takes whatever it is given: rows that were held out would have been trained on, the optimizer goes
on with its old learning rate, and the recorded command would not be the one that made the weights.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..records.differences import differences


logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# Arguments of the Trainer that a run keeps: others would be ignored, or make another run of it.
KEPT = (
    "learning_rate",
    "learning_rate_mapping",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "optim_args",
    "seed",
    "data_seed",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "batch_sampler",
    "multi_dataset_batch_sampler",
    "max_length",
)
# Of runs that evaluate, before and now.
OF_EVALUATIONS = ("metric_for_best_model", "greater_is_better")
# Those with which a run may go on; the record names what changed.
CHANGEABLE = (
    "num_train_epochs",
    "max_steps",
    "max_minutes",
    "bf16",
    "fp16",
    "eval_strategy",
    "eval_steps",
    "eval_on_start",
    "load_best_model_at_end",
    "ignore_data_skip",
)
# Fields of recipes that say where and how it is computed, or what is measured at the end. Data, models and teachers
# are known by what is in them: they may lie elsewhere now.
NOT_OF_TRAINING = (
    "attn_implementation",
    "cache",
    "config",
    "cuda_graphs",
    "dataset",
    "decoder_config",
    "given",
    "held_out",
    "images",
    "images_on_device",
    "label_file",
    "learning_curve",
    "mini_batch_size",
    "model",
    "samples",
    "scratch",
    "teacher",
    "teachers",
    "text",
    "text_config",
    "trust_remote_code",
    "vision",
)
OF_CHECKPOINTS = ("model", "vision", "text")  # fields of recipes that name a checkpoint to start from
WEIGHT_FILES = ("*.safetensors", "*.bin")
# Of a configuration: where it is from, and how outputs are computed and returned.
NOT_OF_A_MODEL = (
    "_attn_implementation",
    "_name_or_path",
    "_processor_class",
    "architectures",
    "attn_implementation",
    "auto_map",
    "backend",
    "custom_pipelines",
    "device",
    "dtype",
    "name_or_path",
    "processor_class",
    "return_dict",
    "return_tensors",
    "torch_dtype",
    "transformers_version",
)


def describe_start(recipe: Any, args: Any, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run keeps to the end, and what may change, as it is written into each of its checkpoints.

    Args:
        recipe: Data, model, and what is trained of it.
        args: Everything that the Trainer knows.
        seen: What the run says of its data and its model.
    """
    known = {name: value for name, value in vars(recipe).items() if name not in NOT_OF_TRAINING}
    said = {
        "kept": {**known, **_values(args, KEPT), **seen},
        "of_evaluations": _values(args, OF_EVALUATIONS),
        "changeable": _values(args, CHANGEABLE),
    }
    return dict(json.loads(json.dumps(said, default=str)))


def weights_started_from(recipe: Any) -> dict[str, str | None]:
    """Return for each checkpoint that a recipe starts from a digest of its weights on disk, or its name on the Hub."""
    names = (name for name in OF_CHECKPOINTS if hasattr(recipe, name))
    return {name: _weights_of(getattr(recipe, name)) for name in names}


def _weights_of(place: str | None) -> str | None:
    if place is None or not os.path.isdir(place):
        return place
    found, folder = hashlib.sha256(), Path(place)
    files = [one for kind in WEIGHT_FILES for one in folder.glob(kind)]
    files = files or [one for kind in WEIGHT_FILES for one in folder.rglob(kind)]
    for file in sorted(one for one in files if one.name != TRAINING_ARGS_NAME):
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


def describe_config(config: Any) -> dict[str, Any]:
    """Return a configuration of a model or image processor without where it is from; nothing for what has none."""
    return _without_origin(config.to_dict()) if hasattr(config, "to_dict") else {}


def _without_origin(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): _without_origin(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if name not in NOT_OF_A_MODEL
    }


def check_same_run(checkpoint: Path, start: Mapping[str, Any]) -> list[str]:
    """Return what changes where a run goes on from a checkpoint, of that which may; see `describe_start`.

    Raises:
        ValueError: naming what else differs, or for a file that is damaged.
    """
    before = read_start(checkpoint)
    if before is None:
        logger.warning(
            "%s does not say what it was trained with, as older checkpoints do not: that data and arguments are the "
            "same is not checked.",
            checkpoint,
        )
        return []
    others = differences(*_known_to_both(before["kept"], start["kept"]))
    metrics = [_without_prefix(one["of_evaluations"]) for one in (before, start)]
    if all(one["metric_for_best_model"] is not None for one in metrics):
        others += differences(*metrics)
    if others:
        raise ValueError(
            f"Expected the data and the arguments that {checkpoint} was trained with, got others: {'; '.join(others)}."
            " Resume with those, or start a new run in another --output_dir."
        )
    changed = differences(*_known_to_both(before["changeable"], start["changeable"]))
    return [*before.get("changed", []), *changed]


def _known_to_both(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings without those that another release of ours or of transformers does not have."""
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name in (one for one in now if one in before):
        pair = before[name], now[name]
        nested = all(isinstance(one, Mapping) for one in pair)
        for place, value in zip(found, _known_to_both(*pair) if nested else pair, strict=True):
            place[name] = value
    return found


def read_start(checkpoint: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says about its run, None for one of an older release.

    Raises:
        ValueError: for a file that is damaged.
    """
    file = checkpoint / RUN_FILE
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if missing := {"kept", "of_evaluations", "changeable"} - found.keys():
            raise KeyError(*missing)
        return found
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"Expected what a run keeps in {file}, got a damaged file ({error!r}). Resume from another checkpoint."
        ) from error


class Resumed(TrainerCallback):
    """What the Trainer leaves out when it goes on.

    That is the best checkpoint of a run that was moved, the steps at which this call logs, evaluates and saves, and an
    evaluation that was due when the process ended.

    Args:
        trainer: Goes on.
        checkpoint: From this one.
    """

    def __init__(self, trainer: Any, checkpoint: Path) -> None:
        self.trainer, self.checkpoint = trainer, checkpoint

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what is missing, once the state of the checkpoint is there."""
        state.compute_steps(args, state.max_steps)
        # Beside this one, wherever the run was before: another run may lie there now.
        best = self.checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if state.best_global_step == state.global_step:
            best = self.checkpoint
        state.best_model_checkpoint = str(best) if best.is_dir() else None
        if state.best_global_step and args.load_best_model_at_end and state.best_model_checkpoint is None:
            logger.warning(
                "The best checkpoint of this run, that of step %s, is not beside %s: the best is chosen among the "
                "evaluations from here on.",
                state.best_global_step,
                self.checkpoint,
            )
            state.best_metric = state.best_global_step = None
        if (read_start(self.checkpoint) or {}).get("evaluation_due"):
            metrics = self.trainer._evaluate(None, None)
            if self.trainer._determine_best_metric(metrics=metrics, trial=None):
                state.best_model_checkpoint = str(self.checkpoint)


def _without_prefix(of_evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """Return a metric by the shorter of its two names, which are one to the Trainer."""
    metric = of_evaluations["metric_for_best_model"]
    return {**of_evaluations, "metric_for_best_model": metric and str(metric).removeprefix("eval_")}


def _values(args: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value := getattr(args, name, None), "value", value) for name in names}


__all__ = [
    "RUN_FILE",
    "Resumed",
    "check_same_run",
    "describe_config",
    "describe_start",
    "read_start",
    "weights_started_from",
]
