"""Random augmentation of pairs: another of its texts; its image moved, with jittered colours, on another background.

As for images with labels (`data/augmentation.py`), the result depends on (seed, epoch, row) alone: it is the same for
any number of workers and processes, and in a resumed run.
"""

import random
from collections.abc import Sequence

from PIL import Image as PilImage
from torchvision.transforms import v2

from ..data.augmentation import WithEpoch, seeded
from ..data.stored_images import eight_bits
from ..image_processing_omni_vision import open_image, read_image


# Degrees, shares of width and height, factors of the size.
MAX_ROTATION, MAX_TRANSLATE, SCALE = 15.0, (0.08, 0.08), (0.75, 1.1)
JITTER = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.04}
FILL = 255
# So few for each image that `losses.TextFeatureCache` soon holds them all.
NUM_CAPTIONS = 12


class PairAugmentation(WithEpoch):
    """Changes pairs at random; without `augment` it only chooses one of several texts.

    Args:
        augment: Also move, rotate, scale and jitter images; transparent ones get a background of random colour.
        seed: Seed of all changes.
    """

    def __init__(self, augment: bool, seed: int = 0) -> None:
        super().__init__()
        self.augment = augment
        self._seed = seed
        self._affine = v2.RandomAffine(MAX_ROTATION, MAX_TRANSLATE, SCALE, fill=FILL)
        self._jitter = v2.ColorJitter(**JITTER)

    def text(self, texts: Sequence[str], row: int) -> str:
        """Return one of the texts; with `augment` one of a dozen captions of the first, of others, or of both."""
        chance = self._random("text", row)
        if len(texts) == 1 or not self.augment:
            return chance.choice(texts)
        caption = random.Random(f"{self._seed} {chance.randrange(NUM_CAPTIONS)} {texts[0]}")
        style = caption.random()
        if style < 0.4:
            return texts[0]
        others = caption.sample(texts[1:], min(caption.randint(1, 4), len(texts) - 1))
        return ", ".join(([texts[0]] if style < 0.7 else []) + others)

    def image(self, image: PilImage.Image, row: int) -> PilImage.Image:
        """Return the changed image, read by the image processor's rules; without `augment` the image itself."""
        if not self.augment:
            return image
        image = eight_bit(image)
        with seeded(self._seed, self.epoch, row):
            if image.has_transparency_data:
                image = self._affine_transparent(image.convert("RGBA"), self._random("image", row))
            else:
                image = self._affine(image.convert("RGB"))
            return self._jitter(image)

    def _random(self, what: str, row: int) -> random.Random:
        # A string seeds alike in every process.
        return random.Random(f"{what} {self._seed} {self.epoch} {row}")

    def _affine_transparent(self, image: PilImage.Image, chance: random.Random) -> PilImage.Image:
        """Move an RGBA image, and lay it on a background of one random colour, light in seven of ten cases."""
        draw, sides = chance.uniform, zip(MAX_TRANSLATE, image.size, strict=True)
        translate = [round(draw(-most, most) * side) for most, side in sides]
        angle, scale = draw(-MAX_ROTATION, MAX_ROTATION), draw(*SCALE)
        moved = v2.functional.affine(image, angle, translate, scale, [0.0, 0.0], fill=[0, 0, 0, 0])
        light = chance.random() < 0.7
        colour = tuple(chance.randint(180, 255) if light else chance.randint(0, 255) for _ in range(3))
        background = PilImage.new("RGBA", moved.size, (*colour, 255))
        return PilImage.alpha_composite(background, moved).convert("RGB")


def eight_bit(image: PilImage.Image) -> PilImage.Image:
    """Return an image upright, with 8 bits for deep ones, which Pillow would clip."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return open_image(image)
    return PilImage.fromarray(eight_bits(read_image(image, num_channels=None)).squeeze(-1))


__all__ = ["PairAugmentation"]
