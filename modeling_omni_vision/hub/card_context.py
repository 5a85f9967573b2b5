"""The card context: what a model card may say, from `metrics.json`, `config.json` and the weights.

What `metrics.json` does not hold is left out. What it holds wrongly is refused: a fraction above 1, NaN, the classes
of another checkpoint. Rows of tables are formatted by `templates/tables.md.j2`.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from ..records.metrics_file import METRICS_FILE, finite, read_metrics
from .clean_process import KINDS, example_question, vision_of
from .formatting import (
    basename,
    check_fraction,
    flatten,
    format_size,
    format_value,
    get_section,
    is_number,
    single_line,
    table_cell,
)
from .proof import file_hashes, release_name
from .remote_code import python_files


WEIGHTS_NAME, IMAGES_NAME = "model.safetensors", "plots"
SECTIONS = (
    "conversion",
    "training",
    "test",
    "evaluation",
    "robustness",
    "data_audit",
    "retrieval",
    "answers",
    "generation",
)
# Stock models that can hold our weights: a folder of one of them holds no code.
NATIVE_TYPES = ("vit", "dinov2", "dinov2_with_registers")
MEASURES = ("accuracy", "mean_average_precision", "macro_f1", "expected_calibration_error")
# What `metrics.json` calls the vectors that were compared, and what readers do.
VECTORS = {"multi_vector": "patches and words", "single_vector": "one vector each"}
# Images of results that may stand beside a card, and what they show.
IMAGES = {
    "training": "Loss and accuracy over epochs",
    "confusion": "Confusion matrix",
    "calibration": "Accuracy against confidence",
    "mistakes": "The most confident mistakes",
    "robustness": "Accuracy on corrupted images",
    "attention": "Attention of CLS in the last layer",
    "reconstructions": "Images and their reconstructions",
    "samples": "Images of latent vectors drawn at random",
    "interpolation": "Between the latent vectors of images",
}
# Longer tables and lists say little on a page; the numbers stay in metrics.json.
MAX_CLASSES, MAX_WORDS = 30, 300


def card_context(folder: Path) -> dict[str, Any]:
    """Collect what the templates of a card may say about a folder, and as `eval_results` what its metadata says;
    raise `ValueError` if metrics.json holds what cannot have been measured, or belongs to another checkpoint.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    metrics = checked_metrics(folder)
    training, robustness = metrics.get("training") or {}, metrics.get("robustness") or {}
    dataset, measured, searches = dataset_name(metrics), classification(metrics), retrieval(metrics)
    # The command holds the arguments already.
    repeated = ("command", "arguments") if training.get("command") else ()
    return {
        **model_context(folder, config, training),
        "conversion": metrics.get("conversion") or {},
        "dataset": dataset,
        "command": single_line(training.get("command")),
        "training": flatten({name: value for name, value in training.items() if name not in repeated}),
        "measured": measured,
        "per_class": per_class(metrics, config),
        "corruptions": corruptions(robustness),
        "robustness": {name: table_cell(basename(str(robustness.get(name) or ""))) for name in ("split", "dataset")},
        "searches": searches,
        "bounds": generation(metrics),
        "accuracies": list(accuracies(get_section(metrics, "answers"))),
        "data_audit": flatten(metrics.get("data_audit") or {}),
        "agreement": flatten(metrics.get("agreement") or {}),
        "reconstruction": flatten(metrics.get("reconstruction") or {}),
        "eval_results": eval_results(measured, searches, dataset),
        "words": known_words(folder),
        "question": example_question(_learned_questions(folder)),
        "images": {
            name: f"![{caption}]({IMAGES_NAME}/{name}.png)"
            for name, caption in IMAGES.items()
            if (folder / IMAGES_NAME / f"{name}.png").is_file()
        },
        "graphs": [path.stem for path in sorted(folder.glob("onnx/*.onnx"))],
        "code_files": [path.name for path in python_files(folder)],
        "release": release_name(file_hashes(folder)),
    }


