"""Random changes of a pair for training: another of its texts, its image moved, tinted, on another background.

As for images with labels (`data/augmentation.py`), what happens to a pair depends on (seed, epoch, row) alone: no
workers, no processes and no resumed run change it.
"""

import random
from collections.abc import Sequence

from PIL import Image as PilImage
from torchvision.transforms import v2

from ..data.augmentation import WithEpoch, seeded


TURN, SHIFT, SCALE = 15.0, (0.08, 0.08), (0.75, 1.1)
TINT = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.04}
FILL = 255
# So few for each image that a frozen text encoder soon has read them all (`losses.TextFeatureCache`).
CAPTIONS = 12


class PairAugmentation(WithEpoch):
    """
    Changes pairs at random; without `augment` only one of several texts is chosen.

    Args:
        augment: Also shift, turn, scale and tint images; transparent ones get a background of random colour.
        seed: Seed of all changes.
    """

    def __init__(self, augment: bool, seed: int = 0) -> None:
        super().__init__()
        self.augment = augment
        self._seed = seed
        self._move = v2.RandomAffine(TURN, SHIFT, SCALE, fill=FILL)
        self._tint = v2.ColorJitter(**TINT)

    def text(self, texts: Sequence[str], row: int) -> str:
        """Choose a text; with `augment` one of a dozen captions, often the first with some others, as keywords."""
        chance = self._random("text", row)
        if len(texts) == 1 or not self.augment:
            return chance.choice(texts)
        caption = random.Random(f"{self._seed} {chance.randrange(CAPTIONS)} {texts[0]}")
        style = caption.random()
        if style < 0.4:
            return texts[0]
        others = caption.sample(texts[1:], min(caption.randint(1, 4), len(texts) - 1))
        return ", ".join(([texts[0]] if style < 0.7 else []) + others)

    def image(self, image: PilImage.Image, row: int) -> PilImage.Image:
        """Change an image; without `augment` it stays as it is."""
        if not self.augment:
            return image
        with seeded(self._seed, self.epoch, row):
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = self._move_transparent(image.convert("RGBA"), self._random("image", row))
            else:
                image = self._move(image.convert("RGB"))
            return self._tint(image)

    def _random(self, what: str, row: int) -> random.Random:
        # Strings seed alike in every process.
        return random.Random(f"{what} {self._seed} {self.epoch} {row}")

    def _move_transparent(self, image: PilImage.Image, chance: random.Random) -> PilImage.Image:
        draw, sides = chance.uniform, zip(SHIFT, image.size, strict=True)
        shift = [round(draw(-share, share) * side) for share, side in sides]
        turn, scale = draw(-TURN, TURN), draw(*SCALE)
        moved = v2.functional.affine(image, turn, shift, scale, [0.0, 0.0], fill=[0, 0, 0, 0])
        light = chance.random() < 0.7
        colour = tuple(chance.randint(180, 255) if light else chance.randint(0, 255) for _ in range(3))
        background = PilImage.new("RGBA", moved.size, (*colour, 255))
        return PilImage.alpha_composite(background, moved).convert("RGB")


__all__ = ["PairAugmentation"]
