"""Evaluate a classifier on one split: numbers into its metrics.json, images as PNG.

    python scripts/evaluate.py --model runs/digits --dataset digits --split test

Accuracy with its 95 % bootstrap interval, macro-F1, calibration error (15 bins), negative log-likelihood, a row
for each class, the confusion matrix and calibration after temperature scaling (fitted on the validation split)
are merged into metrics.json under "evaluation"; with --robustness true accuracy under rotation, blur, noise and
erasing under "robustness", some 25 times the work. Works for our checkpoints and for stock ones.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..evaluation.evaluate import evaluate
from ..records.command import recorded_command


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    model: str = field(metadata={"help": "Folder with a classifier and its image processor."})
    dataset: str = field(metadata={"help": "As for train.py: digits, shapes, a folder, or a dataset of the Hub."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    output: str | None = field(
        default=None, metadata={"help": "Folder for PNG files; default: plots in the checkpoint."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images, if it cannot be told."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the classes, if it cannot be told."})
    validation_fraction: float | None = field(
        default=None, metadata={"help": "What the training run held out, if metrics.json does not record it."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images in one forward."})
    robustness: bool = field(default=False, metadata={"help": "Measure accuracy on corrupted and mirrored images."})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(EvaluateArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    report = evaluate(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.output,
        arguments.image_column,
        arguments.label_column,
        arguments.validation_fraction,
        arguments.batch_size,
        recorded_command("scripts/evaluate.py", sys.argv[1:] if argv is None else argv),
        arguments.robustness,
    )
    found, (low, high) = report.metrics, report.metrics["accuracy_interval"]
    print(
        f"{found['dataset']} {found['split']}: accuracy {found['accuracy']:.2%} ({low:.2%} to {high:.2%}), macro-F1 "
        f"{found['macro_f1']:.4f}, calibration error {found['expected_calibration_error']:.4f}, "
        f"{found['num_examples']:,} images. Numbers: {report.metrics_file}. "
        f"Images: {', '.join(map(str, report.images))}"
    )


if __name__ == "__main__":
    main()
