"""From rows of images to batches of `pixel_values`, by the image processor's own policy.

`ImageDataset` decodes, resizes and (in training) augments; what fits stays in memory, or on the GPU, as it is after
resizing, once for all processes of a machine. `ImageCollator` normalises a whole batch at once and mixes it. Without
augmentation the pixels are exactly those of the image processor.
"""

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm  # not that of transformers, whose bars commands switch off

from ..image_processing_omni_vision import ImageReadError, OmniVisionImageProcessor
from .augmentation import Augmentation, Rows, WithEpoch
from .integrity import BROKEN, KEPT, READABLE
from .label_lists import label_array
from .shared_memory import SharedBytes, allocate
from .stored_images import raw_pixels


logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2**30  # bytes of decoded images of the model's size; Fashion-MNIST needs 47 MB
DECODING_CHUNK = 512  # rows that are taken out of the dataset at once, of which `HELD` are decoded at once
HELD = 32
PROBED = 16  # rows that say whether decoded images can be kept at all
# Pixels of an image below which a second thread makes decoding slower: Python's lock is held most of the time.
SMALL = 64 * 64
# What images on a GPU may take of its free memory: they, an epoch of changed ones, and what changing them needs.
COPIES_ON_DEVICE, SHARE_OF_DEVICE = 4, 0.5

Sample = dict[str, Any]


