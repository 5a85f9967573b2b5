"""Count the images of a dataset: each split and class, sizes and modes; with `--export` write some as PNG.

    omni-vision inspect --dataset digits
    omni-vision inspect --dataset digits --export runs/digits/images --count 20 --split test

Exported images lie in one folder for each label, as `omni-vision predict` reads them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .arguments import JSON, option, parse, write_result
from .program import program


@dataclass
class InspectArguments:
    """What to count, and what to write."""

    dataset: str = option("As for train: digits, shapes, a folder, or a dataset of the Hub.")
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)
    export: str | None = option("Folder to write images into; made when it does not exist.", None)
    split: str | None = option("Split that is exported; by default test or, where there is none, validation.", None)
    count: int = option("Images that are exported, spread evenly over the split.", 20)
    json: str | None = option(JSON, None, bare="-")


def counted(counts: dict[str, int], most: int = 12) -> str:
    """Return counts in one line, of many the first."""
    first = [f"{name}: {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join(first) + (f" and {len(counts) - most} more" if len(counts) > most else "")


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(InspectArguments, argv)
    from ..data.sources import load_images
    from ..data.summary import export_images, summarize_dataset

    splits = load_images(arguments.dataset, arguments.image_column, arguments.label_column)
    found = summarize_dataset(splits)
    if not write_result([asdict(split) for split in found], arguments.json):
        for split in found:
            print(f"{split.split}: {split.num_images:,} images, {len(split.classes)} classes")
            print(f"  classes  {counted(split.classes)}")
            print(f"  sizes    {counted(split.sizes)} (of {split.num_sampled:,} read)")
            print(f"  modes    {counted(split.modes)}")
    if arguments.export:
        chosen = arguments.split or ("test" if "test" in splits else "validation")
        written = export_images(splits, chosen, arguments.count, Path(arguments.export))
        if arguments.json != "-":
            print(f"{len(written)} images in {arguments.export}")
