"""Training pairs of images and texts, and batches in which the images of one concept come together."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

from ..data.stored_images import open_stored
from ..retrieval.augmentation import PairAugmentation


logger = logging.getLogger(__name__)

TOGETHER = 2  # images of a concept
MAX_SHARED_TEXTS = 64  # texts that an image has in common with others, in the labels of a batch


class ConceptBatches(DefaultBatchSampler):
    """
    Batches of concepts in random order, with two images of a concept one after the other.

    Every image comes once in an epoch. A concept of more images comes several times, with other pairs of them in
    each epoch: all at once would leave few negatives in a batch. A pair that does not fit into a batch is completed
    in the next.

    Args:
        dataset: Training pairs of `training_pairs`: their `concept` is read, and no image.
        *args: As for `DefaultBatchSampler`; the generator is seeded anew for each epoch.
        **kwargs: Likewise.
    """

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.rows = rows_by_concept(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of one batch after the other."""
        generator = self.generator or torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        groups = []
        for rows in self.rows.values():
            # The order of two does not matter.
            mixed = (
                [rows[place] for place in torch.randperm(len(rows), generator=generator)] if len(rows) > 2 else rows
            )
            groups += [mixed[start : start + TOGETHER] for start in range(0, len(mixed), TOGETHER)]
        order = torch.randperm(len(groups), generator=generator).tolist()
        rows = [row for number in order for row in groups[number]]
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


def rows_by_concept(dataset: Dataset) -> dict[str, list[int]]:
    """Return the rows of each concept, in the order of their first image."""
    rows: dict[str, list[int]] = {}
    for row, concept in enumerate(dataset.with_format(None)["concept"][:]):
        rows.setdefault(concept, []).append(row)
    return rows


def training_pairs(train: Dataset, change: PairAugmentation, text_sampling: str = "any") -> Dataset:
    """
    Return the training pairs as columns text, image and label, decoded and sampled each time they are read.

    Args:
        train: Columns `image`, `texts` and `concept`, as `load_pairs` gives them.
        change: Chooses texts and changes images.
        text_sampling: Choose `any` of an image's texts, or the `first`.

    Returns:
        Rows whose label `TwoWayContrastiveLoss` finds false negatives by: numbers of the concept, of the text, and of
        those texts of the image that other images have too, also with `first`. The others fit no other image.
    """
    counts = Counter(line for lines in train["texts"][:] for line in set(lines))

    def shared(lines: list[str]) -> list[str]:
        return sorted((line for line in set(lines) if counts[line] > 1), key=lambda line: -counts[line])

    most = max((len(shared(lines)) for lines in train["texts"][:]), default=0)
    if most > MAX_SHARED_TEXTS:
        logger.warning(
            "An image shares %d of its texts with others: only the %d most frequent of an image are never taken for "
            "wrong answers.",
            *(most, MAX_SHARED_TEXTS),
        )
        most = MAX_SHARED_TEXTS

    def read(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [open_stored(source) for source in rows["image"]]
        offered = [lines[:1] if text_sampling == "first" else lines for lines in rows["texts"]]
        chosen = [change.text(lines, row) for lines, row in zip(offered, rows["row"], strict=True)]
        return {
            "text": chosen,
            "image": [change.image(image, row) for image, row in zip(images, rows["row"], strict=True)],
            "label": [
                [_number(concept), _number(text), *(_number(line) for line in _padded(shared(lines), most, text))]
                for concept, text, lines in zip(rows["concept"], chosen, rows["texts"], strict=True)
            ],
        }

    columns = train.select_columns(["image", "texts", "concept"])
    return columns.add_column("row", range(len(train))).with_transform(read)


def _number(text: str) -> int:
    """Return a number of 64 bits for a text, the same in every process and different for every text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _padded(lines: list[str], count: int, text: str) -> list[str]:
    """Return the first `count` texts of a list, filled up with `text`: labels of a batch have one length."""
    return [*lines, *[text] * count][:count]


__all__ = ["ConceptBatches", "rows_by_concept", "training_pairs"]
