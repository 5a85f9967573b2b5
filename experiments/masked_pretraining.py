"""Does masked-image pre-training help where labels are few? Fashion-MNIST with 100, 1,000 and 10,000 labels.

    python -m experiments.masked_pretraining --data data/fashion_mnist --work runs/masked \
        --output docs/runs/masked_pretraining.json

One encoder is pre-trained on the training images without labels, then fine-tuned with labels of a few of them, beside
the same training from scratch: equal recipe, the step chosen on 1,000 validation images that neither saw, the test
split opened once by each run. Goes on where it was cut; `experiments.results` makes the table.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.evaluate import main as evaluate
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.idx import load_idx
from modeling_omni_vision.records.metrics_file import METRICS_FILE, read_metrics, write_json
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.classification import train
from modeling_omni_vision.training.pretrain_arguments import PretrainArguments, PretrainTrainingArguments
from modeling_omni_vision.training.pretraining import SHEET, pretrain


BODY = {
    "image_size": 28,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pooling": "mean",
}
VALIDATION = 1000
EVALUATIONS = 3  # in a run
# By the number of labels: seeds, steps, and images in a step.
PLAN = {
    100: ((42, 43, 44), 240, 32),
    1000: ((42, 43, 44), 300, 50),
    10_000: ((42,), 400, 50),
}
CONTROL = (100, 3)  # labels, and how many times the steps, of one more pair of runs
# Of both. With AdamW alone, training from scratch is far from its end after so few steps.
MUON = 0.02
T_95 = {2: 12.706, 3: 4.303}  # Student's t by the number of seeds


@dataclass
class MaskedPretrainingArguments:
    """Where data come from, where runs lie, and how long the pre-training is."""

    data: str = option("Folder of the IDX files of Fashion-MNIST.")
    output: str = option("JSON file to write.", "docs/runs/masked_pretraining.json")
    work: str = option("Folder of data and runs.", "runs/masked")
    epochs: float = option("Passes of the pre-training over the images.", 1.5)
    sheet: str | None = option("PNG to copy the reconstructions to.", None)


def prepare(data: Path, work: Path) -> dict[int, list[Path]]:
    """Save the images without labels, and for each number of labels one set of them for each seed."""
    place = work / "data"
    sets = {labels: [place / f"{labels}-{seed}" for seed in seeds] for labels, (seeds, _, _) in PLAN.items()}
    if (place / "complete").is_file():
        return sets
    loaded = load_idx(data)
    order = np.random.default_rng(0).permutation(len(loaded["train"]))
    validation, rest = loaded["train"].select(np.sort(order[:VALIDATION])), order[VALIDATION:]
    images = {"train": loaded["train"].select(np.sort(rest)), "validation": validation}
    DatasetDict(images).remove_columns("label").save_to_disk(place / "images")
    classes = np.asarray(loaded["train"]["label"][:])[rest]
    for labels, folders in sets.items():
        for seed, folder in zip(PLAN[labels][0], folders, strict=True):
            draws = np.random.default_rng([seed, labels]).permutation(len(rest))
            each = labels // 10
            chosen = np.concatenate([rest[draws[classes[draws] == kind][:each]] for kind in range(10)])
            train_rows = loaded["train"].select(np.sort(chosen))
            splits = {"train": train_rows, "validation": validation, "test": loaded["test"]}
            DatasetDict(splits).save_to_disk(folder)
    (place / "complete").touch()
    return sets


def run_pretraining(work: Path, epochs: float) -> dict[str, Any]:
    """Pre-train the encoder, or read what a finished run measured."""
    folder = work / "pretrained"
    if not (folder / METRICS_FILE).is_file():
        recipe = PretrainArguments(
            dataset=str(work / "data" / "images"),
            config=json.dumps(BODY),
            flip=True,
            max_translate=1,
            muon_learning_rate=MUON,
        )
        args = PretrainTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=1.2e-3,
            lr_scheduler_type="linear",
            save_strategy="steps",
            save_steps=300,
            eval_strategy="steps",
            eval_steps=300,
            resume_from_checkpoint="true",
            disable_tqdm=True,
        )
        pretrain(recipe, args)
    return read_metrics(folder)


def run_fine_tuning(
    source: Path | None, dataset: Path, folder: Path, seed: int, labels: int, times: int = 1
) -> dict[str, Any]:
    """Train a classifier from a checkpoint or from scratch, or read what a finished run measured."""
    steps, batch = times * PLAN[labels][1], PLAN[labels][2]
    if not (folder / METRICS_FILE).is_file():
        recipe = RecipeArguments(
            dataset=str(dataset),
            model=None if source is None else str(source),
            config=json.dumps({**({} if source else BODY), "patch_drop_rate": 0.5}),
            flip=True,
            max_translate=1,
            muon_learning_rate=MUON,
        )
        args = OmniVisionTrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            seed=seed,
            per_device_train_batch_size=batch,
            label_smoothing_factor=0.1,
            save_strategy="steps",
            save_steps=steps // EVALUATIONS,
            eval_strategy="steps",
            eval_steps=steps // EVALUATIONS,
            save_total_limit=1,
            check="headers",
            resume_from_checkpoint="true",
            disable_tqdm=True,
        )
        train(recipe, args)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    if "test" not in read_metrics(folder):  # cut while it was tested
        evaluate(["--model", str(folder), "--dataset", str(dataset), "--split", "test"])
    found = read_metrics(folder)
    tested = found.get("test") or found["evaluation"]
    best = max(found["training"]["evaluations"], key=lambda one: one["accuracy"])
    return {
        "seed": seed,
        "validation": found["training"]["validation_accuracy"],
        "step": best["step"],
        "test": tested["accuracy"],
        "test_interval": tested["accuracy_interval"],
        "minutes": found["training"]["minutes"],
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, and by Student's t its 95 % interval over seeds where there are several."""
    mean = float(np.mean(values))
    found: dict[str, Any] = {"mean": mean, "values": [float(one) for one in values]}
    if len(values) > 1:
        half = T_95[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5
        found["interval"] = [mean - half, mean + half]
    return found


def compare(work: Path, sets: dict[int, list[Path]], output: Path, pretraining: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune and train from scratch, each seed in turn, and write the record after each pair of runs."""
    training = pretraining["training"]
    about = ("command", "steps", "epochs", "minutes", "machine", "versions", "parameters", "dataset", "date")
    record: dict[str, Any] = {
        **{name: value for name, value in read_json(output).items() if name == "earlier"},
        "pretraining": {name: training[name] for name in about} | pretraining["reconstruction"],
        "validation_images": VALIDATION,
    }
    found: dict[int, dict[str, list[dict[str, Any]]]] = {labels: {"pretrained": [], "scratch": []} for labels in sets}
    turns = [
        (turn - len(PLAN[labels][0]), labels, seed, dataset)
        for labels, folders in sets.items()
        for turn, (seed, dataset) in enumerate(zip(PLAN[labels][0], folders, strict=True))
    ]
    # Each seed in turn, so that a record that was cut is of all that have several.
    for _, labels, seed, dataset in sorted(turns, key=lambda one: one[0]):
        for name, source in (("pretrained", work / "pretrained"), ("scratch", None)):
            place = work / f"{name}-{labels}-{seed}"
            found[labels][name].append(run_fine_tuning(source, dataset, place, seed, labels))
        record["labels"] = [row_of(labels, runs) for labels, runs in found.items() if runs["scratch"]]
        write_json(output, record)
    labels, times = CONTROL
    runs = {
        name: run_fine_tuning(
            source, sets[labels][0], work / f"{name}-{labels}-longer", PLAN[labels][0][0], labels, times
        )
        for name, source in (("pretrained", work / "pretrained"), ("scratch", None))
    }
    record["control"] = {"labels": labels, "times": times, **runs}
    write_json(output, record)
    return record


def read_json(path: Path) -> dict[str, Any]:
    """Read a record, empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def row_of(labels: int, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Sum up the runs of a number of labels: test accuracy of both, and what the pre-training gains, seed by seed."""
    _, steps, batch = PLAN[labels]
    tested = {name: summary([one["test"] for one in found]) for name, found in runs.items()}
    gains = [one["test"] - other["test"] for one, other in zip(*runs.values(), strict=True)]
    sizes = {"labels": labels, "seeds": len(gains), "steps": steps, "batch": batch}
    return {**sizes, **tested, "gain": summary(gains), "runs": runs}


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(MaskedPretrainingArguments, argv)
    work, output = Path(arguments.work), Path(arguments.output)
    sets = prepare(Path(arguments.data), work)
    pretraining = run_pretraining(work, arguments.epochs)
    if arguments.sheet is not None:
        shutil.copyfile(work / "pretrained" / SHEET, arguments.sheet)
    for row in compare(work, sets, output, pretraining)["labels"]:
        means = (f"{name} {row[name]['mean']:.4f}" for name in ("pretrained", "scratch", "gain"))
        print(f"{row['labels']} labels:", *means)


if __name__ == "__main__":
    main()
