import json
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Image, load_from_disk
from runs import At, record_of, same, weights_of
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainerCallback

from modeling_omni_vision.evaluation.evaluate import evaluate
from modeling_omni_vision.evaluation.test_split import LOCK_FILE, SplitRefusedError, create_lock
from modeling_omni_vision.training import classification as run_module
from modeling_omni_vision.training import skeleton
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.averaging import TRAINED_WEIGHTS_FILE
from modeling_omni_vision.training.checkpoints import find_checkpoint, held
from modeling_omni_vision.training.classification import build_model, train
from modeling_omni_vision.training.interruption import TrainingInterruptedError, is_news
from modeling_omni_vision.training.resumption import RUN_FILE
from modeling_omni_vision.training.skeleton import NonFiniteLossError
from modeling_omni_vision.training.trainer import OmniVisionTrainer


# Everything that draws random numbers in training, at once.
RANDOM = {
    "max_translate": 1,
    "flip": True,
    "rand_augment": 5,
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "muon_learning_rate": 0.02,
    "mimetic_init": True,
    "ema_decay": 0.9,
    "label_smoothing_factor": 0.1,
}


@pytest.fixture(scope="module")
def trained(tiny_source, tmp_path_factory):
    """A run of two steps."""
    config = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 2}
    recipe = RecipeArguments(dataset=str(tiny_source), config=json.dumps({**config, "intermediate_size": 32}))
    options = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "do_predict": False}
    return train(recipe, OmniVisionTrainingArguments(str(tmp_path_factory.mktemp("trained") / "run"), **options))


def test_a_run_learns_and_leaves_a_folder_that_opens_anywhere(arguments):
    folder = train(*arguments(num_train_epochs=20, learning_rate=3e-3, config={"drop_path_rate": 0.0}))
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert model.config.id2label == {0: "dark", 1: "grey", 2: "light"}
    assert processor.size == {"height": 8, "width": 8}
    assert processor.num_channels == 1
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "metrics.json"} <= files
    assert {"modeling_omni_vision.py", "configuration_omni_vision.py", "image_processing_omni_vision.py"} <= files
    assert not list(folder.rglob("training_args.bin"))
    record = record_of(folder)
    assert record["training"]["validation_accuracy"] == 1.0
    assert record["test"] == {
        "accuracy": 1.0,
        "accuracy_interval": [1.0, 1.0],
        "loss": record["test"]["loss"],
        "images": 9,
    }


def test_the_record_tells_how_the_numbers_were_made_and_nothing_about_this_machine(arguments, tmp_path):
    folder = train(*arguments(mixup=0.2, seed=3, num_train_epochs=2))
    text, training = (folder / "metrics.json").read_text(), record_of(folder)["training"]
    assert str(tmp_path) not in text
    assert os.path.expanduser("~") not in text
    assert "NaN" not in text
    assert training["command"].startswith("omni-vision train --dataset tiny ")
    assert "--mixup 0.2" in training["command"]
    assert "--seed 3" in training["command"]
    assert training["arguments"]["config"]["image_size"] == 8
    assert training["dataset"] == {
        "name": "tiny",
        "classes": ["dark", "grey", "light"],
        "train": 36,
        "validation": 9,
        "test": 9,
    }
    assert [entry["step"] for entry in training["history"]] == [1, 2, 3, 4, 5, 6]
    assert [entry["epoch"] for entry in training["evaluations"]] == [1, 2]
    assert training["validation_accuracy"] == max(entry["accuracy"] for entry in training["evaluations"])
    assert training["epochs"] == 2
    assert training["parameters"] == sum(weight.numel() for weight in weights_of(folder).values())


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(arguments):
    first, again, other = (train(*arguments(f"run{i}", seed=seed, **RANDOM)) for i, seed in enumerate((1, 1, 2)))
    assert same(weights_of(first), weights_of(again))
    assert not same(weights_of(first), weights_of(other))


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(arguments, step):
    options = {**RANDOM, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False}
    options |= {"num_train_epochs": 3, "save_total_limit": None}
    whole = train(*arguments("whole", **options))
    part = Path(arguments("part")[1].output_dir)
    shutil.copytree(whole / f"checkpoint-{step}", part / f"checkpoint-{step}")
    resumed = train(*arguments("part", resume_from_checkpoint="true", **options))
    assert same(weights_of(whole), weights_of(resumed))
    for name in ("model.safetensors", TRAINED_WEIGHTS_FILE):
        assert same(weights_of(whole / "checkpoint-9", name), weights_of(resumed / "checkpoint-9", name))
    assert record_of(resumed)["training"]["resumed_from"] == f"checkpoint-{step}"


