import copy

import pytest
import torch

from modeling_omni_vision import OmniVisionForImageClassification
from modeling_omni_vision.training.averaging import WeightAverage


def change(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_the_average_follows_the_formula_with_a_warm_start(tiny_classifier):
    average, expected = WeightAverage(tiny_classifier, decay=0.3), None
    for update in range(12):
        change(tiny_classifier, update)
        average.update()
        decay = min(0.3, (1 + update) / (10 + update))
        now = weights(tiny_classifier).double()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    # float32 sums of weights below 1: a few units in the last place.
    assert torch.allclose(weights(average.averaged).double(), expected, atol=1e-6)


def test_within_the_block_the_model_is_the_average_and_afterwards_itself_again(tiny_classifier):
    average = WeightAverage(tiny_classifier, decay=0.9)
    for update in range(3):
        change(tiny_classifier, update)
        average.update()
    own, averaged = weights(tiny_classifier), weights(average.averaged)
    assert not torch.equal(own, averaged)
    with average.applied():
        assert torch.equal(weights(tiny_classifier), averaged)
    assert torch.equal(weights(tiny_classifier), own)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert torch.equal(weights(tiny_classifier), own)


def test_both_kinds_of_weights_come_back_bit_for_bit_and_go_on_alike(tiny_classifier, tmp_path):
    average = WeightAverage(tiny_classifier, decay=0.9)
    for update in range(5):
        change(tiny_classifier, update)
        average.update()
    with average.applied():
        tiny_classifier.save_pretrained(tmp_path)
    average.save(tmp_path)
    loaded = OmniVisionForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(weights(loaded), weights(average.averaged))
    resumed = WeightAverage(loaded, decay=0.9)
    resumed.load(tmp_path)
    for model, mean in ((tiny_classifier, average), (loaded, resumed)):
        change(model, 99)
        mean.update()
    assert torch.equal(weights(loaded), weights(tiny_classifier))
    assert torch.equal(weights(resumed.averaged), weights(average.averaged))


def test_the_average_of_centred_weights_is_centred(tiny_classifier):
    average = WeightAverage(tiny_classifier, decay=0.99)
    for update in range(200):
        change(tiny_classifier, update)
        tiny_classifier.center_residual_()
        average.update()
    # Rounding of means of 32 float32 weights around 1 is 1e-7; it does not add up over updates.
    assert average.averaged.residual_mean() < 5e-7


def test_averaging_does_not_share_memory_with_the_model(tiny_classifier):
    average = WeightAverage(tiny_classifier, decay=0.9)
    average.update()
    before = copy.deepcopy(weights(average.averaged))
    change(tiny_classifier, 0)
    assert torch.equal(weights(average.averaged), before)
