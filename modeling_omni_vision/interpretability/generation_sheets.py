"""Sheets of what an autoencoder makes: reconstructions, samples, and what lies between images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.image_dataset import ImageCollator, ImageDataset
from ..data.summary import evenly_spread
from .dataset_sheet import COLUMNS, WIDTH, draw_grid, in_cell
from .plots import save


ROWS = 6
SEED = 0


@torch.no_grad()
def draw_generations(model: Any, processor: Any, images: ImageDataset, folder: Path) -> list[Path]:
    """Draw `reconstructions.png`, `samples.png` and `interpolation.png` into a folder.

    Args:
        model: An `OmniVisionVAE`, in evaluation mode.
        processor: Its image processor.
        images: What is reconstructed, spread evenly over the split.
        folder: Made where there is none.
    """
    rows = evenly_spread(len(images), COLUMNS * ROWS // 2)
    pixel_values = ImageCollator(processor)(images.__getitems__(rows))["pixel_values"].to(model.device)
    means, _ = model.encode(pixel_values)
    originals, decoded = (cells(model, found) for found in (pixel_values, model.decode(means)))
    pairs = dict[str, list[np.ndarray]]()
    for start in range(0, len(rows), COLUMNS):
        pairs["image" + " " * start], pairs["decoded" + " " * start] = (
            part[start : start + COLUMNS] for part in (originals, decoded)
        )
    drawn = cells(model, model.sample(COLUMNS * ROWS, torch.Generator().manual_seed(SEED)))
    samples = {" " * start: drawn[start : start + COLUMNS] for start in range(0, len(drawn), COLUMNS)}
    between = {" " * row: cells(model, model.decode(path)) for row, path in enumerate(grid_between(means))}
    size = f"latent vectors of {model.config.latent_size} numbers"
    return [
        draw_rows(
            pairs, f"Held-out images, and decoded from the means of their {size}", folder / "reconstructions.png"
        ),
        draw_rows(
            samples, f"Decoded from {size}, drawn from the standard normal distribution", folder / "samples.png"
        ),
        draw_rows(between, f"Between four held-out images in the corners: {size}", folder / "interpolation.png"),
    ]


def grid_between(means: torch.Tensor) -> torch.Tensor:
    """Return latent vectors (ROWS, COLUMNS, latent) with the first and the last two in the corners."""
    corners = means[[0, min(1, len(means) - 1), -1, max(-2, -len(means))]]
    down = torch.linspace(0, 1, ROWS, device=means.device)[:, None, None]
    across = torch.linspace(0, 1, COLUMNS, device=means.device)[:, None]
    top, bottom = (start + (end - start) * across for start, end in (corners[:2], corners[2:]))
    return top + (bottom - top) * down


def cells(model: Any, pixel_values: torch.Tensor) -> list[np.ndarray]:
    """Return normalised images as cells of a sheet; of other channels than one or three the first is drawn."""
    pixels = model.unnormalize(pixel_values).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    coloured = pixels if pixels.shape[-1] == 3 else pixels[..., :1].repeat(3, axis=-1)
    return [in_cell(one) for one in coloured]


def draw_rows(rows: dict[str, list[np.ndarray]], title: str, path: Path) -> Path:
    """Draw rows of cells as a PNG."""
    height = 0.45 + len(rows) * (WIDTH - 0.6) / COLUMNS
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    draw_grid(figure.subplots(), rows, title)
    return save(figure, path)


__all__ = ["draw_generations"]
