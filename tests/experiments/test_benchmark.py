import json
import math
from importlib import util
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments import benchmark_models as models
from experiments import benchmark_peers as benchmark
from experiments.benchmark_models import (
    BUILDERS,
    COMPILED,
    FUSED,
    OURS,
    Case,
    batch_maker,
    benchmark_models,
    make_step,
    random_images,
)
from experiments.benchmark_peers import (
    BenchmarkArguments,
    all_cases,
    attention_rows,
    best_attention,
    data_rows,
    line,
    median_interval,
    peak_memory,
    run_benchmark,
    summarise,
    time_in_turns,
)
from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.image_dataset import ImageDataset


TINY = OmniVisionConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
NEEDS_TIMM = pytest.mark.skipif(util.find_spec("timm") is None, reason="timm is not installed")
FORWARD = Case("forward", 2, "float32", "sdpa")
TINY_SHAPE = {"image_size": 8, "patch_size": 4, "num_channels": 1}


# Compiling takes half a minute.
MARKS = {"timm": NEEDS_TIMM, COMPILED: pytest.mark.slow}
NAMES = [pytest.param(name, marks=MARKS.get(name, ())) for name in BUILDERS]


@pytest.fixture
def tiny_training(monkeypatch):
    """Training steps of a shape that takes no time."""
    monkeypatch.setattr(benchmark, "SECONDS_PER_SAMPLE", 0)
    monkeypatch.setattr(benchmark, "RECIPE_SHAPE", TINY_SHAPE)
    monkeypatch.setattr(benchmark, "RECIPE_BATCH", 4)
    monkeypatch.setattr(benchmark, "ATTENTION_SHAPES", (TINY_SHAPE, TINY_SHAPE | {"image_size": 12}))
    monkeypatch.setattr(benchmark, "TRAINING_BATCH", 2)


@pytest.fixture
def clock(monkeypatch):
    """A clock, a list of one number of seconds, that only tests move."""
    seconds = [0.0]
    stopped = SimpleNamespace(process_time=lambda: seconds[0], perf_counter=lambda: seconds[0])
    monkeypatch.setattr(benchmark, "time", stopped)
    return seconds


def test_all_benchmark_models_have_the_same_size():
    torch.manual_seed(0)
    counts = {
        name: sum(parameter.numel() for parameter in BUILDERS[name](OmniVisionConfig(), FORWARD).parameters())
        for name in benchmark_models(FORWARD)
    }
    # The specification's 916,992; where the last norm is a LayerNorm, 128 biases more.
    assert counts[OURS] == counts[FUSED] == counts["TransformerEncoderLayer"] == 916_992
    assert set(counts.values()) <= {916_992, 917_120}


@pytest.mark.parametrize("name", NAMES)
def test_all_benchmark_models_give_tokens_of_one_shape_in_the_precision_of_the_case(name):
    for dtype in ("float32", "bfloat16"):
        tokens = make_step(name, TINY, Case("forward", 2, dtype, "sdpa"))()
        assert tokens.shape == (2, 5, 32)
        assert tokens.dtype == getattr(torch, dtype)
        assert not tokens.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_changes_every_weight(name):
    step = make_step(name, TINY, Case("training step", 2, "bfloat16", "sdpa"))
    model = step.args[0]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert math.isfinite(step().item())
    assert {tensor.dtype for tensor in before.values()} == {torch.float32}
    unmoved = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, before[key])]
    # Softmax does not change when all keys shift alike, so the bias of keys has no gradient but noise.
    assert [key for key in unmoved if "k_proj" not in key] == []


@pytest.mark.parametrize("name", [OURS, "transformers", pytest.param("timm", marks=NEEDS_TIMM)])
def test_the_attention_of_a_row_is_the_one_that_runs(name, monkeypatch):
    called = []
    original = nn.functional.scaled_dot_product_attention

    def recorded(*args, **kwargs):
        called.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", recorded)
    make_step(name, TINY, Case("forward", 1, "float32", "eager"))()
    assert not called
    make_step(name, TINY, FORWARD)()
    assert called