class ImageDataset(WithEpoch, TorchDataset):
    """Rows of a dataset as batches for `ImageCollator`.

    A batch is a dictionary with `images` (B, C, H, W) in pixel values 0..255 at the size of the model, `labels`,
    `rows`, and `augmentation`, `epoch` for the collator; the sample of one row has `image`, `label`, `row` instead.

    Args:
        dataset: Columns `image` and `label`, as `load_images` gives them; without `label` all are of class 0.
        processor: Decides channels, background, size and normalisation.
        augmentation: Random changes, for training only.
        memory_limit: Keep as many decoded images in memory as take no more bytes than this.
        of_run: All processes that train together make this dataset: those of a machine keep the images once, and what
            cannot be read raises only when it is asked for. `states` says what it is, for `leave_out_unreadable`.

    Raises:
        ImageReadError: for the first image among those to keep that cannot be read, unless it is of a run.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: OmniVisionImageProcessor,
        augmentation: Augmentation | None = None,
        memory_limit: int = MEMORY_LIMIT,
        of_run: bool = False,
    ) -> None:
        super().__init__()
        self.dataset, self.processor, self.augmentation = dataset, processor, augmentation
        labelled = "label" in dataset.column_names
        self.labels = torch.from_numpy(label_array(dataset)) if labelled else torch.zeros(len(dataset)).long()
        self._crops = augmentation is not None and augmentation.crop is not None
        self._shared: SharedBytes | None = None
        self._memory, self.states = self._decode_what_fits(memory_limit, of_run)
        self._is_kept = torch.from_numpy(self.states == KEPT)
        if not of_run and BROKEN in self.states:
            self._read([int(np.argmax(self.states == BROKEN))])
        self._changed: tuple[int, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The images are views of the bytes, which know how a process that is started gets them without a copy.
        return self.__dict__ | ({} if self._shared is None else {"_memory": tuple(self._memory.shape)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            shape = state["_memory"]
            self._memory = self._shared.content[shape[0] :].view(shape)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Sample:
        """Return the sample of one row."""
        batch = self.__getitems__([row])
        one = {"image": batch["images"][0], "label": batch["labels"][0].tolist(), "row": row}
        return one | {"epoch": batch["epoch"], "augmentation": self.augmentation}

    def __getitems__(self, rows: Rows) -> Sample:
        """Return the batch of many rows, which costs less than one by one.

        Raises:
            ImageReadError: if an image cannot be read; names the row and, where there is one, the file.
        """
        rows, epoch = np.array(rows, dtype=np.int64), self.epoch
        # Not blocking, which waits for everything that the device still has to do.
        index = torch.from_numpy(rows).to(self.labels.device, non_blocking=True)
        images = self._on_cpu(rows, epoch) if self.labels.device.type == "cpu" else self._of_epoch(epoch)[index]
        batch: Sample = {"images": images, "labels": self.labels[index], "rows": rows}
        return batch | {"epoch": epoch, "augmentation": self.augmentation}

    def move_to(self, device: torch.device) -> None:
        """Keep images and labels on a device; they are changed there, an epoch at a time."""
        self._memory, self.labels, self._shared = self._memory.to(device), self.labels.to(device), None

    def count_in(self, other: "ImageDataset") -> int:
        """Return how many of the images in memory another has in memory, too, pixel by pixel."""
        if self._memory.shape[1:] != other._memory.shape[1:]:
            return 0
        # A table of this one alone: the other is train, with most of the images.
        own = Counter(self._hashes())
        return sum(own[one] for one in {one for one in other._hashes() if one in own})

    def _hashes(self) -> Iterator[int]:
        images = self._memory.numpy()
        return (hash(images[row].tobytes()) for row in np.flatnonzero(self.states == KEPT).tolist())

    @property
    def bytes_on_device(self) -> int | None:
        """Memory that the images need on a device, None if they cannot all be kept in memory."""
        return COPIES_ON_DEVICE * self._memory.nbytes if bool(self._is_kept.all()) else None

    def _of_epoch(self, epoch: int) -> torch.Tensor:
        """Return all images as they are in an epoch: one launch for many rows that change alike."""
        if self.augmentation is None:
            return self._memory
        if self._changed is None or self._changed[0] != epoch:
            self._changed = None  # frees the last epoch's
            self._changed = epoch, self._augmented(self._memory, np.arange(len(self)), epoch)
        return self._changed[1]

    def _augmented(self, images: torch.Tensor, rows: np.ndarray, epoch: int, crop: bool = True) -> torch.Tensor:
        assert self.augmentation is not None
        images = self.augmentation.crop_images(images, rows, epoch) if crop else images
        return self.augmentation.images(images, rows, epoch)

    def _on_cpu(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        kept = self._is_kept[rows]
        if kept.all():
            images = self._memory[rows]
            return images if self.augmentation is None else self._augmented(images, rows, epoch)
        found = dict(zip(rows[~kept.numpy()].tolist(), self._decode(rows[~kept.numpy()].tolist()), strict=True))
        if kept.any():
            inside = rows[kept.numpy()]
            cropped = self._memory[inside]
            if self._crops:
                assert self.augmentation is not None
                cropped = self.augmentation.crop_images(cropped, inside, epoch)
            found |= dict(zip(inside.tolist(), cropped, strict=True))
        ordered = [found[row] for row in rows.tolist()]
        if self.augmentation is None:
            return _stacked(ordered)
        return self._augmented(torch.stack([_to_bytes(image) for image in ordered]), rows, epoch, crop=False)

    def _decode(self, rows: list[int]) -> list[torch.Tensor]:
        """Decode rows and bring them to the size of the model, by random crops if the recipe says so."""
        if not self._crops:
            return self._read(rows)
        assert self.augmentation is not None
        crop, images = self.augmentation.crop_image, self._read(rows, do_resize=False)
        return [crop(_to_bytes(image), row, self.epoch) for row, image in zip(rows, images, strict=True)]

    def _read(self, rows: Sequence[int], do_resize: bool = True) -> list[torch.Tensor]:
        """Read rows as the image processor does, all but normalisation: pixel values 0..255 (C, H, W)."""
        # A slice is read at once.
        sources = self.dataset[slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)]["image"]
        return self._read_sources(rows, sources, do_resize)

    def _read_sources(self, rows: Sequence[int], sources: list[Any], do_resize: bool) -> list[torch.Tensor]:
        processor, size = self.processor, self._size()
        channels = processor.num_channels if processor.do_convert_rgb else None
        raw = raw_pixels(sources, size, channels)
        if raw is not None:
            return list(raw)
        options = {"do_convert_rgb": processor.do_convert_rgb, "num_channels": processor.num_channels}
        images = []
        for row, source in zip(rows, sources, strict=True):
            try:
                images.append(processor.process_image(source, background_color=processor.background_color, **options))
            except ImageReadError as error:
                raise ImageReadError(f"The image in row {row} of the dataset cannot be read. {error}") from error
        self._check_channels(rows, images)
        others = [index for index, image in enumerate(images) if image.shape[1:] != size] if do_resize else []
        # Deep images go through the processor again: it takes floats that are all dark for another unit.
        deep = [index for index in others if images[index].dtype != torch.uint8]
        flat = [index for index in others if images[index].dtype == torch.uint8]
        layout = {"do_convert_rgb": False, "input_data_format": "channels_first"}
        for indices, given, extra in ((deep, sources, {}), (flat, images, layout)):
            for index, image in zip(indices, _resized(processor, [given[i] for i in indices], extra), strict=True):
                images[index] = image
        return images

    def _check_channels(self, rows: Sequence[int], images: list[torch.Tensor]) -> None:
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

    def _decode_what_fits(self, limit: int, shared: bool) -> tuple[torch.Tensor, np.ndarray]:
        """Decode rows (N, C, H, W) from the first on, as many as fit; others are decoded again each time.

        So are images of another type or number of channels than most, and, where random crops are cut out of the
        original (out of its small copy they would be blurred), those of another size than the model's. Returns also
        the state of each row of the dataset: what it was found to be.
        """
        probes, size, states = self._probes() if limit else [], self._size(), np.zeros(len(self), np.uint8)
        fitting = Counter(len(image) for image in probes if _fits(image, (len(image), *size)) or not self._crops)
        if not fitting:
            return torch.empty(0, 1, *size, dtype=torch.uint8), states
        shape = (fitting.most_common(1)[0][0], *size)
        count = min(len(self), limit // math.prod(shape))
        memory = allocate(count * (math.prod(shape) + 1), shared)
        images, found = memory.content[count:].view(count, *shape), memory.content[:count].numpy()
        self._shared = memory
        self._fill(images.numpy(), found, memory, max(image[0].numel() for image in probes) > SMALL)
        states[:count] = found
        return images, states

    def _probes(self) -> list[torch.Tensor]:
        """Return some images of 8 bits, not resized, from the whole of the dataset."""
        found = list[torch.Tensor]()
        for row in sorted({*np.linspace(0, max(len(self) - 1, 0), PROBED, dtype=int).tolist()}) if len(self) else ():
            with contextlib.suppress(ImageReadError):
                found += self._read([row], do_resize=False)
        return [image for image in found if image.dtype == torch.uint8]

    def _fill(self, images: np.ndarray, states: np.ndarray, memory: SharedBytes, parallel: bool) -> None:
        """Decode this process's part of the images, and wait for the others."""

        def decode(start: int) -> None:
            sources = self.dataset[start : min(start + DECODING_CHUNK, len(images))]["image"]
            for first in range(0, len(sources), HELD):
                some = sources[first : first + HELD]
                self._keep(range(start + first, start + first + len(some)), some, images, states)

        starts, done = range(0, len(images), DECODING_CHUNK)[memory.process :: memory.processes], False
        bar = {"desc": "Reading images", "total": len(starts), "delay": 2, "disable": memory.process > 0}
        # Pillow and torch let other threads run while they work.
        workers = max(1, (os.cpu_count() or 1) // memory.processes) if parallel else 1
        try:
            with ThreadPoolExecutor(workers) as threads:
                list(tqdm(threads.map(decode, starts), **bar))
            done = True
        finally:
            others_failed = memory.wait(failed=not done)
        if others_failed:
            raise ValueError("Another process could not read the images: see its message.")

    def _keep(self, rows: Sequence[int], sources: list[Any], images: np.ndarray, states: np.ndarray) -> None:
        try:
            found = self._read_sources(rows, sources, do_resize=not self._crops)
        except ImageReadError:
            if len(rows) == 1:
                states[rows[0]] = BROKEN
            else:  # one that cannot be read costs only itself
                for row, source in zip(rows, sources, strict=True):
                    self._keep([row], [source], images, states)
            return
        for row, image in zip(rows, found, strict=True):
            fits = _fits(image, images.shape[1:])
            states[row] = KEPT if fits else READABLE
            if fits:
                images[row] = image.numpy()


class Normaliser:
    """Normalise images (B, C, H, W) of pixel values 0..255 as a processor does, on a GPU without waiting for it.

    Args:
        processor: Says how.
    """

    def __init__(self, processor: OmniVisionImageProcessor) -> None:
        self.processor = processor
        self._levels: torch.Tensor | None = None

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return them in float32."""
        on_cpu = images.device.type == "cpu" or images.dtype != torch.uint8
        return normalised(self.processor, images) if on_cpu else self._looked_up(images)

    def _looked_up(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise 8-bit images on a device by a table of all levels: torchvision copies and checks at each call."""
        channels = images.shape[1]
        if self._levels is None or self._levels.device != images.device:
            levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, 1, 1)
            self._levels = normalised(self.processor, levels)[:, :, 0, 0].T.to(images.device)
            self._channels = torch.arange(channels, device=images.device)[:, None, None]
        return self._levels[self._channels, images.int()]