def checked_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json, empty where there is none; raise `ValueError` for NaN and sections that are no objects."""
    metrics = read_metrics(folder)
    if finite(metrics) != metrics or not all(isinstance(metrics.get(name, {}), dict) for name in SECTIONS):
        raise ValueError(
            f"{METRICS_FILE} must hold finite numbers and the objects {SECTIONS}, got {str(metrics)[:200]!r}. "
            "Run the evaluation again."
        )
    return metrics


def model_context(folder: Path, config: PretrainedConfig, training: dict[str, Any]) -> dict[str, Any]:
    """Describe the model by its configuration and the sizes of its tensors; of layers and pixels the vision tower."""
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as tensors:
        sizes = {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    total = sum(sizes.values())
    vision = vision_of(config)
    is_native = config.model_type in NATIVE_TYPES
    is_classifier = any("ForImageClassification" in name for name in config.architectures or ())
    first_layer = [size for name, size in sizes.items() if re.search(r"(^|\.)layers?\.0\.", name)]
    tower = [size for name, size in sizes.items() if name.startswith(("vision_model.", "vision_tower."))]
    # A native twin has biases that ours has not.
    if not is_native and training.get("parameters", total) != total:
        raise ValueError(
            f"{METRICS_FILE} must be of this checkpoint, got training.parameters {training['parameters']!r} and "
            f"weights of {total} in {str(folder)!r}. Copy the {METRICS_FILE} of its own run."
        )
    names: dict[Any, str] = config.id2label if is_classifier and config.id2label else {}
    return {
        "config": config,
        "kind": KINDS.get(config.model_type, "vision"),
        "vision": vision,
        "is_classifier": is_classifier,
        "is_masked": any("ForMaskedImageModeling" in name for name in config.architectures or ()),
        "is_native": is_native,
        "labels": [table_cell(names[index]) for index in sorted(names)],
        "image_size": format_size(vision.image_size),
        "patch_size": format_size(vision.patch_size),
        "parameter_count": f"{total:,}",
        "layer_parameter_count": f"{sum(first_layer):,}",
        "tower_parameter_count": f"{sum(tower):,}",
        "mlp_size": getattr(vision, "intermediate_size", None) or vision.hidden_size * vision.mlp_ratio,
        "num_register_tokens": getattr(vision, "num_register_tokens", 0),
    }


def dataset_name(metrics: dict[str, Any]) -> str | None:
    """Return the name of the data, the most specific one that a section of metrics.json gives."""
    named = [(metrics.get(section) or {}).get("dataset") for section in ("evaluation", "test", "training")]
    named.append(get_section(metrics.get("training") or {}, "recipe").get("dataset"))
    named = [dataset.get("name") if isinstance(dataset, dict) else dataset for dataset in named]
    return next((table_cell(basename(name)) for name in named if isinstance(name, str) and name), None)


def classification(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """List the sections `evaluation` and `test` where something was measured, each with where and how it was."""
    test, evaluation = metrics.get("test") or {}, metrics.get("evaluation") or {}
    found = {"evaluation": evaluation, "test": test}
    # The test that closed the training may be the evaluation over again.
    if evaluation.get("split") == "test" and evaluation.get("accuracy") == test.get("accuracy"):
        del found["test"]
    return [
        {
            "name": name,
            "results": results,
            "split": table_cell(results.get("split") or ("test" if name == "test" else "")),
            "dataset": dataset_name({"evaluation": results}) or dataset_name(metrics),
            "command": single_line(results.get("command")),
        }
        for name, results in found.items()
        if any(results.get(measure) is not None for measure in MEASURES)
    ]


def per_class(metrics: dict[str, Any], config: PretrainedConfig) -> dict[str, Any]:
    """Format the table of classes; refuse classes that this checkpoint does not have, as of another checkpoint."""
    classes = get_section(get_section(metrics, "evaluation"), "per_class")
    names: dict[Any, str] = config.id2label or {}
    foreign = sorted(set(classes) - {str(label) for label in (*names.values(), *names)})
    if foreign:
        raise ValueError(
            f"{METRICS_FILE}: per_class must name classes of this checkpoint, got {foreign[:5]!r}. It was measured on "
            "another one: run the evaluation again."
        )
    rows = list(classes.values())
    if not rows or len(rows) > MAX_CLASSES or not all(isinstance(row, dict) for row in rows):
        return {"header": [], "rows": []}
    columns = [name for name in rows[0] if all(is_number(row.get(name)) for row in rows)]
    cells = [[table_cell(label), *(format_value(row[name]) for name in columns)] for label, row in classes.items()]
    return {"header": ["class", *map(table_cell, columns)], "rows": cells if columns else []}


def corruptions(section: dict[str, Any]) -> list[tuple[str, str | None, list[dict[str, Any]]]]:
    """List the corruptions of the section `robustness`: name, unit, and the accuracy at each severity."""
    units, found = get_section(section, "units"), []
    for name, points in section.items():
        if isinstance(points, list) and points:
            if not all(isinstance(point, dict) and is_number(point.get("severity")) for point in points):
                raise ValueError(f"{METRICS_FILE}: robustness.{name} must list severities, got {str(points)[:200]!r}.")
            found.append((name.replace("_", " "), units.get(name), points))
    return found


def retrieval(metrics: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """List how well images and texts find each other: vectors, split, direction, and the measures of them."""
    found = get_section(metrics, "retrieval")
    if not set(found) <= set(VECTORS):
        raise ValueError(
            f"{METRICS_FILE}: retrieval must hold {list(VECTORS)}, each with splits and directions, got "
            f"{sorted(found)!r}. Train or measure again with omni-vision train-retrieval."
        )
    splits = dict.fromkeys(split for vectors in found for split in get_section(found, vectors))
    return [
        (VECTORS[vectors], split, direction.replace("_", " "), get_section(directions, direction))
        for split in splits
        for vectors in found
        for directions in [get_section(get_section(found, vectors), split)]
        for direction in directions
    ]


def generation(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List by split how well an autoencoder codes images; raise `ValueError` for what is no such number."""
    found = get_section(metrics, "generation")
    for split in found:
        measures = get_section(found, split)
        if not all(is_number(measures.get(name)) for name in ("elbo", "bits_per_dimension")):
            raise ValueError(
                f"{METRICS_FILE}: generation.{split} must hold numbers for elbo and bits_per_dimension, got "
                f"{str(measures)[:200]!r}. Train or measure again with omni-vision train-vae."
            )
    return [(split, get_section(found, split)) for split in found]


