"""What a training step launches and waits for, counted on the CPU: small models on a GPU are as fast as that."""

import pytest
import torch
from launches import Launches, launches
from transformers import TrainerCallback

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification
from modeling_omni_vision.training import classification, skeleton
from modeling_omni_vision.training.averaging import WeightAverage
from modeling_omni_vision.training.classification import train
from modeling_omni_vision.training.muon import ITERATIONS, Muon


LEVERS = {"mixup": 0.2, "muon_learning_rate": 0.02, "ema_decay": 0.9, "label_smoothing_factor": 0.1}
QUIET = {"logging_steps": 100, "eval_strategy": "no", "save_strategy": "no"}
# Operators and methods of tensors that wait for a device.
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique_dim", "_unique2", "masked_select")
METHODS = ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")


class OneStep(TrainerCallback):
    """Counts in the third step alone, from the batch on the device to the end of the step."""

    def __init__(self, monkeypatch):
        self.launches, self.waits = Launches(), []
        self.launches.on = False
        for name in METHODS:
            original = getattr(torch.Tensor, name)

            def counted(tensor, *args, name=name, original=original, **kwargs):
                if self.launches.on:
                    self.waits.append(name)
                return original(tensor, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, counted)

    def on_step_begin(self, args, state, control, **kwargs):
        self.launches.on = state.global_step == 2

    def on_step_end(self, args, state, control, **kwargs):
        self.launches.on = False


@pytest.fixture
def one_step(monkeypatch):
    """What the third step of training launches, where numbers are looked at as on an accelerator."""
    monkeypatch.setattr(skeleton, "SEEN_AT_ONCE", ())
    step = OneStep(monkeypatch)
    original = classification.OmniVisionTrainer.__init__

    def with_callback(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(step)

    monkeypatch.setattr(classification.OmniVisionTrainer, "__init__", with_callback)
    return step


def test_a_training_step_waits_for_nothing_and_launches_muon_once_a_shape(arguments, one_step):
    with one_step.launches:
        train(*arguments("run", **LEVERS, **QUIET))
    names = one_step.launches.names
    assert not one_step.waits
    assert not {name: names[name] for name in WAITING if names[name]}
    # CONFIG has matrices of three shapes. The fourth average is that of the weights.
    assert (names["baddbmm"], names["_foreach_lerp_"], names["_foreach_lerp"]) == (2 * ITERATIONS * 3, 4, 3)


def classifier_of(layers):
    config = OmniVisionConfig(
        image_size=8, patch_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=layers
    )
    return OmniVisionForImageClassification(config)


def test_muon_centring_and_averaging_launch_as_much_for_many_layers_as_for_few():
    counts = []
    for layers in (2, 6):
        model = classifier_of(layers)
        matrices = [weight for name, weight in model.named_parameters() if "layers" in name and weight.ndim == 2]
        muon, average = Muon([{"params": matrices, "muon": True, "lr": 0.02}]), WeightAverage(model, 0.9)
        for matrix in matrices:
            matrix.grad = torch.ones_like(matrix)
        muon.step()  # makes its state
        counts.append([launches(step).total() for step in (muon.step, model.center_residual_, average.update)])
    assert counts[0] == counts[1]
    assert counts[0][2] == 1
