"""Images with questions, from anywhere, as one `DatasetDict`: train, validation and perhaps more.

A row is a conversation with the columns of `conversations.FEATURES`.
"""

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from .conversations import FEATURES, load_conversations, load_easy_vqa
from .hold_out import VALIDATION_FRACTION, hold_out
from .image_groups import group_rows, image_keys, order_groups
from .synthetic.scene_questions import OBJECT_KINDS, draw_counting, draw_objects, draw_questions, parse_kinds


QUESTION_SOURCES = ("scenes", "objects", "counting", "easy-vqa")  # by name, not by path


def load_questions(dataset: str, validation_fraction: float = VALIDATION_FRACTION, seed: int = 0) -> DatasetDict:
    """Load images with questions and hold out a validation split.

    Args:
        dataset: What to load, the first that fits:
            `scenes` (drawn; see `draw_questions`), `scenes:colour,count` for some kinds of questions only,
            `scenes:caption` for captions; `objects` (drawn one by one; see `draw_objects`), `objects:colour,shape` for
            some kinds of questions only; `counting` (drawn; see `draw_counting`); `easy-vqa` (the package of that
            name), `easy-vqa:FOLDER` for its data elsewhere; a `.jsonl` or `.json` file of conversations or a folder
            with `train.jsonl` and perhaps `val.jsonl` and `test.jsonl` (see `conversations.load_conversations`).
            Several, joined by ` + `, are trained on together; the other splits are those of the first.
        validation_fraction: What to hold out of train where there is no validation split: a fraction of the rows,
            or a number of them, and all others with the same images.
        seed: Seed of that choice.

    Returns:
        Splits `train`, `validation` and, where the source has them, `test` and `held_out`, with the columns of
        `FEATURES`.

    Raises:
        ValueError: for a source that does not exist or cannot be read, or too few rows to hold any out.
    """
    first, *more = dataset.split(" + ")
    if more:
        data = load_questions(first, validation_fraction, seed)
        others = [load_questions(other, validation_fraction, seed)["train"] for other in more]
        data["train"] = concatenate_datasets([data["train"], *others])
        return data
    name, _, details = dataset.partition(":")
    if name == "scenes":
        return draw_questions(parse_kinds(details))
    if dataset == "counting":
        return draw_counting()
    if name == "objects":
        return draw_objects(parse_kinds(details, OBJECT_KINDS))
    rows = load_easy_vqa(details) if name == "easy-vqa" else load_conversations(Path(dataset).expanduser())
    splits = {name: Dataset.from_list(found, features=FEATURES) for name, found in rows.items()}
    if "validation" not in splits:
        splits |= _hold_out_images(splits["train"], validation_fraction, seed)
    return DatasetDict({name: splits[name] for name in ("train", "validation", "test") if name in splits})


def _hold_out_images(train: Dataset, validation_fraction: float, seed: int) -> dict[str, Dataset]:
    """Hold out rows such that no image is on both sides."""
    order = np.random.default_rng(seed).permutation(len(train))
    groups = group_rows(image_keys(train["images"][:]))
    if len(np.unique(groups)) == len(train) or not 0 < validation_fraction < len(train):
        return hold_out(train, validation_fraction, seed, order=order)
    number = round(validation_fraction * len(train)) if validation_fraction < 1 else int(validation_fraction)
    order, number = order_groups(order, groups, max(number, 1))
    if number >= len(train):
        raise ValueError(
            f"Expected images to hold out, got {len(train)} rows of which so many share images that none would be "
            "left to train on. Provide a validation split, or lower `validation_fraction`."
        )
    return hold_out(train, number, seed, order=order)


__all__ = ["QUESTION_SOURCES", "load_questions"]
