"""A run goes on with the data and the arguments that it began with, or says what differs."""

import io
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from runs import At, record_of, same, weights_of

from modeling_omni_vision.data.row_digest import describe_rows, digest
from modeling_omni_vision.training.checkpoints import STATE, complete_checkpoints
from modeling_omni_vision.training.classification import train
from modeling_omni_vision.training.interruption import TrainingInterruptedError
from modeling_omni_vision.training.resumption import RUN_FILE
from modeling_omni_vision.training.trainer import OmniVisionTrainer


SMALL = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False}


def draw_images(folder):
    """Draw ten images of each of two classes into folders of their names."""
    for kind, grey in (("dark", 0), ("light", 100)):
        (folder / kind).mkdir(parents=True)
        for number in range(10):
            PilImage.new("L", (8, 8), grey + number).save(folder / kind / f"{number}.png")
    return str(folder)


@pytest.fixture
def interrupted(arguments, callbacks, tmp_path):
    """Return what makes the arguments of a run that was stopped at its second step."""
    common = {**SMALL, "dataset": draw_images(tmp_path / "images"), "per_device_train_batch_size": 6}

    def stop(**options):
        callbacks.append(At(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(TrainingInterruptedError):
            train(*arguments("part", **{**common, **options}))
        callbacks.clear()
        return lambda **more: arguments(
            "part",
            **{**common, **options, "resume_from_checkpoint": "true", **more},
        )

    return stop


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"test_fraction": 0.2}, r"test_fraction 0.0, now 0.2; data.train.rows 18, now 14"),
        ({"validation_fraction": 0.4}, r"validation_fraction 0.1, now 0.4; data.train.rows 18, now 12"),
        ({"learning_rate": 0.5}, r"learning_rate \S+, now 0.5"),
        ({"muon_learning_rate": 0.02}, r"muon_learning_rate 0.0, now 0.02"),
        ({"layer_decay": 0.5}, r"layer_decay 1.0, now 0.5"),
        ({"optim": "sgd"}, r"optim '\w+', now 'sgd'"),
        ({"seed": 9}, r"seed 42, now 9; data_seed 42, now 9"),
        ({"mixup": 0.3}, r"mixup 0.0, now 0.3"),
        ({"per_device_train_batch_size": 3}, r"rows of a step \d+, now 3"),
        ({"dataloader_drop_last": True}, r"dataloader_drop_last False, now True"),
        ({"metric_for_best_model": "loss"}, r"metric_for_best_model 'accuracy', now 'loss'; greater_is_better True"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe(interrupted, other, said):
    resume = interrupted()
    recipe, args = resume(**other)
    before = sorted(Path(args.output_dir).rglob("*"))
    with pytest.raises(ValueError, match=f"checkpoint-2 was trained with, got others: {said}"):
        train(recipe, args)
    assert sorted(Path(args.output_dir).rglob("*")) == before


def test_a_run_goes_on_when_nothing_of_the_training_changes(interrupted):
    resume = interrupted()
    folder = train(
        *resume(dataloader_num_workers=1, per_device_eval_batch_size=2, save_total_limit=1, cuda_graphs="false")
    )
    assert "changed_by_resuming" not in record_of(folder)["training"]
    assert record_of(folder)["training"]["resumed_from"] == "checkpoint-2"


def test_a_run_may_go_on_without_evaluations(interrupted):
    record = record_of(train(*interrupted()(eval_strategy="no")))["training"]
    assert record["changed_by_resuming"] == ["eval_strategy 'epoch', now 'no'"]
    assert record["evaluations"] == []


def test_other_evaluations_are_made_and_not_only_recorded(interrupted):
    resume = interrupted(num_train_epochs=3)
    record = record_of(train(*resume(eval_strategy="steps", eval_steps=2)))["training"]
    assert record["changed_by_resuming"] == ["eval_strategy 'epoch', now 'steps'", "eval_steps None, now 2"]
    assert [one["step"] for one in record["evaluations"]] == [4, 6, 8, 9][: len(record["evaluations"])]
    assert len(record["evaluations"]) >= 3


@pytest.mark.parametrize("kind", ["config file", "copied data", "moved model"])
def test_data_models_and_settings_may_lie_elsewhere(interrupted, arguments, tmp_path, kind):
    given, now = {}, {}
    if kind == "config file":
        (tmp_path / "c.json").write_text(arguments()[0].config)
        now = {"config": {}}  # as JSON; below it is a file
    elif kind == "copied data":
        now = {"dataset": draw_images(tmp_path / "copy")}
    else:
        given = {
            "model": str(train(*arguments("first", dataset=draw_images(tmp_path / "others"), num_train_epochs=1)))
        }
    recipe, args = interrupted(**given)(**now)
    if kind == "config file":
        recipe.config = str(tmp_path / "c.json")
    elif kind == "moved model":
        recipe.model = str(shutil.move(given["model"], tmp_path / "elsewhere"))
    assert "changed_by_resuming" not in record_of(train(recipe, args))["training"]


def test_another_model_or_teacher_of_the_same_name_is_refused(interrupted, arguments, tmp_path):
    data = draw_images(tmp_path / "others")
    first, other = (train(*arguments(f"{seed}/t", dataset=data, num_train_epochs=1, seed=seed)) for seed in (1, 2))
    resume = interrupted(teachers=[str(first)])
    with pytest.raises(ValueError, match="got others: teachers"):
        train(*resume(teachers=[str(other)]))
    shutil.rmtree(tmp_path / "part")
    resume = interrupted(model=str(first))
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1]}))
    with pytest.raises(ValueError, match=r"got others: .*images\.image_mean"):
        train(*resume(model=str(other)))


