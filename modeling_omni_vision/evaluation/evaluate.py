"""Evaluation of a classifier on a split: numbers into its `metrics.json`, plots beside it.

For any image classifier that transformers loads; attention maps are drawn where the model computes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from ..data.hold_out import read_splits
from ..data.integrity import without_skipped
from ..data.label_lists import has_label_lists, label_names
from ..data.sources import labelled_splits, load_any, load_images
from ..image_processing_omni_vision import read_image
from ..interop.export.exported import is_exported, load_exported
from ..interop.vision_tower import load_complete
from ..interpretability.plots import plot_attention, plot_confusion, plot_mistakes, plot_training
from ..records.command import without_folder
from ..records.metrics_file import merge_metrics, read_metrics, results_folder
from .calibration import softened, temperature_scaling
from .held_out import ALL, HELD_OUT, check_held_out, check_loss, trained_on, validation_fraction_of, why_not_fitted
from .metrics import classification_metrics
from .multi_label import MULTI_LABEL, multi_label_metrics, thresholds_of
from .predictions import Predictions, pixel_values, predict
from .reliability_plots import plot_calibration, plot_robustness
from .robustness import CORRUPTIONS, measure_robustness, mirror_average
from .test_split import open_test_split


PLOTS_FOLDER = "plots"
LISTS = "images have lists of labels, each with a probability of its own"
MISTAKES_SHOWN = 40
MAPS_SHOWN = 5
ROBUSTNESS_SEED = 0


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate` measured and wrote."""

    metrics: dict[str, Any]
    metrics_file: Path
    images: list[Path] = field(default_factory=list)
    held_out: bool = False  # whether the run in the folder held these images out of its training


def evaluate(
    model: str | Path,
    dataset: str,
    split: str = HELD_OUT,
    output: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float | None = None,
    batch_size: int = 64,
    command: str | None = None,
    robustness: bool = False,
) -> EvaluationReport:
    """
    Evaluate a classifier folder on one split of a dataset.

    Args:
        model: Folder with a classifier and its image processor.
        dataset: Anything that `load_images` reads.
        split: `"train"`, `"validation"` or `"test"`; of other data than those of training also `"all"`, for which
            nothing is held out.
        output: Folder for PNG files; `plots` beside metrics.json where None.
        image_column: Column of the images, where it cannot be inferred.
        label_column: Column of the classes, where it cannot be inferred.
        validation_fraction: What the training run held out, where metrics.json does not record it.
        batch_size: Images in one forward.
        command: Command to record.
        robustness: Measure accuracy on corrupted and on mirrored images, too: some 25 times the work.

    Returns:
        The numbers, the `metrics.json` where they were merged as `evaluation` and `robustness` (that of the model, or
        beside a published folder, which stays as its proof says), and the plots.

    Raises:
        `ValueError`: if the folder holds no classifier or no image processor, there is no such split, the
            classes of model and data differ, the data or the fraction is not that of the run, an image cannot be
            read, or the model gives NaN; if other weights opened the test split, or the same weights now have another
            accuracy.
    """
    folder = Path(model)
    classifier, processor = load_classifier(folder)
    training = read_metrics(folder).get("training") or {}
    splits = load_splits(folder, training, dataset, image_column, label_column, validation_fraction, split)
    if split not in splits:
        raise ValueError(f"`split` must be one of {sorted(splits)} for {dataset!r}, got {split!r}. Name one of them.")
    rows, names = splits[split], class_names(classifier.config)
    check_classes(names, label_names(rows), dataset)
    lists = check_label_lists(classifier.config, rows, dataset, robustness)
    # Before the evaluated split is read, so that an error here does not use up the test split.
    reason = LISTS if lists else why_not_fitted(training, dataset, split, validation_fraction)
    held_out = None if reason else predict(classifier, processor, splits[HELD_OUT], batch_size)
    if held_out is not None:
        check_loss(training, held_out, dataset)
    opened = open_test_split(folder, classifier, rows, dataset, command) if split == "test" else None
    predictions = predict(classifier, processor, rows, batch_size)
    metrics = measure(classifier.config, predictions)
    if split == HELD_OUT:
        check_loss(training, predictions, dataset)
    metrics["calibration"] = temperature_scaling(held_out, predictions) if held_out else {"left_out": reason}
    today = datetime.now(UTC).date().isoformat()
    where = {"split": split, "dataset": without_folder(dataset), "command": command, "date": today}
    sections: dict[str, Any] = {"evaluation": metrics}
    if robustness:
        mirrored = predict(classifier, processor, rows, batch_size, mirrored=True)
        metrics["test_time_augmentation"] = mirror_average(predictions, mirrored)
        curves = measure_robustness(classifier, processor, rows, batch_size, ROBUSTNESS_SEED)
        units = {name: corruption.unit for name, corruption in CORRUPTIONS.items()}
        about = {"units": units, "num_examples": len(rows), "seed": ROBUSTNESS_SEED}
        sections["robustness"] = {**curves, **about, **where}
    metrics |= where
    sections |= opened.section(metrics["accuracy"]) if opened else {}
    results = results_folder(folder)
    metrics_file = merge_metrics(results, sections)
    plots = Path(output) if output is not None else results / PLOTS_FOLDER
    drawn = draw_all(training, plots, classifier, processor, rows, predictions, sections)
    return EvaluationReport(metrics, metrics_file, drawn, split == HELD_OUT and trained_on(training, dataset))


