"""Batches in which the images of one concept are together, so that they can find each other."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler


TOGETHER = 2  # images of a concept


class ConceptBatches(DefaultBatchSampler):
    """
    Batches of concepts in random order, with two images of a concept one after the other.

    Every image comes once in an epoch. A concept of more images comes several times, with other pairs of them in
    each epoch: all at once would leave few concepts in a batch to be told from each other. A pair that does not fit
    into a batch goes on in the next.

    Args:
        dataset: Training pairs, as `training_pairs` gives them: their `concept` is read, without an image opened.
        batch_size: Pairs in a batch.
        drop_last: Leave out the last batch if it is not full.
        generator: Gives the random order; it is seeded anew for each epoch.
        seed: What the epoch's number is added to.
        options: What sentence-transformers gives to every sampler, and is not needed here.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        generator: torch.Generator | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, generator=generator, seed=seed)
        self.rows = rows_by_concept(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of one batch after the other."""
        generator = self.generator or torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        groups = []
        for rows in self.rows.values():
            # Two are two in any order.
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
    """Give the rows of each concept, in the order of their first image."""
    rows: dict[str, list[int]] = {}
    for row, concept in enumerate(dataset.with_format(None)["concept"][:]):
        rows.setdefault(concept, []).append(row)
    return rows


__all__ = ["ConceptBatches", "rows_by_concept"]