def test_a_run_does_not_go_on_from_the_weights_of_another_model_or_of_none(interrupted, arguments, tmp_path):
    data = draw_images(tmp_path / "others")
    first, other = (train(*arguments(f"{seed}/t", dataset=data, num_train_epochs=1, seed=seed)) for seed in (1, 2))
    resume = interrupted(model=str(first))
    for model in (str(other), None):
        with pytest.raises(ValueError, match=r"got others: started from\.model '\w+', now "):
            train(*resume(model=model))
    shutil.copytree(first, tmp_path / "copy")
    assert "changed_by_resuming" not in record_of(train(*resume(model=str(tmp_path / "copy"))))["training"]


def test_what_another_release_does_not_know_is_not_compared(interrupted):
    recipe, args = interrupted()()
    file = complete_checkpoints(Path(args.output_dir))[-1] / RUN_FILE
    start = json.loads(file.read_text())
    del start["kept"]["mixup"], start["kept"]["model"]["pooling"], start["changeable"]["max_minutes"]
    start["kept"]["model"]["gone"] = start["kept"]["gone"] = 1
    file.write_text(json.dumps(start))
    assert "changed_by_resuming" not in record_of(train(recipe, args))["training"]


def test_a_damaged_file_of_a_checkpoint_is_named(interrupted):
    recipe, args = interrupted()()
    (complete_checkpoints(Path(args.output_dir))[-1] / RUN_FILE).write_text('{"kept": ')
    with pytest.raises(ValueError, match=r"run\.json, got a damaged file"):
        train(recipe, args)


def test_a_step_may_be_divided_in_another_way(interrupted):
    resume = interrupted(per_device_train_batch_size=12)
    folder = train(*resume(per_device_train_batch_size=6, gradient_accumulation_steps=2))
    assert record_of(folder)["training"]["steps"] == 4


def test_a_step_of_mixed_images_may_not_be_divided_in_another_way(interrupted):
    resume = interrupted(mixup=0.3)
    with pytest.raises(ValueError, match="got others: images of a batch 6, now 3"):
        train(*resume(per_device_train_batch_size=3, gradient_accumulation_steps=2))


@pytest.mark.parametrize(("before", "now"), [("accuracy", "eval_accuracy"), ("eval_accuracy", "accuracy")])
def test_a_metric_is_the_same_with_its_prefix(interrupted, before, now):
    folder = train(*interrupted(metric_for_best_model=before)(metric_for_best_model=now))
    assert "changed_by_resuming" not in record_of(folder)["training"]


def test_time_that_was_spent_before_counts(interrupted):
    recipe, args = interrupted()()
    file = complete_checkpoints(Path(args.output_dir))[-1] / RUN_FILE
    said = json.loads(file.read_text())
    assert 0 < said["seconds"] < 600
    assert said["cpu_seconds"] > 0
    file.write_text(json.dumps({**said, "seconds": 6060.0, "cpu_seconds": 12060.0}))
    found = record_of(train(recipe, args))["training"]
    assert 100 < found["minutes"] < 110
    assert found["cpu_minutes"] > 200


