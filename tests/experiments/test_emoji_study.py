import io
import json
from dataclasses import replace

import pytest
import torch
from datasets import Dataset, DatasetDict
from packaging.version import Version
from PIL import Image, ImageDraw
from transformers import __version__ as transformers_version


pytest.importorskip("sentence_transformers")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from experiments import emoji_study
from experiments.emoji_study import Known, study_emoji
from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.retrieval.build import build_retrieval


COLOURS = ("red", "lime", "blue", "yellow", "white", "black")


def drawings(vendor, names):
    rows = []
    for name in names:
        content = io.BytesIO()
        # Neither without contrast nor the negative of another.
        drawn, place = Image.new("RGBA", (16, 16), "gray"), COLOURS.index(name)
        ImageDraw.Draw(drawn).rectangle((2 * place, 0, 2 * place + 3, 15), fill=name)
        drawn.save(content, format="PNG")
        image = {"bytes": content.getvalue(), "path": None}
        rows.append({"image": image, "texts": [name, f"{name} thing"], "concept": name, "group": "", "vendor": vendor})
    return rows


def test_each_split_is_asked_by_names_and_keywords_and_the_unseen_style_finds_its_concept(tmp_path, monkeypatch):
    torch.manual_seed(0)
    vision = OmniVisionConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    model, processor = build_retrieval(vision, "new", [" ".join((*COLOURS, "thing"))], embedding_dim=16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(emoji_study, "imagenet_scores", lambda *_: None)
    trained, held_out = COLOURS[:4], COLOURS[4:]
    splits = {
        "train": [row for vendor in ("google", "twitter", "blobs") for row in drawings(vendor, trained)],
        "validation": drawings("google", held_out),
        "test": drawings("google", held_out),
        "unseen_style": drawings("fluent", [*trained[1:], trained[0]]),
        "validation_unseen_style": drawings("fluent", held_out),
        "test_unseen_style": drawings("fluent", held_out),
    }
    found = study_emoji(tmp_path, DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}))
    for split in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        asked = found["texts"][split]
        ways = {"single_vector", "single_vector, keywords", "single_vector, ensemble"}
        ways |= {f"{way}, with neighbours" for way in ways}
        ways |= {f"{way}, without hubs" for way in ways}
        assert asked.keys() == ways | {"multi_vector", "multi_vector, keywords", "keyword oracle"}
        # By the library, which also has nDCG.
        assert "ndcg@10" in asked["single_vector"]["image_to_text"]
        assert asked["single_vector"]["image_to_text"]["candidates"] == 2
        assert asked["keyword oracle"]["image_to_text"]["recall@1"] == 1
    # The same drawing in another order finds its own concept, by pixels and by any tower.
    for name, concepts in (("trained concepts", 4), ("validation concepts", 2), ("held-out concepts", 2)):
        scores = found["styles"][name]
        assert scores.keys() == {"single_vector", "multi_vector", "pixels", "chance"}
        assert scores["single_vector"]["recall@1"] == scores["pixels"]["recall@1"] == 1
        assert scores["chance"]["recall@1"] == pytest.approx(1 / concepts)
    assert json.loads((tmp_path / "metrics.json").read_text())["emoji"] == found


class Told:
    """A model whose vectors are given: one axis for each word, and images by their colour."""

    axes = ("red", "blue", "emoji", "sky", "fire")

    def __init__(self):
        self.asked = []

    def encode_query(self, texts, **options):
        self.asked.append(list(texts))
        vectors = torch.tensor([[float(axis in text) for axis in self.axes] for text in texts])
        return vectors / vectors.norm(dim=1, keepdim=True)

    def encode_document(self, images, **options):
        assert options["normalize_embeddings"]
        seen = {(255, 0, 0): [1.0, 0.0, 0.0, 0.0, 0.0], (0, 0, 255): [0.0, 0.0, 0.0, 1.0, 0.0]}
        return torch.tensor([seen[image.getpixel((0, 0))] for image in images])


def painted(*colours_and_texts):
    rows = []
    for colour, texts in colours_and_texts:
        content = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(content, format="PNG")
        rows.append({"image": {"bytes": content.getvalue(), "path": None}, "texts": texts, "concept": texts[0]})
    return Dataset.from_list(rows)


# Images of nothing: no text is near to them, and they are near to no image.
NOTHING = Known(torch.zeros(10, 5), {way: torch.zeros(10, 5) for way in emoji_study.WAYS})


def test_an_ensemble_is_the_mean_direction_of_a_name_an_emoji_of_it_all_keywords_at_once_and_each():
    told = Told()
    split = painted(("red", ["red", "fire"]), ("blue", ["blue", "sky"]), ("blue", ["blue", "sky"]))
    found = emoji_study.way_metrics(told, Told(), split, NOTHING)["single_vector, ensemble"]
    groups = [["red", "blue"], ["an emoji of red", "an emoji of blue"], ["red, fire", "blue, sky"], ["fire", "sky"]]
    # First by names alone and with keywords alone.
    assert told.asked == [groups[0], groups[2], *groups]
    # The blue images look like the sky, which no name has: the keywords find them, and they find them.
    assert found["image_to_text"]["recall@1"] == found["text_to_image"]["recall@1"] == 1
    assert (found["image_to_text"]["candidates"], found["image_to_text"]["questions"]) == (2, 3)
    assert (found["text_to_image"]["candidates"], found["text_to_image"]["questions"]) == (3, 2)


def test_what_a_text_wins_anyway_from_training_images_is_taken_off():
    split = painted(("red", ["red", "fire"]), ("blue", ["blue", "sky"]))
    # An image of the sky is as near to "red" as to "blue", but "red" is what all that was trained on is near to.
    red = replace(NOTHING, images=torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]).repeat(10, 1))
    for known, right in (
        (NOTHING, {"single_vector": 0.75, "single_vector, keywords": 1}),
        (red, {"single_vector": 1, "single_vector, keywords": 1}),
    ):
        found = emoji_study.way_metrics(Told(), Told(), split, known)
        for way, share in right.items():
            scores = found[f"{way}, without hubs"]["image_to_text"]
            assert (scores["recall@1"], scores["candidates"], scores["questions"]) == (share, 2, 2), (way, scores)


def test_the_meaning_of_the_nearest_training_images_is_added():
    # By its name an image of the sky finds nothing; those that were trained on look like it, and were called blue.
    split = painted(("red", ["red"]), ("blue", ["blue"]))
    trained = painted(*[("blue", ["blue thing"])] * 5, *[("red", ["red thing"])] * 5)
    known = Known.of(Told(), Told(), trained)
    found = emoji_study.way_metrics(Told(), Told(), split, known)
    assert found["single_vector"]["image_to_text"]["recall@1"] == 0.75
    for how in ("with neighbours", "with neighbours, without hubs"):
        assert found[f"single_vector, {how}"]["image_to_text"]["recall@1"] == 1
    assert known.images.shape == (10, 5)
    assert (
        known.meanings["single_vector"].tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]] * 5 + [[1.0, 0.0, 0.0, 0.0, 0.0]] * 5
    )


def test_names_and_keywords_are_asked_as_one_text():
    assert emoji_study._in_one_text({"texts": ["cat", "pet", "meow"]}) == {"texts": ["cat, pet, meow"]}
