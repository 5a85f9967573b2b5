"""Evaluation of a checkpoint folder on a split: numbers into its `metrics.json`, pictures beside it.

Any image classifier that plain transformers opens will do, ours and its native twin alike; maps of
attention are drawn where the model gives them.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from ..data.sources import load_pictures
from ..image_processing_omni_vision import (
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    PictureError,
    load_picture,
)
from .command import without_folder
from .metrics import classification_metrics
from .plots import plot_attention, plot_calibration, plot_confusion, plot_mistakes, plot_training
from .record import METRICS_FILE, merge_metrics
from .test_lock import open_test_split


logger = logging.getLogger(__name__)

PLOTS_FOLDER = "plots"
MISTAKES_SHOWN = 24
MAPS_SHOWN = 5


@dataclass(frozen=True)
class Predictions:
    """What a model said about a split: probabilities (pictures, classes) and the truth (pictures,)."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Class of highest probability for each picture."""
        return self.probabilities.argmax(axis=1)


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate` found and wrote."""

    metrics: dict[str, Any]
    metrics_file: Path
    pictures: list[Path] = field(default_factory=list)


def evaluate(
    checkpoint: str | Path,
    dataset: str,
    split: str = "test",
    output_dir: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_share: float = 0.1,
    batch_size: int = 64,
    command: str | None = None,
) -> EvaluationReport:
    """
    Evaluate a classifier folder on one split of a dataset.

    Args:
        checkpoint: Folder with a classifier and its image processor.
        dataset: Anything that `load_pictures` reads.
        split: `"train"`, `"validation"` or `"test"`.
        output_dir: Where PNG files go; `plots` in the checkpoint where None.
        image_column: Column of the pictures, where it cannot be told.
        label_column: Column of the classes, where it cannot be told.
        validation_share: Must be that of the training run for its validation split to be found again.
        batch_size: Pictures in one forward.
        command: What to record as the command that measured this.

    Returns:
        The numbers, which also stand in `metrics.json` of the checkpoint under `"evaluation"` (everything
        else in that file is kept), and the pictures drawn.

    Raises:
        `ValueError`: if the folder holds no classifier or no image processor, there is no such split, the
            classes of model and data differ, a picture cannot be read, or the model gives NaN; if the test
            split was opened by other weights, or the same weights now have another accuracy.
    """
    folder = Path(checkpoint)
    model, processor = load_classifier(folder)
    rows = pick_split(load_pictures(dataset, image_column, label_column, validation_share), split, dataset)
    names = class_names(model.config)
    check_classes(names, rows.features["label"].names, dataset)
    opened = open_test_split(folder, model, rows, dataset, command) if split == "test" else None
    predictions = predict(model, processor, rows, batch_size)
    metrics = classification_metrics(predictions.probabilities, predictions.labels, names)
    today = datetime.now(UTC).date().isoformat()
    metrics |= {"split": split, "dataset": without_folder(dataset), "command": command, "date": today}
    record = opened.section(metrics["accuracy"]) if opened else {}
    metrics_file = merge_metrics(folder, {"evaluation": metrics, **record})
    plots = Path(output_dir) if output_dir is not None else folder / PLOTS_FOLDER
    drawn = draw_all(folder, plots, model, processor, rows, predictions, metrics)
    return EvaluationReport(metrics, metrics_file, drawn)


def load_classifier(folder: Path) -> tuple[Any, Any]:
    """Open model and image processor of a local folder, never its code: ours is in this package."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"The checkpoint must be a folder with a config.json, got {str(folder)!r}. "
            "Name the output of training, or a folder that `convert.py --target native` wrote."
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not any("ForImageClassification" in name for name in config.architectures or []):
        raise ValueError(
            f"The checkpoint must hold an image classifier, got {config.architectures!r} in {str(folder)!r}. "
            "Train a head on it first: scripts/train.py."
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(
            f"The checkpoint must hold its image processor, got no preprocessor_config.json in {str(folder)!r}. "
            "Save the image processor of the training run into it."
        )
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
    return model.eval(), AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def pick_split(splits: dict[str, Dataset], split: str, dataset: str) -> Dataset:
    """Return one split or say which there are."""
    if split not in splits:
        raise ValueError(f"`split` must be one of {sorted(splits)} for {dataset!r}, got {split!r}. Name one of them.")
    return splits[split]


def class_names(config: Any) -> list[str]:
    """Names of the classes of a model, in the order of its logits."""
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


def few(names: Sequence[str], shown: int = 6) -> str:
    """Write out the first names of many."""
    return f"{list(names[:shown])!r}" + (f" and {len(names) - shown} more" if len(names) > shown else "")


@torch.inference_mode()
def predict(model: Any, processor: Any, rows: Dataset, batch_size: int = 64) -> Predictions:
    """Run a classifier over rows with the columns `image` and `label`, in order."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}. Choose a larger one.")
    logits = [
        model(pixel_values(model, processor, rows[start : start + batch_size]["image"], start)).logits
        for start in range(0, len(rows), batch_size)
    ]
    probabilities = torch.cat(logits).double().softmax(dim=-1).numpy()
    return Predictions(probabilities, np.asarray(rows["label"]))


def pixel_values(model: Any, processor: Any, images: Sequence[Any], first_row: int) -> torch.Tensor:
    """Prepare pictures for a model: one policy for reading them, whichever image processor follows."""
    try:
        if isinstance(processor, (OmniVisionImageProcessor, OmniVisionImageProcessorPil)):
            batch = processor(list(images), return_tensors="pt")
        else:
            # Stock processors divide floats by 255 too, which is right for the levels that come out here.
            pictures = [load_picture(image, model.config.num_channels) for image in images]
            batch = processor(pictures, return_tensors="pt", input_data_format="channels_last")
    except PictureError as error:
        last = first_row + len(images) - 1
        raise ValueError(f"A picture in rows {first_row} to {last} of the split cannot be read. {error}") from error
    return batch["pixel_values"].to(model.dtype)


def draw_all(
    folder: Path,
    output: Path,
    model: Any,
    processor: Any,
    rows: Dataset,
    predictions: Predictions,
    metrics: dict[str, Any],
) -> list[Path]:
    """Draw every picture that there is something to draw for, and return their paths."""
    names = list(metrics["per_class"])
    drawn = [
        plot_confusion(metrics["confusion_matrix"], names, output / "confusion.png"),
        plot_calibration(predictions.probabilities, predictions.labels, output / "calibration.png"),
        draw_mistakes(model, rows, predictions, names, output / "mistakes.png"),
        plot_training(read_training(folder), output / "training.png"),
    ]
    if hasattr(model, "attention_maps"):
        drawn.append(draw_attention(model, processor, rows, predictions, names, output / "attention.png"))
    return [path for path in drawn if path is not None]


def read_training(folder: Path) -> dict[str, Any]:
    """Read the course of training from `metrics.json`, or from what the Trainer left."""
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    state = folder / "trainer_state.json"
    if metrics.get("training"):
        return metrics["training"]
    return json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}


def draw_mistakes(model: Any, rows: Dataset, predictions: Predictions, names: list[str], path: Path) -> Path:
    """Draw the wrong answers that the model was surest of."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    surest = wrong[np.argsort(-predictions.probabilities.max(axis=1)[wrong], kind="stable")][:MISTAKES_SHOWN]
    return plot_mistakes(
        [load_picture(rows[int(index)]["image"], shown_channels(model)) for index in surest],
        [names[predictions.labels[index]] for index in surest],
        [names[predictions.predicted[index]] for index in surest],
        [float(predictions.probabilities[index].max()) for index in surest],
        path,
    )


@torch.inference_mode()
def draw_attention(
    model: Any, processor: Any, rows: Dataset, predictions: Predictions, names: list[str], path: Path
) -> Path:
    """Draw the last layer's attention on the first picture of some classes, as the model saw them."""
    present = [int(np.flatnonzero(predictions.labels == label)[0]) for label in np.unique(predictions.labels)]
    chosen = [present[index] for index in np.linspace(0, len(present) - 1, min(MAPS_SHOWN, len(present))).astype(int)]
    images = rows[chosen]["image"]
    pixels = pixel_values(model, processor, images, chosen[0])
    maps = model.attention_maps(pixels)[:, 0].float().numpy()
    height, width = pixels.shape[2:]
    captions = [
        names[truth] if truth == answer else f"{names[truth]}\nsaid {names[answer]}"
        for truth, answer in zip(predictions.labels[chosen], predictions.predicted[chosen], strict=True)
    ]
    pictures = [resized(load_picture(image, shown_channels(model)), height, width) for image in images]
    return plot_attention(pictures, maps, captions, path)


def shown_channels(model: Any) -> int | None:
    """Channels a picture is shown with: as the model sees it, or as it is where it sees something else."""
    return model.config.num_channels if model.config.num_channels in (1, 3) else None


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring levels (rows, columns, channels) to another size."""
    planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    planes = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).numpy()


__all__ = ["EvaluationReport", "Predictions", "evaluate", "predict"]
