"""Drawn scenes with captions, and combinations of colour and shape that only the test split has."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from ..stored_images import store
from .shapes import COLOURS, SHAPES, draw_scene


SCENE_SIZES = {"train": 20_000, "validation": 200, "test": 200}
SCENE_SIDE = 64
# `datasets` caches by arguments, not by code: raise this where drawings change.
DRAWING = 2
ROWS_PER_PROCESS = 2_000  # fewer are drawn before another process has started

# One shape for each colour: every colour and every shape is still seen, these combinations are not.
HELD_OUT_COMBINATIONS = tuple((colour, SHAPES[number % len(SHAPES)]) for number, colour in enumerate(COLOURS))


def parse_objects(numbers: str) -> tuple[int, int]:
    """Parse how many objects a scene has, `2` or `1-3`, as the fewest and the most.

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
        options = {"key": (seed, number), "size": size, "drawing": DRAWING}
        splits[name] = draw_rows(_draw, features, options, rows=list(enumerate(map(tuple, chosen))))
    return DatasetDict(splits)


def draw_rows(draw: Callable[..., Any], features: Features, options: dict[str, Any], rows: list[Any]) -> Dataset:
    """Return the rows that a generator yields for `rows`, drawn by several processes where they are many.

    They are cached by `datasets`: drawing takes longer than reading.
    """
    processes = min(len(rows) // ROWS_PER_PROCESS, (os.cpu_count() or 1) // 2)
    arguments = {**options, "rows": rows}
    return Dataset.from_generator(
        draw, features=features, gen_kwargs=arguments, num_proc=processes if processes > 1 else None
    )


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
    rows: Sequence[tuple[int, Sequence[tuple[str, str]]]], key: Sequence[int], size: int, drawing: int
) -> Iterator[dict[str, Any]]:
    for index, pairs in rows:
        scene = draw_scene(np.random.default_rng([*key, index]), pairs, size)
        yield {
            "image": store(scene.image),
            "texts": scene.texts,
            "concept": ", ".join(sorted(item.name for item in scene.objects)),
        }


__all__ = ["HELD_OUT_COMBINATIONS", "SCENE_SIDE", "draw_rows", "draw_scenes", "parse_objects", "seen_combinations"]
