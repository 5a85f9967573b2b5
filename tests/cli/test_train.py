import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
CONFIG = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def images(tmp_path):
    """A folder of 48 images in two classes."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(100 * number, 100 * number + 120, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def words(images, output_dir, **options):
    defaults = {
        "config": json.dumps(CONFIG),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "validation_fraction": 12,
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": True,
    }
    given = {"dataset": images, "output_dir": output_dir, **defaults, **options}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def two_processes(arguments):
    command = [*TORCHRUN, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses_of(folder):
    return [entry["loss"] for entry in json.loads((folder / "metrics.json").read_text())["training"]["history"]]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_the_script_trains_and_prints_one_line_of_result(images, tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    main(words(images, tmp_path / "run"))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.fullmatch(rf"{tmp_path}/run: validation accuracy \d\.\d{{4}}", last)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_example_of_the_command_names_flags_that_exist():
    from modeling_omni_vision.cli import train
    from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments

    fields = {*RecipeArguments.__dataclass_fields__, *OmniVisionTrainingArguments.__dataclass_fields__}
    flags = set(re.findall(r"--([a-z_]+)", train.__doc__)) - {"help", "help_all", "nproc_per_node"}
    assert flags
    assert flags <= fields


@pytest.mark.parametrize("bar", [True, False])
def test_a_run_shows_one_bar_and_one_line_for_each_evaluation(images, tmp_path, capsys, bar):
    main = runpy.run_path(str(SCRIPT))["main"]
    main(words(images, tmp_path / "run", disable_tqdm=not bar, logging_steps=2, num_train_epochs=3))
    out, err = capsys.readouterr()
    number, steps = r"\d+\.\d{4}", [f"step {step} of 9: loss" for step in (2, 4, 6, 8)]
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    line = rf"epoch \d of 3, loss {number}, validation loss {number}, validation accuracy {number}, "
    assert all(re.fullmatch(line + r"[\d.e+]+ images/s, 0:00:\d\d left", found) for found in lines), lines
    assert len(lines) == 3
    assert [found.rpartition(" ")[0] for found in out.splitlines() if "step" in found] == ([] if bar else steps)
    assert ("9/9" in err) == bar
    assert "{'" not in out
    assert "Generating" not in err
    assert "UNEXPECTED" not in out + err


@pytest.mark.parametrize("name", ["train", "train_retrieval", "train_language"])
def test_help_is_about_our_flags_and_names_where_the_others_are(name, capsys):
    main = import_module(f"modeling_omni_vision.cli.{name}").main
    said = {}
    for word in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            main([word])
        said[word] = capsys.readouterr().out
    short, whole = (re.findall(r"^  (--\w+)", text, re.MULTILINE) for text in said.values())
    assert len(short) < 60 < 120 < len(whole)
    assert {"--dataset", "--output_dir", "--overwrite_output_dir", "--learning_rate"} <= set(short)
    assert "--help_all lists them" in said["--help"]
    assert "--no_" not in said["--help"]
    assert "The same as --do_predict false." in said["--help_all"]
    # Ours come first.
    assert [flag for flag in whole if flag in short] == [flag for flag in whole if "--no_" not in flag][: len(short)]


@pytest.mark.slow
def test_two_processes_train_together_and_equal_one_process_with_the_whole_batch(images, tmp_path):
    # Augmentation belongs to the row, so both see the same images.
    options = {"rand_augment": 9, "flip": True, "max_translate": 1, "ema_decay": 0.9}
    output = two_processes(words(images, tmp_path / "two", per_device_train_batch_size=6, **options))
    lines = output.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("epoch ")] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert [line.partition(" ")[0] for line in lines if "accuracy" in line][2:] == [f"{tmp_path}/two:"]
    record = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert record["training"]["processes"] == 2
    assert record["training"]["steps"] == 6
    runpy.run_path(str(SCRIPT))["main"](words(images, tmp_path / "one", **options))
    # The Trainer logs the mean over processes; sums are done in another order: 1e-7, which Adam's first steps enlarge.
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=2e-5)


@pytest.mark.slow
def test_two_processes_give_the_evaluation_of_one_though_the_last_batch_is_filled_up(images, tmp_path):
    # Eleven images by four and twice two: the last batches hold three, and three with a filler.
    options = {"validation_fraction": 11, "num_train_epochs": 1, "learning_rate": 0, "save_strategy": "no"}
    options |= {"load_best_model_at_end": False}
    two = {"per_device_train_batch_size": 6, "per_device_eval_batch_size": 2}
    two_processes(words(images, tmp_path / "two", **options, **two))
    runpy.run_path(str(SCRIPT))["main"](words(images, tmp_path / "one", **options, per_device_eval_batch_size=4))
    found = [json.loads((tmp_path / name / "metrics.json").read_text())["training"] for name in ("one", "two")]
    (one,), (other,) = (record["evaluations"] for record in found)
    # Each loss is a float32 of a batch of another size.
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert [other[name] for name in ("accuracy", "balanced_accuracy")] == [one["accuracy"], one["balanced_accuracy"]]


@pytest.mark.slow
def test_two_processes_keep_the_residual_stream_centred_and_resume_bit_for_bit(images, tmp_path):
    from modeling_omni_vision import OmniVisionForImageClassification

    options = {"ema_decay": 0.9, "mixup": 0.2, "flip": True, "save_strategy": "steps", "save_steps": 2}
    options |= {"per_device_train_batch_size": 6, "load_best_model_at_end": False}
    two_processes(words(images, tmp_path / "whole", **options))
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    two_processes(words(images, tmp_path / "again", resume_from_checkpoint=checkpoint, **options))
    whole, again = weights_of(tmp_path / "whole"), weights_of(tmp_path / "again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # Rounding of means of 16 float32 weights below 1.
    assert OmniVisionForImageClassification.from_pretrained(tmp_path / "whole").residual_mean() < 1e-7


@pytest.mark.slow
def test_of_two_processes_one_opens_the_test_split_and_a_refusal_fails_both(images, tmp_path):
    (tmp_path / "splits").mkdir()
    shutil.copytree(images, tmp_path / "splits" / "test")
    images.rename(tmp_path / "splits" / "train")
    options = {"per_device_train_batch_size": 6, "load_best_model_at_end": False}
    arguments = words(tmp_path / "splits", tmp_path / "run", **options)
    output = two_processes(arguments)
    assert len(re.findall(r"test accuracy", output)) == 1
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["test_opened"]["accuracy"] == record["test"]["accuracy"]
    (tmp_path / "run" / "metrics.json").unlink()
    arguments += ["--resume_from_checkpoint", "true", "--num_train_epochs", "3"]
    command = [*TORCHRUN, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "by other weights" in done.stderr
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())) == {"training"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_a_checkpoint_says_so_and_fails(images, tmp_path, processes):
    launcher = [sys.executable] if processes == 1 else TORCHRUN
    arguments = words(images, tmp_path / "run", num_train_epochs=100000, eval_strategy="no", save_strategy="no")
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen([*launcher, str(SCRIPT), *arguments], env=environment(), stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while ": loss " not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
                time.sleep(0.2)
            running.send_signal(signal.SIGTERM)
            code = running.wait(timeout=60)
        finally:
            running.kill()
    text = (tmp_path / "log").read_text()
    assert "Continue with --resume_from_checkpoint true" in text, text[-3000:]
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert (checkpoint / "trainer_state.json").is_file()
    # torchrun answers with a code of its own.
    assert code == 143 if processes == 1 else code != 0
