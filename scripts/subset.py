"""Save a part of a dataset's training split, with equal shares of every class, to train on less.

    python scripts/subset.py --dataset data/fashion_mnist --pictures 20000 --output data/fashion_mnist_20000

The folder is a saved dataset that `--dataset` of train.py reads. The test split stays behind: nothing is chosen on it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict
from transformers import HfArgumentParser

from modeling_omni_vision.data.sources import load_pictures


@dataclass
class SubsetArguments:
    """What to take, and where to put it."""

    dataset: str = field(metadata={"help": "As for train.py: digits, shapes, a folder, or a dataset of the Hub."})
    pictures: int = field(metadata={"help": "How many pictures of the training split."})
    output: str = field(metadata={"help": "New folder to write."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the pictures, if it cannot be told."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the classes, if it cannot be told."})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(SubsetArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    if Path(arguments.output).exists():
        raise ValueError(f"The output must be a new folder, got {arguments.output!r}. Name another one.")
    # What would be held out for validation is such a part.
    part = load_pictures(arguments.dataset, arguments.image_column, arguments.label_column, float(arguments.pictures))[
        "validation"
    ]
    DatasetDict({"train": part}).save_to_disk(arguments.output)
    print(f"{arguments.output}: {len(part):,} pictures of {len(part.unique('label'))} classes")


if __name__ == "__main__":
    main()
