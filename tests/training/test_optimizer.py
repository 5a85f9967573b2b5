import copy

import pytest
import torch

from modeling_omni_vision.training.optimizer import decays, layer_of, parameter_groups


def test_matrices_decay_and_norms_biases_tokens_and_positions_do_not(tiny_classifier):
    decaying = {name for name, parameter in tiny_classifier.named_parameters() if decays(name, parameter)}
    assert "omni_vision.layers.0.mlp.fc1.weight" in decaying
    assert "classifier.weight" in decaying
    assert "omni_vision.embeddings.patch_embeddings.projection.weight" in decaying
    assert not [name for name in decaying if "norm" in name or "bias" in name or "token" in name or "position" in name]
    assert len(decaying) == 2 + 2 * 6


def test_each_layer_learns_slower_than_the_one_above_it(tiny_classifier):
    groups = parameter_groups(tiny_classifier, 2, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in tiny_classifier.named_parameters():
        expected = {0: 0.125, 1: 0.25, 2: 0.5, 3: 1.0}[layer_of(name, 2)]
        assert rates[id(parameter)] == expected, name
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_every_parameter_is_in_exactly_one_group_and_frozen_ones_in_none(tiny_classifier):
    tiny_classifier.omni_vision.embeddings.requires_grad_(False)
    groups = parameter_groups(tiny_classifier, 2, 1.0, 0.1, 0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in tiny_classifier.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("omni_vision.embeddings.cls_token", 0),
        ("embeddings.patch_embeddings.projection.weight", 0),
        ("omni_vision.layers.0.layernorm_before.weight", 1),
        ("layers.11.mlp.fc1.weight", 12),
        ("omni_vision.norm.weight", 13),
        ("classifier.bias", 13),
    ],
)
def test_parameters_know_their_layer(name, layer):
    assert layer_of(name, 12) == layer


def test_muon_steps_the_layers_of_the_named_tower_and_of_no_other_part(tiny_classifier):
    both = torch.nn.ModuleDict({"vision_model": tiny_classifier, "text_model": copy.deepcopy(tiny_classifier)})
    groups = parameter_groups(both, 2, 1.0, 0.1, 1.0, muon_learning_rate=0.02, tower="vision_model.")
    stepped = {id(weight) for group in groups if group.get("muon") for weight in group["params"]}
    names = {name for name, weight in both.named_parameters() if id(weight) in stepped}
    assert len(names) == 2 * 6
    assert all(name.startswith("vision_model.omni_vision.layers.") for name in names)
    assert sum(len(group["params"]) for group in groups) == len([*both.parameters()])
