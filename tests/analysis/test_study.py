import json
import multiprocessing
import sys
import time
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.analysis.study import read_plan, read_runs, run_study
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from scripts.study import main


ROOT = Path(__file__).parent.parent.parent
PLAN = ROOT / "docs" / "map" / "plan.json"
# Stands for scripts/train.py: notes that it began, then does what its --config says, and leaves the same metrics.
STUB = """
import json, os, pathlib, signal, sys, time

given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
config, folder, notes = json.loads(given["--config"]), pathlib.Path(given["--output_dir"]), pathlib.Path(sys.argv[1])
with open(notes / "begun", "a") as begun:
    begun.write(folder.name + " " + os.environ["OMP_NUM_THREADS"] + "\\n")
if config["does"] == "fail":
    raise ValueError(f"{folder} is too wide")
if config["does"] == "hang" and not (notes / "hung").exists():
    (notes / "hung").touch()
    try:
        for _ in range(600):
            time.sleep(0.5)
            print("still here")
    finally:
        (notes / "gone").touch()
if config["does"] == "die" and not (notes / "died").exists():
    (notes / "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
folder.mkdir()
(folder / "model.safetensors").write_text("large")
evaluation = {"epoch": 2.0, "accuracy": 0.5 + int(given["--seed"]) / 100, "loss": 1.5}
training = {
    "evaluations": [evaluation] * config.get("evaluations", 1), "minutes": 1.5, "steps": 10, "epochs": 2.0,
    "parameters": 7, "versions": {"torch": "1"}, "machine": {"cpu": "c", "threads": 1},
    "dataset": {"train": 100, "validation": 200},
}
(folder / "metrics.json").write_text(json.dumps({"training": training}))
"""


@pytest.fixture
def study(tmp_path):
    """A function that writes a plan of a base and variants which differ in what the stub does."""
    (tmp_path / "stub.py").write_text(STUB)

    def entry(variant):
        does = {"name": variant, "group": "what it does", "config": {"does": variant}}
        return does if isinstance(variant, str) else variant

    def write(variants=("other",), **changed):
        plan = {
            "date": "2026-01-31",
            "question": "Which?",
            "budget": "Two epochs.",
            "seeds": [1, 2],
            "base": {"arguments": ["--flip", "true"], "config": {"does": "train"}},
            "variants": [entry(variant) for variant in variants],
            **changed,
        }
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        return tmp_path / "plan.json"

    return write


def run(plan, **options):
    folder = plan.parent
    return run_study(plan, folder / "runs", [sys.executable, str(folder / "stub.py"), str(folder)], **options)


def begun(plan):
    return [line.split()[0] for line in (plan.parent / "begun").read_text().splitlines()]


def test_every_variant_has_its_first_seed_before_any_has_its_second(study):
    plan = study(["one", "two"])
    run(plan)
    assert begun(plan) == ["base-s1", "one-s1", "two-s1", "base-s2", "one-s2", "two-s2"]


def test_a_run_leaves_one_small_file_without_folders_of_this_machine_and_no_weights(study, monkeypatch, tmp_path):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    plan = study()
    record = run(plan)["other-s2"]
    assert (record["variant"], record["seed"], record["accuracy"], record["loss"]) == ("other", 2, 0.52, 1.5)
    assert (record["minutes"], record["steps"], record["parameters"]) == (1.5, 10, 7)
    assert record["pictures"] == {"train": 100, "validation": 200}
    assert record["test_opened"] is False
    assert record["command"].startswith("python scripts/train.py --flip true --config ")
    assert record["command"].endswith("--seed 2 --output_dir other-s2")
    assert {"date", "versions", "machine", "arguments"} <= set(record)
    assert record["plan"] == read_plan(plan).identity
    assert not list((tmp_path / "scratch").iterdir())
    files = [file.name for file in (tmp_path / "runs").iterdir()]
    assert sorted(files) == ["base-s1.json", "base-s2.json", "other-s1.json", "other-s2.json"]
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "runs").iterdir())


def test_a_configuration_longer_than_a_file_name_is_recorded_as_it_is(study):
    config = {"does": "train", "hidden_act": "x" * 300}
    runs = run(study([{"name": "long", "group": "g", "config": config, "seeds": [1]}]))
    assert json.dumps(config) in runs["long-s1"]["command"]


