"""Drawn scenes with exact labels of each of their patches, to train a vision tower on them.

The scenes are those of `data.synthetic.scene_questions`: one to four objects, and no combination of
`HELD_OUT_COMBINATIONS` outside the split `held_out`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, Image, List, Value

from modeling_omni_vision.data.stored_images import store
from modeling_omni_vision.data.synthetic.scene_questions import centre, choose_objects
from modeling_omni_vision.data.synthetic.scenes import SCENE_SIDE, draw_rows
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES, Scene, draw_scene


# Both start with 0 for a patch without an object.
PATCH_COLOURS, PATCH_SHAPES = ("none", *COLOURS), ("none", *SHAPES)
SCENE_SIZES = {"train": 12_000, "validation": 500, "held_out": 500}
# Fraction of a patch that its largest object must cover; below, it counts as background.
COVERED = 1 / 8
DRAWING = 2  # raise it where drawings or labels change: `datasets` caches by arguments, not by code
NUMBERS = List(Value("int64"))
LABELS = {"colours": NUMBERS, "shapes": NUMBERS, "places": List(List(Value("float32"))), "numbers": List(NUMBERS)}
FEATURES = Features({"image": Image(decode=False), **LABELS})


def draw_scene_patches(
    patch: int = 8, seed: int = 0, size: int = SCENE_SIDE, sizes: dict[str, int] | None = None
) -> DatasetDict:
    """Draw scenes with the labels of each patch.

    Args:
        patch: Side of a patch in pixels.
        seed: Seed of the drawings; they are others than those of the questions with the same seed.
        size: Side of an image in pixels.
        sizes: Images per split, by default 12,000 to train, 500 for validation and 500 for held_out.

    Returns:
        Columns `image` and, for each patch in raster order, `colours` (numbers in `PATCH_COLOURS`), `shapes`
        (`PATCH_SHAPES`), `places`, the centre (x, y) of its object as fractions of the side, and `numbers`, how many
        objects there are, of its colour and of its shape; background has zeros in all of them.

    Raises:
        ValueError: for a patch that does not divide the image.
    """
    if patch < 1 or size % patch:
        raise ValueError(f"`patch` must divide the side of an image, {size}, got {patch!r}. Choose another size.")
    splits = {}
    for number, (name, count) in enumerate((sizes or SCENE_SIZES).items()):
        options = {"key": (seed, 77, number, DRAWING), "size": size, "patch": patch, "held_out": name == "held_out"}
        splits[name] = draw_rows(_draw, FEATURES, options, rows=list(range(count)))
    return DatasetDict(splits)


def patch_labels(scene: Scene, patch: int) -> dict[str, np.ndarray]:
    """Return the labels of the patches of a scene, arrays (patches,) or (patches, numbers of a patch)."""
    side = scene.image.width
    masks = np.stack([item.mask for item in scene.objects]).reshape(-1, side // patch, patch, side // patch, patch)
    covers = masks.mean((2, 4)).reshape(len(masks), -1)
    largest, covered = covers.argmax(0), covers.max(0) >= COVERED
    colours = np.array([PATCH_COLOURS.index(item.colour) for item in scene.objects])
    shapes = np.array([PATCH_SHAPES.index(item.shape) for item in scene.objects])
    places = np.array([centre(item) for item in scene.objects], dtype=np.float32) / side
    alike = [(of[:, None] == of).sum(1) for of in (colours, shapes)]
    numbers = np.stack([np.full(len(masks), len(masks)), *alike], axis=1)
    labels = zip(LABELS, (colours, shapes, places, numbers), strict=True)
    return {name: (covered * of_objects[largest].T).T for name, of_objects in labels}


def _draw(key: Sequence[int], size: int, patch: int, rows: Sequence[int], held_out: bool) -> Iterator[dict[str, Any]]:
    for index in rows:
        rng = np.random.default_rng([*key, index])
        scene = draw_scene(rng, choose_objects(rng, held_out), size)
        labels = {name: values.tolist() for name, values in patch_labels(scene, patch).items()}
        yield {"image": store(scene.image), **labels}


__all__ = ["PATCH_COLOURS", "PATCH_SHAPES", "draw_scene_patches", "patch_labels"]
