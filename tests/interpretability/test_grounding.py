import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import __version__ as transformers_version


pytest.importorskip("sentence_transformers")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.synthetic.scenes import seen_combinations
from modeling_omni_vision.interpretability import grounding
from modeling_omni_vision.interpretability.grounding import (
    MAPS,
    draw_test_scenes,
    ground,
    mass_in,
    maxsim_maps,
    named_words,
    patch_cover,
    points_at,
)
from modeling_omni_vision.retrieval.build import build_retrieval


@pytest.fixture(scope="module")
def scenes():
    return draw_test_scenes(seen_combinations(), 6)


@pytest.fixture(scope="module")
def pair(scenes):
    torch.manual_seed(0)
    config = OmniVisionConfig(image_size=64, patch_size=8, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    model, processor = build_retrieval(config, "new", [scene.caption for scene in scenes], 16)
    return model.eval(), processor


def test_the_cover_of_a_patch_is_its_share_under_the_object(scenes):
    item = scenes[0].objects[0]
    cover = patch_cover(item, 8, 8)
    assert cover.shape == (8, 8)
    assert cover.sum() * 64 == pytest.approx(item.mask.sum(), rel=1e-5)
    assert cover[2, 3] == pytest.approx(item.mask[16:24, 24:32].mean(), abs=1e-6)


def test_each_word_that_names_an_object_is_found_with_its_token(scenes, pair):
    _, processor = pair
    for scene in scenes:
        words = named_words(scene, processor.tokenizer, 8, 8)
        ids = processor.tokenizer(scene.caption)["input_ids"]
        assert [word.word for word in words] == [name for item in scene.objects for name in (item.colour, item.shape)]
        assert [processor.tokenizer.convert_ids_to_tokens(ids[word.token]) for word in words] == [
            word.word for word in words
        ]


def test_a_map_of_the_mask_points_at_it_and_its_opposite_does_not(scenes):
    for scene in scenes:
        for item in scene.objects:
            cover = patch_cover(item, 8, 8)
            assert points_at(cover, cover)
            assert not points_at(-cover, cover)
            assert mass_in(cover, cover) > 0.5 > mass_in(-cover, cover)


def test_a_constant_map_has_no_mass_anywhere():
    assert mass_in(torch.ones(4, 4), torch.ones(4, 4)) == 0


def test_random_maps_score_what_the_objects_cover(scenes, pair):
    found = ground(*pair, scenes, kinds=("random",))["random"]
    covers = [patch_cover(item, 8, 8) for scene in scenes for item in scene.objects]
    chance = float(np.mean([(cover >= 0.25).float().mean() for cover in covers]))
    # 24 words: three standard errors.
    assert found["pointing"] == pytest.approx(chance, abs=3 * (chance * (1 - chance) / 24) ** 0.5)
    assert found["words"] == 24


def test_maps_that_know_the_masks_score_best(scenes, pair, monkeypatch):
    asked = iter([word.cover for scene in scenes for word in named_words(scene, pair[1].tokenizer, 8, 8)])

    def truth(model, pixels, words, kinds, generator):
        yield "MaxSim", torch.stack([next(asked) for _ in words])

    monkeypatch.setattr(grounding, "_maps", truth)
    found = ground(*pair, scenes, kinds=("MaxSim",))["MaxSim"]
    assert found["pointing"] == 1
    assert found["background"] == 0
    assert found["mass"] > 0.5


def test_every_kind_of_map_is_scored_on_every_word(scenes, pair):
    found = ground(*pair, scenes[:2])
    assert list(found) == list(MAPS)
    for scores in found.values():
        assert scores["words"] == 8
        assert 0 <= scores["pointing"] <= 1
        assert scores["pointing"] + scores["background"] <= 1


def test_maxsim_maps_are_the_cosines_of_late_interaction(scenes, pair):
    model, processor = pair
    pixels = processor(images=[scenes[0].image], return_tensors="pt")["pixel_values"]
    word = torch.nn.functional.normalize(torch.randn(1, 16), dim=-1)
    maps = maxsim_maps(model, pixels, word)
    wanted = model(pixel_values=pixels).embeddings[0] @ word[0]
    assert torch.allclose(maps[0].flatten(), wanted, atol=1e-6)


def test_painting_over_an_image_of_one_colour_changes_nothing(pair):
    model, processor = pair
    pixels = processor(images=[Image.new("RGB", (64, 64), "teal")], return_tensors="pt")["pixel_values"]
    words = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    falls = grounding._deletion(model, pixels, words, torch.rand(3, 8, 8))
    assert falls == pytest.approx([0, 0, 0], abs=1e-6)


def test_scoring_maps_leaves_the_model_as_it_was(scenes, pair):
    model, _ = pair
    before = model.vision_model.config._attn_implementation
    ground(*pair, scenes[:1])
    assert model.vision_model.config._attn_implementation == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scenes_have_objects_that_differ_in_colour_and_shape():
    for scene in draw_test_scenes(seen_combinations(), 10):
        assert len({item.colour for item in scene.objects}) == len({item.shape for item in scene.objects}) == 2
