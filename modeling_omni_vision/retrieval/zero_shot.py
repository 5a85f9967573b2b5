"""Zero-shot classification of images by the names of their classes: multi-vector and single-vector."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from ..data.image_files import displayed, find_images
from ..data.image_folder import split_of
from ..data.sources import load_images
from ..data.synthetic.scenes import HELD_OUT_COMBINATIONS
from ..data.synthetic.shapes import COLOURS, SHAPES, draw_scene
from ..evaluation.metrics import accuracy_interval
from ..image_processing_omni_vision import ImageReadError, OmniVisionImageProcessor
from ..records.metrics_file import merge_metrics, results_folder
from .evaluation import decoded, zero_shot_predictions


PER_COMBINATION = 10
SEED, SIZE = 2026, 64


def zero_shot(
    model: Path, dataset: str, templates: Sequence[str], split: str | None = None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Classify images by class names alone and write the accuracy as `zero_shot` into the checkpoint's metrics.json.

    Args:
        model: Folder of an `OmniVisionForRetrieval` with its processor. Its code runs. Beside a published one, whose
            proof covers its files, results are written into a folder of their own.
        dataset: `combinations`, ten fresh drawings of each of the 48 colours of shapes; a folder of images, of which
            all are taken, their classes the names of the folders below it or below a split such as `test`; or
            anything else that `load_images` takes.
        templates: Sentences with {} where the name goes; their scores are averaged.
        split: Split of a labelled dataset; by default all images of a folder, `test` of any other.
        labels: Names to choose from in place of those of the classes.

    Returns:
        `dataset`, `templates`, numbers of `images` and `classes`, accuracy by `chance`; for `multi_vector` (late
        interaction) and `single_vector`: `accuracy`, its 95 % bootstrap interval `accuracy_interval`, and for drawn
        combinations `held_out`, the accuracy on those that are not in the training data. Of images whose class is not
        among the names only `predictions`, (file, name) pairs, which are not written. `unreadable` files are named.
    """
    files, failed = list[str](), list[str]()
    truths: Sequence[str | None]
    if dataset == "combinations":
        images, truths, names = _combinations()
    elif split is None and Path(dataset).is_dir() and (found := _folder(Path(dataset))):
        files, images, truths, failed = found
        names = sorted({truth for truth in truths if truth})
    else:
        images, truths, names = _labelled(dataset, split or "test")
    names = list(labels) or names
    known = np.array([truth in names for truth in truths])
    encoders: dict[str, Any] = {
        "multi_vector": MultiVectorEncoder(str(model), trust_remote_code=True),
        "single_vector": SentenceTransformer(str(model), trust_remote_code=True),
    }
    _refuse_same(encoders["multi_vector"].processor, names)
    result: dict[str, Any] = {"dataset": Path(dataset).name if files else dataset, "templates": list(templates)}
    result |= {"images": len(images), "classes": len(names), "chance": 1 / max(len(names), 1)}
    result |= {"unreadable": failed} if failed else {}
    held_out_names = {" ".join(pair) for pair in HELD_OUT_COMBINATIONS}
    held_out = np.array([truth in held_out_names for truth in truths]) & (dataset == "combinations")
    for name, encoder in encoders.items():
        predicted = [names[number] for number in zero_shot_predictions(encoder, images, names, templates).tolist()]
        right = np.array([one == truth for one, truth in zip(predicted, truths, strict=True)])
        if not known.all():
            result[name] = {"predictions": list(zip(files, predicted, strict=True))}
            continue
        result[name] = {"accuracy": float(right.mean()), "accuracy_interval": list(accuracy_interval(right))}
        if held_out.any():
            result[name]["held_out"] = float(right[held_out].mean())
    if known.all():
        merge_metrics(results_folder(model), {"zero_shot": result})
    return result


def _refuse_same(processor: Any, names: Sequence[str]) -> None:
    """Refuse names that are one text without the words that the tokenizer does not know."""
    if not hasattr(processor, "unknown_words"):
        return
    unknown = {name: set(processor.unknown_words(name)) for name in names}
    same: dict[str, list[str]] = {}
    for name, left_out in unknown.items():
        same.setdefault(" ".join(word for word in re.findall(r"\w+", name) if word not in left_out), []).append(name)
    for known, alike in same.items():
        if len(alike) > 1 and any(unknown[name] for name in alike):
            raise ValueError(
                f"Expected names that the model can tell apart, got {alike[:5]}, of which its tokenizer knows "
                f"{known.split() or 'no word'}. Choose others by --labels."
            )


def _combinations() -> tuple[list[PilImage.Image], list[str], list[str]]:
    pairs = list(product(COLOURS, SHAPES))
    drawn = [
        draw_scene(np.random.default_rng([SEED, number]), [pairs[number % len(pairs)]], SIZE).image
        for number in range(PER_COMBINATION * len(pairs))
    ]
    names = [" ".join(pair) for pair in pairs]
    return drawn, names * PER_COMBINATION, names


def _folder(folder: Path) -> tuple[list[str], list[PilImage.Image], list[str | None], list[str]] | None:
    """Return the files, images and classes (None outside of all) of a folder, and the names of unreadable files.

    None where no file can be read.
    """
    files, images, truths, failed = list[str](), list[PilImage.Image](), list[str | None](), list[str]()
    for one in find_images([folder])[0]:
        file, parts = one.file, [part for part in Path(one.folder).parts[:2] if part != "."]
        if parts and split_of(parts[0]):
            parts = parts[1:]
        try:
            images += OmniVisionImageProcessor().fetch_images([str(file)])
        except ImageReadError:
            failed.append(displayed(file.name))
            continue
        files.append(str(file))
        truths.append(parts[0] if parts else None)
    return (files, images, truths, failed) if files else None


def _labelled(dataset: str, split: str) -> tuple[list[PilImage.Image], list[str], list[str]]:
    data = load_images(dataset)
    if split not in data:
        raise ValueError(f"Expected a split of {dataset!r}, one of {', '.join(data)}, got {split!r}.")
    rows = data[split]
    names = list(rows.features["label"].names)
    return decoded(rows), [names[label] for label in rows["label"][:]], names


__all__ = ["zero_shot"]
