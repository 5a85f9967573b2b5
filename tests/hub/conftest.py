import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from PIL import Image

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.hub import publish
from modeling_omni_vision.hub.card_context import IMAGES


HERE = Path(__file__).parent
LABELS = ["cat", "dog", "owl"]


@pytest.fixture(scope="session")
def metrics():
    """Numbers as training and evaluation write them; odd ones, so that they are found again."""
    row = {"precision": 0.8125, "recall": 0.75, "f1": 0.78, "support": 41}
    return {
        "training": {
            "command": "omni-vision train --dataset zoo/animals",
            "arguments": {"learning_rate": 0.0005},
            "epochs": 3.0,
            "loss": 0.123456,
            "best_epoch": None,
            "dataset": {"name": "zoo/animals", "classes": LABELS, "train": 1000},
        },
        "test": {"accuracy": 0.8375, "images": 123},
        "evaluation": {
            "accuracy": 0.8375,
            "accuracy_interval": [0.79, 0.88],
            "macro_f1": 0.8211,
            "expected_calibration_error": 0.0313,
            "num_examples": 123,
            "split": "test",
            "dataset": "zoo/animals",
            "command": "omni-vision evaluate --model animals",
            "per_class": dict.fromkeys(LABELS, row),
            "calibration": {
                "temperature": 1.62531,
                "fitted_on": {"split": "validation", "images": 1117},
                "expected_calibration_error": {"before": 0.0313, "after": 0.01271},
                "nll": {"before": 0.51734, "after": 0.44921},
            },
            "test_time_augmentation": {"views": "image and its mirror", "accuracy": 0.8415},
        },
        "robustness": {
            "rotation": [{"severity": 0, "accuracy": 0.8375}, {"severity": 45, "accuracy": 0.4113}],
            "gaussian_blur": [{"severity": 0, "accuracy": 0.8375}, {"severity": 0.5, "accuracy": 0.8211}],
            "units": {"rotation": "degrees", "gaussian_blur": "sigma in pixels"},
            "num_examples": 123,
            "split": "test",
            "dataset": "zoo/animals",
        },
        "data_audit": {"suspected_labels": 1713, "share": 0.0427, "by_class": {"owl": 19}},
    }


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, metrics):
    """A folder as training leaves it: a tiny classifier, its processor, its numbers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "animals"
    config = OmniVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    OmniVisionForImageClassification(config).save_pretrained(folder)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "plots").mkdir()
    # The last one is somebody's own.
    for number, name in enumerate((*IMAGES, "holiday")):
        Image.new("L", (8, 8), number).save(folder / "plots" / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def published(checkpoint, tmp_path_factory):
    """What `publish` made of the checkpoint; do not change it, copy it."""
    return publish(checkpoint, tmp_path_factory.mktemp("published") / "x.y" / "a-b", repo_id="me/animals")


@pytest.fixture
def copy(published, tmp_path):
    """A copy of the published folder to break."""
    return Path(shutil.copytree(published.folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def hub():
    server = LoopbackHub()
    yield server
    server.close()


@pytest.fixture(scope="session")
def run_client():
    """Run a client by path in an isolated process and wait for it."""

    def run(script, *arguments, env, cwd, isolated=True):
        command = [sys.executable, *(["-I"] if isolated else []), HERE / script, *map(str, arguments)]
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def pushed(hub, checkpoint, run_client, tmp_path_factory):
    """The Hub after every kind of push; the folder in which the pushing process kept its files."""
    scratch = tmp_path_factory.mktemp("author")
    run_client(
        "client_push.py", checkpoint, scratch, env=hub.environment(scratch / "home"), cwd=scratch, isolated=False
    )
    return scratch
