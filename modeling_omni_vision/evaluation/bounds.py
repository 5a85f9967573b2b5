"""How well an autoencoder codes images: lower bounds of their log-probability, with intervals over images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.image_dataset import ImageCollator, ImageDataset


BATCH, Z_95 = 250, 1.959964


@dataclass
class Bounds:
    """Bounds and their parts for each image, in nats.

    Args:
        elbo: With one latent vector, (images,).
        weighted: Importance-weighted, (images,).
        kl: Divergence of the latent distribution, (images,).
        samples: Latent vectors of `weighted`.
        nats_per_bit: Nats of an image by one bit for each dimension.
    """

    elbo: np.ndarray
    weighted: np.ndarray
    kl: np.ndarray
    samples: int
    nats_per_bit: float

    def section(self) -> dict[str, Any]:
        """Return means over images as `metrics.json` holds them."""
        return {
            "images": len(self.elbo),
            "elbo": float(self.elbo.mean()),
            "elbo_interval": mean_interval(self.elbo),
            "bits_per_dimension": -float(self.elbo.mean()) / self.nats_per_bit,
            "reconstruction": float((-self.elbo - self.kl).mean()),
            "kl": float(self.kl.mean()),
            "importance_weighted": {
                "samples": self.samples,
                "elbo": float(self.weighted.mean()),
                "elbo_interval": mean_interval(self.weighted),
                "bits_per_dimension": -float(self.weighted.mean()) / self.nats_per_bit,
            },
        }


def mean_interval(values: np.ndarray) -> list[float]:
    """Return the 95 % interval of a mean over images, by its standard error."""
    half = Z_95 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return [float(values.mean() - half), float(values.mean() + half)]


def measure_bounds(model: Any, images: ImageDataset, samples: int, seed: int = 0) -> Bounds:
    """Return the bounds of images, in their order; latent vectors are drawn by `seed`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    collate = ImageCollator(images.processor)
    found: dict[str, list[torch.Tensor]] = {"elbo": [], "weighted": [], "kl": []}
    for batch in DataLoader(images, BATCH, collate_fn=collate):
        pixel_values = batch["pixel_values"].to(model.device)
        with torch.no_grad():
            found["kl"].append(model(pixel_values, return_loss=False).kl_divergence)
        found["elbo"].append(model.elbo(pixel_values, 1, generator))
        found["weighted"].append(model.elbo(pixel_values, samples, generator))
    arrays = {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}
    return Bounds(**arrays, samples=samples, nats_per_bit=model.nats_per_bit)


__all__ = ["Bounds", "mean_interval", "measure_bounds"]