class ImageCollator(Normaliser):
    """Turn a batch of `ImageDataset`, or samples of it, into a batch for the model.

    It holds `pixel_values` (B, C, H, W) and `labels`, class numbers (B,) or, where mixed, class probabilities
    (B, classes); in training also `rows` (B,), a NumPy array, which the Trainer takes out again.
    """

    def __call__(self, samples: Sample | list[Sample]) -> dict[str, Any]:
        """Normalise the batch at once, then erase and mix as the augmentation says."""
        batch = joined(samples) if isinstance(samples, list) else samples
        images, labels = batch["images"], batch["labels"]
        pixel_values = self.normalise(images)
        augmentation: Augmentation | None = batch["augmentation"]
        if augmentation is None:
            return {"pixel_values": pixel_values, "labels": labels}
        rows, epoch = batch["rows"], batch["epoch"]
        pixel_values = augmentation.pixels(pixel_values, rows, epoch)
        pixel_values, labels = augmentation.mix(pixel_values, labels, rows, epoch)
        return {"pixel_values": pixel_values, "labels": labels, "rows": rows}

    def without_labels(self, samples: Sample | list[Sample]) -> tuple[dict[str, Any], np.ndarray, int | None]:
        """Return the batch without its labels, its rows, and its epoch, None in validation (without augmentation)."""
        batch = joined(samples) if isinstance(samples, list) else samples
        inputs = ImageCollator.__call__(self, batch)
        del inputs["labels"]
        return inputs, batch["rows"], None if batch["augmentation"] is None else int(batch["epoch"])