def test_evaluation_does_not_change_what_training_does(arguments):
    options = {**RANDOM, "load_best_model_at_end": False, "num_train_epochs": 3, "save_strategy": "no"}
    often = train(*arguments("often", eval_strategy="steps", eval_steps=1, **options))
    seldom = train(*arguments("seldom", **options))
    assert same(weights_of(often), weights_of(seldom))


def test_sigterm_at_the_end_of_an_epoch_still_evaluates_that_epoch(arguments, callbacks):
    callbacks.append(At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterruptedError, match="stopped at step 3 of 6"):
        train(*arguments("part"))
    state = json.loads((Path(arguments("part")[1].output_dir) / "checkpoint-3" / "trainer_state.json").read_text())
    assert [entry["epoch"] for entry in state["log_history"] if "eval_accuracy" in entry] == [1.0]


def test_with_averaging_checkpoints_and_the_end_hold_the_average(arguments):
    folder = train(*arguments(ema_decay=0.9, num_train_epochs=2, load_best_model_at_end=False))
    checkpoint = folder / "checkpoint-6"
    trained = weights_of(checkpoint, TRAINED_WEIGHTS_FILE)
    trained.pop("average.updates")
    assert not same(weights_of(checkpoint), trained)
    assert same(weights_of(folder), weights_of(checkpoint))


def test_the_run_ends_with_the_weights_that_were_best_on_validation(arguments, monkeypatch):
    scores = iter([0.9, 0.1, 0.5])
    monkeypatch.setattr(
        "modeling_omni_vision.training.trainer.accuracies",
        lambda prediction: {"accuracy": next(scores, 0.0), "balanced_accuracy": 0.5, "loss": 1.0},
    )
    folder = train(*arguments(num_train_epochs=3, save_total_limit=None))
    assert same(weights_of(folder), weights_of(folder / "checkpoint-3"))
    assert record_of(folder)["training"]["best_epoch"] == 1


@pytest.mark.parametrize("metric", ["loss", "eval_loss"])
def test_the_lowest_loss_is_the_best_and_evaluate_accepts_the_weights_of_that_epoch(arguments, monkeypatch, metric):
    losses = iter([0.9, 0.1, 0.5])
    scores = {"accuracy": 0.5, "balanced_accuracy": 0.5}
    monkeypatch.setattr(
        "modeling_omni_vision.training.trainer.accuracies", lambda prediction: {**scores, "loss": next(losses, 0.0)}
    )
    folder = train(*arguments(num_train_epochs=3, save_total_limit=None, metric_for_best_model=metric))
    assert same(weights_of(folder), weights_of(folder / "checkpoint-6"))
    assert record_of(folder)["training"]["best_epoch"] == 2


