"""What a run prints about its data and its model before the first step, and which images it leaves out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from ..data.idx import find_idx_files
from ..data.image_dataset import ImageDataset
from ..data.integrity import leave_out_unreadable, write_skipped
from ..data.summary import SplitSummary, dataset_hints, summarize_dataset
from ..interpretability.dataset_sheet import plot_dataset


Images = tuple[ImageDataset, ImageDataset]  # to train on and of validation
DRAWN = ("digits", "shapes", "scenes", "objects", "counting")  # made by us, or by scikit-learn: none can be broken


class DataReport:
    """The part of a run that looks at its data: mixed into `TrainingRun`, whose attributes it uses."""

    recipe: Any
    args: Any
    folder: Path
    trainer: Any
    data: Any
    found: list[SplitSummary] = []
    skipped: list[dict[str, Any]] = []
    shared = 0  # images of validation that are in train, too

    def read_images(self, data: DatasetDict, make: Callable[[DatasetDict], Images]) -> Images:
        """Return what `make` makes of the data, once what cannot be read is left out; images are decoded once."""
        found = make(data)
        with self.args.main_process_first(desc="checking images"):
            self.data = self.check_data(data, {"train": found[0].states, "validation": found[1].states})
        if self.skipped:
            del found  # frees its images
            found = make(self.data)
        if not self.args.process_index:
            self.shared = found[1].count_in(found[0])
        return found

    def check_data(self, data: DatasetDict, states: Mapping[str, np.ndarray] | None = None) -> DatasetDict:
        """Print what the data hold and return them without images that cannot be read; a dry run also draws them.

        A run that does not measure the test split opens none of its images. `states` are those of `ImageDataset`.

        Raises:
            ValueError: as `leave_out_unreadable` does.
        """
        self.skipped, closed = [], DatasetDict()
        if "test" in data and not self.args.do_predict:
            data, closed = DatasetDict({**data}), DatasetDict(test=data["test"])
            del data["test"]
        if not is_drawn(self.recipe.dataset):
            options = (self.args.check, self.args.on_error, self.recipe.dataset, states)
            data, self.skipped = leave_out_unreadable(data, *options)
        self.found = summarize_dataset(data)
        if self.args.process_index == 0:
            print(*(line for split in self.found for line in split.lines()), sep="\n", flush=True)
            if self.args.dry_run:
                # Beside the folder of the run, which must be empty when the run starts.
                sheet = self.folder.absolute().with_name(f"{self.folder.absolute().name}-dataset.png")
                print(f"Sheet: {plot_dataset(data, self.found, sheet)}", flush=True)
        return DatasetDict({**data, **closed})

    def report_model(self) -> None:
        """Print the size of the model, and what to look at before training it."""
        if self.args.process_index:
            return
        config: Any = getattr(self.trainer.core, "config", None)
        config = getattr(config, "vision_config", config)
        size: Any = getattr(config, "image_size", None)
        parameters = [(one.numel(), one.requires_grad) for one in self.trainer.core.parameters()]
        trained = sum(number for number, is_trained in parameters if is_trained)
        print(f"model: {sum(number for number, _ in parameters):,} parameters, {trained:,} of them trained")
        side = max(size) if isinstance(size, (list, tuple)) else size
        hints = dataset_hints(self.found, side) if self.found else []
        if self.shared:
            hints.append(
                f"Hint: {self.shared:,} images of validation look as images of train do, at the size of the model: "
                "results say less about new ones. `omni-vision duplicates` finds them."
            )
        print(*hints, sep="\n", end="\n" if hints else "", flush=True)

    def save_skipped(self) -> None:
        """Write what was left out beside the run."""
        if self.skipped:
            write_skipped(self.folder, self.skipped)


def is_drawn(dataset: str) -> bool:
    """Return whether no image of a dataset comes from a file that could be broken."""
    names = [name.strip() for name in dataset.split(" + ")]
    place = Path(dataset).expanduser()
    return all(name.partition(":")[0] in DRAWN for name in names) or (place.is_dir() and bool(find_idx_files(place)))


__all__ = ["DataReport", "is_drawn"]
