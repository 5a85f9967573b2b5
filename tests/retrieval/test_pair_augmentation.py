import pytest


pytest.importorskip("sentence_transformers")

import torch
from PIL import Image

from modeling_omni_vision.retrieval.augmentation import CAPTIONS, PairAugmentation


TEXTS = ["cat", "pet", "meow", "whiskers", "an animal", "paws"]


def test_a_picture_has_a_dozen_captions_of_its_name_and_keywords_whoever_draws_them():
    drawn = [PairAugmentation(True, seed=seed).text(TEXTS) for seed in [1] * 3]
    assert len(set(drawn)) == 1
    change = PairAugmentation(True, seed=1)
    many = {change.text(TEXTS) for _ in range(400)}
    assert 4 <= len(many) <= CAPTIONS
    for caption in many:
        words = caption.split(", ")
        assert set(words) <= set(TEXTS)
        assert len(words) == len(set(words))
    assert "cat" in many
    assert any("cat" not in caption.split(", ") for caption in many)
    other = PairAugmentation(True, seed=2)
    assert many != {other.text(TEXTS) for _ in range(400)}


def test_without_augmentation_one_of_the_texts_is_taken_and_the_picture_stays():
    plain, picture = PairAugmentation(False), Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    assert {plain.text(TEXTS) for _ in range(200)} == set(TEXTS)
    assert plain.picture(picture) is picture


def test_what_is_transparent_gets_a_background_and_the_size_stays():
    change, picture = PairAugmentation(True), Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    colours = {change.picture(picture).getpixel((8, 8)) for _ in range(20)}
    assert len(colours) > 10
    assert (change.picture(picture).mode, change.picture(picture).size) == ("RGB", (16, 16))


class Changed(torch.utils.data.Dataset):
    """The same transparent picture again and again, each time changed."""

    def __init__(self, change):
        self.change = change

    def __len__(self):
        return 4

    def __getitem__(self, row):
        picture = self.change.picture(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
        return torch.tensor(picture.getpixel((4, 4)))


def test_each_worker_of_a_loader_draws_its_own_changes_and_others_in_the_next_epoch():
    change = PairAugmentation(True)
    change._tint = torch.nn.Identity()  # draws from torch, which workers seed
    loader = torch.utils.data.DataLoader(Changed(change), batch_size=2, num_workers=2)
    torch.manual_seed(0)
    backgrounds = [tuple(row.tolist()) for _ in range(2) for batch in loader for row in batch]
    assert len(set(backgrounds)) == len(backgrounds) == 8
    torch.manual_seed(0)
    assert [tuple(row.tolist()) for _ in range(2) for batch in loader for row in batch] == backgrounds
