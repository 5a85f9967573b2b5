"""What a run leaves in `metrics.json`: how it was made and what came out, the only source of numbers in cards."""

import importlib.metadata
import json
import os
import platform
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict

from ..records.command import without_folder
from ..records.metrics_file import cpu_model
from .arguments import OmniVisionTrainingArguments, RecipeArguments
from .trainer import OmniVisionTrainer


RECORDED_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets")
PATH_ARGUMENTS = ("dataset", "model", "output_dir", "resume_from_checkpoint")


def describe_run(
    recipe: RecipeArguments,
    args: OmniVisionTrainingArguments,
    trainer: OmniVisionTrainer,
    data: DatasetDict,
    seconds: float,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Collect the `training` section: command, machine, time, history and validation result."""
    evaluations = _history(trainer, {"eval_accuracy": "accuracy", "eval_loss": "loss"})
    best = max(evaluations, key=lambda entry: entry["accuracy"], default={})
    changed = _without_folders({**recipe.given, **args.given})
    config = recipe.config_fields()
    return {
        "command": _command({**changed, **({"config": json.dumps(config)} if config else {})}),
        "arguments": {**changed, **({"config": config} if config else {})},
        "seed": args.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": recorded_versions(),
        "machine": describe_machine(),
        "processes": args.world_size,
        "minutes": round(seconds / 60, 2),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_epoch": best.get("epoch"),
        "validation_accuracy": best.get("accuracy"),
        "parameters": sum(parameter.numel() for parameter in trainer.classifier.parameters()),
        "dataset": {
            "name": without_folder(recipe.dataset),
            "classes": list((trainer.classifier.config.id2label or {}).values()),
            **{name: len(split) for name, split in data.items()},
        },
        "history": _history(trainer, {"loss": "loss", "learning_rate": "learning_rate"}),
        "evaluations": evaluations,
    }


def recorded_versions(*more: str) -> dict[str, str]:
    """Versions of Python, of the packages that training stands on, and of `more`."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in (*RECORDED_PACKAGES, *more)},
    }


def describe_machine() -> dict[str, Any]:
    """Name the processor, and the GPU if there is one."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _history(trainer: OmniVisionTrainer, names: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"step": entry["step"], "epoch": entry["epoch"], **{new: entry[old] for old, new in names.items()}}
        for entry in trainer.state.log_history
        if set(names) <= set(entry)
    ]


def _without_folders(given: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for name, value in given.items():
        value = getattr(value, "value", value)  # enumerations
        is_path = name in PATH_ARGUMENTS or str(value).startswith(("/", "~"))
        told[name] = without_folder(str(value)) if is_path else value
    return told


def _command(changed: dict[str, Any]) -> str:
    words = ["accelerate", "launch", "scripts/train.py"]
    for name, value in changed.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


__all__ = ["describe_machine", "describe_run"]
