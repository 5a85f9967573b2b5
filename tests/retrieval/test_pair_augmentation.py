import pytest


pytest.importorskip("sentence_transformers")

import torch
from PIL import Image

from modeling_omni_vision.retrieval.augmentation import NUM_CAPTIONS, PairAugmentation


TEXTS = ["cat", "pet", "meow", "whiskers", "an animal", "paws"]


def test_an_image_has_a_dozen_captions_of_its_name_and_keywords():
    change = PairAugmentation(True, seed=1)
    many = {change.text(TEXTS, row) for row in range(400)}
    assert 4 <= len(many) <= NUM_CAPTIONS
    for caption in many:
        words = caption.split(", ")
        assert set(words) <= set(TEXTS)
        assert len(words) == len(set(words))
    assert "cat" in many
    assert any("cat" not in caption.split(", ") for caption in many)
    other = PairAugmentation(True, seed=2)
    assert many != {other.text(TEXTS, row) for row in range(400)}


def test_without_augmentation_one_of_the_texts_is_taken_and_the_image_stays():
    plain, image = PairAugmentation(False), Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    assert {plain.text(TEXTS, row) for row in range(200)} == set(TEXTS)
    assert plain.image(image, 0) is image


def test_a_transparent_image_gets_a_background_and_keeps_its_size():
    change, image = PairAugmentation(True), Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    colours = {change.image(image, row).getpixel((8, 8)) for row in range(20)}
    assert len(colours) > 10
    assert (change.image(image, 0).mode, change.image(image, 0).size) == ("RGB", (16, 16))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_pair_changes_with_its_row_the_epoch_and_the_seed_and_with_nothing_else(mode):
    image = Image.linear_gradient("L").resize((16, 16)).convert(mode)

    def changed(change, row):
        torch.rand(1)
        return change.image(image, row).tobytes(), change.text(TEXTS, row), change.text(TEXTS, row + 1)

    change = PairAugmentation(True, seed=1)
    first = changed(change, 5)
    assert changed(change, 5) == changed(PairAugmentation(True, seed=1), 5) == first
    assert changed(change, 6)[0] != first[0] != changed(PairAugmentation(True, seed=2), 5)[0]
    texts = [change.text(TEXTS, row) for row in range(20)]
    change.set_epoch(1)
    assert changed(change, 5)[0] != first[0]
    assert [change.text(TEXTS, row) for row in range(20)] != texts


def test_augmentation_leaves_the_global_random_generator_as_it_was():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    PairAugmentation(True).image(Image.new("RGB", (8, 8)), 0)
    assert torch.rand(1) == wanted


class Changed(torch.utils.data.Dataset):
    """The same texts and image in every row, each changed."""

    def __init__(self, change):
        self.change = change

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return self.change.text(TEXTS, row), self.change.image(Image.new("RGBA", (8, 8)), row).getpixel((4, 4))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_loader_change_pairs_as_one_process_does_in_every_epoch(persistent):
    change = PairAugmentation(True)
    rows = Changed(change)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=1, num_workers=2, persistent_workers=persistent, collate_fn=lambda batch: batch[0]
    )
    seen = []
    for epoch in range(2):
        change.set_epoch(epoch)
        found = list(loader)
        assert found == [rows[row] for row in range(4)]
        seen.append(found)
    assert seen[0] != seen[1]
