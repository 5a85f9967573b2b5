"""Write images of a dataset as PNG files, in one folder for each label.

python scripts/export_images.py --dataset digits --split test --count 20 --output runs/quickstart/images
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from transformers import HfArgumentParser

from ..data.sources import load_images
from ..image_processing_omni_vision import read_image


@dataclass
class ExportArguments:
    """What to write where."""

    dataset: str = field(metadata={"help": "as in scripts/train.py"})
    output: str = field(metadata={"help": "folder to write into; made when it does not exist"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
    count: int = field(default=20, metadata={"help": "number of images, spread evenly over the split"})


def export(arguments: ExportArguments) -> list[Path]:
    """Write the images and return their paths."""
    rows = load_images(arguments.dataset)[arguments.split]
    step = max(len(rows) // arguments.count, 1)
    written = []
    for index in list(range(0, len(rows), step))[: arguments.count]:
        row = rows[index]
        folder = Path(arguments.output) / rows.features["label"].int2str(row["label"])
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{arguments.split}_{index:05d}.png")
        Image.fromarray(read_image(row["image"], num_channels=None).squeeze()).save(written[-1])
    return written


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(ExportArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    print(f"{len(export(arguments))} images in {arguments.output}")


if __name__ == "__main__":
    main()