def test_every_run_has_one_thread(study, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    plan = study()
    run(plan, workers=2)
    assert {line.split()[1] for line in (plan.parent / "begun").read_text().splitlines()} == {"1"}


def test_only_what_is_missing_is_run(study):
    plan = study()
    before = run(plan)
    (plan.parent / "runs" / "other-s1.json").unlink()
    assert run(plan) == before
    assert begun(plan)[4:] == ["other-s1"]


def test_a_failed_run_is_kept_with_its_error_and_the_others_go_on(study):
    plan, lines = study(["fail"]), []
    runs = run(plan, report=lines.append)
    assert runs["fail-s1"]["failed"] == "ValueError: fail-s1 is too wide"
    assert "accuracy" not in runs["fail-s1"]
    assert runs["base-s2"]["accuracy"] == 0.52
    assert lines[1] == "fail-s1: failed, ValueError: fail-s1 is too wide (2 of 4)"
    run(plan)
    assert len(begun(plan)) == 4


@pytest.mark.parametrize("evaluations", [0, 2])
def test_a_run_that_was_not_measured_exactly_once_has_failed(study, evaluations):
    variant = {"name": "often", "group": "g", "config": {"evaluations": evaluations}, "seeds": [2]}
    runs = run(study([variant]))
    assert runs["often-s2"]["failed"] == f"expected one evaluation, after the last step, got {evaluations}"


def test_a_run_that_something_killed_does_not_count_and_is_begun_again(study):
    plan, lines = study(["die"]), []
    assert "die-s1" not in run(plan, report=lines.append)
    assert "not counted" in lines[1]
    assert run(plan)["die-s1"]["accuracy"] == 0.51


def wait_for(path):
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


def test_a_study_that_was_killed_goes_on_where_it_was_and_leaves_no_run_behind(study, monkeypatch, tmp_path):
    plan = study(["hang"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    killed = multiprocessing.get_context("fork").Process(target=run, args=(plan,))
    killed.start()
    try:
        wait_for(plan.parent / "hung")
    finally:
        killed.kill()
        killed.join()
    wait_for(plan.parent / "gone")
    assert [file.name for file in (plan.parent / "runs").iterdir()] == ["base-s1.json"]
    assert list(run(plan)) == ["base-s1", "hang-s1", "base-s2", "hang-s2"]
    assert begun(plan) == ["base-s1", "hang-s1", "hang-s1", "base-s2", "hang-s2"]


def test_runs_under_another_base_are_never_mixed_in(study):
    run(study())
    # What is started for the variant is still the same: it has its own value of what changes in the base.
    plan = study(base={"arguments": ["--flip", "true"], "config": {"does": "train more"}})
    with pytest.raises(ValueError, match="stale ones: base-s1, base-s2, other-s1, other-s2"):
        run(plan)
    assert len(begun(plan)) == 4


def test_a_changed_or_removed_variant_makes_only_its_own_runs_stale(study):
    run(study(["other", "gone"]))
    changed = [{"name": "other", "group": "g", "config": {"does": "train more"}}]
    plan = study(changed)
    with pytest.raises(ValueError, match="stale ones: gone-s1, gone-s2, other-s1, other-s2 "):
        read_runs(read_plan(plan), plan.parent / "runs")


def test_a_plan_may_gain_variants_seeds_and_words(study):
    run(study())
    plan = study(["other", "more"], seeds=[1, 2, 3], question="Which, and why?")
    assert len(run(plan)) == 9
    assert sorted(begun(plan)[4:]) == ["base-s3", "more-s1", "more-s2", "more-s3", "other-s3"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "base", "config": {"does": "x"}}, "none may be 'base'"),
        ({"name": "OTHER", "config": {"does": "x"}}, "must differ"),
        ({"name": "a/b", "config": {"does": "x"}}, "as a file name"),
        ({"name": "same", "config": {"does": "train"}}, "differ from the base"),
        ({"name": "seed", "arguments": ["--seed", "3"]}, "the runner gives"),
        ({"name": "seed", "arguments": ["--seed=3"]}, "the runner gives"),
        ({"name": "twice", "config": {"does": "x"}, "seeds": [1, 1]}, "each once"),
        ({"name": "alone", "config": {"does": "x"}, "seeds": [3]}, "seed by seed"),
        ({"name": "typing", "settings": {"does": "x"}}, "settings"),
    ],
)
def test_a_plan_with_a_variant_that_cannot_be_compared_is_refused(study, wrong, says):
    with pytest.raises(ValueError, match=says):
        read_plan(study(["other", {"group": "g", **wrong}]))


def test_a_plan_that_is_no_plan_and_no_workers_are_refused(study, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json"):
        read_plan(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="must have the keys"):
        read_plan(study(surprise=1))
    with pytest.raises(ValueError, match="at least 1"):
        run(study(), workers=0)


def test_every_run_of_our_plan_is_one_that_the_training_script_understands(tmp_path):
    parser = HfArgumentParser((RecipeArguments, OmniVisionTrainingArguments))
    base = OmniVisionConfig(**read_plan(PLAN).content["base"]["config"])
    for planned in read_plan(PLAN).runs():
        words = [*planned.arguments, "--output_dir", str(tmp_path)]
        recipe, args = parser.parse_args_into_dataclasses(words)
        config = OmniVisionConfig(**recipe.config_fields())
        assert args.seed == planned.seed
        changed = {name for name, value in planned.variant.config.items() if value != getattr(base, name)}
        assert changed == {name for name in base.to_dict() if getattr(config, name) != getattr(base, name)}


@pytest.mark.slow
def test_the_script_trains_real_runs_and_measures_them_once_at_the_end(tmp_path, capsys):
    plan = json.loads(PLAN.read_text())
    words = plan["base"]["arguments"]
    options = dict(zip(words[::2], words[1::2], strict=True))
    options |= {"--dataset": "digits", "--validation_share": "400", "--num_train_epochs": "1"}
    plan["base"]["arguments"] = [word for option in options.items() for word in option]
    plan["base"]["config"] |= {"image_size": 8, "num_hidden_layers": 1}
    plan |= {"seeds": [1], "variants": [{"name": "deeper", "group": "depth", "config": {"num_hidden_layers": 2}}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    main(["--plan", str(tmp_path / "plan.json"), "--output", str(tmp_path / "runs"), "--workers", "2"])
    assert capsys.readouterr().out.endswith("2 runs, failed of them: none\n")
    base, deeper = (json.loads((tmp_path / "runs" / f"{name}-s1.json").read_text()) for name in ("base", "deeper"))
    assert base["pictures"] == deeper["pictures"] == {"train": 1037, "validation": 400}
    assert (base["steps"], base["epochs"], base["machine"]["threads"]) == (9, 1.0, 1)
    assert base["parameters"] < deeper["parameters"]
    assert {round(one["accuracy"] * 400, 6) % 1 for one in (base, deeper)} == {0.0}