def load_splits(
    folder: Path,
    training: Mapping[str, Any],
    dataset: str,
    image_column: str | None,
    label_column: str | None,
    validation_fraction: float | None,
    split: str = HELD_OUT,
) -> DatasetDict:
    """Load the data with the splits of the run in `folder`, where it was trained on them; raises as `evaluate`."""
    fraction = validation_fraction_of(training, dataset, validation_fraction)
    columns = (image_column, label_column)
    if not trained_on(training, dataset):
        if split == ALL:
            whole = [*labelled_splits(load_any(dataset), dataset, *columns).values()]
            return DatasetDict({ALL: concatenate_datasets(whole)})
        return load_images(dataset, *columns, fraction)
    held_out = read_splits(folder)
    test_fraction = training["arguments"].get("test_fraction", 0)
    splits = load_images(dataset, *columns, fraction, test_fraction=test_fraction, held_out=held_out)
    # What the run held out is named without what it skipped; splits of the source, by their recorded size, are not.
    for name, rows in without_skipped(splits, folder).items():
        if held_out is None or len(rows) == training["dataset"].get(name):
            splits[name] = rows
    check_held_out(training, {name: splits[name] for name in held_out or splits}, dataset)
    return splits


def load_classifier(folder: Path) -> tuple[Any, Any]:
    """Load model and image processor of a local folder, never its code: ours is in this package."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"The checkpoint must be a folder with a config.json, got {str(folder)!r}. "
            "Name the output of training, or a folder that `omni-vision convert --target native` wrote."
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not any("ForImageClassification" in name for name in config.architectures or []):
        raise ValueError(
            f"The checkpoint must hold an image classifier, got {config.architectures!r} in {str(folder)!r}. "
            "Train a head on it first: omni-vision train."
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(
            f"The checkpoint must hold its image processor, got no preprocessor_config.json in {str(folder)!r}. "
            "Save the image processor of the training run into it."
        )
    if is_exported(folder):
        exported = load_exported(folder)
        return exported, exported.processor
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model = load_complete(AutoModelForImageClassification, folder, trust_remote_code=False, dtype=torch.float32)
    return model.to(device), AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def class_names(config: Any) -> list[str]:
    """Return the names of the classes of a model, in the order of its logits."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def check_classes(of_model: Sequence[str], of_data: Sequence[str], dataset: str) -> None:
    """Raise `ValueError` unless model and data name the same classes in the same order."""
    if list(of_model) == list(of_data):
        return
    if sorted(of_model) == sorted(of_data):
        what = f"the same classes in another order: {few(of_model)} and {few(of_data)}"
    else:
        only_model = [name for name in of_model if name not in of_data]
        only_data = [name for name in of_data if name not in of_model]
        what = f"{few(only_model)} only in the model and {few(only_data)} only in {dataset!r}"
    raise ValueError(
        f"Model and data must name the same classes in the same order, got {what}. "
        "Evaluate on the data that the model was trained for, or correct `id2label` in its config.json."
    )


def check_label_lists(config: Any, rows: Dataset, dataset: str, robustness: bool = False) -> bool:
    """Return whether images have lists of labels; raise `ValueError` unless that is so for model and data alike."""
    lists = config.problem_type == MULTI_LABEL
    if lists != has_label_lists(rows):
        kinds = ("one class for each image", "a list of labels for each image")
        raise ValueError(f"The model gives {kinds[lists]}, got {kinds[not lists]} in {dataset!r}. Name other data.")
    if lists and robustness:
        raise ValueError("`robustness` is measured with one class for each image, got lists of labels. Leave it out.")
    return lists


