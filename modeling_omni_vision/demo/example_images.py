"""Images to begin with, without a download: drawn scenes, scanned digits, or ten Fashion-MNIST images (MIT licence).

An upright image of a class for models that know these classes; scenes for models without classes.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np
from PIL import Image

from ..data.synthetic.scene_questions import scene_questions
from ..data.synthetic.shapes import COLOURS, SHAPES, Scene, draw_scene
from .opened import OpenedCheckpoint


FASHION = Path(__file__).parent / "examples"
# Neighbours are much alike, for the tab that compares.
FASHION_NAMES = ["ankle-boot", "sneaker", "sandal", "bag", "dress", "t-shirt", "shirt", "coat", "pullover", "trouser"]
SCENES, SEED = 48, 7
DIGITS = {str(digit) for digit in range(10)}


class ExampleImages:
    """Files of example images, written once where they are drawn."""

    @cached_property
    def folder(self) -> Path:
        """Where drawn images are, until this process ends."""
        self._folder = TemporaryDirectory(prefix="omni-vision-examples-")
        return Path(self._folder.name)

    @cached_property
    def drawn(self) -> list[Scene]:
        """Scenes of two objects; neighbours differ in colours and shapes."""
        pairs = list(itertools.product(COLOURS, SHAPES))
        chosen = [[pairs[(number * 7 + more) % len(pairs)] for more in (0, 20)] for number in range(SCENES)]
        return [draw_scene(np.random.default_rng([SEED, number]), pair) for number, pair in enumerate(chosen)]

    @cached_property
    def scenes(self) -> list[Path]:
        """Files of the scenes, each named by what is in it."""
        folder = self.folder / "scenes"
        names = [" and ".join(item.name for item in scene.objects) for scene in self.drawn]
        return [_saved(one.image, folder / f"{name}.png") for one, name in zip(self.drawn, names, strict=True)]

    def questions(self, fits: Callable[[str], bool]) -> list[str]:
        """Return a question about each scene, of changing kinds, among those that fit a model."""
        asked = [[one.text for one in scene_questions(scene) if fits(one.text)] for scene in self.drawn]
        return [texts[3 * number % len(texts)] for number, texts in enumerate(asked) if texts]

    @cached_property
    def digits(self) -> list[Path]:
        """Ten scanned digits."""
        from sklearn.datasets import load_digits

        data = load_digits()
        first = [int(np.flatnonzero(data.target == digit)[0]) for digit in range(10)]
        pixels = (data.images[first] * 255 / 16).round().astype(np.uint8)
        return [
            _saved(Image.fromarray(one), self.folder / "digits" / f"{digit}.png") for digit, one in enumerate(pixels)
        ]

    def of(self, opened: OpenedCheckpoint) -> list[Path]:
        """Return images for a checkpoint, none for a classifier of other classes."""
        if not opened.classifies:
            return self.scenes
        labels = {str(name) for name in opened.classifier.config.id2label.values()}
        if {"Trouser", "Ankle boot"} <= labels:
            return [FASHION / f"{name}.png" for name in FASHION_NAMES]
        if labels == DIGITS:
            return self.digits
        words = {word for label in labels for word in label.split()}
        return self.scenes if words & {*COLOURS, *SHAPES} else []


EXAMPLES = ExampleImages()


def _saved(image: Image.Image, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    image.save(file)
    return file


def add_examples(
    opened: OpenedCheckpoint, inputs: Sequence[gr.components.Component], count: int, *values: Sequence[str]
) -> None:
    """Add examples below the inputs of a tab: as many images as it has image inputs, then one of each of `values`."""
    files = EXAMPLES.of(opened)
    width = len(inputs) - len(values)
    if len(files) < 2:
        return
    rows = [
        [str(files[(number + place) % len(files)]) for place in range(width)]
        + [some[number % len(some)] for some in values]
        for number in range(min(count, len(files)))
    ]
    gr.Examples(rows, list(inputs), examples_per_page=count, label="Examples", api_visibility="private")


__all__ = ["EXAMPLES", "add_examples"]
