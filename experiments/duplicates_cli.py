"""Count duplicates within and between the splits of a dataset, and labels that contradict; no model is needed.

    python scripts/audit.py --dataset data/fashion_mnist --output docs/fashion_mnist_duplicates.json

Writes exact duplicates, how near the nearest training image of each test image is (mirrored and shifted too), and
the nearest pairs, these also as a PNG sheet beside the JSON file. Four minutes of one core for 60,000 images of 28
pixels; `--shift 0` compares a ninth of that. `--model` puts the counts into the metrics.json of a model, for its
card; if the JSON file is there already, it is read instead of counted anew.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from experiments.duplicates import audit, card_section
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.metrics_file import merge_metrics


@dataclass
class AuditArguments:
    """What to look at."""

    dataset: str = field(metadata={"help": "As for train.py: digits, shapes, a folder, or a dataset of the Hub."})
    output: str = field(default="audit.json", metadata={"help": "JSON file to write; the sheet is a PNG beside it."})
    model: str | None = field(default=None, metadata={"help": "Folder whose metrics.json takes the counts too."})
    shift: int = field(default=1, metadata={"help": "Largest shift in pixels under which images are compared."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the images, if it cannot be told."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the classes, if it cannot be told."})


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(AuditArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    if arguments.model and Path(arguments.output).is_file():
        report = json.loads(Path(arguments.output).read_text(encoding="utf-8"))
    else:
        report = audit(
            arguments.dataset,
            arguments.output,
            arguments.image_column,
            arguments.label_column,
            arguments.shift,
            recorded_command("scripts/audit.py", sys.argv[1:] if argv is None else argv),
        )
    if arguments.model:
        merge_metrics(Path(arguments.model), {"data_audit": card_section(report)})
    exact, near = report["exact"]["train_and_test"], report["near"]["thresholds"][0]
    print(
        f"{report['dataset']}: {exact['test_images']} test images stand in train too, "
        f"{exact['with_different_labels']} with another label; {near['test_images']} correlate with one at "
        f"{near['at_least']} or more, {near['with_different_labels']} with another label. "
        f"Numbers: {arguments.output}. Pairs: {Path(arguments.output).with_suffix('.png')}"
    )


if __name__ == "__main__":
    main()
