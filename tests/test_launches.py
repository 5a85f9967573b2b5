"""How many kernels a forward launches and how often a model is compiled: small models on a GPU are as fast as that.

Counted on the CPU, as operators of the dispatcher and compiled graphs.
"""

import pytest
import torch
from launches import launches
from torch._dynamo.testing import CompileCounter

from experiments.benchmark_models import BUILDERS, FUSED, OURS, Case, benchmark_models
from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionModel


CASES = [Case("forward", 2, "float32", attention) for attention in ("sdpa", "eager")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.attention)
def test_a_forward_launches_no_more_than_those_of_peers_and_once_a_layer_if_fused(case):
    # RMSNorm is one kernel on a GPU, but five operators here.
    config, counts = OmniVisionConfig(image_size=32, final_norm="layer_norm"), {}
    pixels = torch.randn(2, 3, 32, 32)
    for name in benchmark_models(case):
        model = BUILDERS[name](config, case).eval()
        with torch.no_grad():
            counts[name] = launches(lambda model=model: model(pixels))
    totals = {name: names.total() for name, names in counts.items()}
    assert totals[OURS] <= totals["transformers"]
    assert counts[OURS]["addmm"] == 6 * config.num_hidden_layers
    if case.attention == "sdpa":
        assert counts[FUSED]["_transformer_encoder_layer_fwd"] == config.num_hidden_layers
        assert counts[FUSED].total() <= min(total for name, total in totals.items() if name != FUSED)


def test_fused_projections_alone_save_two_products_a_layer():
    # Eager attention, which torch's operator for layers does not have.
    model = BUILDERS[OURS](OmniVisionConfig(image_size=32), CASES[1]).eval()
    pixels, counts = torch.zeros(2, 3, 32, 32), []
    with torch.no_grad():
        for changed in (model.unfuse_qkv_projections, model.fuse_qkv_projections):
            changed()
            counts.append(launches(lambda: model(pixels)))
    assert [names["addmm"] for names in counts] == [6 * len(model.layers), 4 * len(model.layers)]
    assert counts[1].total() < counts[0].total()


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (OmniVisionModel, "fused"),
        (OmniVisionForImageClassification, "trained"),
        pytest.param(OmniVisionModel, "evaluated", marks=pytest.mark.slow),
        pytest.param(OmniVisionModel, "trained", marks=pytest.mark.slow),
        pytest.param(OmniVisionForImageClassification, "fused", marks=pytest.mark.slow),
        pytest.param(OmniVisionForImageClassification, "evaluated", marks=pytest.mark.slow),
    ],
)
def test_compiled_models_are_one_graph_compiled_for_the_second_batch_size_and_no_other(tiny_config, kind, state):
    torch._dynamo.reset()
    model = kind(tiny_config).train(state == "trained")
    if state == "fused":
        model.fuse_qkv_projections()
    compiled = torch.compile(model, fullgraph=True, backend=(graphs := CompileCounter()))
    labels = {"labels": torch.zeros(2, dtype=torch.long)} if kind is OmniVisionForImageClassification else {}
    with torch.set_grad_enabled(state == "trained"):
        for size in (2, 3, 4, 7, 40):
            given = {name: value[:1].expand(size) for name, value in labels.items()}
            pixels = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            found, expected = compiled(pixels, **given), model(pixels, **given)
            torch.testing.assert_close(found[0], expected[0])
            assert graphs.frame_count == min(size - 1, 2)
