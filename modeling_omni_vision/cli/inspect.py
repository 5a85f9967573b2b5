"""Show what a dataset holds before training: images of each split and class, sizes and modes, files that are left out.

    omni-vision inspect my_images
    omni-vision inspect digits --export runs/digits/images --count 20 --split test

All images are opened, and those that cannot be read are listed; `--sheet` is a PNG with images of each class, a bar
for each class and the sizes of images. Exported images lie in one folder for each label, as `omni-vision predict`
reads them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .arguments import JSON, option, parse, write_result
from .program import program


@dataclass
class InspectArguments:
    """What to count, and what to write."""

    folder: str | None = option("The same as --dataset.", None, positional=True)
    dataset: str | None = option("As for train: digits, shapes, a folder, or a dataset of the Hub.", None)
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)
    check: str | None = option("full or headers; by default full below 50,000 images.", None)
    sheet: str | None = option('PNG to draw; "" for none.', "dataset.png")
    export: str | None = option("Folder to write images into; made when it does not exist.", None, folder=True)
    split: str | None = option("Split that is exported; by default test or, where there is none, validation.", None)
    count: int = option("Images that are exported, spread evenly over the split.", 20, least=1)
    json: str | None = option(JSON, None, bare="-")

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.dataset is None):
            raise ValueError(f"Expected one dataset to inspect, got {self.folder!r} and {self.dataset!r}. Name one.")
        self.dataset = self.dataset or self.folder


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(InspectArguments, argv)
    from ..data.image_files import LeftOut
    from ..data.integrity import unreadable_rows
    from ..data.sources import load_to_inspect
    from ..data.summary import dataset_hints, export_images, summarize_dataset
    from ..interpretability.dataset_sheet import plot_dataset

    left_out = LeftOut()
    splits, refusal = load_to_inspect(str(arguments.dataset), arguments.image_column, arguments.label_column, left_out)
    broken = unreadable_rows(splits, arguments.check, str(arguments.dataset))
    found = summarize_dataset(splits)
    described = {
        "splits": [asdict(split) for split in found],
        "left_out": {why: {"files": count, "first": left_out.names[why]} for why, count in left_out.counts.items()},
        "unreadable": broken,
        "cannot_be_trained_on": refusal,
    }
    printed = write_result(described, arguments.json)
    lines = [line for split in found for line in split.lines()] + dataset_hints(found)
    if refusal:
        lines.append(f"Training would end here: {refusal}")
    if broken:
        lines.append(f"{len(broken):,} {'images' if len(broken) > 1 else 'image'} cannot be read:")
        lines += [f"  {one['image']}  {one['reason']}" for one in broken]
    if arguments.sheet:
        lines.append(f"Sheet: {plot_dataset(splits, found, Path(arguments.sheet))}")
    if arguments.export:
        chosen = arguments.split or ("test" if "test" in splits else "validation")
        written = export_images(splits, chosen, arguments.count, Path(arguments.export))
        lines.append(f"{len(written)} images in {arguments.export}")
    if not printed:
        print("\n".join(lines))
