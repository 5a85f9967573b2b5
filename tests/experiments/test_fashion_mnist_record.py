"""The order of runs, by a recipe that does nothing but write what a run leaves."""

import json

import pytest

from experiments import fashion_mnist_record as module


# Validation is best where patches are not dropped and images are not mixed; a seed's test is that of its number.
RECIPE = """
import json, sys, pathlib
words = sys.argv[1:]
given = {}
for word in words:
    if word.startswith("--"):
        name = word[2:]
        given[name] = []
    else:
        given[name].append(word)
folder = pathlib.Path(given["output_dir"][-1])
if folder.name in pathlib.Path(sys.argv[0]).with_name("broken").read_text().split():
    sys.exit(1)
folder.mkdir(parents=True)
config = json.loads(given["config"][-1])
accuracy = 0.9 if config["patch_drop_rate"] == 0 and "mixup" not in given else 0.8
training = {"epochs": float(given["num_train_epochs"][-1]), "steps": 7, "minutes": 0.5}
training["validation_accuracy"] = accuracy
training |= {"command": " ".join(words), "date": "today", "machine": {}, "versions": {}}
found = {"training": training}
if given.get("do_predict") != ["false"]:
    found["test"] = {"accuracy": int(given["seed"][-1]) / 100}
(folder / "metrics.json").write_text(json.dumps(found))
"""


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A function that runs the study and returns what it found, and by run the words that the recipe was given."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "recipe.sh").write_text(f'exec python3 {tmp_path / "recipe.py"} "$@"\n')
    monkeypatch.setattr(module, "RECIPE", tmp_path / "recipe.sh")

    def run(*arguments, broken=""):
        (tmp_path / "broken").write_text(broken)
        output = tmp_path / "record"
        module.main(["--output", str(output), "--seconds", "400", *arguments])
        commands = {
            file.parent.name: json.loads(file.read_text())["training"]["command"]
            for file in output.glob("*/metrics.json")
        }
        return json.loads((output / "record.json").read_text()), commands

    return run


def test_the_best_trial_on_validation_is_trained_with_three_seeds_which_teach_a_student(record):
    found, commands = record("--bf16", "true")
    assert found["chosen"] == "all_patches"
    assert [one["seed"] for one in found["seeds"]] == [42, 43, 44]
    assert found["mean"]["accuracy"] == pytest.approx(0.43)
    low, high = found["mean"]["interval"]
    assert high - low == pytest.approx(2 * 4.302653 * 0.01 / 3**0.5)
    for name, command in commands.items():
        assert ("--do_predict false" in command) == name.startswith("trial_")
        assert command.endswith("--bf16 true")
    student = commands["student"].split()
    teachers = student[student.index("--teachers") + 1 :][:3]
    assert [one.rsplit("/", 1)[1] for one in teachers] == ["seed_42", "seed_43", "seed_44"]
    # Each trial saw 40 epochs in half a minute: what is left of 400 s is shared by three seeds.
    epochs = found["seeds"][0]["epochs"]
    assert epochs == pytest.approx((400 * 0.8 * 0.75 - 25) * 4 * 40 / 30 / 3, rel=0.1)
    assert "--max_minutes 0.0" not in commands["seed_42"]


def test_fixed_epochs_are_not_cut_by_time(record):
    found, commands = record("--epochs", "300")
    assert [one["epochs"] for one in found["seeds"]] == [300, 300, 300]
    assert "--max_minutes 0.0" in commands["seed_42"]
    assert "--max_minutes 0.0" in commands["student"]


def test_the_same_command_goes_on_where_runs_are_missing_with_the_same_plan(record):
    with pytest.raises(ValueError, match="No trial ended"):
        record(broken="trial_cutmix trial_shift_1 trial_erasing trial_all_patches")
    first, _ = record(broken="seed_43 student")
    assert [one["seed"] for one in first["seeds"]] == [42, 44]
    assert "student" not in first
    second, _ = record("--seconds", "4000")
    assert len(second["seeds"]) == 3
    assert {one["epochs"] for one in second["seeds"]} == {first["seeds"][0]["epochs"]}
    assert second["student"]["test"] == {"accuracy": 0.45}