@pytest.mark.parametrize(("metric", "near"), [("accuracies", "accuracy"), ("f1", None), ("eval_los", "loss")])
def test_an_unknown_metric_is_answered_before_training(arguments, monkeypatch, metric, near):
    monkeypatch.setattr(OmniVisionTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    message = f"one of accuracy, balanced_accuracy, loss, got '{metric}'" + (f".*Did you mean {near}" if near else "")
    with pytest.raises(ValueError, match=message):
        train(*arguments(metric_for_best_model=metric))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_an_evaluation_that_is_not_finite_stops_before_its_checkpoint(arguments, monkeypatch, name, value):
    found = iter([{"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": 1.0, name: value}])
    monkeypatch.setattr(
        "modeling_omni_vision.training.trainer.accuracies", lambda _: {"balanced_accuracy": 0.5, **next(found)}
    )
    with pytest.raises(
        NonFiniteLossError, match=f"finite eval_{name}, got {value} at step 6. Earlier checkpoints are"
    ):
        train(*arguments(num_train_epochs=3, save_total_limit=None))
    folder = Path(arguments()[1].output_dir)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-3"]


def test_weights_that_overflow_are_not_saved_and_no_checkpoint_is_called_intact(arguments, callbacks):
    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model, **kwargs):
            if state.global_step == 2:  # the last step of the first epoch
                model.classifier.weight.data[0, 0] = float("inf")

    callbacks.append(Overflow())
    for name, options in (("evaluated", {}), ("not", {"eval_strategy": "no"})):
        with pytest.raises(NonFiniteLossError, match="Expected a finite") as stopped:
            train(*arguments(name, **options))
        assert "intact" not in str(stopped.value)
        assert not list(Path(arguments(name)[1].output_dir).rglob("*.safetensors"))


def test_a_second_run_replaces_the_first_only_when_told_so(arguments):
    options = {"num_train_epochs": 1, "do_predict": False, "learning_rate": 1e-2}
    first = weights_of(train(*arguments(**options)))
    with pytest.raises(ValueError, match=r"finished run\. Choose .* --overwrite_output_dir true"):
        train(*arguments(**options))
    options |= {"overwrite_output_dir": True, "seed": 5}
    with pytest.raises(ValueError, match="validation_fraction"):
        train(*arguments(validation_fraction=-1, dataset="digits", **options))

    def die(*args, **kwargs):
        raise RuntimeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmniVisionTrainer, "training_step", die)
        with pytest.raises(RuntimeError):
            train(*arguments(**options))
    folder = Path(arguments()[1].output_dir)
    assert same(weights_of(folder), first)  # brought back
    assert not same(weights_of(train(*arguments(**options))), first)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["thesis.tex", "photos/a.png", "no run"])
