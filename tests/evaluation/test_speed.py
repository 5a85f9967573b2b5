from pathlib import Path

import pytest
import torch
from packaging.version import Version
from transformers import ViTConfig, ViTModel
from transformers import __version__ as transformers_version

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification
from modeling_omni_vision.evaluation import speed
from modeling_omni_vision.evaluation.speed import benchmark_model


CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
TINY = {"image_size": (16, 24), "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS_PER_SAMPLE", 1e-3)


@pytest.fixture
def folder(tmp_path):
    OmniVisionForImageClassification(OmniVisionConfig(num_channels=1, **TINY)).save_pretrained(tmp_path / "run")
    return str(tmp_path / "run")


def test_each_batch_size_gets_a_row_of_latency_cpu_time_and_throughput(folder):
    found = benchmark_model(folder, batch_sizes=(1, 4), threads=1, rounds=2)
    assert found["model"] == folder
    assert found["machine"]["cpu"]
    assert (found["machine"]["device"], found["machine"]["threads"]) == ("cpu", 1)
    assert [(row["batch_size"], row["dtype"], row["compiled"]) for row in found["rows"]] == [
        (1, "float32", False),
        (4, "float32", False),
    ]
    for row in found["rows"]:
        assert row["cpu_ms"] > 0
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch_size"] / row["wall_ms"])
        assert row["peak_memory_mb"] is None


def test_the_dtype_is_that_of_the_forward_and_threads_are_put_back(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "time_forward", lambda step, pixels, rounds: seen.append((step.dtype, pixels)) or {})
    before = torch.get_num_threads()
    benchmark_model(folder, batch_sizes=(3,), dtype="bfloat16", threads=before + 1)
    ((dtype, pixels),) = seen
    assert dtype == pixels.dtype == torch.bfloat16
    assert pixels.shape == (3, 1, 16, 24)
    assert torch.get_num_threads() == before


def test_a_stock_model_is_timed_too(tmp_path):
    config = ViTConfig(**{**TINY, "image_size": 16}, num_attention_heads=2)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    (row,) = benchmark_model(str(tmp_path), batch_sizes=(2,), rounds=1)["rows"]
    assert row["wall_ms"] > 0


@pytest.mark.skipif(Version(transformers_version) < Version("5.23"), reason="models of several parts need 5.23")
@pytest.mark.parametrize("name", ["omni-vision-search-scenes", "omni-vision-language-scenes"])
def test_of_a_model_of_several_parts_the_vision_tower_is_timed(name, monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "time_forward", lambda step, pixels, rounds: seen.append(type(step).__name__) or {})
    benchmark_model(str(CHECKPOINTS / name), batch_sizes=(1,))
    assert seen == ["OmniVisionModel"]


def test_on_an_accelerator_cpu_time_is_none_instead_of_that_of_the_launch():
    class OnAccelerator(torch.Tensor):
        device = torch.device("meta")

    pixels = torch.zeros(2, 1).as_subclass(OnAccelerator)
    assert speed.time_forward(lambda pixels: None, pixels, 1)["cpu_ms"] is None


@pytest.mark.parametrize(
    "wrong", [{"batch_sizes": (0,)}, {"batch_sizes": ()}, {"rounds": 0}, {"threads": 0}, {"dtype": "int8"}], ids=str
)
def test_numbers_below_one_and_other_dtypes_are_refused(folder, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        benchmark_model(folder, **wrong)


@pytest.mark.slow
def test_the_compiled_model_is_timed(folder):
    plain, row = benchmark_model(folder, batch_sizes=(2,), rounds=1, compiled=True)["rows"]
    assert (plain["compiled"], row["compiled"]) == (False, True)
    assert row["wall_ms"] > 0


def test_a_model_that_fuses_nothing_is_refused_and_ours_is_timed_fused(folder, tmp_path):
    assert benchmark_model(folder, batch_sizes=(2,), rounds=1, fused=True)["rows"][0]["wall_ms"] > 0
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(tmp_path / "stock")
    with pytest.raises(ValueError, match="needs a model with `fuse_qkv_projections`, got ViTModel"):
        benchmark_model(str(tmp_path / "stock"), batch_sizes=(2,), rounds=1, fused=True)
