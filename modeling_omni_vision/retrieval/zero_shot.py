"""Zero-shot classification of labelled images by the names of their classes: multi-vector and single-vector."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from ..data.sources import load_images
from ..data.synthetic.scenes import HELD_OUT_COMBINATIONS
from ..data.synthetic.shapes import COLOURS, SHAPES, draw_scene
from ..evaluation.metrics import accuracy_interval
from ..records.metrics_file import merge_metrics
from .evaluation import decoded, zero_shot_predictions


PER_COMBINATION = 10
SEED, SIZE = 2026, 64


def zero_shot(model: Path, dataset: str, templates: Sequence[str], split: str = "test") -> dict[str, Any]:
    """Classify images by class names alone and write the accuracy as `zero_shot` into the checkpoint's metrics.json.

    Args:
        model: Folder of an `OmniVisionForRetrieval` with its processor. Its code runs.
        dataset: `combinations`, ten fresh drawings of each of the 48 colours of shapes; or anything that
            `load_images` takes.
        templates: Sentences with {} where the name goes; their scores are averaged.
        split: Split of a labelled dataset.

    Returns:
        `dataset`, `templates`, numbers of `images` and `classes`, accuracy by `chance`; for `multi_vector` (late
        interaction) and `single_vector`: `accuracy`, its 95 % bootstrap interval `accuracy_interval`, and for drawn
        combinations `held_out`, the accuracy on those that are not in the training data.
    """
    images, labels, names = _combinations() if dataset == "combinations" else _labelled(dataset, split)
    encoders: dict[str, Any] = {
        "multi_vector": MultiVectorEncoder(str(model), trust_remote_code=True),
        "single_vector": SentenceTransformer(str(model), trust_remote_code=True),
    }
    found: dict[str, Any] = {"dataset": dataset, "templates": list(templates), "images": len(images)}
    found |= {"classes": len(names), "chance": 1 / len(names)}
    held_out_names = {" ".join(pair) for pair in HELD_OUT_COMBINATIONS}
    held_out = np.array([names[label] in held_out_names for label in labels])
    for name, encoder in encoders.items():
        right = zero_shot_predictions(encoder, images, names, templates).numpy() == labels
        found[name] = {"accuracy": float(right.mean()), "accuracy_interval": list(accuracy_interval(right))}
        if held_out.any():
            found[name]["held_out"] = float(right[held_out].mean())
    merge_metrics(model, {"zero_shot": found})
    return found


def _combinations() -> tuple[list[PilImage.Image], np.ndarray, list[str]]:
    pairs = list(product(COLOURS, SHAPES))
    labels = np.tile(np.arange(len(pairs)), PER_COMBINATION)
    drawn = [
        draw_scene(np.random.default_rng([SEED, number]), [pairs[label]], SIZE).image
        for number, label in enumerate(labels)
    ]
    return drawn, labels, [" ".join(pair) for pair in pairs]


def _labelled(dataset: str, split: str) -> tuple[list[PilImage.Image], np.ndarray, list[str]]:
    data = load_images(dataset)
    if split not in data:
        raise ValueError(f"Expected a split of {dataset!r}, one of {', '.join(data)}, got {split!r}.")
    rows = data[split]
    return decoded(rows), np.array(rows["label"][:]), list(rows.features["label"].names)


__all__ = ["zero_shot"]
