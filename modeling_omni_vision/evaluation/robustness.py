"""Accuracy under corruptions of rising severity: rotation, blur, noise and erasing.

Images are corrupted at the model's input size, as 8-bit pixel values before normalisation. Random numbers depend on
seed and row alone, not on batch size or severity.
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
from ..data.label_lists import label_array
from .metrics import accuracy_interval
from .predictions import Predictions, batches, pixel_values


@dataclass(frozen=True)
class Corruption:
    """A corruption: the unit of its severities, which rise from 0 (unchanged), and a function from pixel values
    (images, channels, height, width), a severity and a random generator for each image to one or more corrupted
    batches, over which the accuracy is averaged.
    """

    unit: str
    severities: tuple[float, ...]
    apply: Callable[[torch.Tensor, float, Sequence[np.random.Generator]], list[torch.Tensor]]


def rotated(values: torch.Tensor, degrees: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Rotate images in both directions; pixels from outside the image are black."""
    angles = sorted({degrees % 360, -degrees % 360})
    return [functional.rotate(values, angle, interpolation=InterpolationMode.BILINEAR) for angle in angles]


def blurred(values: torch.Tensor, sigma: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Blur images with a Gaussian that is cut off at three sigma, or at the size of the image."""
    radius = min(math.ceil(3 * sigma), min(values.shape[-2:]) - 1)
    return [functional.gaussian_blur(values, [2 * radius + 1] * 2, [sigma, sigma])]


def noisy(values: torch.Tensor, deviation: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Add Gaussian noise of a standard deviation in pixel values; torchvision's own takes no generator."""
    noise = np.stack([generator.standard_normal(values.shape[1:], np.float32) for generator in generators])
    return [(values + deviation * torch.from_numpy(noise)).round().clamp(0, 255).to(torch.uint8)]


def erased(values: torch.Tensor, fraction: float, generators: Sequence[np.random.Generator]) -> list[torch.Tensor]:
    """Make a fraction of the area black: a rectangle of the image's aspect ratio at a random place."""
    sides = [round(side * math.sqrt(fraction)) for side in values.shape[-2:]]
    free = np.array(values.shape[-2:]) - sides
    black = torch.zeros(1, dtype=values.dtype)
    corners = [np.floor(generator.random(2) * (free + 1)).astype(int).tolist() for generator in generators]
    erase = functional.erase
    return [torch.stack([erase(one, *corner, *sides, black) for one, corner in zip(values, corners, strict=True)])]


CORRUPTIONS = {
    "rotation": Corruption("degrees, mean of both directions", (0, 10, 20, 30, 45, 60, 90, 180), rotated),
    "gaussian_blur": Corruption("sigma in pixels", (0, 0.5, 1, 1.5, 2), blurred),
    "gaussian_noise": Corruption("standard deviation in pixel values of 255", (0, 8, 16, 32, 64), noisy),
    "erasing": Corruption("fraction of the area", (0, 0.05, 0.1, 0.2, 0.4), erased),
}


@torch.inference_mode()
def measure_robustness(
    model: Any, processor: Any, rows: Dataset, batch_size: int = 64, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """
    Measure the accuracy of a classifier under every corruption, at every severity, on all rows.

    Returns:
        For each corruption and severity, from 0, `severity`, `accuracy` and its `accuracy_interval` (95 %, bootstrap).

    Raises:
        `ValueError`: if the image processor does not work on tensors.
    """
    if not hasattr(processor, "rescale_and_normalize"):
        raise ValueError(
            f"Robustness is measured through an image processor on torchvision, got {type(processor).__name__}. "
            "Open it with the torchvision backend."
        )
    labels = label_array(rows)
    right: dict[tuple[str, float], list[np.ndarray]] = {
        (name, severity): [] for name, corruption in CORRUPTIONS.items() for severity in corruption.severities
    }
    for images, first in batches(rows, batch_size):
        values = pixel_values(model, processor, images, first, do_rescale=False, do_normalize=False).cpu()
        truth = labels[first : first + len(images)]
        plain, rounded = correct(model, processor, values, truth), values.round().to(torch.uint8)
        for (name, severity), found in right.items():
            if severity == 0:
                found.append(plain)
                continue
            generators = [np.random.default_rng([seed, first + index]) for index in range(len(images))]
            corrupted = CORRUPTIONS[name].apply(rounded, severity, generators)
            found.append(np.mean([correct(model, processor, one, truth) for one in corrupted], axis=0))
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in CORRUPTIONS}
    for (name, severity), parts in right.items():
        curves[name].append(point(severity, np.concatenate(parts)))
    return curves


def correct(model: Any, processor: Any, values: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Whether each image is classified right, from pixel values (images, channels, height, width)."""
    logits = model(normalised(processor, values).to(model.device, model.dtype)).logits
    return Predictions(logits.cpu().double().numpy(), labels).correct


def point(severity: float, right: np.ndarray) -> dict[str, Any]:
    """Summarise one severity; where directions are averaged the interval is that of one of them, which is wider."""
    return {
        "severity": severity,
        "accuracy": float(right.mean()),
        "accuracy_interval": list(accuracy_interval(right)),
    }


def mirror_average(plain: Predictions, mirrored: Predictions) -> dict[str, Any]:
    """Return the accuracy of the mean probabilities of each image and its mirror image, beside the plain accuracy."""
    both = (plain.probabilities + mirrored.probabilities) / 2
    return {"views": "image and its mirror", "accuracy": float((both.argmax(axis=1) == plain.labels).mean())}


__all__ = ["CORRUPTIONS", "Corruption", "measure_robustness", "mirror_average"]
