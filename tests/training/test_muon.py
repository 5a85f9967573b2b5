import copy

import pytest
import torch
from torch import nn

from modeling_omni_vision.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_orthogonalising_keeps_directions_and_brings_every_singular_value_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, before, right = torch.linalg.svd(matrices, full_matrices=False)
    after = left.mT @ orthogonalised(matrices) @ right.mT
    values = after.diagonal(dim1=1, dim2=2)
    # The quintic never settles; its authors give 0.68 to 1.13 for all but the very smallest values.
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert (after - torch.diag_embed(values)).abs().max() < 1e-4
    assert before.max() / before.min() > 2


def test_a_gradient_of_zero_moves_nothing():
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_matrices_of_muon_groups_are_stepped_by_muon_and_all_others_as_by_adamw():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    other = copy.deepcopy(model)
    matrix, rest = model[0].weight, [model[0].bias, *model[1].parameters()]
    before = matrix.detach().clone()
    muon = Muon([{"params": [matrix], "muon": True, "lr": 0.1}, {"params": rest}], lr=1e-2, weight_decay=0.0)
    adamw = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.0)
    pixels = torch.randn(16, 8)
    for network, optimizer in ((model, muon), (other, adamw)):
        network(pixels).square().mean().backward()
        optimizer.step()
    size = torch.linalg.svdvals(matrix.detach() - before)
    # The gradient of eight outputs through four has rank four.
    assert size[:4].min() > 0.06
    assert size.max() < 0.125
    for ours, theirs in zip(rest, [other[0].bias, *other[1].parameters()], strict=True):
        assert torch.equal(ours, theirs)


def test_a_small_gradient_against_the_past_does_not_turn_a_step_round():
    matrix = nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([{"params": [matrix], "muon": True, "lr": 0.1, "weight_decay": 0.0}])
    for share in (1.0, -0.1):
        before = matrix.detach().clone()
        matrix.grad = share * torch.eye(4)
        optimizer.step()
        # By hand: what is orthogonalised is first 0.0975 times the first gradient, then still 0.035 times it.
        assert ((matrix - before).diagonal() < -0.06).all()


def test_weight_decay_acts_on_matrices_in_proportion_to_the_learning_rate():
    matrix = nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.zeros(4, 4)
    Muon([{"params": [matrix], "muon": True, "lr": 0.1, "weight_decay": 0.5}]).step()
    assert torch.allclose(matrix, torch.full((4, 4), 0.95))


def test_a_saved_state_continues_with_the_same_bits():
    def trained(optimizer, parameters, steps):
        for step in steps:
            for number, parameter in enumerate(parameters):
                generator = torch.Generator().manual_seed(100 * step + number)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return [parameter.detach().clone() for parameter in parameters]

    def fresh():
        parameters = [nn.Parameter(torch.ones(6, 3)), nn.Parameter(torch.ones(3))]
        groups = [{"params": parameters[:1], "muon": True, "lr": 0.02}, {"params": parameters[1:]}]
        return Muon(groups, lr=1e-2), parameters

    straight = trained(*fresh(), range(6))
    optimizer, parameters = fresh()
    trained(optimizer, parameters, range(3))
    resumed, again = fresh()
    with torch.no_grad():
        for new, old in zip(again, parameters, strict=True):
            new.copy_(old)
    resumed.load_state_dict(optimizer.state_dict())
    for ours, theirs in zip(trained(resumed, again, range(3, 6)), straight, strict=True):
        assert torch.equal(ours, theirs)


def test_a_vector_in_a_muon_group_is_refused():
    with pytest.raises(ValueError, match="matrices only"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "muon": True}])
