"""What a model card may say: numbers from `metrics.json`, `config.json` and the weights, spelled as they are read.

What `metrics.json` does not hold is left out. What it holds wrongly is refused: a share above 1, NaN, the classes
of another checkpoint.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from .clean_process import KINDS
from .composites import answers, known_words, retrieval
from .numbers import METRICS_NAME, amount, inside, read_metrics, share
from .proof import file_hashes, release_name
from .remote_code import python_files
from .spelling import by, cell, leaf, number, one_line, spelled, table


WEIGHTS_NAME, IMAGES_NAME = "model.safetensors", "plots"
# Stock models that can hold our weights: a folder of one of them holds no code.
NATIVE_TYPES = ("vit", "dinov2", "dinov2_with_registers")
MEASURES = {
    "accuracy": ("accuracy", "{:.2%}"),
    "macro_f1": ("macro-F1", "{:.4f}"),
    "expected_calibration_error": ("expected calibration error", "{:.4f}"),
}
# Images of results that may stand beside a card, and what they show.
IMAGES = {
    "training": "Loss and accuracy over epochs",
    "confusion": "Confusion matrix",
    "calibration": "Accuracy against confidence",
    "mistakes": "The surest mistakes",
    "robustness": "Accuracy on corrupted images",
    "attention": "What CLS looks at",
}
# What a section calls the number of images it was measured on.
COUNTS = ("num_examples", "images", "n")
# Longer tables say little on a page; the numbers stay in metrics.json.
MAX_CLASSES = 30


def card_facts(folder: Path) -> dict[str, Any]:
    """Collect what a card may say about a folder, with every number already spelled as it will be read."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    metrics = read_metrics(folder)
    sizes = tensor_sizes(folder / WEIGHTS_NAME)
    kind = KINDS.get(config.model_type, "encoder")
    # What a card says of layers and pixels, it says of the image tower.
    vision = config if kind == "encoder" else config.vision_config
    is_native = config.model_type in NATIVE_TYPES
    is_classifier = any("ForImageClassification" in name for name in config.architectures or ())
    first_layer = [size for name, size in sizes.items() if re.search(r"(^|\.)layers?\.0\.", name)]
    tower = [size for name, size in sizes.items() if name.startswith(("vision_model.", "vision_tower."))]
    training = metrics.get("training") or {}
    # The command says the arguments already.
    told = ("command", "arguments") if training.get("command") else ()
    # A native twin has biases that ours has not.
    if not is_native and training.get("parameters", sum(sizes.values())) != sum(sizes.values()):
        raise ValueError(
            f"{METRICS_NAME} must be of this checkpoint, got training.parameters {training['parameters']!r} and "
            f"weights of {sum(sizes.values())} in {str(folder)!r}. Copy the {METRICS_NAME} of its own run."
        )
    return {
        "config": config,
        "kind": kind,
        "vision": vision,
        "is_classifier": is_classifier,
        "is_native": is_native,
        "labels": [cell(config.id2label[index]) for index in sorted(config.id2label)] if is_classifier else [],
        "image_size": by(vision.image_size),
        "patch_size": by(vision.patch_size),
        "parameter_count": f"{sum(sizes.values()):,}",
        "layer_parameter_count": f"{sum(first_layer):,}",
        "tower_parameter_count": f"{sum(tower):,}",
        "mlp_size": getattr(vision, "intermediate_size", None) or vision.hidden_size * vision.mlp_ratio,
        "num_register_tokens": getattr(vision, "num_register_tokens", 0),
        "command": one_line(training.get("command")),
        "training": table({name: value for name, value in training.items() if name not in told}),
        "measured": [section for section in (measured(metrics, "evaluation"), measured(metrics, "test")) if section],
        "per_class": per_class(metrics, config),
        "robustness": robustness(metrics),
        "retrieval": retrieval(metrics),
        "answers": answers(metrics),
        "words": known_words(folder),
        "data_audit": table(metrics.get("data_audit") or {}),
        "images": images(folder),
        "dataset": cell(dataset_name(metrics)) if dataset_name(metrics) else None,
        "code_files": [path.name for path in python_files(folder)],
        "release": release_name(file_hashes(folder)),
    }


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
        rows.append(("images", spelled(count)))
    rows += calibration_rows(inside(results, "calibration"), section)
    mirrored = inside(results, "test_time_augmentation")
    if mirrored:
        value = share(mirrored.get("accuracy"), section, "test_time_augmentation.accuracy")
        rows.append((f"accuracy averaged over {cell(mirrored.get('views'))}, for comparison", f"{value:.2%}"))
    split = results.get("split") or ("test" if section == "test" else None)
    dataset = dataset_name({"evaluation": results}) or dataset_name(metrics)
    return {
        "split": cell(split) if split else None,
        "dataset": cell(dataset) if dataset else None,
        "accuracy": results.get("accuracy"),
        "command": one_line(results.get("command")),
        "rows": rows,
    }


