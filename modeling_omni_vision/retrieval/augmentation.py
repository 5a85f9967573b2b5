"""Random changes of a pair for training: another of its texts, its picture moved, tinted, on another background."""

import random
from collections.abc import Sequence

from PIL import Image as PilImage
from torch.utils.data import get_worker_info
from torchvision.transforms import v2


TURN, SHIFT, SCALE = 15.0, (0.08, 0.08), (0.75, 1.1)
TINT = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.04}
FILL = 255
# So few for each picture that a frozen text encoder soon has read them all (`losses.FrozenTexts`).
CAPTIONS = 12


class PairAugmentation:
    """
    Changes pairs at random; without `augment` only one of several texts is chosen.

    Args:
        augment: Also shift, turn, scale and tint pictures; transparent ones get a background of random colour.
        seed: Start of the random numbers that choose texts and backgrounds.
    """

    def __init__(self, augment: bool, seed: int = 0) -> None:
        self.augment, self._seed = augment, seed
        self._started: int | None = None
        self._move = v2.RandomAffine(TURN, SHIFT, SCALE, fill=FILL)
        self._tint = v2.ColorJitter(**TINT)

    @property
    def _random(self) -> random.Random:
        # Copies in workers of a DataLoader would all draw the same, and the same again in each epoch.
        worker = get_worker_info()
        start = self._seed if worker is None else worker.seed
        if start != self._started:
            self._started, self._source = start, random.Random(start)
        return self._source

    def text(self, texts: Sequence[str]) -> str:
        """Choose a text; with `augment` one of a dozen captions, often the first with some others, as keywords."""
        if len(texts) == 1 or not self.augment:
            return self._random.choice(texts)
        # Strings seed alike in every process.
        chance = random.Random(f"{self._seed} {self._random.randrange(CAPTIONS)} {texts[0]}")
        style = chance.random()
        if style < 0.4:
            return texts[0]
        others = chance.sample(texts[1:], min(chance.randint(1, 4), len(texts) - 1))
        return ", ".join(([texts[0]] if style < 0.7 else []) + others)

    def picture(self, picture: PilImage.Image) -> PilImage.Image:
        """Change a picture; without `augment` it stays as it is."""
        if not self.augment:
            return picture
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = self._move_transparent(picture.convert("RGBA"))
        else:
            picture = self._move(picture.convert("RGB"))
        return self._tint(picture)

    def _move_transparent(self, picture: PilImage.Image) -> PilImage.Image:
        draw, sides = self._random.uniform, zip(SHIFT, picture.size, strict=True)
        shift = [round(draw(-share, share) * side) for share, side in sides]
        turn, scale = draw(-TURN, TURN), draw(*SCALE)
        moved = v2.functional.affine(picture, turn, shift, scale, [0.0, 0.0], fill=[0, 0, 0, 0])
        light = self._random.random() < 0.7
        colour = tuple(self._random.randint(180, 255) if light else self._random.randint(0, 255) for _ in range(3))
        background = PilImage.new("RGBA", moved.size, (*colour, 255))
        return PilImage.alpha_composite(background, moved).convert("RGB")


__all__ = ["PairAugmentation"]