def test_dropout_is_off_but_in_the_row_that_names_it():
    assert [case.dropout for case in all_cases([1])].count(0.1) == 1
    for name in benchmark_models(FORWARD):
        rates = {module.p for module in BUILDERS[name](TINY, FORWARD).modules() if isinstance(module, nn.Dropout)}
        assert rates <= {0.0}


def test_the_rows_are_those_of_the_promise():
    cases = all_cases([1, 8, 32, 128])
    for dtype in ("float32", "bfloat16"):
        sizes = {case.batch_size for case in cases if case.work == "forward" and case.dtype == dtype}
        assert sizes == {1, 8, 32, 128}
        for attention in ("sdpa", "eager"):
            assert Case("training step", 32, dtype, attention) in cases


def test_eager_rows_leave_out_the_peer_that_has_no_choice():
    assert "TransformerEncoderLayer" not in benchmark_models(Case("forward", 1, "float32", "eager"))
    assert "TransformerEncoderLayer" in benchmark_models(FORWARD)


def test_without_timm_the_others_still_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(models.util, "find_spec", lambda name: None if name == "timm" else object())
    assert benchmark_models(FORWARD) == [OURS, FUSED, "transformers", "TransformerEncoderLayer"]
    monkeypatch.setattr(benchmark, "all_cases", lambda sizes: [FORWARD])
    monkeypatch.setattr(benchmark, "SECONDS_PER_SAMPLE", 0)
    monkeypatch.setattr(benchmark, "OmniVisionConfig", lambda **fields: TINY)
    benchmark.main(["--quick", "--output", str(tmp_path / "out.json")])
    assert "[benchmark]" in capsys.readouterr().out


def test_ratios_are_medians_of_rounds_and_above_one_where_ours_is_faster():
    samples = {
        OURS: {"cpu_ms": [10.0, 20.0, 10.0], "wall_ms": [11.0, 99.0, 12.0]},
        FUSED: {"cpu_ms": [6.0, 12.0, 6.0], "wall_ms": [6.0, 12.0, 6.0]},
        "transformers": {"cpu_ms": [20.0, 40.0, 20.0], "wall_ms": [20.0, 40.0, 20.0]},
        "timm": {"cpu_ms": [9.0, 18.0, 50.0], "wall_ms": [9.0, 18.0, 50.0]},
    }
    row = summarise(FORWARD, [samples], {OURS: 3.0})
    assert row["speed_relative_to"] == {"transformers": 2.0, "timm": 0.9}
    assert row["relative_to_best_peer"][OURS] == {"speed_relative_to_best_peer": 0.9, "interval": [0.9, 5.0]}
    assert row["relative_to_best_peer"][FUSED]["speed_relative_to_best_peer"] == 1.5
    assert row["models"][OURS] == {"cpu_ms": 10.0, "wall_ms": 12.0, "peak_mb": 3.0}
    printed = line(row)
    assert "omni_vision (cpu_ms 10, wall_ms 12, peak_mb 3)" in printed
    assert "timm (cpu_ms 18, wall_ms 18, peak_mb None)" in printed


def test_of_several_runs_the_middle_ratio_and_the_middle_bounds_count():
    def run(*ours):
        return {
            OURS: {"cpu_ms": list(ours), "wall_ms": [1.0] * 3},
            "timm": {"cpu_ms": [6.0] * 3, "wall_ms": [1.0] * 3},
        }

    row = summarise(FORWARD, [run(6, 6, 6), run(3, 2, 3), run(4, 4, 12)], {})
    assert row["relative_to_best_peer"][OURS] == {"speed_relative_to_best_peer": 1.5, "interval": [1.0, 1.5]}