def measure(config: Any, predictions: Predictions) -> dict[str, Any]:
    """Return the metrics of predictions, by the thresholds of the model where images have lists of labels."""
    names, found = class_names(config), (predictions.probabilities, predictions.labels)
    if config.problem_type == MULTI_LABEL:
        return multi_label_metrics(*found, names, thresholds_of(config))
    return classification_metrics(*found, names)


def few(names: Sequence[str]) -> str:
    """Format the first names of many."""
    return f"{list(names[:6])!r}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def draw_all(
    training: dict[str, Any],
    output: Path,
    model: Any,
    processor: Any,
    rows: Dataset,
    predictions: Predictions,
    sections: dict[str, dict[str, Any]],
) -> list[Path]:
    """Draw every plot that there are numbers for, and return their paths."""
    metrics, robustness = sections["evaluation"], sections.get("robustness")
    if predictions.labels.ndim == 2:
        return [path for path in [plot_training(training, output / "training.png")] if path]
    names, temperature = list(metrics["per_class"]), metrics.get("calibration", {}).get("temperature")
    scaled = softened(predictions.logits, temperature) if temperature else None
    drawn = [
        plot_confusion(metrics["confusion_matrix"], names, output / "confusion.png"),
        plot_calibration(predictions.probabilities, predictions.labels, output / "calibration.png", scaled),
        draw_mistakes(model, rows, predictions, names, output / "mistakes.png"),
        plot_training(training, output / "training.png"),
    ]
    if robustness:
        curves = {name: robustness[name] for name in CORRUPTIONS}
        drawn.append(plot_robustness(curves, robustness["units"], output / "robustness.png"))
    if hasattr(model, "attention_maps"):
        drawn.append(draw_attention(model, processor, rows, predictions, names, output / "attention.png"))
    return [path for path in drawn if path is not None]


def draw_mistakes(model: Any, rows: Dataset, predictions: Predictions, names: list[str], path: Path) -> Path:
    """Draw the most confident mistakes."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    chosen = wrong[np.argsort(-predictions.probabilities.max(axis=1)[wrong], kind="stable")][:MISTAKES_SHOWN]
    return plot_mistakes(
        [read_image(rows[int(index)]["image"], displayed_channels(model)) for index in chosen],
        [names[predictions.labels[index]] for index in chosen],
        [names[predictions.predicted[index]] for index in chosen],
        [float(predictions.probabilities[index].max()) for index in chosen],
        path,
    )


def draw_attention(
    model: Any, processor: Any, rows: Dataset, predictions: Predictions, names: list[str], path: Path
) -> Path:
    """Draw the last layer's attention on the first image of some classes, at the model's input size."""
    present = [int(np.flatnonzero(predictions.labels == label)[0]) for label in np.unique(predictions.labels)]
    chosen = [present[index] for index in np.linspace(0, len(present) - 1, min(MAPS_SHOWN, len(present))).astype(int)]
    captions = [
        names[truth] if truth == answer else f"{names[truth]}\npred.: {names[answer]}"
        for truth, answer in zip(predictions.labels[chosen], predictions.predicted[chosen], strict=True)
    ]
    return draw_attention_on(model, processor, rows[chosen]["image"], captions, path)


@torch.inference_mode()
def draw_attention_on(model: Any, processor: Any, images: Sequence[Any], captions: Sequence[str], path: Path) -> Path:
    """Draw the last layer's attention of what has `attention_maps` on images, each with a caption."""
    pixels = pixel_values(model, processor, images, 0)
    maps = model.attention_maps(pixels)[:, 0].float().cpu().numpy()
    drawn = [resized(read_image(image, displayed_channels(model)), *pixels.shape[2:]) for image in images]
    return plot_attention(drawn, maps, captions, path)


def displayed_channels(model: Any) -> int | None:
    """Return the channels to draw an image with: those of the model, or None (as it is) for any but 1 or 3."""
    return model.config.num_channels if model.config.num_channels in (1, 3) else None


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize pixel values (rows, columns, channels), bilinear."""
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    planes = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).numpy()


__all__ = ["EvaluationReport", "draw_all", "draw_attention_on", "evaluate"]
