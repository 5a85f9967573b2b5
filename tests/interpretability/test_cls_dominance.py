import pytest
import torch
from packaging.version import Version
from torch.nn.functional import normalize
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision.interpretability.cls_dominance import (
    BACKGROUND,
    CLS,
    OBJECT,
    dominance,
    simulate_mixtures,
    token_kinds,
)


# Shares of CLS that another program found for the same mixtures with other random numbers (400 images): a share of
# 800 words or more has a standard error of at most 0.018; three of them.
KNOWN = {
    2: {0: 0.009, 0.25: 0.106, 0.5: 0.539, 0.75: 0.916, 1: 0.995},
    4: {0: 0.001, 0.25: 0.038, 0.5: 0.507, 0.75: 0.964, 1: 0.998},
    8: {0: 0.000, 0.25: 0.028, 0.5: 0.520, 0.75: 0.975, 1: 1.000},
}


def random_tokens(images=300, patches=196, dim=64):
    return normalize(torch.randn(images, patches, dim), dim=-1)


def test_a_planted_cls_that_is_the_mean_of_the_words_wins_nearly_all_of_them():
    words = normalize(torch.randn(50, 3, 64), dim=-1)
    cls = normalize(words.mean(1, keepdim=True) + 0.01 * torch.randn(50, 1, 64), dim=-1)
    kinds = torch.cat((torch.full((50, 1), CLS), torch.full((50, 196), BACKGROUND)), dim=1)
    found = dominance(words, torch.cat((cls, random_tokens(50)), dim=1), kinds)
    assert found.shares["cls"] > 0.95
    assert found.margins.median() > 0
    assert found.shares["object"] == found.shares["register"] == 0


def test_words_that_mean_nothing_fall_on_cls_as_often_as_on_any_other_token():
    kinds = torch.cat((torch.full((300, 1), CLS), torch.full((300, 196), OBJECT)), dim=1)
    found = dominance(torch.randn(300, 20, 64), random_tokens(patches=197), kinds, every_pair=True)
    # 1.8 million words, which depend on each other within an image: the spread over seeds was 0.0004.
    assert found.shares["cls"] == pytest.approx(1 / 197, abs=0.0015)
    assert found.chance["cls"] == pytest.approx(1 / 197)


@pytest.mark.parametrize("concepts", [2, 4, 8])
def test_mixtures_give_the_shares_that_are_known(concepts):
    for context, share in KNOWN[concepts].items():
        assert simulate_mixtures(concepts, context) == pytest.approx(share, abs=0.055), context


def test_padding_has_no_vote():
    words = torch.zeros(1, 4, 8)
    words[0, 0, 0] = 1
    tokens = torch.eye(8)[None, :3]
    found = dominance(words, tokens, torch.tensor([[CLS, BACKGROUND, OBJECT]]))
    assert found.shares == {"cls": 1, "register": 0, "background": 0, "object": 0}
    assert len(found.margins) == 1


def test_every_pair_asks_every_text_of_every_image():
    words = torch.eye(4)[:2, None]
    tokens = torch.stack([torch.eye(4)[:2], torch.eye(4)[[1, 0]]])
    kinds = torch.tensor([[OBJECT, BACKGROUND], [OBJECT, BACKGROUND]])
    assert dominance(words, tokens, kinds).shares["object"] == 1
    assert dominance(words, tokens, kinds, every_pair=True).shares["object"] == 0.5


def test_kinds_are_cls_then_registers_then_patches_by_their_cover():
    assert token_kinds(torch.tensor([[0.0, 0.3, 1.0]]), registers=2).tolist() == [[0, 1, 1, 2, 3, 3]]


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many texts as images"):
        dominance(torch.randn(2, 3, 8), torch.randn(3, 4, 8), torch.zeros(3, 4, dtype=torch.long))
