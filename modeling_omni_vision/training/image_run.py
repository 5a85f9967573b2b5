"""What trainings on images in splits have in common, with labels or without."""

from typing import Any

from ..data.hold_out import save_splits
from ..records.command import without_folder
from .skeleton import TrainingRun


class ImageRun(TrainingRun):
    """A run on `self.data`: what was held out of training is saved, and the record counts the images."""

    def save(self) -> None:
        """Write the model, and which files were held out of training."""
        super().save()
        if self.trainer.is_world_process_zero():
            save_splits(self.folder, self.data, self.recipe.dataset)

    def dataset_record(self) -> dict[str, Any]:
        """Return the name of the dataset, without its folder, and the number of images in each split."""
        return {"name": without_folder(self.recipe.dataset)} | {name: len(split) for name, split in self.data.items()}


__all__ = ["ImageRun"]
