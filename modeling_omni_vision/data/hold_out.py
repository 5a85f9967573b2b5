"""The validation split of a dataset that has none, the same rows in every release.

Runs record the fraction and not the rows: with other rows, a run would find rows again that it was trained on.
"""

from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from datasets import Dataset


# What is held out of train by default: training and whoever finds its split again must agree.
VALIDATION_FRACTION = 0.1


def hold_out(
    train: "Dataset", validation_fraction: float, seed: int, stratify: bool = False, order: np.ndarray | None = None
) -> dict[str, "Dataset"]:
    """Divide rows into `train` and `validation`, both in their old order.

    Args:
        train: All rows.
        validation_fraction: What to hold out: a fraction below 1, or a number of rows.
        seed: Seed of the choice.
        stratify: Hold out equal fractions of all classes of the column `label`.
        order: Rows in the order in which they are held out; by default scikit-learn chooses, by `seed`.

    Raises:
        ValueError: if a split would be empty, or a class would be missing from one.
    """
    count = len(train)
    number = round(validation_fraction * count) if 0 < validation_fraction < 1 else validation_fraction
    if not 0 < validation_fraction < max(count, 1) or (order is not None and not 0 < number < count):
        raise ValueError(
            f"`validation_fraction` must be a fraction between 0 and 1, or a number of rows, that leaves rows on both "
            f"sides, got {validation_fraction!r} of {count}. Choose another."
        )
    if order is not None:
        held_out, rows = order[: int(number)], order[int(number) :]
    else:
        # Not at the top: arguments take the default above from here, and `--help` is to answer at once.
        from sklearn.model_selection import train_test_split

        size = validation_fraction if validation_fraction < 1 else int(validation_fraction)
        labels = train["label"][:] if stratify else None
        try:
            # Not `Dataset.train_test_split`: it reads labels one by one, seconds for 60,000, and draws others.
            rows, held_out = train_test_split(np.arange(count), test_size=size, stratify=labels, random_state=seed)
        except ValueError as error:
            raise ValueError(
                f"No validation split of {validation_fraction:g} can be held out of {count} rows with every class in "
                f"both ({error}) Add rows, change `validation_fraction`, or provide a validation split."
            ) from error
    return {"train": train.select(np.sort(rows)), "validation": train.select(np.sort(held_out))}


__all__ = ["VALIDATION_FRACTION", "hold_out"]