class Movable(Protocol):
    """Images that can be kept on a device."""

    @property
    def bytes_on_device(self) -> int | None:
        """Memory that they need there, None if they cannot be kept there."""

    def move_to(self, device: torch.device) -> None:
        """Keep them on a device."""


def moved_to_device(wanted: str, datasets: Iterable[Movable], device: torch.device, workers: int) -> bool:
    """Move images to the device of training, if that is wanted and they fit, and return whether it was done.

    Args:
        wanted: `true`, `false`, or `auto`.
        datasets: All of them, or none, are moved.
        device: Where to.
        workers: Processes that load data, which cannot use the device.

    Raises:
        ValueError: if it is wanted and cannot be.
    """
    needed = [images.bytes_on_device for images in datasets]
    reasons = {
        f"the device is {device}": device.type != "cuda",
        "not all of them fit into memory decoded, at the size of the model": None in needed,
        f"{workers} workers load them": workers > 0,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if not found:
        free, _ = torch.cuda.mem_get_info(device)
        if sum(size or 0 for size in needed) > SHARE_OF_DEVICE * free:
            found.append(f"they would take more than {SHARE_OF_DEVICE:.0%} of its free memory")
    if wanted == "true" and found:
        raise ValueError(f"`images_on_device` must be auto or false, got true while {found[0]}. Leave it out.")
    if wanted == "false" or found:
        return False
    for images in datasets:
        images.move_to(device)
    return True


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


def _resized(processor: Any, images: list[Any], extra: dict[str, Any]) -> list[torch.Tensor]:
    """Read and resize as the image processor does, to pixel values 0..255 (C, H, W)."""
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": None, "disable_grouping": False}
    return list(processor(images, **options, **extra)["pixel_values"]) if images else []


def _fits(image: torch.Tensor, shape: tuple[int, ...]) -> bool:
    return image.dtype == torch.uint8 and tuple(image.shape) == shape


def joined(samples: list[Sample]) -> Sample:
    """Return the batch of samples of single rows."""
    batch = {
        "images": _stacked([sample["image"] for sample in samples]),
        "rows": np.array([s["row"] for s in samples]),
    }
    labels = torch.tensor([sample["label"] for sample in samples])
    return batch | {"labels": labels, **{name: samples[0][name] for name in ("epoch", "augmentation")}}


def _to_bytes(image: torch.Tensor) -> torch.Tensor:
    """Round the pixel values of deep images to 8 bits, which augmentation works on."""
    return image if image.dtype == torch.uint8 else image.round().to(torch.uint8)


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    one_type = len({image.dtype for image in images}) == 1
    return torch.stack(images if one_type else [image.float() for image in images])


__all__ = ["ImageCollator", "ImageDataset", "joined", "moved_to_device", "normalised"]
