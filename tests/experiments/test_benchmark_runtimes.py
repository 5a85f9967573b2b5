"""The benchmark of exports measures what its table shows."""

import pytest

from experiments import benchmark_peers
from experiments.benchmark_runtimes import run
from experiments.results import speed_table
from modeling_omni_vision import OmniVisionConfig


for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extras `onnx` and `openvino` are not installed")


@pytest.mark.slow
def test_each_runtime_is_measured_beside_transformers_with_any_and_with_a_fixed_batch(monkeypatch):
    monkeypatch.setattr(benchmark_peers, "SECONDS_PER_SAMPLE", 0)
    config = OmniVisionConfig(
        image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    (row,) = run(config, [2], 1)["rows"]
    kinds = {
        outputs: {f"{name}{outputs}, {batch} batch" for name in ("onnx", "openvino") for batch in ("any", "fixed")}
        for outputs in ("", ", vector alone")
    }
    every = set().union(*kinds.values())
    assert set(row["speed"]) == {*every, "products alone"}
    assert set(row["cpu_ms"]) == {*every, "products alone", "transformers"}
    assert row["best"] == {
        "tokens": max(row["speed"][kind] for kind in kinds[""]),
        "vector": max(row["speed"][kind] for kind in kinds[", vector alone"]),
    }
    shown = speed_table([row])
    assert "| export | batch 2 |" in shown
    assert f"| onnx, vector alone, any batch | {row['speed']['onnx, vector alone, any batch']:.2f} |" in shown
