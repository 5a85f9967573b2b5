"""What a model card may say: numbers from `metrics.json`, `config.json` and the weights, spelled as they are read.

What `metrics.json` does not hold is left out. What it holds wrongly is refused: a share above 1, NaN, the classes
of another checkpoint.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from .proof import file_hashes, release_name
from .remote_code import python_files


METRICS_NAME, WEIGHTS_NAME = "metrics.json", "model.safetensors"
MEASURES = {
    "accuracy": ("accuracy", "{:.2%}"),
    "macro_f1": ("macro-F1", "{:.4f}"),
    "expected_calibration_error": ("expected calibration error", "{:.4f}"),
}
# What a section calls the number of pictures it was measured on.
COUNTS = ("num_examples", "pictures", "n")
# Absolute, below the home or the current folder; on Windows too.
LOCAL_PATH = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]")
# Longer tables say little on a page; the numbers stay in metrics.json.
MAX_CLASSES = 30


def card_facts(folder: Path) -> dict[str, Any]:
    """Collect what a card may say about a folder, with every number already spelled as it will be read."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    metrics = read_metrics(folder)
    sizes = tensor_sizes(folder / WEIGHTS_NAME)
    is_native = config.model_type in {"vit", "dinov2", "dinov2_with_registers"}
    is_classifier = any("ForImageClassification" in name for name in config.architectures or ())
    first_layer = [size for name, size in sizes.items() if re.search(r"(^|\.)layers?\.0\.", name)]
    training = metrics.get("training") or {}
    # A native twin has biases that ours has not.
    if not is_native and training.get("parameters", sum(sizes.values())) != sum(sizes.values()):
        raise ValueError(
            f"{METRICS_NAME} must be of this checkpoint, got training.parameters {training['parameters']!r} and "
            f"weights of {sum(sizes.values())} in {str(folder)!r}. Copy the {METRICS_NAME} of its own run."
        )
    return {
        "config": config,
        "is_classifier": is_classifier,
        "is_native": is_native,
        "labels": [cell(config.id2label[index]) for index in sorted(config.id2label)] if is_classifier else [],
        "image_size": by(config.image_size),
        "patch_size": by(config.patch_size),
        "parameter_count": f"{sum(sizes.values()):,}",
        "layer_parameter_count": f"{sum(first_layer):,}",
        "command": one_line(training.get("command")),
        # The command says the arguments already.
        "training": table({name: value for name, value in training.items() if name not in ("command", "arguments")}),
        "measured": [section for section in (measured(metrics, "evaluation"), measured(metrics, "test")) if section],
        "per_class": per_class(metrics, config),
        "dataset": cell(dataset_name(metrics)) if dataset_name(metrics) else None,
        "code_files": [path.name for path in python_files(folder)],
        "release": release_name(file_hashes(folder)),
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json, an empty dictionary where there is none; refuse one that is not an object of objects."""
    path = folder / METRICS_NAME
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{METRICS_NAME} must be JSON, got {error} in {str(path)!r}. Run the evaluation again."
        ) from error
    sections = ("training", "test", "evaluation")
    if not isinstance(metrics, dict) or not all(isinstance(metrics.get(name, {}), dict) for name in sections):
        raise ValueError(
            f"{METRICS_NAME} must hold the objects {sections}, got {str(metrics)[:200]!r}. Run the evaluation again."
        )
    return metrics


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant}, which is no number")


def tensor_sizes(weights: Path) -> dict[str, int]:
    """Number of elements of every tensor in a safetensors file, read from its header."""
    with safe_open(weights, framework="pt") as tensors:
        return {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def measured(metrics: dict[str, Any], section: str) -> dict[str, Any] | None:
    """Spell the results of one section: where they were measured, a table, and the raw accuracy for the metadata."""
    results = metrics.get(section) or {}
    shown = [name for name in MEASURES if results.get(name) is not None]
    if not shown or (section == "test" and _repeats(metrics)):
        return None
    rows = [(MEASURES[name][0], MEASURES[name][1].format(share(results[name], section, name))) for name in shown]
    interval = results.get("accuracy_interval")
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"{METRICS_NAME}: {section}.accuracy_interval must be [low, high], got {interval!r}.")
        low, high = (share(end, section, "accuracy_interval") for end in interval)
        rows.insert(1, ("accuracy, bootstrap interval", f"{low:.2%} to {high:.2%}"))
    count = next((results[name] for name in COUNTS if results.get(name) is not None), None)
    if count is not None:
        rows.append(("pictures", spelled(count)))
    split = results.get("split") or ("test" if section == "test" else None)
    dataset = dataset_name({"evaluation": results}) or dataset_name(metrics)
    return {
        "split": cell(split) if split else None,
        "dataset": cell(dataset) if dataset else None,
        "accuracy": results.get("accuracy"),
        "command": one_line(results.get("command")),
        "rows": rows,
    }


def _repeats(metrics: dict[str, Any]) -> bool:
    """Whether the test that closed the training is the evaluation over again: same split, same accuracy."""
    test, evaluation = metrics.get("test") or {}, metrics.get("evaluation") or {}
    return evaluation.get("split") == "test" and evaluation.get("accuracy") == test.get("accuracy")


def share(value: Any, section: str, name: str) -> float:
    """Return a measured share, or refuse what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{METRICS_NAME}: {section}.{name} must be a number from 0 to 1, got {value!r}. Run the evaluation again."
        )
    return float(value)


