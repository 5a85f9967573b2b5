"""The record on Fashion-MNIST: short trials chosen from by validation, three seeds of the best, and their student.

    python -m experiments.fashion_mnist_record --output runs/record --seconds 480

Trials, then seeds, train beside each other on one GPU, as many epochs as the measured speed allows; each seed opens
the test split once, at its end, and trials never. The student has the body of its three teachers, learns from their
mean answer beside the labels, and starts from the first. What is finished is not done again: the same command goes on
where it was cut. `--epochs` fixes the epochs of seeds and student in place of their seconds; flags that are not known
here go to every run.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import sem
from scipy.stats import t as student_t

from modeling_omni_vision.records.metrics_file import write_json
from modeling_omni_vision.training.run_record import training_command


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "scripts/recipes/fashion_mnist_gpu.sh"
SHAPE = {"image_size": 28, "patch_size": 4, "num_channels": 1, "pooling": "mean"}
SHAPE |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ERASING = {"max_translate": 2, "random_erasing": 0.25}
# Flags and fields of the configuration in which trials differ from each other.
TRIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "shift_1": ({"max_translate": 1}, {"patch_drop_rate": 0.25}),
    "erasing": (ERASING, {"patch_drop_rate": 0.25}),
    "all_patches": (ERASING, {"patch_drop_rate": 0.0}),
    "cutmix": ({**ERASING, "mixup": 0.2, "cutmix": 1.0}, {"patch_drop_rate": 0.0}),
}
SEEDS = (42, 43, 44)
IMAGES = 55_000
# Of the time that is left, what seeds may plan with: evaluation, reports and the start take the rest.
PLANNED, START = 0.8, 25.0


class Record:
    """A folder of runs with the seconds that are left for them.

    Args:
        given: Arguments of the command line.
        further: Flags for every run.
    """

    def __init__(self, given: argparse.Namespace, further: list[str]) -> None:
        self.given, self.further = given, further
        self.folder, self.until = Path(given.output).resolve(), time.monotonic() + given.seconds
        self.folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Return the seconds left."""
        return self.until - time.monotonic()

    def start(self, name: str, flags: dict[str, Any], config: dict[str, Any]) -> subprocess.Popen[bytes] | None:
        """Start a run, unless it is finished."""
        folder = self.folder / name
        if (folder / "metrics.json").is_file():
            return None
        options = {"output_dir": folder, "config": json.dumps(SHAPE | config), **flags}
        line = [*shlex.split(training_command(f"bash {shlex.quote(str(RECIPE))}", options)), *self.further]
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own, so that the recipe and what it runs end together.
            return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def wait(self, started: dict[str, subprocess.Popen[bytes] | None]) -> None:
        """Wait for runs; those that last too long are ended, and go on with the next command."""
        for name, process in started.items():
            if process is None:
                continue
            try:
                process.wait(max(self.left(), 1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                print(f"{name} is not finished: the same command goes on", flush=True)
                process.wait()

    def found(self, name: str) -> dict[str, Any] | None:
        """Return the record of a finished run."""
        file = self.folder / name / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def epochs(self, name: str, runs: int, speed: float, share: float) -> float:
        """Return the epochs that so many runs beside each other can take in a share of the time left; kept by name."""
        plan = self.folder / "epochs.json"
        planned = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else {}
        if name not in planned:
            affordable = max(1, int((self.left() * share - START) * speed / runs / IMAGES))
            write_json(plan, planned := {**planned, name: self.given.epochs or affordable})
        print(f"{name}: {planned[name]} epochs", flush=True)
        return planned[name]

    def minutes(self, share: float = 1.0) -> float:
        """Return the minutes after which a run must end that has a share of the time left, its report aside.

        None, which is 0, where the epochs are fixed.
        """
        return 0.0 if self.given.epochs else round(max(self.left() * share - START, START) / 60, 2)


def trials(record: Record) -> str:
    """Do the trials and return the name of the best on validation."""
    short = {"num_train_epochs": record.given.trial_epochs, "do_predict": False}
    record.wait(
        {name: record.start(f"trial_{name}", short | TRIALS[name][0], TRIALS[name][1]) for name in record.given.trials}
    )
    known = {name: record.found(f"trial_{name}") for name in TRIALS}
    accuracies = {name: one["training"]["validation_accuracy"] for name, one in known.items() if one}
    if not accuracies:
        raise ValueError(f"No trial ended with a record. Read the logs in {record.folder}.")
    print("validation after the trials:", accuracies, flush=True)
    return max(accuracies, key=lambda name: accuracies[name])


def speed_of(record: Record, names: Sequence[str]) -> float:
    """Return the images per second that runs reached together."""
    found = [one["training"] for name in names if (one := record.found(name))]
    return sum(one["epochs"] * IMAGES / (60 * one["minutes"]) for one in found)


def seeds(record: Record, best: str) -> None:
    """Train the seeds of the best trial beside each other."""
    flags, config = TRIALS[best]
    speed = speed_of(record, [f"trial_{name}" for name in TRIALS])
    share = 0.75 if record.given.student else 1.0
    epochs = record.epochs("seeds", len(SEEDS), speed, PLANNED * share)
    long = {**flags, "num_train_epochs": epochs, "max_minutes": record.minutes(share)}
    record.wait({f"seed_{seed}": record.start(f"seed_{seed}", {**long, "seed": seed}, config) for seed in SEEDS})


def student(record: Record, best: str) -> None:
    """Train the student of all seeds, from the weights of the first."""
    names = [f"seed_{seed}" for seed in SEEDS]
    teachers = [str(record.folder / name) for name in names if record.found(name)]
    if len(teachers) < len(SEEDS) or record.left() < START:
        return
    flags, config = TRIALS[best]
    # Each teacher costs about a third of a training step.
    speed = speed_of(record, names) / (1 + len(teachers) / 3)
    taught = {"teachers": teachers, "teacher_weight": 0.7, "model": teachers[0], "seed": 45}
    epochs = record.epochs("student", 1, speed, PLANNED)
    own = {"patch_drop_rate": config["patch_drop_rate"]}
    plan = {**flags, **taught, "num_train_epochs": epochs, "max_minutes": record.minutes(), "warmup_steps": 0.05}
    record.wait({"student": record.start("student", {**plan, "config": json.dumps(own)}, {})})


def summary(record: Record, best: str) -> dict[str, Any]:
    """Return what all finished runs found, and the mean of the seeds with its 95 % interval by Student's t."""
    found: dict[str, Any] = {"chosen": best, "trials": [], "seeds": []}
    for name, (flags, config) in TRIALS.items():
        if one := record.found(f"trial_{name}"):
            found["trials"].append({"name": name, "given": {**flags, **config}, **figures(one)})
    for seed in SEEDS:
        if one := record.found(f"seed_{seed}"):
            found["seeds"].append({"seed": seed, **figures(one)})
    tests = [one["test"]["accuracy"] for one in found["seeds"] if "test" in one]
    if len(tests) > 1:
        mean = statistics.mean(tests)
        interval = student_t.interval(0.95, len(tests) - 1, mean, sem(tests))
        found["mean"] = {"accuracy": mean, "interval": [float(end) for end in interval], "seeds": len(tests)}
    if one := record.found("student"):
        found["student"] = figures(one)
    return found


def figures(one: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a run that its page shows."""
    training = one["training"]
    names = ("epochs", "steps", "minutes", "validation_accuracy", "command", "date", "machine", "versions")
    return {name: training[name] for name in names} | {name: one[name] for name in ("test",) if name in one}


def main(argv: Sequence[str] | None = None) -> None:
    """Do what is not done yet, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--trial_epochs", type=float, default=40.0)
    parser.add_argument("--student", action=argparse.BooleanOptionalAction, default=True)
    record = Record(*parser.parse_known_args(argv))
    best = trials(record)
    seeds(record, best)
    if record.given.student:
        student(record, best)
    found = summary(record, best)
    write_json(record.folder / "record.json", found)
    for one in [*found["seeds"], *([found["student"]] if "student" in found else [])]:
        print(one.get("seed", "student"), one["epochs"], one["validation_accuracy"], one.get("test"), flush=True)


if __name__ == "__main__":
    main()