def test_only_a_run_and_nothing_else_is_replaced(arguments, name):
    folder = Path(arguments()[1].output_dir)
    folder.mkdir()
    if name != "no run":
        (folder / "checkpoint-3").mkdir()
    mine = folder / ("README.md" if name == "no run" else name)
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match="`overwrite_output_dir` replaces runs"):
        train(*arguments(overwrite_output_dir=True))
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("error", [PermissionError, NotImplementedError, OSError])
def test_a_file_system_without_hard_links_opens_the_test_split_once_too(arguments, monkeypatch, error):
    def refuse(*args):
        raise error("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = train(*arguments(num_train_epochs=1))
    assert json.loads((folder / LOCK_FILE).read_text())["images"] == 9
    assert not create_lock(folder / LOCK_FILE, {})


def test_the_residual_stream_stays_centred_with_averaging_too_unless_told_otherwise(arguments):
    for centred in (True, False):
        folder = train(*arguments(f"run{centred}", center_residual=centred, ema_decay=0.9, num_train_epochs=5))
        mean = AutoModelForImageClassification.from_pretrained(folder).residual_mean()
        # Rounding of means of 16 float32 weights below 1; without centring AdamW moves them by its learning rate.
        assert (mean < 1e-7) == centred, mean


def test_gradient_accumulation_gives_the_same_losses(arguments):
    # Augmentation belongs to the row, so that two halves of a batch are changed as the whole is; mixing belongs to
    # the batch and is left out, dropout and drop-path draw from one generator and are switched off.
    options = {
        "rand_augment": 9,
        "max_translate": 1,
        "flip": True,
        "random_erasing": 0.5,
        "label_smoothing_factor": 0.1,
    }
    config = dict.fromkeys(("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    losses = []
    for name, size, steps in (("whole", 12, 1), ("parts", 4, 3)):
        folder = train(
            *arguments(name, config, per_device_train_batch_size=size, gradient_accumulation_steps=steps, **options)
        )
        losses.append([entry["loss"] for entry in record_of(folder)["training"]["history"]])
    # float32 means of 12 losses around 1.1 in another order: 1e-7 a step, which Adam's first steps enlarge.
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)


def test_validation_loss_is_not_smoothed(arguments):
    options = {"num_train_epochs": 1, "learning_rate": 0.0}
    plain = record_of(train(*arguments("plain", **options)))
    smoothed = record_of(train(*arguments("smooth", label_smoothing_factor=0.5, **options)))
    assert plain["training"]["evaluations"] == smoothed["training"]["evaluations"]


def test_the_test_split_is_opened_once_and_after_training(arguments, monkeypatch):
    opened = []
    evaluate_on, predict = OmniVisionTrainer.evaluate, run_module.predict

    def watch_validation(self, *args, **kwargs):
        opened.append(kwargs.get("metric_key_prefix", "eval"))
        return evaluate_on(self, *args, **kwargs)

    def watch_test(*args):
        folder = Path(arguments()[1].output_dir)
        assert set(record_of(folder)) == {"training"}
        assert same(dict(args[0].state_dict()), weights_of(folder))
        opened.append("test")
        return predict(*args)

    monkeypatch.setattr(OmniVisionTrainer, "evaluate", watch_validation)
    monkeypatch.setattr(run_module, "predict", watch_test)
    recipe, args = arguments()
    folder = train(recipe, args)
    assert opened == ["eval", "eval", "test"]
    record, lock = record_of(folder), json.loads((folder / LOCK_FILE).read_text())
    assert record["test_opened"] == {**lock, "accuracy": record["test"]["accuracy"]}
    assert lock["command"] == record["training"]["command"]
    for resume in (None, "true"):
        args.resume_from_checkpoint = resume
        with pytest.raises(ValueError, match="finished run"):
            train(recipe, args)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_script_that_evaluates_finds_the_same_accuracy_again(arguments, tiny_source, bf16, caplog):
    # Autocast changes logits in the third digit: at a learning rate of 0 that would flip answers.
    folder = train(*arguments(bf16=bf16, learning_rate=0.0, num_train_epochs=1))
    test = record_of(folder)["test"]
    found = evaluate(folder, str(tiny_source), "test").metrics
    assert "reproduction" in caplog.text
    assert [found[name] for name in ("accuracy", "accuracy_interval", "nll", "num_examples")] == list(test.values())


@pytest.fixture
def closed_source(tiny_source, tmp_path):
    """The tiny dataset with a test split whose images cannot be read, though its labels can."""
    data = load_from_disk(str(tiny_source)).cast_column("image", Image(decode=False))
    labels = data["test"]["label"][:]
    broken = {"image": [{"bytes": b"closed", "path": None}] * len(labels), "label": labels}
    data["test"] = Dataset.from_dict(broken, features=data["test"].features)
    data.save_to_disk(tmp_path / "closed")
    return str(tmp_path / "closed")


def test_a_trial_run_reads_no_image_of_the_test_split(arguments, closed_source):
    folder = train(*arguments("trial", dataset=closed_source, do_predict=False))
    assert set(record_of(folder)) == {"training"}
    assert "--do_predict false" in record_of(folder)["training"]["command"]
    assert not (folder / LOCK_FILE).exists()
    with pytest.raises(ValueError, match="cannot be read"):
        train(*arguments("final", dataset=closed_source))


def test_a_trial_run_that_was_chosen_is_tested_by_the_script_that_evaluates(arguments, tiny_source):
    folder = train(*arguments(do_predict=False))
    found = evaluate(folder, str(tiny_source), "test").metrics
    assert record_of(folder)["test_opened"]["accuracy"] == found["accuracy"]
    assert (folder / LOCK_FILE).is_file()


def test_nothing_of_a_run_is_lost_when_its_test_split_must_stay_closed(arguments, monkeypatch):
    folder = train(*arguments(load_best_model_at_end=False))
    lock = (folder / LOCK_FILE).read_bytes()
    # Somebody who did not like the result takes the numbers away and trains on.
    (folder / "metrics.json").unlink()
    before = weights_of(folder)
    monkeypatch.setattr(run_module, "predict", lambda *args: pytest.fail("the test split was read"))
    with pytest.raises(SplitRefusedError, match="other weights"):
        train(*arguments(resume_from_checkpoint="true", num_train_epochs=3, load_best_model_at_end=False))
    assert not same(weights_of(folder), before)
    assert AutoModelForImageClassification.from_pretrained(folder).config.num_labels == 3
    assert set(record_of(folder)) == {"training"}
    assert record_of(folder)["training"]["steps"] == 9
    assert (folder / LOCK_FILE).read_bytes() == lock


def test_a_run_that_died_while_it_was_tested_is_tested_by_the_script_that_evaluates(
    arguments, tiny_source, monkeypatch
):
    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "predict", die)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments())
    folder = Path(arguments()[1].output_dir)
    assert set(record_of(folder)) == {"training"}
    found = evaluate(folder, str(tiny_source), "test").metrics
    assert record_of(folder)["test_opened"]["accuracy"] == found["accuracy"]
    assert record_of(folder)["test_opened"]["command"] == record_of(folder)["training"]["command"]


