"""What a run leaves in `metrics.json`: how it was made and what came out, the only source of numbers in cards."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..records.command import without_folder
from ..records.machine import describe_machine, recorded_versions


PATH_ARGUMENTS = ("dataset", "model", "vision", "text", "output_dir", "resume_from_checkpoint", "teachers")
LOGGED = ("step", "epoch", "loss", "learning_rate", "chance_loss")
# Names of parameters that a published model has not: LoRA is merged, what PEFT trains in full is a copy, and the heads
# of a student are for its teacher.
UNPUBLISHED = ("lora_", ".original_module.", ".token_head.", ".logit_head.")


def describe_run(
    trainer: Any,
    seconds: float,
    cpu_seconds: float,
    checkpoint: Path | None,
    evaluated: Mapping[str, str],
    packages: tuple[str, ...],
) -> dict[str, Any]:
    """Return what the `training` section holds for every task: versions, machine, time, sizes and history.

    `evaluated` maps the names of an evaluation in the log to those recorded; versions of `packages` are added.
    """
    args, state = trainer.args, trainer.state
    published = {
        name: parameter
        for name, parameter in trainer.core.named_parameters()
        if not any(part in f".{name}" for part in UNPUBLISHED)
    }
    trained = [parameter for parameter in trainer.core.parameters() if parameter.requires_grad]
    return {
        "seed": args.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": recorded_versions(*packages),
        "machine": describe_machine(),
        "processes": args.world_size,
        "minutes": round(seconds / 60, 2),
        "cpu_minutes": round(cpu_seconds / 60, 2),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "steps": state.global_step,
        "chosen_step": chosen_step(trainer),
        "epochs": state.epoch,
        "parameters": sum(parameter.numel() for parameter in published.values()),
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "history": [
            {name: entry[name] for name in LOGGED if name in entry} for entry in state.log_history if "loss" in entry
        ],
        "evaluations": evaluations(state.log_history, evaluated),
    }


def chosen_step(trainer: Any) -> int:
    """Return the step whose weights the run ends with: the best, where it is kept, or the last."""
    args, state = trainer.args, trainer.state
    best = args.load_best_model_at_end and state.best_model_checkpoint and state.best_global_step
    return int(best or state.global_step)


def evaluation_of_chosen(trainer: Any, evaluated: Mapping[str, str]) -> dict[str, Any]:
    """Return the evaluation of the weights that a run ends with; nothing where they were not evaluated."""
    found = {one["step"]: one for one in evaluations(trainer.state.log_history, evaluated)}
    return found.get(chosen_step(trainer), {})


def evaluations(log: list[dict[str, Any]], evaluated: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the evaluations of a log, each with its step, its epoch and its numbers by their recorded names."""
    return [
        {"step": entry["step"], "epoch": entry["epoch"], **{new: entry[old] for old, new in evaluated.items()}}
        for entry in log
        if set(evaluated) <= set(entry)
    ]


def given_recipe(recipe: Any) -> dict[str, Any]:
    """Return the fields of a recipe that are not None, local paths shortened."""
    return without_folders(
        {name: value for name, value in vars(recipe).items() if name != "given" and value is not None}
    )


def without_folders(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with local paths shortened to their last part, and enumerations as their values."""
    shortened: dict[str, Any] = {}
    for name, value in given.items():
        value = getattr(value, "value", value)
        is_path = name in PATH_ARGUMENTS or str(value).startswith(("/", "~"))
        if is_path:
            value = (
                [without_folder(str(one)) for one in value] if isinstance(value, list) else without_folder(str(value))
            )
        shortened[name] = value
    return shortened


def training_command(program: str, given: Mapping[str, Any]) -> str:
    """Return the command that repeats a run."""
    words = program.split()
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return shlex.join(words)


__all__ = [
    "chosen_step",
    "describe_run",
    "evaluation_of_chosen",
    "evaluations",
    "given_recipe",
    "training_command",
    "without_folders",
]
