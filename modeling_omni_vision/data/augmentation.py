"""Random changes to training images, from torchvision v2, fast and reproducible.

What happens to an image depends on (seed, epoch, row) alone, not on the global generator, workers, processes, batch
size or a resumed run. For speed, each stage has `DRAWS` random draws per epoch, each row gets one of them, and the
rows of a batch with the same draw go through torchvision together. Mixup and CutMix mix a whole batch and depend on
(seed, epoch, rows of the batch).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode, v2


Transform = Callable[[torch.Tensor], torch.Tensor]
Rows = Sequence[int] | np.ndarray

DRAWS = 16
RAND_AUGMENT_OPERATIONS = 2


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU generator within the block from integers, and put it back afterwards; leave GPUs alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed(*key))
        yield


def _seed(*key: int) -> int:
    """Return a seed of the CPU generator from integers: torch.manual_seed would also reseed the GPU."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class WithEpoch:
    """Holds the epoch, from 0, in shared memory: DataLoader workers that outlive an epoch see the next one too."""

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that decides the random changes."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that decides the random changes."""
        self._epoch.fill_(epoch)


class Augmentation:
    """The random part of a training recipe.

    Args:
        num_images: Rows of the dataset.
        size: (height, width) in pixels that come out.
        min_crop_scale: Smallest fraction of the image's area that a random-resized crop keeps, in (0, 1]; 0 disables
            it, and the whole image is resized.
        max_translate: Pixels by which the image may move in each direction; what is uncovered is black.
        flip: Mirror every second image.
        rand_augment: Magnitude of RandAugment, 1 to 30, two operations per image; 0 disables it.
        random_erasing: Chance that a rectangle is set to the mean colour, in [0, 1].
        mixup: Alpha of mixup's Beta distribution; 0 disables it.
        cutmix: Alpha of CutMix's Beta distribution; 0 disables it. With both, each batch gets one of them.
        num_classes: Number of classes, for the soft labels of mixup and CutMix.
        seed: Seed of everything.

    Raises:
        ValueError: for a value out of its range.
    """

    def __init__(
        self,
        num_images: int,
        size: tuple[int, int],
        min_crop_scale: float = 0.0,
        max_translate: int = 0,
        flip: bool = False,
        rand_augment: int = 0,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        num_classes: int = 2,
        seed: int = 0,
    ) -> None:
        _check_range("min_crop_scale", min_crop_scale, 0, 1)
        _check_range("max_translate", max_translate, 0, min(size))
        _check_range("rand_augment", rand_augment, 0, 30)
        _check_range("random_erasing", random_erasing, 0, 1)
        _check_range("mixup", mixup, 0, 100)
        _check_range("cutmix", cutmix, 0, 100)
        self.num_images = num_images
        self.seed = seed
        self.rand_augment = rand_augment
        self._erased: tuple[Any, torch.Tensor] | None = None
        self._tables: dict[int, tuple[int, torch.Tensor, list[int]]] = {}
        self.crop = v2.RandomResizedCrop(size, scale=(min_crop_scale, 1.0)) if min_crop_scale else None
        geometry: list[Transform] = [v2.RandomCrop(size, padding=max_translate)] if max_translate else []
        geometry += [v2.RandomHorizontalFlip()] if flip else []
        augment = v2.RandAugment(
            num_ops=1, magnitude=rand_augment, num_magnitude_bins=31, interpolation=InterpolationMode.BILINEAR
        )
        self.stages: list[Transform] = [v2.Compose(geometry)] if geometry else []
        self.stages += [augment] * (RAND_AUGMENT_OPERATIONS if rand_augment else 0)
        self.erasing = v2.RandomErasing(p=random_erasing) if random_erasing else None
        mixers = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        mixers += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
        self.mixer = v2.RandomChoice(mixers) if mixers else None

    def crop_image(self, image: torch.Tensor, row: int, epoch: int) -> torch.Tensor:
        """Cut a random part out of one decoded image (C, H, W) and resize it to the size of the model."""
        if self.crop is None:
            return image
        with seeded(self.seed, epoch, 0, row):
            return self.crop(image)

    def crop_images(self, images: torch.Tensor, rows: Rows, epoch: int) -> torch.Tensor:
        """Crop images (B, C, H, W) of one size."""
        return images if self.crop is None else self._apply(self.crop, images, rows, epoch, 0)

    def images(self, images: torch.Tensor, rows: Rows, epoch: int) -> torch.Tensor:
        """Translate, flip and RandAugment images (B, C, H, W) of the size of the model, uint8 in, uint8 out.

        Raises:
            ValueError: for RandAugment of images whose channels are neither grey nor colours.
        """
        if self.rand_augment and images.shape[1] not in (1, 3):
            raise ValueError(f"RandAugment changes images of 1 or 3 channels, got {images.shape[1]}. Switch it off.")
        for stage, transform in enumerate(self.stages, start=1):
            images = self._apply(transform, images, rows, epoch, stage)
        return images

    def pixels(self, pixel_values: torch.Tensor, rows: Rows, epoch: int) -> torch.Tensor:
        """Erase rectangles of normalised images (B, C, H, W)."""
        if self.erasing is None:
            return pixel_values
        stage = len(self.stages) + 1
        draws, _ = self._draws(epoch, stage)
        where = self._rectangles(epoch, stage, pixel_values)[draws[rows].to(pixel_values.device, non_blocking=True)]
        return pixel_values.masked_fill(where, 0.0)

    def _rectangles(self, epoch: int, stage: int, like: torch.Tensor) -> torch.Tensor:
        """Return what each draw of an epoch erases, (draws, 1, height, width): all rows of a draw at once."""
        key = epoch, like.shape[2:], like.device
        if self._erased is None or self._erased[0] != key:
            assert self.erasing is not None
            blank, drawn = torch.ones(1, *like.shape[1:]), []
            with torch.random.fork_rng(devices=[]):
                for seed in self._draws(epoch, stage)[1]:
                    torch.default_generator.manual_seed(seed)
                    drawn.append(self.erasing(blank)[:, :1] == 0)
            self._erased = key, torch.cat(drawn).to(like.device)
        return self._erased[1]

    def mix(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, rows: Rows, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix normalised images (B, C, H, W) pairwise; labels (B,) become class probabilities (B, classes)."""
        if self.mixer is None:
            return pixel_values, labels
        with seeded(self.seed, epoch, len(self.stages) + 2, *(int(row) for row in rows)):
            return self.mixer(pixel_values, labels)

    def _apply(self, transform: Transform, images: torch.Tensor, rows: Rows, epoch: int, stage: int) -> torch.Tensor:
        table, seeds = self._draws(epoch, stage)
        draws = table[torch.as_tensor(rows)]
        # Sorted by draw, the rows of a draw are a slice: no copy for each draw.
        order = draws.argsort().to(images.device)
        counts = draws.bincount(minlength=DRAWS).tolist()
        parts = []
        # One fork for all draws: saving and restoring the generator costs as much as a transform.
        with torch.random.fork_rng(devices=[]):
            for seed, part in zip(seeds, images[order].split(counts), strict=True):
                if len(part):
                    torch.default_generator.manual_seed(seed)
                    parts.append(transform(part))
        changed = torch.cat(parts)
        return torch.empty_like(changed).index_copy_(0, order, changed)

    def _draws(self, epoch: int, stage: int) -> tuple[torch.Tensor, list[int]]:
        """Return the draw of a stage for each row of the dataset, (num_images,), and the seed of each draw."""
        if self._tables.get(stage, (None,))[0] != epoch:
            draws = np.random.default_rng([self.seed, epoch, stage]).integers(DRAWS, size=self.num_images)
            seeds = [_seed(self.seed, epoch, stage, draw) for draw in range(DRAWS)]
            self._tables[stage] = epoch, torch.from_numpy(draws), seeds
        return self._tables[stage][1:]


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be from {low} to {high}, got {value!r}. Correct it.")


__all__ = ["Augmentation", "Rows", "WithEpoch", "seeded"]