def test_the_interval_of_a_median_leaves_out_the_extremes_of_many_values():
    assert median_interval([3.0, 1.0, 2.0]) == [1.0, 3.0]
    low, high = median_interval([float(value) for value in range(1, 28)])
    assert 1 < low < 14 < high < 27


def test_compiled_training_stands_beside_our_own_eager_step():
    step = {"cpu_ms": [4.0, 6.0, 5.0], "wall_ms": [1.0] * 3}
    compiled = {"cpu_ms": [2.0, 3.0, 2.0], "wall_ms": [1.0] * 3}
    case = Case("training step", 2, "float32", "eager")
    row = summarise(case, [{OURS: step, COMPILED: compiled, "timm": step}], {})
    assert row["compiled_relative_to_ours"]["speed"] == 2.0
    (best,) = best_attention([row])
    assert best["speed_relative_to_best_peer"] == 1.0


def test_the_best_attention_of_each_side_is_compared():
    def row(attention, **times):
        figures = {name: {"cpu_ms": ms} for name, ms in times.items()}
        return {"work": "forward", "batch_size": 1, "dtype": "float32", "dropout": 0.0, "attention": attention} | {
            "models": figures
        }

    (best,) = best_attention([row("sdpa", omni_vision=9.0, timm=4.0), row("eager", omni_vision=5.0, timm=6.0)])
    assert best["cpu_ms"] == {OURS: 5.0, "timm": 4.0}
    assert best["speed_relative_to_best_peer"] == 0.8
    (best,) = best_attention([row("sdpa", omni_vision=9.0, omni_vision_fused=2.0, timm=4.0)])
    assert best["speed_relative_to_best_peer"] == 2.0


def test_a_run_writes_the_machine_the_command_and_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        benchmark, "all_cases", lambda sizes: [Case("forward", size, "float32", "sdpa") for size in sizes]
    )
    monkeypatch.setattr(benchmark, "SECONDS_PER_SAMPLE", 0)
    monkeypatch.setattr(benchmark, "OmniVisionConfig", lambda **fields: TINY)
    before = torch.get_num_threads()
    benchmark.main(["--quick", "--output", str(tmp_path / "new" / "out.json")])
    assert torch.get_num_threads() == before
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    assert written["machine"]["cpu"]
    assert written["command"].startswith("python -m experiments.benchmark_peers --quick")
    assert (written["rounds"], written["threads"]) == (3, 1)
    assert [row["batch_size"] for row in written["rows"]] == [1, 8]
    printed = capsys.readouterr().out
    assert printed.count("work forward, ") == 2
    assert "Slowest against the best peer" in printed


def test_every_augmentation_has_its_share_of_the_step_and_every_shape_its_attention(tiny_training):
    data, attention = list(data_rows(rounds=2)), list(attention_rows(rounds=2))
    assert [row["augmentation"] for row in data] == [
        "none",
        "max_translate 2, flip true, random_erasing 0.25",
        "max_translate 2, flip true, random_erasing 0.25, mixup 0.2, cutmix 1.0",
        "max_translate 2, flip true, random_erasing 0.25, rand_augment 9",
    ]
    assert all(0 < row["share_waiting"][dtype] < 1 for row in data for dtype in ("bfloat16", "float32"))
    tokens = [(row["tokens"], row["dtype"]) for row in attention]
    assert tokens == [(count, dtype) for count in (5, 10) for dtype in ("bfloat16", "float32")]
    assert all(set(row["cpu_ms"]) == {"eager", "sdpa"} for row in attention)


def test_the_shapes_that_matter_have_17_50_and_197_tokens():
    configs = [OmniVisionConfig(**shape) for shape in benchmark.ATTENTION_SHAPES]
    assert [1 + config.num_patches for config in configs] == [17, 50, 197]