def test_a_folder_with_something_in_it_is_not_written_over(arguments):
    recipe, args = arguments()
    Path(args.output_dir).mkdir()
    (Path(args.output_dir) / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="Expected an empty --output_dir"):
        train(recipe, args)
    assert [path.name for path in Path(args.output_dir).iterdir()] == ["thesis.txt"]


def test_an_unfinished_checkpoint_is_passed_over(tmp_path, caplog):
    assert find_checkpoint(tmp_path, "true") is None
    assert "starts at the beginning" in caplog.text
    for step, complete in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        torch.save({}, tmp_path / f"checkpoint-{step}" / "optimizer.pt")
        if complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert find_checkpoint(tmp_path, "True") == tmp_path / "checkpoint-10"
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-9")) == tmp_path / "checkpoint-9"
    with pytest.raises(ValueError, match=r"complete checkpoint to resume, got .*checkpoint-11"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-11"))


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state.pth"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_checkpoint_with_a_file_that_is_cut_off_is_passed_over_and_named(name, share, tmp_path, caplog):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text('{"global_step": 9}')
        save_file({"a": torch.ones(9)}, folder / "model.safetensors")
        for file in ("optimizer.pt", "rng_state.pth"):
            torch.save({"a": torch.ones(9)}, folder / file)
    assert find_checkpoint(tmp_path, "true") == tmp_path / "checkpoint-10"
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    assert find_checkpoint(tmp_path, "true") == tmp_path / "checkpoint-9"
    assert f"passed over: {folder}" in caplog.text


def test_one_folder_is_for_one_training_at_a_time_and_no_lock_stays(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with held(tmp_path / "run", first=True), held(tmp_path / "other", first=True), held(tmp_path / "run", first=False):
        (tmp_path / "link").symlink_to(tmp_path / "run")
        for again in ("run", "link"):
            with pytest.raises(ValueError, match="got another at work"), held(tmp_path / again, first=True):
                pytest.fail("two trainings hold one folder")
    with held(tmp_path / "run", first=True):
        assert len([*(tmp_path / "temporary").iterdir()]) == 1
    assert not any((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("mtime may not be reliable on this filesystem, falling back to numerical ordering", False),
        ("Warning: these do not match:\n\tlogging_steps: 0.02 (from args) != 1 (from trainer_state.json)", False),
        ("Warning: these do not match:\n\tlogging_steps: 0.02 (from args) != 1\n\tsave_steps: 5 != 2", True),
        ("Warning: these do not match:\n\tper_device_train_batch_size: 8 (from args) != 4", True),
        ("Could not locate the best model", True),
    ],
)
def test_warnings_of_the_trainer_that_say_nothing_are_left_out(said, is_told):
    assert is_news(logging.LogRecord("transformers", logging.WARNING, "", 0, said, (), None)) is is_told


def test_resuming_with_another_average_is_refused(arguments):
    options = {"save_strategy": "steps", "save_steps": 2}
    recipe, args = arguments(**options, load_best_model_at_end=False)
    folder = train(recipe, args)
    (folder / "metrics.json").unlink()
    for file in folder.rglob(RUN_FILE):  # which says it first; older checkpoints have none
        file.unlink()
    with pytest.raises(ValueError, match="with averaged weights"):
        train(*arguments(ema_decay=0.9, resume_from_checkpoint="true", load_best_model_at_end=False, **options))


def test_training_can_start_from_a_checkpoint_and_keeps_its_head_for_the_same_classes(arguments):
    first = train(*arguments("first"))
    recipe, _ = arguments(model=str(first))
    model, processor = build_model(recipe, ["dark", "grey", "light"])
    assert same(dict(model.state_dict()), weights_of(first))
    assert processor.num_channels == 1


@pytest.mark.parametrize("classes", [["dark", "grey", "light"], ["cat", "dog"]])
def test_a_checkpoint_for_another_image_size_has_its_positions_interpolated(arguments, caplog, classes):
    first = train(*arguments("first"))
    recipe, _ = arguments(model=str(first), config={"image_size": 12})
    model, processor = build_model(recipe, classes)
    assert processor.size == {"height": 12, "width": 12}
    assert model.config.image_size_hw == (12, 12)
    assert "interpolated, from images of (8, 8) to (12, 12)" in caplog.text
    before = AutoModelForImageClassification.from_pretrained(first)
    pixels = torch.rand(2, 1, 12, 12)
    expected = before.omni_vision(pixels).last_hidden_state
    assert torch.equal(model.omni_vision.eval()(pixels).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("field", "value", "own"),
    [
        *(("patch_size", 2, 4), ("num_channels", 3, 1), ("hidden_size", 32, 16), ("intermediate_size", 64, 32)),
        *(("num_hidden_layers", 1, 2), ("num_attention_heads", 4, 2), ("num_register_tokens", 2, 0)),
        *(("pooling", "mean", "cls"), ("block_norm", "rms_norm", "layer_norm"), ("hidden_act", "relu", "gelu")),
        ("layer_norm_eps", 1e-3, 1e-5),
    ],
)
def test_what_a_checkpoint_cannot_take_is_refused_with_both_values(arguments, trained, field, value, own):
    recipe, _ = arguments(model=str(trained), config={field: value})
    with pytest.raises(ValueError, match=f"trained with `{field}` {own!r}, got {value!r}"):
        build_model(recipe, ["dark", "grey", "light"])


def test_what_a_checkpoint_can_take_is_applied(arguments, trained):
    config = {"hidden_dropout_prob": 0.3, "patch_size": [4, 4], "attn_implementation": "eager"}
    model, _ = build_model(arguments(model=str(trained), config=config)[0], ["dark", "grey", "light"])
    assert model.config.hidden_dropout_prob == 0.3
    assert model.config._attn_implementation == "eager"


def test_other_classes_get_a_new_head_on_the_same_body(arguments, caplog):
    first = train(*arguments("first"))
    recipe, _ = arguments(model=str(first))
    model, _ = build_model(recipe, ["cat", "dog"])
    assert model.classifier.weight.shape == (2, 16)
    body = {name: weight for name, weight in weights_of(first).items() if name.startswith("omni_vision.")}
    assert same({f"omni_vision.{name}": weight for name, weight in model.omni_vision.state_dict().items()}, body)
    assert "replaced by a new one" in caplog.text


def test_an_uncentred_start_is_reported(arguments, caplog):
    first = train(*arguments("first", center_residual=False, learning_rate=1e-2))
    with caplog.at_level(logging.WARNING):
        build_model(arguments(model=str(first))[0], ["dark", "grey", "light"])
    assert "centring changes what it computes" in caplog.text


def test_classes_can_be_named_in_the_config(arguments):
    names = {"0": "night", "1": "dusk", "2": "day"}
    model, _ = build_model(arguments(config={"id2label": names})[0], ["dark", "grey", "light"])
    assert model.config.id2label == {0: "night", 1: "dusk", 2: "day"}
    assert model.config.label2id == {"night": 0, "dusk": 1, "day": 2}
    with pytest.raises(ValueError, match="classes 0 to 1"):
        build_model(arguments(config={"id2label": names})[0], ["dark", "grey"])


@pytest.mark.parametrize(("channels", "mean"), [(1, [0.459]), (3, [0.485, 0.456, 0.406]), (4, [0.5, 0.5, 0.5, 0.5])])
def test_a_new_model_normalises_by_its_number_of_channels(arguments, channels, mean):
    _, processor = build_model(arguments(config={"num_channels": channels})[0], ["a", "b"])
    assert list(processor._standardize_kwargs(**processor.to_dict())["image_mean"]) == mean


def test_the_attention_implementation_goes_through_the_config(arguments):
    model, _ = build_model(arguments(config={"attn_implementation": "eager"})[0], ["a", "b"])
    assert model.config._attn_implementation == "eager"


def test_bf16_layer_decay_and_all_levers_together_run_on_a_cpu(arguments):
    folder = train(*arguments(bf16=True, layer_decay=0.7, min_crop_scale=0.5, num_train_epochs=1, **RANDOM))
    assert weights_of(folder)["classifier.weight"].dtype == torch.float32


def test_muon_beside_another_optimizer_is_refused(arguments):
    with pytest.raises(ValueError, match="adamw_torch"):
        train(*arguments(optim="sgd", muon_learning_rate=0.02))


def test_a_mimetic_start_is_for_new_models_only(arguments, tmp_path):
    with pytest.raises(ValueError, match="new models"):
        arguments(mimetic_init=True, model=str(tmp_path))


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bf16_is_named_slow_where_the_processor_only_imitates_it(arguments, monkeypatch, caplog, has_instructions):
    monkeypatch.setattr(skeleton, "has_bf16_instructions", lambda: has_instructions)
    train(*arguments(bf16=True, num_train_epochs=1))
    assert ("imitated" in caplog.text) == (not has_instructions)


def test_without_a_test_split_only_validation_is_reported(arguments, monkeypatch, caplog):
    original = run_module.load_images

    def without_test(*args, **kwargs):
        data = original(*args, **kwargs)
        del data["test"]
        return data

    monkeypatch.setattr(run_module, "load_images", without_test)
    assert set(record_of(train(*arguments(num_train_epochs=1)))) == {"training"}
    assert "no labelled test split" in caplog.text


@pytest.mark.slow
def test_a_compiled_run_is_centred_averaged_and_saved_under_plain_names(arguments):
    # CONFIG has drop-path, whose random numbers a compiled graph draws differently: only what must hold is checked.
    folder = train(*arguments("compiled", torch_compile=True, ema_decay=0.5))
    model, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(keys for kind, keys in report.items() if kind.endswith("_keys"))
    assert model.residual_mean() < 1e-7
    assert len(record_of(folder)["training"]["history"]) == 6
