"""Accuracy under corruptions of growing severity: rotation, blur, noise and erasing of the image a model sees.

An image is changed at the model's input size, in 8-bit levels before normalisation. What chance decides depends
on seed and row alone, so that batch size changes nothing and a curve is one image getting worse, not many.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from ..data.image_dataset import normalised
from .metrics import accuracy_interval
from .predictions import Predictions, batches, pixel_values


@dataclass(frozen=True)
class Corruption:
    """One way to spoil images.

    Attributes:
        unit: What a severity is counted in.
        severities: Rising, 0 first: nothing is changed there.
        apply: From levels (B, C, H, W), a severity above 0 and a random generator for each image to one or
            more spoilt batches, over which the accuracy is averaged.
    """

    unit: str
    severities: tuple[float, ...]
    apply: Callable[[torch.Tensor, float, Sequence[np.random.Generator]], list[torch.Tensor]]


def rotated(levels: torch.Tensor, degrees: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Turn images in both directions; what comes in from outside is black."""
    angles = sorted({degrees % 360, -degrees % 360})
    return [functional.rotate(levels, angle, interpolation=InterpolationMode.BILINEAR) for angle in angles]


def blurred(levels: torch.Tensor, sigma: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Blur images with a Gaussian that is cut off at three sigma, or at the size of the image."""
    radius = min(math.ceil(3 * sigma), min(levels.shape[-2:]) - 1)
    return [functional.gaussian_blur(levels, [2 * radius + 1] * 2, [sigma, sigma])]


def noisy(levels: torch.Tensor, deviation: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Add Gaussian noise of a standard deviation in levels; torchvision's own takes no generator."""
    noise = np.stack([generator.standard_normal(levels.shape[1:], np.float32) for generator in generators])
    return [(levels + deviation * torch.from_numpy(noise)).round().clamp(0, 255).to(torch.uint8)]


def erased(levels: torch.Tensor, share: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Make a share of the area black: a square anywhere in a square image, otherwise of the image's shape."""
    sides = [round(side * math.sqrt(share)) for side in levels.shape[-2:]]
    free = np.array(levels.shape[-2:]) - sides
    black = torch.zeros(1, dtype=levels.dtype)
    corners = [np.floor(generator.random(2) * (free + 1)).astype(int).tolist() for generator in generators]
    erase = functional.erase
    return [torch.stack([erase(one, *corner, *sides, black) for one, corner in zip(levels, corners, strict=True)])]


CORRUPTIONS = {
    "rotation": Corruption("degrees, mean of both directions", (0, 10, 20, 30, 45, 60, 90, 180), rotated),
    "gaussian_blur": Corruption("sigma in pixels", (0, 0.5, 1, 1.5, 2), blurred),
    "gaussian_noise": Corruption("standard deviation in levels of 255", (0, 8, 16, 32, 64), noisy),
    "erasing": Corruption("share of the area", (0, 0.05, 0.1, 0.2, 0.4), erased),
}


@torch.inference_mode()
def measure_robustness(
    model: Any, processor: Any, rows: Dataset, batch_size: int = 64, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """
    Measure the accuracy under every corruption, at every severity, on all rows.

    Args:
        model: Classifier, ours or a stock one.
        processor: Its image processor, on torchvision.
        rows: Columns `image` and `label`.
        batch_size: Images in one forward.
        seed: Seed of noise and places.

    Returns:
        For each corruption `severity`, `accuracy` and its `accuracy_interval` (95 %, bootstrap), from severity 0,
        the accuracy without any corruption, upwards.

    Raises:
        `ValueError`: if the image processor does not work on tensors.
    """
    if not hasattr(processor, "rescale_and_normalize"):
        raise ValueError(
            f"Robustness is measured through an image processor on torchvision, got {type(processor).__name__}. "
            "Open it with the torchvision backend."
        )
    labels = np.asarray(rows["label"])
    right: dict[tuple[str, float], list[np.ndarray]] = {
        (name, severity): [] for name, corruption in CORRUPTIONS.items() for severity in corruption.severities
    }
    for images, first in batches(rows, batch_size):
        levels = pixel_values(model, processor, images, first, do_rescale=False, do_normalize=False)
        truth = labels[first : first + len(images)]
        plain, whole = correct(model, processor, levels, truth), levels.round().to(torch.uint8)
        for (name, severity), found in right.items():
            if severity == 0:
                found.append(plain)
                continue
            generators = [np.random.default_rng([seed, first + index]) for index in range(len(images))]
            spoilt = CORRUPTIONS[name].apply(whole, severity, generators)
            found.append(np.mean([correct(model, processor, one, truth) for one in spoilt], axis=0))
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in CORRUPTIONS}
    for (name, severity), parts in right.items():
        curves[name].append(point(severity, np.concatenate(parts)))
    return curves


def correct(model: Any, processor: Any, levels: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Whether each image is classified right, from levels (B, C, H, W) of the model's input size."""
    logits = model(normalised(processor, levels).to(model.dtype)).logits
    return Predictions(logits.double().numpy(), labels).correct


def point(severity: float, right: np.ndarray) -> dict[str, Any]:
    """Sum up one severity; where directions are averaged the interval is that of one of them, which is wider."""
    return {
        "severity": severity,
        "accuracy": float(right.mean()),
        "accuracy_interval": list(accuracy_interval(right)),
    }


def mirror_average(plain: Predictions, mirrored: Predictions) -> dict[str, Any]:
    """Accuracy of the mean probabilities of each image and its mirror image: reported beside, never instead."""
    both = (plain.probabilities + mirrored.probabilities) / 2
    return {"views": "image and its mirror", "accuracy": float((both.argmax(axis=1) == plain.labels).mean())}


__all__ = ["CORRUPTIONS", "Corruption", "measure_robustness", "mirror_average"]