def test_steps_take_turns_and_cpu_and_wall_seconds_are_of_the_same_steps(monkeypatch):
    cpu, wall, calls = [0.0], [0.0], []
    stopped = SimpleNamespace(process_time=lambda: cpu[0], perf_counter=lambda: wall[0])
    monkeypatch.setattr(benchmark, "time", stopped)

    def step(name, seconds):
        def call():
            calls.append(name)
            cpu[0] += seconds
            wall[0] += 2 * seconds

        return call

    samples = time_in_turns({"short": step("short", 0.005), "long": step("long", 0.02)}, rounds=4)
    # 0.05 s of wall time a sample and step: two repeats of both, after two untimed ones.
    assert calls.count("short") == calls.count("long") == 3 + 4 * (2 + 2)
    assert samples["short"]["cpu_ms"] == pytest.approx([5] * 4)
    assert samples["short"]["wall_ms"] == pytest.approx([10] * 4)
    assert samples["long"]["cpu_ms"] == pytest.approx([20] * 4)
    first = [calls[6 + 8 * number] for number in range(4)]
    assert set(first) == {"short", "long"}


def test_a_slow_data_path_is_noticed(tiny_training, clock, monkeypatch):
    def slow(path, seconds):
        def call(*args):
            clock[0] += seconds
            return path(*args)

        return call

    monkeypatch.setattr(models, "training_step", slow(models.training_step, 3))
    monkeypatch.setattr(ImageDataset, "__getitems__", slow(ImageDataset.__getitems__, 1))
    for row in data_rows(rounds=2):
        assert row["share_waiting"] == {"bfloat16": 0.25, "float32": 0.25}
        assert (row["data_ms"], row["step_ms"]["float32"]) == (1000, 3000)
        assert line(row).endswith("share_waiting (bfloat16 0.25, float32 0.25)")


def test_attention_above_one_means_that_eager_is_faster(tiny_training, clock, monkeypatch):
    def step(name, config, case):
        def call():
            clock[0] += {"eager": 2, "sdpa": 3}[case.attention]

        return call

    monkeypatch.setattr(benchmark, "make_step", step)
    assert {row["eager_relative_to_sdpa"] for row in attention_rows(rounds=3)} == {1.5}


def test_batches_of_the_measurement_are_augmented_as_in_training(tiny_training):
    config = OmniVisionConfig(**TINY_SHAPE)
    dataset = random_images(config, 8)
    batches = []
    for options in ({}, {"flip": True}, {"mixup": 0.2}):
        torch.manual_seed(0)  # decides the order of rows
        batches.append(batch_maker(config, dataset, options, 4)())
    plain, flipped, mixed = batches
    assert plain["pixel_values"].shape == (4, 1, 8, 8)
    assert plain["rows"].tolist() == flipped["rows"].tolist()
    assert not plain["pixel_values"].equal(flipped["pixel_values"])
    assert mixed["labels"].shape == (4, 10)


def test_a_whole_run_prints_and_writes_what_training_waits_for(tiny_training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "all_cases", lambda sizes: [FORWARD])
    monkeypatch.setattr(benchmark, "OmniVisionConfig", lambda **fields: TINY)
    monkeypatch.setattr(benchmark, "peak_memory", lambda *args: {})
    (tmp_path / "docs").mkdir()
    file = tmp_path / "docs" / "benchmark.json"
    benchmark.main(["--rounds", "1", "--output", str(file)])
    written = json.loads(file.read_text())
    assert (len(written["data"]), len(written["attention"])) == (4, 4)
    printed = capsys.readouterr().out
    assert [row for row in written["data"] + written["attention"] if line(row) not in printed] == []


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"threads": 0}, {"runs": 0}])
def test_rounds_and_threads_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        run_benchmark(BenchmarkArguments(**wrong), [FORWARD], TINY)


@pytest.mark.slow
def test_peak_memory_of_a_larger_batch_is_larger_by_what_it_needs():
    small, large = (
        peak_memory(OmniVisionConfig(), Case("forward", size, "float32", "sdpa"), threads=1) for size in (1, 32)
    )
    # 32 images of 588 KiB alone; our tokens and MLP at least as much again.
    assert all(large[name] - small[name] > 30 for name in large)