def accuracies(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object within others that has an accuracy, in their order, with the names that lead to it."""
    if "accuracy" in section:
        yield path, section
    for name, value in section.items():
        if isinstance(value, dict):
            yield from accuracies(value, ": ".join(filter(None, (path, name.replace("_", " ")))))


def eval_results(
    measured: list[dict[str, Any]], searches: list[tuple[str, str, str, dict[str, Any]]], dataset: str | None
) -> list[EvalResult]:
    """Describe accuracies, recall@1 and nDCG@10 for the model index of the Hub."""
    found = [
        ("image-classification", part["dataset"], part["split"], "accuracy", "accuracy", part["results"])
        for part in measured
        if part["results"].get("accuracy") is not None
    ]
    found += [
        ("information-retrieval", dataset, split, rank, f"{rank}, {vectors}, {direction}", measures)
        for vectors, split, direction, measures in searches
        for rank in ("recall@1", "ndcg@10")
    ]
    return [
        EvalResult(
            task_type=task,
            dataset_type=data or "unnamed",
            dataset_name=data or "unnamed",
            dataset_split=split or None,
            metric_type=metric,
            metric_name=label,
            metric_value=check_fraction(results.get(metric), metric),
        )
        for task, data, split, metric, label, results in found
    ]


def _learned_questions(folder: Path) -> dict[str, Any] | None:
    path = folder / "processor_config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("learned_questions") if path.is_file() else None


def known_words(folder: Path) -> list[str]:
    """List the words of a tokenizer that has one token for each, without special ones; empty for any other."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"].get("type") != "WordLevel" or len(tokenizer["model"]["vocab"]) > MAX_WORDS:
        return []
    special = {token["content"] for token in tokenizer["added_tokens"]}
    return sorted(table_cell(word) for word in tokenizer["model"]["vocab"] if word not in special)


__all__ = ["IMAGES", "IMAGES_NAME", "WEIGHTS_NAME", "card_context", "checked_metrics"]
