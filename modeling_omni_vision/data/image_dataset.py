"""From rows of pictures to batches of `pixel_values`, by the image processor's own policy.

`Pictures` decodes, resizes and (in training) augments; small sets stay in memory as they are after
resizing. `PictureCollator` normalises a whole batch at once and mixes it. Without augmentation the
pixels are exactly those of the image processor.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers.image_utils import SizeDict

from ..image_processing_omni_vision import OmniVisionImageProcessor, PictureError
from .augmentation import Augmentation, WithEpoch


logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2**30  # bytes of decoded pictures of the model's size; Fashion-MNIST needs 47 MB
DECODING_CHUNK = 512

Sample = dict[str, Any]


class Pictures(WithEpoch, TorchDataset):
    """Rows of a dataset as samples for `PictureCollator`.

    A sample is a dictionary with `picture` (C, H, W) in levels 0..255 at the size of the model, `label`, `row`,
    and `augmentation`, `epoch` for the collator.

    Args:
        dataset: Columns `image` and `label`, as `load_pictures` gives them.
        processor: Decides channels, background, size and normalisation.
        augmentation: Random changes, for training only.
        memory_limit: Keep decoded pictures in memory if they take no more bytes than this.
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
        self.labels = torch.tensor(dataset["label"][:])
        self._memory = self._decode_all() if self._fits(memory_limit) else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Sample:
        """Return the sample of one row."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Sample]:
        """Return the samples of many rows, which costs less than one by one.

        Raises:
            PictureError: if a picture cannot be read; names the row and, where there is one, the file.
        """
        rows, epoch = list(rows), self.epoch
        pictures = self._memory[rows] if self._memory is not None else self._decode(rows)
        if self.augmentation is not None:
            if isinstance(pictures, torch.Tensor):
                pictures = self.augmentation.crop_pictures(pictures, rows, epoch)
            else:
                pictures = torch.stack([_to_bytes(picture) for picture in pictures])
            pictures = self.augmentation.pictures(pictures, rows, epoch)
        labels = self.labels[rows].tolist()
        return [
            {"picture": picture, "label": label, "row": row, "epoch": epoch, "augmentation": self.augmentation}
            for picture, label, row in zip(pictures, labels, rows, strict=True)
        ]

    def _decode(self, rows: list[int]) -> list[torch.Tensor]:
        """Decode rows and bring them to the size of the model, cutting out a part if the recipe says so."""
        pictures = self._load_rows(rows)
        if self.augmentation is not None and self.augmentation.crop is not None:
            crop = self.augmentation.crop_picture
            return [crop(_to_bytes(picture), row, self.epoch) for row, picture in zip(rows, pictures, strict=True)]
        return self._resize(pictures)

    def _load_rows(self, rows: list[int]) -> list[torch.Tensor]:
        sources = self.dataset[rows]["image"]
        return [self._load(row, source) for row, source in zip(rows, sources, strict=True)]

    def _load(self, row: int, source: Any) -> torch.Tensor:
        try:
            return self.processor.process_image(source)
        except PictureError as error:
            raise PictureError(f"The picture in row {row} of the dataset cannot be read. {error}") from error

    def _resize(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        """Resize as the image processor does: pictures of one shape and type together."""
        if not self.processor.do_resize:
            return pictures
        size, resample = SizeDict(**dict(self.processor.size)), self.processor.resample
        groups: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault((picture.shape, picture.dtype), []).append(index)
        resized = list(pictures)
        for indices in groups.values():
            stack = self.processor.resize(torch.stack([pictures[index] for index in indices]), size, resample)
            for index, picture in zip(indices, stack, strict=True):
                resized[index] = picture
        return resized

    def _fits(self, memory_limit: int) -> bool:
        height, width = self._size()
        return len(self) * self.processor.num_channels * height * width <= memory_limit

    def _size(self) -> tuple[int, int]:
        size = dict(self.processor.size)
        if not size.get("height") or not size.get("width"):
            raise ValueError(
                f"Expected an image processor with a fixed height and width, got size {self.processor.size!r}. "
                "Set both, so that pictures of any shape make one batch."
            )
        return size["height"], size["width"]

    def _decode_all(self) -> torch.Tensor | None:
        """Decode the whole dataset (N, C, H, W); None if its pictures must be decoded again each time."""
        crops = self.augmentation is not None and self.augmentation.crop is not None
        chunks = []
        for start in range(0, len(self), DECODING_CHUNK):
            chunk = self._load_rows(list(range(start, min(start + DECODING_CHUNK, len(self)))))
            # Random crops are cut out of the original: out of its small copy they would be blurred.
            if crops and any(picture.shape[1:] != self._size() for picture in chunk):
                return None
            if any(picture.dtype != torch.uint8 for picture in chunk):
                return None
            chunks.append(torch.stack(self._resize(chunk)))
        return torch.cat(chunks)


class PictureCollator:
    """Turn samples of `Pictures` into a batch for the model.

    A batch holds `pixel_values` (B, C, H, W) and `labels`, class numbers (B,) or, where mixed, shares of classes
    (B, classes); in training also `rows` (B,), which the Trainer takes out again.
    """

    def __init__(self, processor: OmniVisionImageProcessor) -> None:
        self.processor = processor

    def __call__(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Normalise the batch at once, then erase and mix as the samples' augmentation says."""
        pixel_values = normalised(self.processor, torch.stack(_one_type([sample["picture"] for sample in samples])))
        labels = torch.tensor([sample["label"] for sample in samples])
        augmentation: Augmentation | None = samples[0]["augmentation"]
        if augmentation is None:
            return {"pixel_values": pixel_values, "labels": labels}
        rows, epoch = [sample["row"] for sample in samples], samples[0]["epoch"]
        pixel_values = augmentation.pixels(pixel_values, rows, epoch)
        pixel_values, labels = augmentation.mix(pixel_values, labels, rows, epoch)
        return {"pixel_values": pixel_values, "labels": labels, "rows": torch.tensor(rows)}


def normalised(processor: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Turn levels (B, C, H, W) of the model's size into pixel values, as a torchvision image processor does."""
    return processor.rescale_and_normalize(
        pictures,
        processor.do_rescale,
        processor.rescale_factor,
        processor.do_normalize,
        processor.image_mean,
        processor.image_std,
    ).float()


def _to_bytes(picture: torch.Tensor) -> torch.Tensor:
    """Round levels of deep pictures to 8 bits, which augmentation works on."""
    return picture if picture.dtype == torch.uint8 else picture.round().to(torch.uint8)


def _one_type(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    types = {picture.dtype for picture in pictures}
    return pictures if len(types) == 1 else [picture.float() for picture in pictures]


__all__ = ["PictureCollator", "Pictures", "normalised"]
