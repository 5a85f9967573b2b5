"""What tests of trainings share: to act at a step, and to read what a run has left."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback


class At(TrainerCallback):
    """Does something at the end of one step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def weights_of(folder, name="model.safetensors"):
    return load_file(Path(folder) / name)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def record_of(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())