def test_a_checkpoint_of_the_model_alone_is_no_place_to_go_on_from(arguments, callbacks, tmp_path):
    data = draw_images(tmp_path / "images")
    callbacks.append(At(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError, match=r"the model alone, .* by --model .*checkpoint-2\."):
        train(*arguments("part", **SMALL, dataset=data, save_only_model=True))
    callbacks.clear()
    with pytest.raises(ValueError, match=r"state of its optimizer, got .*Start a new run; .* by --model"):
        train(*arguments("part", **SMALL, dataset=data, resume_from_checkpoint="true"))


def test_a_named_checkpoint_that_is_cut_off_is_refused_by_a_sentence(interrupted):
    recipe, args = interrupted()()
    last = complete_checkpoints(Path(args.output_dir))[-1]
    args.resume_from_checkpoint = str(last)
    for name in ("optimizer.pt", "model.safetensors", STATE):
        whole = (last / name).read_bytes()
        (last / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"Expected a complete checkpoint to resume, got .* cut off"):
            train(recipe, args)
        (last / name).write_bytes(whole)
    train(recipe, args)


def test_a_copy_of_a_checkpoint_under_another_name_is_no_newer_one(interrupted):
    recipe, args = interrupted()()
    last = complete_checkpoints(Path(args.output_dir))[-1]
    for name in ("checkpoint-best", "checkpoint-old-9"):
        shutil.copytree(last, last.with_name(name))
    assert complete_checkpoints(Path(args.output_dir))[-1] == last
    train(recipe, args)


def test_a_checkpoint_that_is_not_the_newest_is_named_to_go_on_from(arguments, callbacks, tmp_path):
    options = {**SMALL, "num_train_epochs": 4, "save_total_limit": None}
    for step, more in ((5, {}), (3, {"resume_from_checkpoint": str(tmp_path / "part" / "checkpoint-2")})):
        callbacks.append(At(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(TrainingInterruptedError) as stopped:
            train(*arguments("part", **options, **more))
        callbacks.clear()
    assert str(stopped.value).endswith(f"--resume_from_checkpoint {tmp_path / 'part' / 'checkpoint-4'}.")


def test_a_longer_run_is_recorded_as_what_it_is_also_when_it_stops_again(interrupted, arguments, callbacks):
    resume = interrupted()
    callbacks.append(At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError):
        train(*resume(num_train_epochs=3))
    callbacks.clear()
    folder = train(*resume(num_train_epochs=4))
    record = record_of(folder)["training"]
    assert record["changed_by_resuming"] == ["num_train_epochs 2, now 3", "num_train_epochs 3, now 4"]
    assert record["steps"] == 12


def test_a_checkpoint_from_before_goes_on_with_a_warning(interrupted, caplog):
    recipe, args = interrupted()()
    for file in Path(args.output_dir).rglob(RUN_FILE):
        file.unlink()
    with caplog.at_level(logging.WARNING):
        train(recipe, args)
    assert "is not checked" in caplog.text


def test_checkpoints_say_nothing_about_the_machine_and_the_published_folder_has_no_such_file(arguments, tmp_path):
    folder = train(*arguments(num_train_epochs=1))
    text = (complete_checkpoints(folder)[-1] / RUN_FILE).read_text()
    assert str(tmp_path) not in text
    spent = {"seconds", "cpu_seconds"}
    assert set(json.loads(text)) == {"kept", "of_evaluations", "changeable", "changed", "evaluation_due", *spent}
    assert not (folder / RUN_FILE).exists()


def test_data_may_be_moved_but_not_changed(arguments, callbacks, tmp_path):
    draw_images(tmp_path / "here")
    callbacks.append(At(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    options = {**SMALL, "per_device_train_batch_size": 6}
    with pytest.raises(TrainingInterruptedError):
        train(*arguments("part", **options, dataset=str(tmp_path / "here")))
    callbacks.clear()
    (tmp_path / "there").mkdir()
    moved = shutil.move(tmp_path / "here", tmp_path / "there" / "here")
    options |= {"resume_from_checkpoint": "true", "dataset": str(moved)}
    added = Path(moved, "dark", "99.png")
    PilImage.new("L", (8, 8), 99).save(added)
    with pytest.raises(ValueError, match=r"got others: .*data\.\w+\.rows \d+, now \d+"):
        train(*arguments("part", **options))
    added.unlink()
    Path(moved, "dark", "3.png").rename(Path(moved, "dark", "33.png"))
    with pytest.raises(ValueError, match=r"got others: data\.\w+\.content '\w+'?.*, now"):
        train(*arguments("part", **options))
    Path(moved, "dark", "33.png").rename(Path(moved, "dark", "3.png"))
    train(*arguments("part", **options))


@pytest.mark.parametrize("step", [4, 5, 6])
@pytest.mark.parametrize("schedule", ["cosine", "reduce_lr_on_plateau"])
def test_the_evaluation_due_at_the_step_of_a_signal_is_made_and_no_other(arguments, callbacks, step, schedule):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    options |= {"lr_scheduler_type": schedule, "num_train_epochs": 3, "save_total_limit": None}
    whole = train(*arguments("whole", **options))
    callbacks.append(At(step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError, match=f"stopped at step {step} of 9"):
        train(*arguments("part", **options))
    callbacks.clear()
    state = json.loads((Path(arguments("part")[1].output_dir) / f"checkpoint-{step}" / STATE).read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_accuracy" in entry] == [2, 4, 6][: step // 2]
    resumed = train(*arguments("part", resume_from_checkpoint="true", **options))
    first, second = (record_of(folder)["training"] for folder in (whole, resumed))
    scores = [[(one["step"], one["accuracy"]) for one in record["evaluations"]] for record in (first, second)]
    assert scores[0] == scores[1]
    assert first["chosen_step"] == second["chosen_step"]
    assert same(weights_of(whole), weights_of(resumed))
    assert same(weights_of(whole / "checkpoint-8"), weights_of(resumed / "checkpoint-8"))


@pytest.mark.parametrize(("step", "strategy"), [(4, "steps"), (3, "epoch")])
def test_a_signal_saves_a_step_that_is_not_the_best(arguments, callbacks, monkeypatch, step, strategy):
    monkeypatch.setattr(OmniVisionTrainer, "_determine_best_metric", lambda *args, **kwargs: False)
    callbacks.append(At(step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    recipe, args = arguments("part", save_strategy="best", eval_strategy=strategy, eval_steps=2)
    with pytest.raises(TrainingInterruptedError, match=f"saved checkpoint-{step}"):
        train(recipe, args)
    assert [folder.name for folder in complete_checkpoints(Path(args.output_dir))] == [f"checkpoint-{step}"]


def test_the_checkpoint_is_on_disk_before_the_evaluation_begins(arguments, callbacks, monkeypatch):
    recipe, args = arguments("part", eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)

    def fail(*given, **options):
        raise KeyboardInterrupt

    def stop():
        monkeypatch.setattr(OmniVisionTrainer, "evaluate", fail)
        os.kill(os.getpid(), signal.SIGTERM)

    callbacks.append(At(1, stop))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, args)
    assert [folder.name for folder in complete_checkpoints(Path(args.output_dir))] == ["checkpoint-2"]


def test_a_step_that_was_the_best_when_the_signal_came_is_what_the_run_ends_with(arguments, callbacks, monkeypatch):
    scores = iter([0.1, 0.9, 0.5, 0.5])
    monkeypatch.setattr(
        "modeling_omni_vision.training.trainer.accuracies",
        lambda prediction: {"accuracy": next(scores, 0.5), "balanced_accuracy": 0.5, "loss": 1.0},
    )
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    callbacks.append(At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError, match="stopped at step 4"):
        train(*arguments("part", **options, num_train_epochs=3, save_total_limit=1))
    callbacks.clear()
    more = {"num_train_epochs": 3, "save_total_limit": 1, "resume_from_checkpoint": "true"}
    folder = train(*arguments("part", **options, **more))
    assert record_of(folder)["training"]["chosen_step"] == 4
    assert same(weights_of(folder), weights_of(folder / "checkpoint-4"))


@pytest.mark.parametrize("how", ["moved", "another folder"])
def test_the_best_checkpoint_is_found_where_a_run_was_moved(arguments, callbacks, monkeypatch, tmp_path, how):
    scores = iter([0.9, 0.1, 0.2])
    monkeypatch.setattr(
        "modeling_omni_vision.training.trainer.accuracies",
        lambda prediction: {"accuracy": next(scores), "balanced_accuracy": 0.5, "loss": 1.0},
    )
    options = {"num_train_epochs": 3, "save_total_limit": None}
    callbacks.append(At(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError, match="stopped at step 9 of 9"):
        train(*arguments("part", **options))
    callbacks.clear()
    moved = shutil.move(tmp_path / "part", tmp_path / "moved")
    resume = "true" if how == "moved" else str(Path(moved, "checkpoint-9"))
    folder = train(*arguments("moved" if how == "moved" else "new", resume_from_checkpoint=resume, **options))
    assert record_of(folder)["training"]["chosen_step"] == 3
    assert same(weights_of(folder), weights_of(Path(moved, "checkpoint-3")))


@pytest.fixture
def scores(monkeypatch):
    """Return a function that sets what the next evaluations say."""

    def say(*values):
        left = iter(values)
        monkeypatch.setattr(
            "modeling_omni_vision.training.trainer.accuracies",
            lambda prediction: {"accuracy": next(left), "balanced_accuracy": 0.5, "loss": 1.0},
        )

    return say


def stopped_at(step, callbacks, given):
    """Train until the end of the step after one, at whose end the signal comes."""
    callbacks.append(At(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError):
        train(*given)
    callbacks.clear()


def test_of_a_best_checkpoint_that_is_gone_nothing_is_said(arguments, callbacks, scores, tmp_path, caplog):
    scores(0.9, 0.1, 0.4, 0.2)
    options = {"num_train_epochs": 4}
    stopped_at(7, callbacks, arguments("part", **options))
    (tmp_path / "copy").mkdir()
    shutil.move(tmp_path / "part" / "checkpoint-8", tmp_path / "copy" / "checkpoint-8")
    shutil.rmtree(tmp_path / "part")
    folder = train(*arguments("new", **options, resume_from_checkpoint=str(tmp_path / "copy" / "checkpoint-8")))
    found = record_of(folder)["training"]
    assert "that of step 3, is not beside" in caplog.text
    assert (found["chosen_step"], found["best_epoch"], found["validation_accuracy"]) == (9, 3, 0.4)
    assert same(weights_of(folder), weights_of(folder / "checkpoint-9"))


def test_the_best_checkpoint_is_not_that_of_another_run_in_the_old_place(arguments, callbacks, scores, tmp_path):
    scores(0.9, 0.1, 0.2)
    options = {"num_train_epochs": 3, "save_total_limit": None}
    stopped_at(9, callbacks, arguments("part", **options))
    shutil.move(tmp_path / "part", tmp_path / "moved")
    scores(0.9, 0.1, 0.2)
    train(*arguments("part", **options, seed=7))
    folder = train(*arguments("moved", **options, resume_from_checkpoint="true"))
    assert record_of(folder)["training"]["chosen_step"] == 3
    assert same(weights_of(folder), weights_of(folder / "checkpoint-3"))


@pytest.mark.parametrize("better", [True, False])
def test_the_accuracy_recorded_is_that_of_the_weights_that_are_kept(arguments, scores, better):
    scores(0.9, 0.1)
    found = record_of(train(*arguments("run", load_best_model_at_end=better)))["training"]
    expected = (3, 1, 0.9) if better else (6, 2, 0.1)
    assert (found["chosen_step"], found["best_epoch"], found["validation_accuracy"]) == expected


def test_workers_that_stay_leave_a_resumed_run_exact(arguments, callbacks):
    config = {"hidden_dropout_prob": 0.3}
    options = {"num_train_epochs": 3, "dataloader_num_workers": 1, "dataloader_persistent_workers": True, "flip": True}
    whole = train(*arguments("whole", config, **options))
    stopped_at(2, callbacks, arguments("part", config, **options))
    resumed = train(*arguments("part", config, **options, resume_from_checkpoint="true"))
    assert same(weights_of(whole), weights_of(resumed))


def test_a_run_that_its_time_has_ended_is_not_trained_further(arguments):
    options = {"max_minutes": 1e-6, "num_train_epochs": 2}
    folder = train(*arguments("part", **options))
    first = record_of(folder)["training"]
    (folder / "metrics.json").unlink()
    second = record_of(train(*arguments("part", **options, resume_from_checkpoint="true")))["training"]
    assert first["steps"] == second["steps"] == 1
    for one in (first, second):
        assert [entry["step"] for entry in one["evaluations"]] == [1]


def test_all_images_are_validated_where_incomplete_batches_are_dropped(arguments):
    options = {"num_train_epochs": 1, "dataloader_drop_last": True, "per_device_eval_batch_size": 32}
    found = record_of(train(*arguments("run", **options)))["training"]
    plain = record_of(train(*arguments("plain", **{**options, "dataloader_drop_last": False})))["training"]
    assert found["evaluations"] == plain["evaluations"]
    assert len(found["evaluations"]) == 1


@pytest.mark.parametrize("options", [{"num_train_epochs": 1.5}, {"max_steps": 5}], ids=str)
@pytest.mark.parametrize("ended", ["by a signal", "while it measured"])
def test_a_run_that_was_complete_within_an_epoch_is_not_trained_further(
    arguments, callbacks, monkeypatch, options, ended
):
    whole = train(*arguments("whole", **options))
    if ended == "by a signal":
        callbacks.append(At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(TrainingInterruptedError, match="stopped at step 5 of 5"):
            train(*arguments("part", **options))
        callbacks.clear()
    else:
        (train(*arguments("part", **options)) / "metrics.json").unlink()
    resumed = train(*arguments("part", resume_from_checkpoint="true", **options))
    first, second = (record_of(folder)["training"] for folder in (whole, resumed))
    assert [one["step"] for one in first["evaluations"]] == [one["step"] for one in second["evaluations"]] == [3, 5]
    assert first["steps"] == second["steps"] == 5
    assert same(weights_of(whole), weights_of(resumed))


def test_an_evaluation_that_a_killed_process_left_out_is_made_before_the_next_step(arguments, callbacks, monkeypatch):
    options = {"num_train_epochs": 2, "save_total_limit": None}
    whole = train(*arguments("whole", **options))
    original = OmniVisionTrainer.evaluate

    def fail(*given, **more):
        raise KeyboardInterrupt

    def stop():
        monkeypatch.setattr(OmniVisionTrainer, "evaluate", fail)
        os.kill(os.getpid(), signal.SIGTERM)

    callbacks.append(At(2, stop))
    with pytest.raises(KeyboardInterrupt):
        train(*arguments("part", **options))
    callbacks.clear()
    monkeypatch.setattr(OmniVisionTrainer, "evaluate", original)
    resumed = train(*arguments("part", resume_from_checkpoint="true", **options))
    first, second = (record_of(folder)["training"] for folder in (whole, resumed))
    assert [(one["step"], one["accuracy"]) for one in first["evaluations"]] == [
        (one["step"], one["accuracy"]) for one in second["evaluations"]
    ]
    assert first["chosen_step"] == second["chosen_step"]
    assert same(weights_of(whole), weights_of(resumed))


def test_a_signal_in_the_last_evaluation_stops_before_anything_is_measured(arguments, callbacks, monkeypatch):
    original, count = OmniVisionTrainer.evaluate, iter(range(9))

    def evaluate(self, *given, **options):
        if next(count) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *given, **options)

    monkeypatch.setattr(OmniVisionTrainer, "evaluate", evaluate)
    recipe, args = arguments("part")
    with pytest.raises(TrainingInterruptedError, match="stopped at step 6 of 6"):
        train(recipe, args)
    assert not (Path(args.output_dir) / "metrics.json").exists()
    folder = train(*arguments("part", resume_from_checkpoint="true"))
    assert [one["step"] for one in record_of(folder)["training"]["evaluations"]] == [3, 6]


def rows(paths, labels, texts, held=None, names=("a", "b")):
    """Return rows of images, texts and labels."""
    features = Features(
        {"image": Image(decode=False), "label": ClassLabel(names=list(names)), "text": Value("string")}
    )
    images = [{"path": name, "bytes": held} for name in paths]
    return Dataset.from_dict({"image": images, "label": labels, "text": texts}, features=features)


def test_a_digest_changes_with_order_names_labels_texts_and_sizes_but_not_with_the_place():
    known = describe_rows(rows(["/one/x/1.png", "/one/y/2.png"], [0, 1], ["p", "q"]))
    assert describe_rows(rows(["/other/place/x/1.png", "/other/place/y/2.png"], [0, 1], ["p", "q"])) == known
    others = [
        rows(["/one/y/2.png", "/one/x/1.png"], [0, 1], ["p", "q"]),
        rows(["/one/z/1.png", "/one/y/2.png"], [0, 1], ["p", "q"]),
        rows(["/one/x/a/1.png", "/one/y/a/2.png"], [0, 1], ["p", "q"]),
        rows(["/one/x/1.png", "/one/y/2.png"], [1, 1], ["p", "q"]),
        rows(["/one/x/1.png", "/one/y/2.png"], [0, 1], ["p", "r"]),
        rows(["/one/x/1.png", "/one/y/2.png"], [0, 1], ["p", "q"], held=b"123"),
        rows(["/one/x/1.png", "/one/y/2.png"], [0, 1], ["p", "q"], held=b"124"),
        rows(["/one/x/1.png", "/one/y/2.png"], [0, 1], ["p", "q"], names=["b", "a"]),
    ]
    found = [describe_rows(one)["content"] for one in others]
    assert len({known["content"], *found}) == len(others) + 1
    assert known["rows"] == 2


def test_a_digest_sees_images_without_compression_whose_ends_are_alike():
    for side, mode, kind in ((28, "L", "PPM"), (64, "L", "PPM"), (64, "RGB", "BMP"), (128, "RGB", "PPM")):
        found = []
        for box in ((0, 0, 0, 0), (side // 3, side // 3, 2 * side // 3, 2 * side // 3)):
            content, image = io.BytesIO(), PilImage.new(mode, (side, side), "white")
            image.paste("black", box)
            image.save(content, kind)
            found.append(describe_rows(rows(["/x/1", "/x/2"], [0, 1], ["p", "q"], held=content.getvalue())))
        assert found[0] != found[1]


def test_a_digest_does_not_know_where_a_row_was_found():
    found = [
        Dataset.from_dict({"text": ["a"], "source": [f"line 1 of {place}/a.jsonl"]}) for place in ("/one", "/other")
    ]
    assert describe_rows(found[0]) == describe_rows(found[1])


def test_a_digest_follows_the_rows_chosen():
    whole = rows(["/x/1.png", "/x/2.png", "/x/3.png"], [0, 1, 0], ["p", "q", "r"])
    part = rows(["/x/3.png", "/x/1.png"], [0, 0], ["r", "p"])
    assert describe_rows(whole.select([2, 0])) == describe_rows(part)


def test_a_digest_is_the_same_however_many_rows_are_looked_at_at_a_time(monkeypatch):
    whole = rows([f"/x/{number % 3}/{number}.png" for number in range(50)], [0, 1] * 25, ["p"] * 50, held=b"1" * 99)
    found = [describe_rows(one) for one in (whole, whole.shuffle(seed=0), whole.select(range(3, 40)))]
    assert len({one["content"] for one in found}) == 3
    again = whole.select(range(50)).flatten_indices()
    assert describe_rows(again) == found[0]


def test_a_digest_of_lists_of_images_reads_their_names_and_sizes_alone():
    def lists(place, *rows):
        found = [[{"path": f"{place}/{name}", "bytes": None} for name in row] for row in rows]
        return Dataset.from_dict({"images": found}, features=Features({"images": List(Image(decode=False))}))

    known = describe_rows(lists("/one/x", ["1.png", "2.png"], [], ["3.png"]))
    assert describe_rows(lists("/other/x", ["1.png", "2.png"], [], ["3.png"])) == known
    assert describe_rows(lists("/one/x", ["1.png"], ["2.png"], ["3.png"]))["content"] != known["content"]
    more = lists("/one/x", ["3.png"], ["1.png", "2.png"], ["4.png"], [])
    assert describe_rows(more.select([1, 3, 0])) == known


def test_a_digest_of_values_tells_where_one_ends():
    assert digest(["ab", "c"])["digest"] != digest(["a", "bc"])["digest"]
    assert digest([])["rows"] == 0
