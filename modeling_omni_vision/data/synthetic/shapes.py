"""Drawn coloured shapes with captions: the specification's "This is a red square" task.

`draw_scene` draws any number of objects with their masks. `draw_shapes` makes a labelled dataset of one-object images;
the label is the keyword that its caption holds as a whole word. Everything follows from a seed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PilImage
from PIL import ImageDraw

from ..stored_images import store


COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 88, 214),
    "yellow": (240, 205, 40),
    "purple": (138, 56, 190),
    "orange": (245, 130, 32),
    "pink": (240, 120, 190),
    "black": (24, 24, 24),
}
SHAPES = ("square", "circle", "triangle", "star", "hexagon", "cross")
KEYWORD_GROUPS = {"colour": tuple(COLOURS), "shape": SHAPES}
SPLIT_SIZES = {"train": 2400, "test": 600}
OVERSAMPLING = 4
PLACEMENT_ATTEMPTS = 200


@dataclass(frozen=True)
class DrawnObject:
    """One object of a scene: its colour of `COLOURS`, its shape of `SHAPES`, and where it is.

    `mask` is a boolean array (size, size), True where the object covers at least half of a pixel, `bbox` the smallest
    box that holds it: (left, top, right, bottom) in pixels, the last two exclusive.
    """

    colour: str
    shape: str
    bbox: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def name(self) -> str:
        """Colour and shape, "red square"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A drawn image (PIL, RGB), its caption, and what is where."""

    image: PilImage.Image
    caption: str
    objects: tuple[DrawnObject, ...]

    @property
    def texts(self) -> list[str]:
        """All that fits the image: its caption and, of several objects, one for each of them alone."""
        alone = [_caption([item.name]) for item in self.objects]
        return [self.caption, *(alone if len(alone) > 1 else [])]


def draw_scene(rng: np.random.Generator, objects: int | Sequence[tuple[str, str]] = 1, size: int = 64) -> Scene:
    """Draw objects of random place, size and rotation on a plain random background.

    Args:
        rng: Source of all randomness; the same generator state gives the same scene.
        objects: How many objects to draw, no two of them alike, or their (colour, shape) pairs.
        size: Side of the square image in pixels, at least 16.

    Returns:
        The scene. Objects never overlap, so each mask is the whole object.

    Raises:
        ValueError: for an image too small, an unknown colour or shape, or more objects than fit.
    """
    pairs = _choose(rng, objects)
    if size < 16:
        raise ValueError(f"`size` must be at least 16 pixels, got {size!r}. Draw larger and resize.")
    background = np.array(rng.integers(225, 256, size=3) if rng.random() < 0.8 else [200, 200, 200], dtype=np.float32)
    canvas = np.broadcast_to(background, (size, size, 3)).copy()
    drawn = []
    for (colour, shape), (centre, radius) in zip(pairs, _place(rng, len(pairs), size), strict=True):
        coverage = _coverage(shape, centre, radius, float(rng.uniform(-0.35, 0.35)), size)
        paint = np.clip(np.array(COLOURS[colour]) + rng.integers(-12, 13, size=3), 0, 255)
        canvas += coverage[..., None] * (paint - canvas)
        mask = coverage >= 0.5
        bbox = PilImage.fromarray(mask).getbbox() or (0, 0, 0, 0)
        drawn.append(DrawnObject(colour, shape, bbox, mask))
    canvas += rng.normal(0, 2, size=canvas.shape)
    image = PilImage.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    return Scene(image, _caption([item.name for item in drawn]), tuple(drawn))


def label_of(caption: str, keywords: Sequence[str]) -> int:
    """Return the index of the keyword that a caption holds as a whole word; `len(keywords)` where it holds none.

    Raises:
        ValueError: if it holds several, since the classes would not exclude each other.
    """
    words = set(re.findall(r"\w+", caption.lower()))
    found = [index for index, keyword in enumerate(keywords) if keyword.lower() in words]
    if len(found) > 1:
        raise ValueError(
            f"Expected keywords of which a caption holds at most one, got {[keywords[index] for index in found]} "
            f"in {caption!r}. Choose keywords of one kind: colours, or shapes."
        )
    return found[0] if found else len(keywords)


def parse_task(task: str) -> tuple[str, ...]:
    """Read the keywords of a task: `shapes`, `shapes:colour`, `shapes:shape` or `shapes:red,blue`.

    Raises:
        ValueError: for anything that no caption would ever hold.
    """
    _, _, wanted = task.partition(":")
    keywords = KEYWORD_GROUPS.get(wanted) or tuple(word.strip() for word in (wanted or "red").split(","))
    known = {*COLOURS, *SHAPES}
    if not set(keywords) <= known or len(set(keywords)) != len(keywords):
        raise ValueError(
            f"Expected 'shapes', 'shapes:colour', 'shapes:shape', or 'shapes:' and different words of {sorted(known)} "
            f"with commas between them, got {task!r}. Correct the name of the dataset."
        )
    return keywords


def draw_shapes(task: str = "shapes", size: int = 64, sizes: dict[str, int] | None = None) -> DatasetDict:
    """Draw the dataset of a task: columns image, caption and label.

    Args:
        task: `shapes` has the specification's two classes, `red` (0) and `not red` (1). `shapes:colour` and
            `shapes:shape` have one class per colour or shape; `shapes:red,blue` has one per keyword, then
            `other`. Classes are drawn equally often.
        size: Side of an image in pixels.
        sizes: Images per split, by default 2,400 to train and 600 to test.
    """
    keywords = parse_task(task)
    pools = _pools(keywords)
    names = [*keywords, f"not {keywords[0]}" if len(keywords) == 1 else "other"][: len(pools)]
    features = Features({"image": Image(), "caption": Value("string"), "label": ClassLabel(names=names)})
    splits = {}
    for split, (split_name, count) in enumerate((sizes or SPLIT_SIZES).items()):
        rows = []
        for index in range(count):
            rng = np.random.default_rng([0, split, index])
            pool = pools[index % len(pools)]
            scene = draw_scene(rng, [pool[rng.integers(len(pool))]], size)
            label = label_of(scene.caption, keywords)
            rows.append({"image": store(scene.image), "caption": scene.caption, "label": label})
        splits[split_name] = Dataset.from_list(rows, features=features)
    return DatasetDict(splits)


def _pools(keywords: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Sort all (colour, shape) pairs by the class of their caption; the last class may be absent."""
    pools: list[list[tuple[str, str]]] = [[] for _ in range(len(keywords) + 1)]
    for pair in product(COLOURS, SHAPES):
        pools[label_of(_caption([" ".join(pair)]), keywords)].append(pair)
    return [pool for pool in pools if pool]


