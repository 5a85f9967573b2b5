"""Images with words, from anywhere, as one `DatasetDict`: train, validation and perhaps test.

`load_pairs` always returns the columns `image`, `texts`, a list of one or more texts that all fit the image, and
`concept`, which is the same for pairs that are about the same: those are no wrong answers to each other.
`draw_scenes` makes such pairs of drawn shapes, with combinations of colour and shape that only the test split has.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from sklearn.model_selection import train_test_split

from .emoji import load_emoji
from .sources import IMAGE_COLUMNS, VALIDATION_FRACTION, choose_column, image_columns, load_any, name_splits
from .stored_images import store
from .synthetic.shapes import COLOURS, SHAPES, draw_scene


TEXT_COLUMNS = ("text", "texts", "caption", "captions", "sentence", "sentences", "description")
SCENE_SIZES = {"train": 20_000, "validation": 200, "test": 200}
SCENE_SIDE = 64
# Raised whenever `_draw` yields something else: the cache of the library, which knows no code, must not give the old.
DRAWING = 2

# One shape for each colour: every colour and every shape is still seen, these combinations are not.
HELD_OUT_COMBINATIONS = tuple((colour, SHAPES[number % len(SHAPES)]) for number, colour in enumerate(COLOURS))


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
            `emoji:FOLDER` (three vendors' drawings, see `emoji.load_emoji`); a folder of images with a
            `metadata.jsonl` that names each `file_name` and its `text`; a Parquet file, or a folder of them; a folder
            written by `save_to_disk`; otherwise a dataset of the Hub, `owner/name` or `owner/name:configuration`.
        image_column: Column of the images; needed only where it cannot be told.
        text_column: Column of the texts, each a string or a list of them; needed only where it cannot be told.
        validation_fraction: Held out of train where there is no validation split: a share below 1, or a number.
        seed: Seed of that choice.

    Returns:
        Splits `train`, `validation` and, where the source has one, `test`; columns `image` (not decoded), `texts` and
        `concept`.

    Raises:
        ValueError: for a source that does not exist or cannot be read, columns that are missing or cannot be told,
            images without a text, fewer than two pairs, or too few to hold any out.
    """
    name, _, details = dataset.partition(":")
    if name == "scenes":
        return draw_scenes(parse_objects(details or "1-2"))
    if name == "emoji":
        return load_emoji(Path(details or "emoji").expanduser(), seed=seed)
    splits = name_splits(load_any(dataset), dataset)
    image = choose_column("image", image_column, image_columns(splits["train"]), IMAGE_COLUMNS, splits["train"])
    text = choose_column("text", text_column, _text_columns(splits["train"]), TEXT_COLUMNS, splits["train"])
    pairs = {name: _two_columns(split, image, text, name, dataset) for name, split in splits.items()}
    if "validation" not in pairs:
        pairs["train"], pairs["validation"] = _hold_out(pairs["train"], validation_fraction, seed)
    for name, split in pairs.items():
        if len(split) < 2:
            raise ValueError(
                f"Expected at least two pairs in the {name} split of {dataset!r}, got {len(split)}: one has nothing "
                "to be told from. Add some."
            )
    return DatasetDict({name: pairs[name] for name in ("train", "validation", "test") if name in pairs})


def parse_objects(numbers: str) -> tuple[int, int]:
    """Read how many objects a scene has, `2` or `1-3`, as the fewest and the most.

    Raises:
        ValueError: for anything else, or numbers that do not fit into a scene.
    """
    fewest, _, most = numbers.partition("-")
    if not (fewest.isdigit() and (most or fewest).isdigit() and 1 <= int(fewest) <= int(most or fewest) <= 4):
        raise ValueError(
            f"Expected a number of objects from 1 to 4 for each scene, such as '2' or '1-3', got {numbers!r}."
        )
    return int(fewest), int(most or fewest)


