"""Drawn scenes with questions whose text alone does not predict the answer: each answer to it is equally frequent."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ..conversations import FEATURES, question_row
from ..stored_images import store
from .scenes import HELD_OUT_COMBINATIONS, SCENE_SIDE, seen_combinations
from .shapes import COLOURS, SHAPES, DrawnObject, Scene, draw_scene, list_names


# Questions that one image gets of each kind, at most.
SCENE_KINDS = {"colour": 4, "shape": 4, "count": 3, "left_right": 4, "above_below": 4, "caption": 1}
OBJECT_KINDS = {"colour": "What colour is the object?", "shape": "What shape is the object?", "name": "What is it?"}
QUESTION_SIZES = {"train": 12_000, "validation": 200, "test": 600, "held_out": 600}
# Every combination equally often, three questions each; a pretrained language model is slow for each of them.
OBJECT_SIZES = {"train": 6_000, "validation": 80, "test": 240, "held_out": 240}
COUNTING_SIZES = {"train": 12_000, "validation": 500}
MOST_OBJECTS = 4
NUMBERS = ("one", "two", "three", "four")
GRID = 32  # columns and rows in which `symbols` gives positions
PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}
# `datasets` caches by arguments, not by code: raise this where drawings or questions change.
DRAWING = 3
# Objects are beside each other or above each other only where their middles are a patch of 8 pixels in 64 apart.
CLEARLY = 1 / 8
HELD_OUT_NAMES = tuple(" ".join(pair) for pair in HELD_OUT_COMBINATIONS)
# How often an answer to a text may come more than the rarest one. None at all would leave most questions unasked.
SLACK = 2

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """A question about a scene, its answer, and all answers that its text allows."""

    kind: str
    text: str
    answer: str
    answers: tuple[str, ...] = ()


def parse_kinds(kinds: str, known: Collection[str] = tuple(SCENE_KINDS)) -> tuple[str, ...]:
    """Parse kinds of questions, `colour,count`; all known ones by default.

    Raises:
        ValueError: for an unknown kind, or one that is named twice.
    """
    wanted = tuple(kind.strip() for kind in kinds.split(",")) if kinds else tuple(known)
    if not set(wanted) <= set(known) or len(set(wanted)) < len(wanted):
        raise ValueError(f"Kinds of questions must be different ones of {', '.join(known)}, got {kinds!r}.")
    return wanted


def draw_questions(
    kinds: Sequence[str] = tuple(SCENE_KINDS),
    size: int = SCENE_SIDE,
    sizes: dict[str, int] | None = None,
) -> DatasetDict:
    """Draw scenes of one to four objects, and ask about them.

    Colours and shapes are asked only of objects that are unique and in images with several colours or shapes;
    numbers up to four; left, right, above and below where they are clear; a caption names all objects from left to
    right. Train, validation and test never show a combination of `HELD_OUT_COMBINATIONS`; in the split `held_out`
    every scene has one, and questions about a colour, a shape or a place are about it.

    Args:
        kinds: Which questions to ask, of `SCENE_KINDS`.
        size: Side of an image in pixels.
        sizes: Images per split, by default 12,000 to train, 200 for validation, 600 for test and held_out.
    """
    return _drawn(_draw, kinds, (0,), size, sizes or QUESTION_SIZES)


def draw_objects(
    kinds: Sequence[str] = tuple(OBJECT_KINDS),
    size: int = SCENE_SIDE,
    sizes: dict[str, int] | None = None,
) -> DatasetDict:
    """Draw one object at a time, and ask for its colour, for its shape, and for both, its name, "red square".

    Train, validation and test show all combinations but those of `HELD_OUT_COMBINATIONS` equally often, the split
    `held_out` those alone: a model that infers the shape from the colour is wrong about every one of them.

    Arguments are those of `draw_questions`, with `kinds` of `OBJECT_KINDS`, of which each object gets all; by default
    6,000 images to train, 80 for validation, 240 for test and held_out.
    """
    drawn = _drawn(_draw_one, kinds, (0, 1), size, sizes or OBJECT_SIZES)
    # Combinations are drawn in turns: an image that is shifted by half a split must not show the same one.
    return DatasetDict({name: rows if name == "train" else rows.shuffle(0) for name, rows in drawn.items()})


def draw_counting(size: int = SCENE_SIDE, sizes: dict[str, int] | None = None) -> DatasetDict:
    """Draw scenes in which one to four objects have one colour or shape, and ask for numbers.

    In the scenes of `draw_questions` three or four of a kind are rare, and so, as every answer to a text is equally
    frequent, are questions about the number of a kind: a quarter of those about numbers.

    Arguments are those of `draw_questions`; by default 12,000 images to train and 500 for validation.
    """
    return _drawn(_draw_counting, ("count",), (0, 2), size, sizes or COUNTING_SIZES)


def scene_questions(scene: Scene, about: Sequence[str] | None = None) -> Iterator[Question]:
    """Yield every question that a scene answers.

    Questions about a colour, a shape or a place are about objects of the names `about`, "red square", or about all.
    """
    objects, size = scene.objects, scene.image.width
    # What is held out cannot be balanced: a colour may have one such shape only.
    seen = seen_combinations() if about is None else []
    # Where everything is red, "red" is right without the question: a model that learns this learns the rest late.
    colours, shapes = Counter(item.colour for item in objects), Counter(item.shape for item in objects)
    for item in objects:
        if about is not None and item.name not in about:
            continue
        if len(colours) > 1 and shapes[item.shape] == 1:
            allowed = [colour for colour, shape in seen if shape == item.shape]
            yield Question("colour", f"What colour is the {item.shape}?", item.colour, tuple(allowed))
        if len(shapes) > 1 and colours[item.colour] == 1:
            allowed = [shape for colour, shape in seen if colour == item.colour]
            yield Question("shape", f"What shape is the {item.colour} object?", item.shape, tuple(allowed))
        for other in objects:
            (x, y), (u, v) = centre(item), centre(other)
            if abs(x - u) >= CLEARLY * size:
                text = f"Is the {item.name} left or right of the {other.name}?"
                yield Question("left_right", text, "left" if x < u else "right", ("left", "right"))
            if abs(y - v) >= CLEARLY * size:
                text = f"Is the {item.name} above or below the {other.name}?"
                yield Question("above_below", text, "above" if y < v else "below", ("above", "below"))
    counts = {"objects": len(objects), **{f"{colour} objects": number for colour, number in colours.items()}}
    counts |= {PLURALS[shape]: number for shape, number in shapes.items()}
    for things, number in counts.items():
        yield Question("count", f"How many {things} are there?", NUMBERS[number - 1], NUMBERS)
    # "picture" is data: the word that the bundled checkpoint was trained on.
    yield Question("caption", "What is in the picture?", list_names(item.name for item in sorted(objects, key=centre)))


def scene_texts() -> list[str]:
    """Return texts with every word of questions, answers and `symbols`: the vocabulary of all kinds of questions."""
    names = [*COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS, *map(str, range(GRID))]
    return [
        " ".join(names),
        "What colour is the? What shape is the object? How many objects are there? What is in the picture?",
        "Is the left or right of the above or below the? a, an and",
    ]


def centre(item: DrawnObject) -> tuple[float, float]:
    """Return the centre (x, y) of an object in pixels: the mean of its mask."""
    rows, columns = np.nonzero(item.mask)
    return float(columns.mean()), float(rows.mean())


def symbols_of(scene: Scene) -> str:
    """Describe a scene in words: each object with the column and row of its centre, 0 to 31."""
    scale = GRID / scene.image.width
    named = ((item.name, *(int(scale * value) for value in centre(item))) for item in scene.objects)
    return ", ".join(f"{name} {x} {y}" for name, x, y in named)


def _drawn(
    draw: Callable[..., Rows], kinds: Sequence[str], key: Sequence[int], size: int, sizes: dict[str, int]
) -> DatasetDict:
    splits = {}
    for number, (name, count) in enumerate(sizes.items()):
        options = {"kinds": tuple(kinds), "key": (*key, number, DRAWING), "size": size, "count": count}
        # Cached by `datasets`: drawing takes longer than reading.
        splits[name] = Dataset.from_generator(
            draw, features=FEATURES, gen_kwargs={**options, "held_out": name == "held_out"}
        )
    return DatasetDict(splits)


def _draw_one(kinds: Sequence[str], key: Sequence[int], size: int, count: int, held_out: bool) -> Rows:
    pool = HELD_OUT_COMBINATIONS if held_out else seen_combinations()
    for index in range(count):
        rng = np.random.default_rng([*key, index])
        # In turns: every combination equally often.
        scene = draw_scene(rng, [pool[index % len(pool)]], size)
        (item,) = scene.objects
        asked = [(OBJECT_KINDS[kind], getattr(item, kind), kind) for kind in kinds]
        yield question_row(store(scene.image), asked, symbols_of(scene))


def _draw_counting(kinds: Sequence[str], key: Sequence[int], size: int, count: int, held_out: bool) -> Rows:
    return _draw(kinds, key, size, count, held_out, lambda rng, _: choose_alike(rng))


def _draw(
    kinds: Sequence[str],
    key: Sequence[int],
    size: int,
    count: int,
    held_out: bool,
    choose: Callable[[np.random.Generator, bool], list[tuple[str, str]]] | None = None,
) -> Rows:
    asked: Counter[tuple[str, str]] = Counter()
    for index in range(count):
        rng = np.random.default_rng([*key, index])
        scene = draw_scene(rng, (choose or choose_objects)(rng, held_out), size)
        about = HELD_OUT_NAMES if held_out else None
        chosen = _choose_questions(rng, list(scene_questions(scene, about)), kinds, asked)
        if chosen:
            rows = [(question.text, question.answer, question.kind) for question in chosen]
            yield question_row(store(scene.image), rows, symbols_of(scene))


def choose_objects(rng: np.random.Generator, held_out: bool) -> list[tuple[str, str]]:
    """Choose different objects, in every third scene of one colour or shape, so that there is something to count."""
    seen = seen_combinations()
    pool, firsts = ([*seen, *HELD_OUT_COMBINATIONS], HELD_OUT_COMBINATIONS) if held_out else (seen, seen)
    first = firsts[rng.integers(len(firsts))]
    number = int(rng.integers(1, MOST_OBJECTS + 1))
    chosen, theme = [first], int(rng.integers(6))
    alike = [pair for pair in pool if theme < 2 and pair[theme] == first[theme] and pair != first]
    for _ in range(number - 1):
        from_theme = [pair for pair in alike if pair not in chosen]
        others = [pair for pair in pool if pair not in chosen]
        candidates = from_theme if from_theme and rng.random() < 0.8 else others
        chosen.append(candidates[rng.integers(len(candidates))])
    return [chosen[index] for index in rng.permutation(number)]


def choose_alike(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Choose one to four different objects of one colour or shape, equally often, and perhaps others beside them."""
    seen, part = seen_combinations(), int(rng.integers(2))
    themes = list(dict.fromkeys(pair[part] for pair in seen))
    theme = themes[rng.integers(len(themes))]
    number = int(rng.integers(1, MOST_OBJECTS + 1))
    beside = int(rng.integers(MOST_OBJECTS - number + 1))
    mixed = [seen[index] for index in rng.permutation(len(seen))]
    alike, others = ([pair for pair in mixed if (pair[part] == theme) is same] for same in (True, False))
    chosen = alike[:number] + others[:beside]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def _choose_questions(
    rng: np.random.Generator, questions: Sequence[Question], kinds: Sequence[str], asked: Counter[tuple[str, str]]
) -> list[Question]:
    """Choose a few of each kind, none whose answer its text has already had too often."""
    chosen = []
    for kind in kinds:
        candidates = [question for question in questions if question.kind == kind]
        taken = 0
        for index in rng.permutation(len(candidates)):
            question = candidates[index]
            times = asked[question.text, question.answer]
            fewest = min((asked[question.text, answer] for answer in question.answers), default=times)
            if taken < SCENE_KINDS[kind] and times < fewest + SLACK:
                asked[question.text, question.answer] += 1
                chosen.append(question)
                taken += 1
    return chosen


__all__ = [
    "GRID",
    "MOST_OBJECTS",
    "OBJECT_KINDS",
    "SCENE_KINDS",
    "Question",
    "centre",
    "choose_alike",
    "choose_objects",
    "draw_counting",
    "draw_objects",
    "draw_questions",
    "parse_kinds",
    "scene_questions",
    "scene_texts",
    "symbols_of",
]
