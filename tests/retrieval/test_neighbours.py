import pytest
import torch
from torch.nn.functional import normalize

from modeling_omni_vision.retrieval.neighbours import neighbour_scores


# Drawings of cats and cars, and what these mean to a reader of many more words.
KNOWN = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), dim=-1)
ANIMAL, VEHICLE = [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]
MEANINGS = normalize(torch.tensor([ANIMAL, ANIMAL, VEHICLE, VEHICLE]), dim=-1)


def test_a_picture_means_what_the_known_pictures_most_like_it_mean():
    tiger, lorry = torch.tensor([0.95, 0.3]), torch.tensor([0.2, 0.97])
    texts = normalize(torch.tensor([[0.0, 0.9, 1.0], [0.8, 0.1, 1.0]]), dim=-1)
    scores = neighbour_scores(normalize(torch.stack((tiger, lorry)), dim=-1), KNOWN, MEANINGS, texts, neighbours=2)
    assert scores.argmax(1).tolist() == [1, 0]
    # Around the middle of what is known, both texts lie opposite each other: what all share is taken off.
    assert torch.allclose(scores, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), atol=0.05)


def test_the_nearest_count_more_the_lower_the_temperature_and_all_of_few_count():
    # An animal is nearest, but two vehicles are near as well.
    between, known, meanings = normalize(torch.tensor([[1.0, 0.9]]), dim=-1), KNOWN[1:], MEANINGS[1:]
    scores = {
        (neighbours, temperature): neighbour_scores(
            between, known, meanings, MEANINGS[[0, 2]], neighbours=neighbours, temperature=temperature
        )[0]
        for neighbours, temperature in ((20, 0.001), (20, 10.0), (1, 10.0))
    }
    assert {how: int(found.argmax()) for how, found in scores.items()} == {(20, 0.001): 0, (20, 10.0): 1, (1, 10.0): 0}


def test_known_pictures_without_meanings_are_refused():
    for known, meanings in ((KNOWN, MEANINGS[:3]), (KNOWN[:0], MEANINGS[:0])):
        with pytest.raises(ValueError, match=f"got {len(meanings)} for {len(known)}"):
            neighbour_scores(KNOWN, known, meanings, MEANINGS)
