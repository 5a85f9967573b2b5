"""What CUDA graphs are to do; without a GPU checked with graphs that run their function again at each replay."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import weights_of

from modeling_omni_vision.training import classification, cuda_graphs
from modeling_omni_vision.training.classification import train
from modeling_omni_vision.training.skeleton import NonFiniteLossError
from modeling_omni_vision.training.trainer import OmniVisionTrainer, replays_steps


LEVERS = {
    "mixup": 0.2,
    "muon_learning_rate": 0.02,
    "ema_decay": 0.9,
    "label_smoothing_factor": 0.1,
    "layer_decay": 0.8,
}


class Rerun:
    """Stands in for `torch.cuda.CUDAGraph`: a replay writes the results anew, into the same tensors."""

    def __init__(self, function, result):
        self.function, self.result, self.replays = function, result, 0

    def replay(self):
        self.replays += 1
        new = self.function()
        if self.result is not None:
            self.result.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """Let training on the CPU take the road of CUDA graphs; returns those captured."""
    captured, real = [], cuda_graphs.capture

    def capture(function, changed):
        if torch.cuda.is_available():
            graph, result = real(function, changed)
            captured.append(Rerun(graph.replay, None))
            return captured[-1], result
        before, state = [tensor.detach().clone() for tensor in changed], torch.get_rng_state()
        result = function()
        with torch.no_grad():
            torch._foreach_copy_(changed, before)
        torch.set_rng_state(state)
        captured.append(Rerun(function, None if result is None else result.clone()))
        return captured[-1], captured[-1].result

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(classification, "replays_steps", lambda wanted, *given: wanted == "true")
    return captured


def distance(first, second):
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("steps", [1, 2])
def test_replayed_steps_train_as_others_do_with_soft_labels_and_accumulation(arguments, graphs, steps):
    options = {**LEVERS, "num_train_epochs": 3, "gradient_accumulation_steps": steps}
    plain = train(*arguments("plain", **options))
    assert not graphs
    replayed = train(*arguments("replayed", cuda_graphs="true", **options))
    assert len(graphs) > 1
    assert sum(graph.replays for graph in graphs) > 6
    # Learning rates are float32 on the device and double on the host.
    assert distance(weights_of(plain), weights_of(replayed)) < 1e-4


def test_a_replayed_run_resumes_bit_for_bit(arguments, graphs):
    options = {**LEVERS, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False}
    options |= {"num_train_epochs": 3, "save_total_limit": None, "cuda_graphs": "true"}
    whole = train(*arguments("whole", **options))
    part = Path(arguments("part")[1].output_dir)
    shutil.copytree(whole / "checkpoint-4", part / "checkpoint-4")
    resumed = train(*arguments("part", resume_from_checkpoint="true", **options))
    assert distance(weights_of(whole), weights_of(resumed)) == 0


def test_a_replayed_run_names_the_batch_of_a_loss_that_is_not_finite_and_saves_nothing_after_it(
    arguments, graphs, monkeypatch
):
    original = OmniVisionTrainer.forward_backward

    def exploding(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 2:
            inputs["pixel_values"].fill_(float("nan"))
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(OmniVisionTrainer, "forward_backward", exploding)
    recipe, args = arguments(
        "broken", cuda_graphs="true", save_strategy="steps", save_steps=1, load_best_model_at_end=False
    )
    with pytest.raises(NonFiniteLossError, match=r"finite loss, got nan at step 3, in the batch of rows \[\d+, "):
        train(recipe, args)
    assert not (Path(args.output_dir) / "checkpoint-3").exists()


def some_arguments(**changes):
    fields = {"device": torch.device("cuda"), "world_size": 1, "n_gpu": 1, "fp16": False, "optim": "adamw_torch_fused"}
    return SimpleNamespace(**fields | {"torch_compile_mode": None} | changes)


def test_steps_of_small_models_on_one_gpu_are_replayed_and_of_others_where_told():
    assert replays_steps("auto", some_arguments(), 1_000_000)
    assert not replays_steps("auto", some_arguments(), 300_000_000)
    assert replays_steps("true", some_arguments(), 300_000_000)
    assert not replays_steps("false", some_arguments(), 1_000_000)


@pytest.mark.parametrize(
    ("changes", "environment", "reason"),
    [
        ({"device": torch.device("cpu")}, {}, "the device is cpu"),
        ({"world_size": 2}, {}, "2 processes"),
        ({"n_gpu": 2}, {}, "2 GPUs"),
        ({"fp16": True}, {}, "gradient scaler"),
        ({}, {"ACCELERATE_MIXED_PRECISION": "fp16"}, "gradient scaler"),
        ({"torch_compile_mode": "max-autotune"}, {}, "makes graphs too"),
        ({}, {"ACCELERATE_DYNAMO_MODE": "reduce-overhead"}, "makes graphs too"),
        ({"optim": "sgd"}, {}, "not AdamW"),
    ],
)
def test_steps_that_a_graph_cannot_hold_are_not_replayed_or_refused(monkeypatch, changes, environment, reason):
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not replays_steps("auto", some_arguments(**changes), 1_000_000)
    with pytest.raises(ValueError, match=f"`cuda_graphs` must be auto or false, got true while .*{reason}"):
        replays_steps("true", some_arguments(**changes), 1_000_000)
