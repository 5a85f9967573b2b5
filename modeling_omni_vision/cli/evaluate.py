"""Evaluate a classifier on one split: numbers into its metrics.json, plots as PNG.

    omni-vision evaluate --model runs/digits --dataset digits

Without `--split`, on the validation split that the training run held out; the test split is opened by `--split test`
alone, and counted.
Accuracy with its 95 % bootstrap interval, macro-F1, calibration error (15 bins), negative log-likelihood, a row
for each class, the confusion matrix and calibration after temperature scaling (fitted on the validation split)
are merged into metrics.json under "evaluation"; with --robustness also accuracy under rotation, blur, noise and
erasing under "robustness", some 25 times the work. Works for our checkpoints and for stock ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import option, parse
from .program import program


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    model: str = option("Folder with a classifier and its image processor.")
    dataset: str = option("As for train: digits, shapes, a folder, or a dataset of the Hub.")
    split: str = option("train, validation or test.", "validation")
    output: str | None = option("Folder for PNG files; without it plots in the checkpoint.", None)
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)
    validation_fraction: float | None = option(
        "What the training run held out, if metrics.json does not record it.", None
    )
    batch_size: int = option("Images in one forward.", 64)
    robustness: bool = option("Measure accuracy on corrupted and mirrored images.", False)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(EvaluateArguments, argv)
    from ..evaluation.evaluate import evaluate
    from ..records.command import recorded_command

    report = evaluate(**vars(arguments), command=recorded_command("scripts/evaluate.py", argv))
    found, (low, high) = report.metrics, report.metrics["accuracy_interval"]
    split = found["split"] + (" (held out of training)" if report.held_out else "")
    print(
        f"{found['dataset']} {split}: accuracy {found['accuracy']:.2%} ({low:.2%} to {high:.2%}), macro-F1 "
        f"{found['macro_f1']:.4f}, calibration error {found['expected_calibration_error']:.4f}, "
        f"{found['num_examples']:,} images. Numbers: {report.metrics_file}. "
        f"Images: {', '.join(map(str, report.images))}"
    )