def _choose(rng: np.random.Generator, objects: int | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    every = list(product(COLOURS, SHAPES))
    if isinstance(objects, int):
        if not 1 <= objects <= len(every):
            raise ValueError(f"`objects` must be from 1 to {len(every)}, got {objects!r}. Choose fewer.")
        return [every[index] for index in rng.choice(len(every), size=objects, replace=False)]
    unknown = [pair for pair in objects if tuple(pair) not in every]
    if unknown or not objects:
        raise ValueError(
            f"`objects` must be (colour, shape) pairs of {list(COLOURS)} and {list(SHAPES)}, got {unknown!r}. "
            "Correct or leave out these."
        )
    return [(colour, shape) for colour, shape in objects]


def _place(rng: np.random.Generator, count: int, size: int) -> list[tuple[tuple[float, float], float]]:
    """Find circles (centre, radius) that neither overlap nor leave the image, all from a radius that fits."""
    largest = size * min(0.42, 0.52 / count**0.5)
    for shrink in np.linspace(1, 0.4, PLACEMENT_ATTEMPTS):
        circles: list[tuple[tuple[float, float], float]] = []
        for _ in range(count * 20):
            radius = float(rng.uniform(0.55, 1) * largest * shrink)
            x, y = (float(value) for value in rng.uniform(radius, size - radius, size=2))
            if radius >= 3 and all(np.hypot(x - u, y - v) > radius + other + 1 for (u, v), other in circles):
                circles.append(((x, y), radius))
            if len(circles) == count:
                return circles
    raise ValueError(f"{count} objects do not fit into {size} x {size} pixels. Choose fewer, or a larger image.")


def _coverage(shape: str, centre: tuple[float, float], radius: float, turn: float, size: int) -> np.ndarray:
    """Draw one shape; returns how much of each pixel it covers, (size, size) in [0, 1]."""
    fine = PilImage.new("L", (size * OVERSAMPLING,) * 2)
    corners = _outline(shape, turn) * radius + np.array(centre)
    ImageDraw.Draw(fine).polygon([tuple(corner) for corner in (corners * OVERSAMPLING).tolist()], fill=255)
    return np.asarray(fine.reduce(OVERSAMPLING), dtype=np.float32) / 255


def _outline(shape: str, turn: float) -> np.ndarray:
    """Corners (n, 2) of a shape within the unit circle."""
    if shape == "cross":
        arm = 0.33
        quarter = np.array([[arm, -0.94], [arm, -arm], [0.94, -arm]])
        angles = np.arange(4) * np.pi / 2
        points = np.concatenate([quarter @ _rotation(angle).T for angle in angles])
        return points @ _rotation(turn).T
    count = {"square": 4, "circle": 64, "triangle": 3, "star": 10, "hexagon": 6}[shape]
    first = {"square": np.pi / 4, "hexagon": 0.0}.get(shape, -np.pi / 2)
    angles = first + turn + np.arange(count) * 2 * np.pi / count
    lengths = np.where(np.arange(count) % 2, 0.42, 1.0) if shape == "star" else np.ones(count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def list_names(names: Iterable[str]) -> str:
    """Join names with their articles, "a red square, a blue star and an orange cross"."""
    phrases = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _caption(names: Iterable[str]) -> str:
    return f"This is {list_names(names)}"


__all__ = [
    "COLOURS",
    "SHAPES",
    "DrawnObject",
    "Scene",
    "draw_scene",
    "draw_shapes",
    "label_of",
    "list_names",
    "parse_task",
]
