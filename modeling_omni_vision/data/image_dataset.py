"""From rows of images to batches of `pixel_values`, by the image processor's own policy.

`ImageDataset` decodes, resizes and (in training) augments; small sets stay in memory as they are after
resizing. `ImageCollator` normalises a whole batch at once and mixes it. Without augmentation the
pixels are exactly those of the image processor.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from ..image_processing_omni_vision import ImageReadError, OmniVisionImageProcessor
from .augmentation import Augmentation, WithEpoch
from .label_lists import label_array


logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2**30  # bytes of decoded images of the model's size; Fashion-MNIST needs 47 MB
DECODING_CHUNK = 512

Sample = dict[str, Any]


class ImageDataset(WithEpoch, TorchDataset):
    """Rows of a dataset as samples for `ImageCollator`.

    A sample is a dictionary with `image` (C, H, W) in pixel values 0..255 at the size of the model, `label`, `row`,
    and `augmentation`, `epoch` for the collator.

    Args:
        dataset: Columns `image` and `label`, as `load_images` gives them.
        processor: Decides channels, background, size and normalisation.
        augmentation: Random changes, for training only.
        memory_limit: Keep decoded images in memory if they take no more bytes than this.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: OmniVisionImageProcessor,
        augmentation: Augmentation | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.processor = processor
        self.augmentation = augmentation
        self.labels = torch.from_numpy(label_array(dataset))
        height, width = self._size()
        fits = len(self) * processor.num_channels * height * width <= memory_limit
        self._memory = self._decode_all() if fits else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Sample:
        """Return the sample of one row."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Sample]:
        """Return the samples of many rows, which costs less than one by one.

        Raises:
            ImageReadError: if an image cannot be read; names the row and, where there is one, the file.
        """
        rows, epoch = list(rows), self.epoch
        images = self._memory[rows] if self._memory is not None else self._decode(rows)
        if self.augmentation is not None:
            if isinstance(images, torch.Tensor):
                images = self.augmentation.crop_images(images, rows, epoch)
            else:
                images = torch.stack([_to_bytes(image) for image in images])
            images = self.augmentation.images(images, rows, epoch)
        labels = self.labels[rows].tolist()
        return [
            {"image": image, "label": label, "row": row, "epoch": epoch, "augmentation": self.augmentation}
            for image, label, row in zip(images, labels, rows, strict=True)
        ]

    def _decode(self, rows: list[int]) -> list[torch.Tensor]:
        """Decode rows and bring them to the size of the model, by random crops if the recipe says so."""
        if self.augmentation is not None and self.augmentation.crop is not None:
            crop = self.augmentation.crop_image
            images = self._read(rows, do_resize=False)
            return [crop(_to_bytes(image), row, self.epoch) for row, image in zip(rows, images, strict=True)]
        return self._read(rows)

    def _read(self, rows: list[int], **options: Any) -> list[torch.Tensor]:
        """Read rows as the image processor does, all but normalisation: pixel values 0..255 (C, H, W)."""
        sources = self.dataset[rows]["image"]
        options |= {"do_rescale": False, "do_normalize": False, "return_tensors": None, "disable_grouping": False}
        try:
            images = list(self.processor(sources, **options)["pixel_values"])
            self._check_channels(rows, images)
            return images
        except ImageReadError:
            for row, source in zip(rows, sources, strict=True):
                try:
                    self.processor(source, **options)
                except ImageReadError as error:
                    raise ImageReadError(f"The image in row {row} of the dataset cannot be read. {error}") from error
            raise

    def _check_channels(self, rows: list[int], images: list[torch.Tensor]) -> None:
        """Refuse what inference refuses: with `do_convert_rgb=False` images may have any channels."""
        channels = np.size(self.processor.image_mean)
        for row, image in zip(rows, images, strict=True):
            if self.processor.do_normalize and len(image) != channels:
                raise ValueError(
                    f"Expected images of {channels} channels, as many as `image_mean` has, got {len(image)} in row "
                    f"{row} of the dataset. Set `do_convert_rgb` in the image processor, or its mean and std."
                )

    def _size(self) -> tuple[int, int]:
        size = dict(self.processor.size)
        if not size.get("height") or not size.get("width"):
            raise ValueError(
                f"Expected an image processor with a fixed height and width, got size {self.processor.size!r}. "
                "Set both, so that images of any shape make one batch."
            )
        return size["height"], size["width"]

    def _decode_all(self) -> torch.Tensor | None:
        """Decode the whole dataset (N, C, H, W); None if its images must be decoded again each time."""
        # Random crops are cut out of the original: out of its small copy they would be blurred.
        crops = self.augmentation is not None and self.augmentation.crop is not None
        options = {"do_resize": False} if crops else {}
        chunks = []
        for start in range(0, len(self), DECODING_CHUNK):
            chunk = self._read(list(range(start, min(start + DECODING_CHUNK, len(self)))), **options)
            if any(image.dtype != torch.uint8 or image.shape[1:] != self._size() for image in chunk):
                return None
            chunks.append(torch.stack(chunk))
        return torch.cat(chunks)


class ImageCollator:
    """Turn samples of `ImageDataset` into a batch for the model.

    A batch holds `pixel_values` (B, C, H, W) and `labels`, class numbers (B,) or, where mixed, class probabilities
    (B, classes); in training also `rows` (B,), which the Trainer takes out again.
    """

    def __init__(self, processor: OmniVisionImageProcessor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Normalise the batch at once, then erase and mix as the samples' augmentation says."""
        pixel_values = normalised(self.processor, _stacked([sample["image"] for sample in samples]))
        labels = torch.tensor([sample["label"] for sample in samples])
        augmentation: Augmentation | None = samples[0]["augmentation"]
        if augmentation is None:
            return {"pixel_values": pixel_values, "labels": labels}
        rows, epoch = [sample["row"] for sample in samples], samples[0]["epoch"]
        pixel_values = augmentation.pixels(pixel_values, rows, epoch)
        pixel_values, labels = augmentation.mix(pixel_values, labels, rows, epoch)
        return {"pixel_values": pixel_values, "labels": labels, "rows": torch.tensor(rows)}


def normalised(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """Rescale and normalise images (B, C, H, W) of pixel values 0..255, as a torchvision image processor does."""
    return processor.rescale_and_normalize(
        images,
        processor.do_rescale,
        processor.rescale_factor,
        processor.do_normalize,
        processor.image_mean,
        processor.image_std,
    ).float()


def _to_bytes(image: torch.Tensor) -> torch.Tensor:
    """Round the pixel values of deep images to 8 bits, which augmentation works on."""
    return image if image.dtype == torch.uint8 else image.round().to(torch.uint8)


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    one_type = len({image.dtype for image in images}) == 1
    return torch.stack(images if one_type else [image.float() for image in images])


__all__ = ["ImageCollator", "ImageDataset", "normalised"]
