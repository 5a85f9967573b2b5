import torch
from torch import nn

from modeling_omni_vision.records.weights_digest import weights_digest


def test_a_digest_is_of_names_types_shapes_and_values_in_any_order():
    model = nn.Linear(2, 3)
    state = model.state_dict()
    digest = weights_digest(model)
    assert digest == weights_digest(state) == weights_digest(dict(reversed(state.items())))
    others = [
        {"other": state["weight"], "bias": state["bias"]},
        {**state, "weight": state["weight"].T},
        {**state, "weight": state["weight"].double()},
        {**state, "bias": state["bias"] + 1},
        {"weight": state["weight"]},
    ]
    assert len({digest, *map(weights_digest, others)}) == 6


def test_the_digest_of_given_weights_stays_the_same():
    # Locks of test splits hold such digests.
    wanted = "20c9e6fd"
    assert weights_digest({"weight": torch.arange(6.0).reshape(2, 3)})[:8] == wanted