def calibration_rows(calibration: dict[str, Any], section: str) -> list[tuple[str, str]]:
    """Spell what temperature scaling does to the evaluated split, or why it was left out."""
    if not calibration:
        return []
    if calibration.get("left_out"):
        return [("temperature scaling", f"none: {cell(calibration['left_out'])}")]
    fitted = inside(calibration, "fitted_on")
    temperature = amount(calibration.get("temperature"), section, "calibration.temperature")

    def both(name: str, check: Callable[[Any, str, str], float]) -> str:
        values = inside(calibration, name)
        return ", ".join(
            f"{check(values.get(when), section, f'calibration.{name}'):.4f}" for when in ("before", "after")
        )

    images_of = f"{spelled(fitted.get('images'))} images of the {cell(fitted.get('split'))} split"
    return [
        (f"temperature, fitted on {images_of}", f"{temperature:.4f}"),
        ("expected calibration error, before and after scaling", both("expected_calibration_error", share)),
        ("negative log-likelihood, before and after scaling", both("nll", amount)),
    ]


def robustness(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Spell the accuracy under each corruption, at each severity; None where nobody measured it."""
    section = metrics.get("robustness") or {}
    curves = {name: points for name, points in section.items() if isinstance(points, list) and points}
    if not curves:
        return None
    rows = []
    for name, points in curves.items():
        if not all(isinstance(point, dict) and number(point.get("severity")) for point in points):
            raise ValueError(f"{METRICS_NAME}: robustness.{name} must list severities, got {str(points)[:200]!r}.")
        found = [f"{point['severity']:g}: {share(point.get('accuracy'), 'robustness', name):.2%}" for point in points]
        unit = inside(section, "units").get(name)
        rows.append((cell(name.replace("_", " ") + (f" ({unit})" if unit else "")), ", ".join(found)))
    dataset = section.get("dataset")
    return {
        "split": cell(section["split"]) if section.get("split") else None,
        "dataset": cell(leaf(dataset)) if isinstance(dataset, str) else None,
        "rows": rows,
    }


def images(folder: Path) -> dict[str, str]:
    """Link the images of results that lie beside the card, by name."""
    return {
        name: f"![{shows}]({IMAGES_NAME}/{name}.png)"
        for name, shows in IMAGES.items()
        if (folder / IMAGES_NAME / f"{name}.png").is_file()
    }


def _repeats(metrics: dict[str, Any]) -> bool:
    """Whether the test that closed the training is the evaluation over again: same split, same accuracy."""
    test, evaluation = metrics.get("test") or {}, metrics.get("evaluation") or {}
    return evaluation.get("split") == "test" and evaluation.get("accuracy") == test.get("accuracy")


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
    named.append(inside(metrics.get("training") or {}, "recipe").get("dataset"))
    named = [dataset.get("name") if isinstance(dataset, dict) else dataset for dataset in named]
    return next((leaf(name) for name in named if isinstance(name, str) and name), None)


__all__ = ["IMAGES", "IMAGES_NAME", "WEIGHTS_NAME", "card_facts"]