def per_class(metrics: dict[str, Any], config: PretrainedConfig) -> dict[str, Any]:
    """Spell the per-class table; refuse classes that this checkpoint does not have, as of another checkpoint."""
    classes = (metrics.get("evaluation") or {}).get("per_class") or {}
    classes = classes if isinstance(classes, dict) else {}
    names: dict[Any, str] = config.id2label or {}
    known = {str(label) for label in (*names.values(), *names)}
    foreign = sorted(set(classes) - known)
    if foreign:
        raise ValueError(
            f"{METRICS_NAME}: per_class must name classes of this checkpoint, got {foreign[:5]!r}. It was measured on "
            "another one: run the evaluation again."
        )
    if not classes or len(classes) > MAX_CLASSES or not all(isinstance(row, dict) for row in classes.values()):
        return {"header": [], "rows": []}
    columns = [name for name in next(iter(classes.values())) if all(number(row.get(name)) for row in classes.values())]
    rows = [[cell(label), *(spelled(row[name]) for name in columns)] for label, row in classes.items()]
    return {"header": ["class", *map(cell, columns)], "rows": rows if columns else []}


def dataset_name(metrics: dict[str, Any]) -> str | None:
    """Name of the data, the most specific one that a section of metrics.json gives."""
    named = [(metrics.get(section) or {}).get("dataset") for section in ("evaluation", "test", "training")]
    named = [dataset.get("name") if isinstance(dataset, dict) else dataset for dataset in named]
    return next((leaf(name) for name in named if isinstance(name, str) and name), None)


def leaf(text: str) -> str:
    """Shorten a path of a machine to its last part: what is published does not tell where somebody keeps files."""
    return Path(text).name or "a local folder" if LOCAL_PATH.match(text) else text


def table(section: dict[str, Any]) -> list[tuple[str, str]]:
    """Spell the plain values of a section and of the objects in it, in their order, without lists and nothing."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            rows += [(f"{cell(name)}: {label}", text) for label, text in table(value)]
        elif isinstance(value, bool | int | float | str):
            rows.append((cell(name), spelled(leaf(value) if isinstance(value, str) else value)))
    return rows


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def spelled(value: Any) -> str:
    """Spell a value for a table: at most six significant digits, whole numbers whole."""
    if isinstance(value, bool) or not number(value):
        return cell(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def cell(value: Any) -> str:
    """Escape a value that would break a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def one_line(command: Any) -> str | None:
    """Spell a command for a block of code, None where there is none."""
    return " ".join(command.split()) if isinstance(command, str) and command else None


def by(size: int | list[int] | tuple[int, int]) -> str:
    """Spell a picture size, height first."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width}"


__all__ = ["METRICS_NAME", "WEIGHTS_NAME", "card_facts", "leaf", "read_metrics"]
