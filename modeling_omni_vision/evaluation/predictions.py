"""Predictions of a classifier, ours or a stock one, for rows of a dataset, and the pixel values it gets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..data.label_lists import label_array
from ..image_processing_omni_vision import (
    ImageReadError,
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    read_image,
)


@dataclass(frozen=True)
class Predictions:
    """Logits (images, classes) of a split in float64, and its labels (images,), or (images, classes) of lists."""

    logits: np.ndarray
    labels: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities (images, classes), rows adding up to 1 unless images have lists of labels."""
        logits = torch.from_numpy(self.logits)
        return (logits.sigmoid() if self.labels.ndim == 2 else logits.softmax(dim=-1)).numpy()

    @property
    def predicted(self) -> np.ndarray:
        """Class of highest probability for each image."""
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is predicted right."""
        return self.predicted == self.labels


@torch.inference_mode()
def predict(model: Any, processor: Any, rows: Dataset, batch_size: int = 64, mirrored: bool = False) -> Predictions:
    """Classify rows with the columns `image` and `label`, in order, or their mirror images."""
    logits = []
    for images, first_row in batches(rows, batch_size):
        pixels = pixel_values(model, processor, images, first_row)
        logits.append(model(pixels.flip(-1) if mirrored else pixels).logits)
    return Predictions(torch.cat(logits).cpu().double().numpy(), label_array(rows))


def batches(rows: Dataset, batch_size: int) -> Iterator[tuple[list[Any], int]]:
    """Yield the images of rows in batches, each with the number of its first row."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}. Choose a larger one.")
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]["image"], start


def pixel_values(model: Any, processor: Any, images: Sequence[Any], first_row: int, **options: Any) -> torch.Tensor:
    """Prepare images for a model: (images, channels, height, width), read by one policy for every image processor.

    Raises:
        `ValueError`: if an image cannot be read; names the rows from `first_row` on.
    """
    try:
        if isinstance(processor, (OmniVisionImageProcessor, OmniVisionImageProcessorPil)):
            batch = processor(list(images), return_tensors="pt", **options)
        else:
            # Stock processors divide floats by 255 too, as is right for the pixel values 0..255 here.
            arrays = [read_image(image, model.config.num_channels) for image in images]
            batch = processor(arrays, return_tensors="pt", input_data_format="channels_last", **options)
    except ImageReadError as error:
        last = first_row + len(images) - 1
        raise ValueError(f"An image in rows {first_row} to {last} of the split cannot be read. {error}") from error
    return batch["pixel_values"].to(model.device, model.dtype)


__all__ = ["Predictions", "batches", "pixel_values", "predict"]