def draw_scenes(
    objects: tuple[int, int] = (1, 2), seed: int = 0, size: int = SCENE_SIDE, sizes: dict[str, int] | None = None
) -> DatasetDict:
    """Draw pairs of a scene and its texts: "This is a red square and a blue circle", then "This is a red square", and
    "This is a blue circle".

    Train and validation never show a combination of `HELD_OUT_COMBINATIONS`; every scene of the test split shows one
    at least. Captions of the validation and the test split differ in more than the order of their objects.

    Args:
        objects: The fewest and the most objects of a scene. Those of validation and test have the most.
        seed: Seed of the drawings.
        size: Side of an image in pixels.
        sizes: Pairs per split, by default 20,000 to train, 200 for validation and test.
    """
    features = Features({"image": Image(decode=False), "texts": List(Value("string")), "concept": Value("string")})
    splits = {}
    for number, (name, count) in enumerate((sizes or SCENE_SIZES).items()):
        chosen = _choose_scenes(np.random.default_rng([seed, number]), name, objects, count)
        options = {"scenes": tuple(map(tuple, chosen)), "key": (seed, number), "size": size, "drawing": DRAWING}
        # Kept in the cache of the library: drawing takes longer than reading.
        splits[name] = Dataset.from_generator(_draw, features=features, gen_kwargs=options)
    return DatasetDict(splits)


def seen_combinations() -> list[tuple[str, str]]:
    """List the combinations of colour and shape that training shows."""
    return [pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT_COMBINATIONS]


def _choose_scenes(
    rng: np.random.Generator, split: str, objects: tuple[int, int], count: int
) -> list[list[tuple[str, str]]]:
    """Choose the objects of every scene of a split."""
    seen = seen_combinations()
    if split == "train":
        numbers = rng.integers(objects[0], objects[1] + 1, size=count)
        return [[seen[index] for index in rng.choice(len(seen), size=number, replace=False)] for number in numbers]
    pool = seen if split == "validation" else [*seen, *HELD_OUT_COMBINATIONS]
    every = [
        list(scene)
        for scene in combinations(pool, objects[1])
        if split == "validation" or not set(scene).isdisjoint(HELD_OUT_COMBINATIONS)
    ]
    order = rng.permutation(len(every))
    # With one object there are fewer combinations than asked for; then all of them.
    scenes = [every[index] for index in order[:count]]
    return [[scene[index] for index in rng.permutation(len(scene))] for scene in scenes]


def _draw(
    scenes: Sequence[Sequence[tuple[str, str]]], key: Sequence[int], size: int, drawing: int
) -> Iterator[dict[str, Any]]:
    for index, pairs in enumerate(scenes):
        scene = draw_scene(np.random.default_rng([*key, index]), [(colour, shape) for colour, shape in pairs], size)
        yield {
            "image": store(scene.image),
            "texts": scene.texts,
            "concept": ", ".join(sorted(item.name for item in scene.objects)),
        }


def _text_columns(split: Dataset) -> list[str]:
    return [name for name, feature in split.features.items() if _holds_text(feature)]


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
    images = split.select_columns([image]).rename_column(image, "image") if image != "image" else split
    images = images.select_columns(["image"]).cast_column("image", Image(decode=False))
    images = images.add_column("texts", texts, feature=List(Value("string")))
    return images.add_column("concept", [" / ".join(sorted(lines)) for lines in texts], feature=Value("string"))


def _hold_out(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    size = share if share < 1 else int(share)
    if not 0 < share < max(len(train) - 1, 1):
        raise ValueError(
            f"`validation_fraction` must be a share between 0 and 1 or a number below {len(train)} pairs, "
            f"got {share!r}."
        )
    rows, held_out = train_test_split(np.arange(len(train)), test_size=size, random_state=seed)
    return train.select(np.sort(rows)), train.select(np.sort(held_out))


__all__ = ["HELD_OUT_COMBINATIONS", "draw_scenes", "load_pairs", "parse_objects", "seen_combinations"]
