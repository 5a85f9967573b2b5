"""What each checkpoint says about its run, so that none goes on with other data or arguments than it began with.

The Trainer itself takes whatever it is given: rows that were held out would have been trained on, the optimizer goes
on with its old learning rate, and the recorded command would not be the one that made the weights.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.command import without_folder
from ..records.differences import differences
from ..records.metrics_file import write_json


logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# Arguments of the Trainer that a run keeps: others would be ignored, or make another run of it.
KEPT = (
    "learning_rate",
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
    "max_length",
    "metric_for_best_model",
    "greater_is_better",
)
# Those with which a run may go on; the record names what changed.
CHANGEABLE = (
    "num_train_epochs",
    "max_steps",
    "max_minutes",
    "bf16",
    "fp16",
    "eval_strategy",
    "eval_steps",
    "load_best_model_at_end",
)
# Fields of recipes that say where and how it is computed, or what is measured at the end.
NOT_OF_TRAINING = (
    "attn_implementation",
    "cache",
    "cuda_graphs",
    "given",
    "images_on_device",
    "label_file",
    "learning_curve",
    "mini_batch_size",
    "samples",
    "scratch",
    "trust_remote_code",
)
CONFIGURATIONS = ("config", "text_config", "decoder_config")  # JSON, or files of it


def describe_start(recipe: Any, args: Any, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run keeps to the end, and what may change, as it is written into each of its checkpoints.

    Args:
        recipe: Data, model, and what is trained of it.
        args: Everything that the Trainer knows.
        data: Number and digest of the rows of each split that training sees.
    """
    known = {name: _portable(name, value) for name, value in vars(recipe).items() if name not in NOT_OF_TRAINING}
    rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    kept = {**known, **_values(args, KEPT), "rows of a step": rows, "data": data}
    return dict(json.loads(json.dumps({"kept": kept, "changeable": _values(args, CHANGEABLE)}, default=str)))


def check_same_run(checkpoint: Path, start: Mapping[str, Any]) -> list[str]:
    """Return what changes where a run goes on from a checkpoint, of that which may; see `describe_start`.

    Raises:
        ValueError: naming what else differs.
    """
    file = checkpoint / RUN_FILE
    if not file.is_file():
        logger.warning(
            "%s does not say what it was trained with, as older checkpoints do not: that data and arguments are the "
            "same is not checked.",
            checkpoint,
        )
        return []
    before = json.loads(file.read_text(encoding="utf-8"))
    if others := differences(before["kept"], start["kept"]):
        raise ValueError(
            f"Expected the data and the arguments that {checkpoint} was trained with, got others: {'; '.join(others)}."
            " Resume with those, or start a new run in another --output_dir."
        )
    return [*before.get("changed", []), *differences(before["changeable"], start["changeable"])]


def write_start(checkpoint: Path, start: dict[str, Any]) -> None:
    """Write what a run keeps into one of its checkpoints."""
    write_json(checkpoint / RUN_FILE, start)


def _portable(name: str, value: Any) -> Any:
    """Return an option without folders, in which the data and models may lie elsewhere when a run goes on."""
    if name in CONFIGURATIONS and value is not None:
        text = value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8")
        return {key: field for key, field in json.loads(text).items() if key != "attn_implementation"}
    if isinstance(value, list):
        return [_portable(name, one) for one in value]
    return without_folder(value) if isinstance(value, str) else value


def _values(args: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value := getattr(args, name, None), "value", value) for name in names}


__all__ = ["RUN_FILE", "check_same_run", "describe_start", "write_start"]
