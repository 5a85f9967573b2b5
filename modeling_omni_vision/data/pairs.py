"""Images with texts, from anywhere, as one `DatasetDict`: train, validation and perhaps test.

`load_pairs` always returns the columns `image`, `texts`, a list of one or more texts that all fit the image, and
`concept`, equal for pairs about the same thing: those are no negatives of each other. Every image comes once in a
split: rows that repeat one, as where each caption has a row, are joined into one row with all of their texts.
"""

import logging
from typing import Any

from datasets import Dataset, DatasetDict, List, Value

from .hold_out import VALIDATION_FRACTION, hold_out
from .image_groups import image_keys
from .sources import IMAGE_COLUMNS, choose_column, image_columns, load_any, name_splits, rename_columns
from .synthetic.scenes import draw_scenes, parse_objects


logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("text", "texts", "caption", "captions", "sentence", "sentences", "description")


def load_pairs(
    dataset: str,
    image_column: str | None = None,
    text_column: str | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 0,
) -> DatasetDict:
    """Load images with texts and hold out a validation split.

    Args:
        dataset: What to load, the first that fits:
            `scenes` (drawn, one or two objects; see `draw_scenes`), `scenes:2` or `scenes:1-3` for other numbers;
            a folder of images with a `metadata.jsonl` that names each `file_name` and its `text`; a Parquet file, or
            a folder of them; a folder written by `save_to_disk`; otherwise a dataset of the Hub, `owner/name` or
            `owner/name:configuration`. A column `concept` of strings is kept; without it, the texts of an image are
            its concept.
        image_column: Column of the images; needed only where it cannot be inferred.
        text_column: Column of the texts, each a string or a list of them; needed only where it cannot be inferred.
        validation_fraction: Held out of train where there is no validation split: a fraction below 1, or a number.
        seed: Seed of that choice.

    Returns:
        Splits `train`, `validation` and, where the source has one, `test`; columns `image` (not decoded), `texts` and
        `concept`.

    Raises:
        ValueError: for a source that does not exist or cannot be read, columns that are missing or cannot be inferred,
            images without a text, fewer than two pairs, or too few to hold any out.
    """
    name, _, details = dataset.partition(":")
    if name == "scenes":
        return draw_scenes(parse_objects(details or "1-2"))
    splits = name_splits(load_any(dataset), dataset)
    image = choose_column("image", image_column, image_columns(splits["train"]), IMAGE_COLUMNS, splits["train"])
    candidates = [name for name, feature in splits["train"].features.items() if _holds_text(feature)]
    text = choose_column("text", text_column, candidates, TEXT_COLUMNS, splits["train"])
    pairs = {name: _two_columns(split, image, text, name, dataset) for name, split in splits.items()}
    pairs = _images_once(pairs, dataset)
    if "validation" not in pairs:
        pairs |= hold_out(pairs["train"], validation_fraction, seed)
    for name, split in pairs.items():
        if len(split) < 2:
            raise ValueError(
                f"Expected at least two pairs in the {name} split of {dataset!r}, got {len(split)}: one has no "
                "negative. Add some."
            )
    return DatasetDict({name: pairs[name] for name in ("train", "validation", "test") if name in pairs})


def _holds_text(feature: Any) -> bool:
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _two_columns(split: Dataset, image: str, text: str, name: str, dataset: str) -> Dataset:
    if not {image, text} <= set(split.column_names) or not _holds_text(split.features[text]):
        raise ValueError(
            f"Expected images in {image!r} and texts in {text!r} in the {name} split of {dataset!r}, got "
            f"{split.features}. Name other columns with --image_column and --text_column."
        )
    texts = [[value] if isinstance(value, str) else list(value or []) for value in split[text][:]]
    texts = [[line.strip() for line in lines if line and line.strip()] for lines in texts]
    empty = [row for row, lines in enumerate(texts) if not lines]
    if empty:
        raise ValueError(
            f"{len(empty)} images of the {name} split of {dataset!r} have no text, the first in row {empty[0]}. "
            "Describe them, or leave them out."
        )
    images = rename_columns(split, {image: "image"}).add_column("texts", texts, feature=List(Value("string")))
    known = split.features.get("concept")
    keep = text != "concept" and isinstance(known, Value) and known.dtype == "string"
    concepts = split["concept"][:] if keep else [None] * len(split)
    return images.add_column("concept", concepts, feature=Value("string"))


def _images_once(pairs: dict[str, Dataset], dataset: str) -> dict[str, Dataset]:
    """Join the rows of a split that share an image, fill in missing concepts, and warn of images in two splits."""
    keys = dict(zip(pairs, image_keys(split["image"] for split in pairs.values()), strict=True))
    joined = {}
    for name, split in pairs.items():
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(keys[name]):
            rows.setdefault(key, []).append(row)
        texts, concepts = split["texts"][:], split["concept"][:]
        lines = [list(dict.fromkeys(line for row in same for line in texts[row])) for same in rows.values()]
        named = [concepts[same[0]] for same in rows.values()]
        named = [one or " / ".join(sorted(all_of_it)) for one, all_of_it in zip(named, lines, strict=True)]
        images = split.select_columns("image")
        if len(rows) < len(split):
            images = images.select([same[0] for same in rows.values()])
        images = images.add_column("texts", lines, feature=List(Value("string")))
        joined[name] = images.add_column("concept", named, feature=Value("string"))
        if len(rows) < len(split):
            logger.warning(
                "%d rows of the %s split of %s show %d images: rows of one image are joined, with all of its texts.",
                *(len(split), name, dataset, len(rows)),
            )
        shared = len(set(keys[name]) & set(keys["train"]))
        if name != "train" and shared:
            logger.warning("%d images of the %s split of %s are in train, too.", shared, name, dataset)
    return joined


__all__ = ["load_pairs"]
