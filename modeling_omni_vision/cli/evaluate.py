"""Evaluate a model on data: numbers into its metrics.json, of a classifier plots as PNG too.

    omni-vision evaluate --model runs/digits --dataset digits
    omni-vision evaluate --model runs/search --dataset my_pairs --split all
    omni-vision evaluate --model runs/vlm --dataset my_conversations.jsonl

Without `--split`, on the validation split that the training run held out; the test split is opened by `--split test`
alone, and counted.

Of a classifier: accuracy with its 95 % bootstrap interval, macro-F1, calibration error (15 bins), negative
log-likelihood, a row for each class, the confusion matrix and calibration after temperature scaling (fitted on the
validation split), under "evaluation"; with --robustness also accuracy under rotation, blur, noise and erasing under
"robustness", some 25 times the work. Works for our checkpoints and for stock ones.

Of a retrieval model: recall and ranks in both directions, under "retrieval_evaluation". Of a vision-language model:
the share of exact answers, also with shuffled and without images, under "answers_evaluation".

Results of a published folder are written beside it, into FOLDER-evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import option, parse
from .model_kind import CLASSIFIER, LANGUAGE, RETRIEVAL, check_kind
from .program import program


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    model: str = option("Folder with a model and its processor.")
    dataset: str = option("As for the command that trains this kind of model.")
    split: str | None = option(
        "train, validation (the default) or test; of other data than those of training also all, which is the default "
        "of retrieval and vision-language models for these.",
        None,
    )
    output: str | None = option(
        "Classifier: folder for PNG files; without it plots beside metrics.json.", None, folder=True
    )
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)
    text_column: str | None = option("Retrieval: column of the texts, if it cannot be inferred.", None)
    validation_fraction: float | None = option(
        "What the training run held out, if metrics.json does not record it.", None
    )
    batch_size: int = option("Images in one forward.", 64, least=1)
    robustness: bool = option("Classifier: measure accuracy on corrupted and mirrored images.", False)


def evaluate_classifier(arguments: EvaluateArguments, command: str) -> None:
    """Evaluate a classifier and print a line."""
    from ..evaluation.evaluate import evaluate

    options = {name: value for name, value in vars(arguments).items() if name not in ("text_column", "split")}
    options["split"] = arguments.split or "validation"
    report = evaluate(**options, command=command)
    found, (low, high) = report.metrics, report.metrics["accuracy_interval"]
    split = found["split"] + (" (held out of training)" if report.held_out else "")
    # Lists of labels have no single probability to calibrate.
    key = next(key for key in ("expected_calibration_error", "mean_average_precision") if key in found)
    quality = f"{key.removeprefix('expected_').replace('_', ' ')} {found[key]:.4f}"
    print(
        f"{found['dataset']} {split}: accuracy {found['accuracy']:.2%} ({low:.2%} to {high:.2%}), macro-F1 "
        f"{found['macro_f1']:.4f}, {quality}, "
        f"{found['num_examples']:,} images. Numbers: {report.metrics_file}. "
        f"Images: {', '.join(map(str, report.images))}"
    )


def evaluate_retrieval(arguments: EvaluateArguments, command: str) -> None:
    """Measure search in both directions, for the kinds of vectors that were trained, and print a line for each."""
    from .. import OmniVisionForRetrieval, OmniVisionRetrievalProcessor
    from ..data.pairs import load_pairs
    from ..interop.vision_tower import load_complete
    from ..retrieval.build import as_sentence_transformer
    from ..retrieval.evaluation import DIRECTIONS, retrieval_metrics

    data = load_pairs(arguments.dataset, arguments.image_column, arguments.text_column, held_out(arguments))
    split, rows = choose_split(arguments, data)
    model = load_complete(OmniVisionForRetrieval, arguments.model)
    processor = OmniVisionRetrievalProcessor.from_pretrained(arguments.model)
    trained = recipe_of(arguments)["vectors"]
    vectors = ("multi_vector", "single_vector") if trained == "both" else (trained,)
    found: dict[str, Any] = {"pairs": len(rows)}
    for name in vectors:
        opened = as_sentence_transformer(model, processor, name == "multi_vector")
        found[name] = retrieval_metrics(opened, rows, arguments.batch_size)
    for name, direction in ((name, direction) for name in vectors for direction in DIRECTIONS):
        one = found[name][direction]
        shares = ", ".join(f"{key} {one[key]:.3f}" for key in ("recall@1", "recall@10", "ndcg@10"))
        print(f"{name:14}{direction.replace('_', ' '):15}{shares} among {one['candidates']:,}")
    record(arguments, "retrieval_evaluation", {**found, "split": split}, command)


def evaluate_answers(arguments: EvaluateArguments, command: str) -> None:
    """Count the exact answers of a vision-language model, also without its images, and print a line for each."""
    import torch
    from datasets import DatasetDict

    from .. import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from ..data.questions import load_questions
    from ..interop.vision_tower import load_complete
    from ..training.language import measure

    data = load_questions(arguments.dataset, held_out(arguments))
    split, rows = choose_split(arguments, data)
    model = load_complete(OmniVisionForConditionalGeneration, arguments.model, dtype=torch.float32)
    processor = OmniVisionProcessor.from_pretrained(arguments.model)
    measured = DatasetDict({"train": data["train"], split: rows} if split != "train" else {"all": rows, "train": rows})
    found = measure(model, processor, measured, batch_size=arguments.batch_size)
    (found,) = found.values()
    for name, one in found.items():
        print(f"{name:10}exact answers {one['accuracy']:.1%} of {one['questions']:,}")
    record(arguments, "answers_evaluation", {**found, "split": split}, command)


def recipe_of(arguments: EvaluateArguments) -> dict[str, Any]:
    """Return the recipe that the model was trained by, empty for other data than those of the evaluation."""
    from ..records.command import without_folder
    from ..records.metrics_file import read_metrics

    recipe = (read_metrics(Path(arguments.model)).get("training") or {}).get("recipe") or {}
    same = without_folder(str(recipe.get("dataset"))) == without_folder(arguments.dataset)
    return {"vectors": recipe.get("vectors", "both"), **(recipe if same else {})}


def held_out(arguments: EvaluateArguments) -> float:
    """Return what is held out where there is no validation split: as in training, of other data two rows."""
    from ..data.hold_out import VALIDATION_FRACTION

    if arguments.validation_fraction is not None:
        return arguments.validation_fraction
    recorded: float | None = recipe_of(arguments).get("validation_fraction")
    return recorded or (VALIDATION_FRACTION if arguments.split in ("train", "validation") else 2)


def choose_split(arguments: EvaluateArguments, data: "DatasetDict") -> "tuple[str, Dataset]":
    """Return the name of a split and its rows."""
    from datasets import concatenate_datasets

    from ..evaluation.held_out import ALL

    is_trained_on = "dataset" in recipe_of(arguments)
    split = arguments.split or ("validation" if is_trained_on else ALL)
    if split != ALL and split not in data:
        raise ValueError(f"Expected a split of {arguments.dataset!r}, {', '.join(data)} or all, got {split!r}.")
    rows = concatenate_datasets(list(data.values())) if split == ALL else data[split]
    print(f"{arguments.dataset} {split}: {len(rows):,} rows")
    return split, rows


def record(arguments: EvaluateArguments, section: str, found: dict[str, Any], command: str) -> None:
    """Write a section of metrics.json, beside a published folder, and say where."""
    from datetime import UTC, datetime

    from ..records.command import without_folder
    from ..records.metrics_file import merge_metrics, results_folder

    about = {"dataset": without_folder(arguments.dataset), "command": command}
    about["date"] = datetime.now(UTC).date().isoformat()
    print(f"Numbers: {merge_metrics(results_folder(Path(arguments.model)), {section: found | about})}")


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(EvaluateArguments, argv)
    from ..records.command import recorded_command

    kinds = {RETRIEVAL: evaluate_retrieval, LANGUAGE: evaluate_answers}
    kind = check_kind(arguments.model, CLASSIFIER, *kinds)
    given_in_vain = [name for name in ("output", "label_column", "robustness") if getattr(arguments, name)]
    if kind in kinds and given_in_vain:
        raise ValueError(f"A {kind} has no use for --{given_in_vain[0]}. Leave it out.")
    kinds.get(kind, evaluate_classifier)(arguments, recorded_command("omni-vision", ["evaluate", *argv]))
