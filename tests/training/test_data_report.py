import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modeling_omni_vision.cli.evaluate import main as evaluate_command
from modeling_omni_vision.data import integrity
from modeling_omni_vision.evaluation.evaluate import evaluate
from modeling_omni_vision.training.callbacks import TimeEstimateCallback
from modeling_omni_vision.training.classification import ClassificationRun, train


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes of 20 grey images, one of which is cut off, and a file that is none."""
    rng = np.random.default_rng(0)
    for kind, level in (("dark", 0), ("light", 150)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = (level + rng.integers(0, 60, (8, 8))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{number:02}.png")
    broken = tmp_path / "images" / "dark" / "07.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "images" / "dark" / "notes.txt").touch()
    return tmp_path / "images"


def test_broken_images_stop_a_run_before_anything_is_made_and_name_the_way_out(arguments, folder, tmp_path):
    with pytest.raises(ValueError, match=r"1 of 40 images cannot be read: .*07\.png \(.*--on_error skip"):
        train(*arguments(dataset=str(folder)))
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_out_what_is_broken_and_evaluation_finds_its_splits_when_files_were_added(
    arguments, folder, capsys, monkeypatch
):
    recipe, args = arguments(
        dataset=str(folder), test_fraction=0.2, on_error="skip", per_device_train_batch_size=14, num_train_epochs=1
    )
    run = train(recipe, args)
    skipped = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert [one["image"] for one in skipped] == [str(folder / "dark" / "07.png")]
    record = json.loads((run / "metrics.json").read_text())
    sizes = {name: record["training"]["dataset"][name] for name in ("train", "validation", "test")}
    assert sum(sizes.values()) == 39
    said = capsys.readouterr().out
    assert f"train: {sizes['train']} images, 2 classes" in said
    assert "4,866 parameters" in said
    monkeypatch.setattr("modeling_omni_vision.evaluation.evaluate.draw_all", lambda *_: [])
    for number in range(9):
        Image.new("L", (8, 8), 200).save(folder / "light" / f"0{number}x.png")
    report = evaluate(run, str(folder))
    assert report.held_out
    assert (report.metrics["split"], report.metrics["num_examples"]) == ("validation", sizes["validation"])
    # Once by the run, and the same again.
    assert evaluate(run, str(folder), "test").metrics["accuracy"] == record["test"]["accuracy"]
    evaluate_command(["--model", str(run), "--dataset", str(folder)])
    assert "images validation (held out of training): accuracy" in capsys.readouterr().out


def test_what_is_decoded_to_be_trained_on_is_not_read_for_the_check_too(arguments, folder, monkeypatch):
    checked, reason = [], integrity._reason
    monkeypatch.setattr(integrity, "_reason", lambda one, how: checked.append(one["path"]) or reason(one, how))
    recipe, args = arguments(dataset=str(folder), on_error="skip", do_predict=False)
    ClassificationRun(recipe, args).build()
    assert checked == [str(folder / "dark" / "07.png")]  # to say why it cannot be read


def test_a_dry_run_prints_and_draws_what_would_be_trained_on_and_writes_nothing_else(
    arguments, folder, tmp_path, capsys
):
    options = {"dataset": str(folder), "on_error": "skip", "config": {"image_size": 16}}
    train(*arguments(dry_run=True, **options))
    said = capsys.readouterr().out
    for line in (
        "train: ",
        "  sizes    8 x 8",
        "  modes    L",
        "parameters",
        "Hint: Most images are at most 8 pixels",
    ):
        assert line in said
    assert Image.open(tmp_path / "run-dataset.png").width > 500
    assert not (tmp_path / "run").exists()


def test_time_is_estimated_once_after_ten_steps(monkeypatch, capsys):
    now = iter((5.0, 25.0))
    monkeypatch.setattr("modeling_omni_vision.training.callbacks.time.monotonic", lambda: next(now))
    state = SimpleNamespace(global_step=0, max_steps=111, is_world_process_zero=True)
    callback = TimeEstimateCallback()
    callback.on_train_begin()
    for state.global_step in range(1, 30):
        callback.on_step_end(None, state)
    assert capsys.readouterr().out == "About 3 min for 100 more steps (2 s each), without evaluation.\n"


def test_images_of_validation_that_train_has_too_are_counted_before_training(arguments, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)) for _ in range(12)]
    for split, some in (("train", images[:8]), ("val", images[6:])):
        for number, image in enumerate(some):
            place = tmp_path / "images" / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number}.png")
    train(*arguments(dataset=str(tmp_path / "images"), num_train_epochs=1))
    assert "Hint: 2 images of validation look as images of train do" in capsys.readouterr().out
