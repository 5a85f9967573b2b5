"""Teach a tower what each patch of a drawn scene shows: the colour and shape of the object there, its middle, and how
many there are.

A tower that was trained on whole images, or to be found by a bag of words, need not know which shape is where, and
no language model can read from its patches what is not in them. Labels for every patch teach it in minutes.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image as PilImage
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import EvalPrediction, set_seed

from experiments.scene_patches import PATCH_COLOURS, PATCH_SHAPES, draw_scene_patches

from ..configuration_omni_vision import OmniVisionConfig
from ..data.stored_images import open_stored
from ..data.synthetic.scene_questions import MOST_OBJECTS
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..modeling_omni_vision import OmniVisionModel
from ..records.metrics_file import merge_metrics
from .arguments import OmniVisionTrainingArguments
from .callbacks import train_until_done
from .classification import find_checkpoint
from .optimizer import muon_for
from .run_record import describe_machine, recorded_versions
from .trainer import PlainFolderTrainer


# How much a miss of the middle weighs beside a word: a tenth of the side, both ways, costs 0.75, a word of which the
# tower is half sure 0.69.
PLACE_WEIGHT, PLACE_BEND = 10.0, 0.05
NUMBER_WEIGHT = 1.0


class PatchTeacher(nn.Module):
    """
    A tower with linear heads on its patches: colour, shape and middle of the object, and how many objects there are
    in all, of that colour and of that shape.

    Args:
        tower: The tower to teach.
    """

    # Losses are means over patches: the Trainer must not divide them by a number of labels.
    accepts_loss_kwargs = False

    def __init__(self, tower: OmniVisionModel) -> None:
        super().__init__()
        self.tower = tower
        width = tower.config.hidden_size
        self.colour = nn.Linear(width, len(PATCH_COLOURS))
        self.shape = nn.Linear(width, len(PATCH_SHAPES))
        self.place = nn.Linear(width, 2)
        self.number = nn.Linear(width, 3 * (MOST_OBJECTS + 1))

    def forward(
        self,
        pixel_values: torch.Tensor,
        colours: torch.Tensor,
        shapes: torch.Tensor,
        places: torch.Tensor,
        numbers: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Compare what the heads say with what the patches show.

        Args:
            pixel_values: Images (batch, channels, height, width).
            colours: Numbers in `PATCH_COLOURS` (batch, patches).
            shapes: Numbers in `PATCH_SHAPES` (batch, patches).
            places: Middles of the objects as shares of the side (batch, patches, 2).
            numbers: How many objects there are, of the same colour and of the same shape (batch, patches, 3).

        Returns:
            `loss`; `found`, for each patch the most probable colour and shape, the middle and the most probable
            numbers (batch, patches, 7).
        """
        grid: Any = self.tower(pixel_values=pixel_values).grid
        colour, shape, place = self.colour(grid), self.shape(grid), self.place(grid)
        number = self.number(grid).unflatten(-1, (3, -1))
        shown = colours > 0
        loss = cross_entropy(colour.flatten(0, 1), colours.flatten()) + cross_entropy(
            shape.flatten(0, 1), shapes.flatten()
        )
        loss = loss + PLACE_WEIGHT * smooth_l1_loss(place[shown], places[shown], beta=PLACE_BEND)
        loss = loss + NUMBER_WEIGHT * cross_entropy(number[shown].flatten(0, 1), numbers[shown].flatten())
        words = torch.stack((colour.argmax(-1), shape.argmax(-1)), dim=-1)
        found = torch.cat((words, place, number.argmax(-1)), dim=-1)
        return {"loss": loss, "found": found}


class PatchTrainer(PlainFolderTrainer):
    """Trains a `PatchTeacher`, the tower's layers by Muon where that has a learning rate."""

    muon_learning_rate: float = 0.0

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer."""
        if self.optimizer is None:
            teacher: Any = self.model
            layers = teacher.tower.config.num_hidden_layers
            self.optimizer = muon_for(teacher, layers, self.args, self.muon_learning_rate)
        return super().create_optimizer(*args, **kwargs)


def train_patches(config: OmniVisionConfig, muon_learning_rate: float, args: OmniVisionTrainingArguments) -> Path:
    """Teach a new tower and save it, with the scores of its heads, which are left behind, in `metrics.json`.

    Args:
        config: The tower; its image size and patch size must be square.
        muon_learning_rate: Muon's for the matrices of the layers, 0 for none.
        args: Everything that transformers' Trainer knows.

    Raises:
        TrainingInterruptedError: after SIGTERM, once a checkpoint is saved.
        ValueError: for patches that drawn scenes cannot be cut into.
    """
    folder = Path(str(args.output_dir))
    checkpoint = find_checkpoint(folder, args.resume_from_checkpoint)
    set_seed(args.seed)
    (height, width), (patch, across) = config.image_size_hw, config.patch_size_hw
    if height != width or patch != across or config.num_channels != 3:
        raise ValueError(
            f"Drawn scenes are square and coloured, got images of {height} x {width} in {config.num_channels} "
            f"channel(s) and patches of {patch} x {across}. Correct --config."
        )
    with args.main_process_first(desc="drawing scenes"):
        data = draw_scene_patches(patch, size=height)
    processor = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=3)
    teacher = PatchTeacher(OmniVisionModel(config))
    args.label_names = ["colours", "shapes", "places", "numbers"]
    trainer = PatchTrainer(
        teacher,
        args=args,
        data_collator=_Collator(processor),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=patch_metrics,
    )
    trainer.muon_learning_rate = muon_learning_rate
    minutes = train_until_done(trainer, checkpoint) / 60
    scores = {name: _scores(trainer, data[name]) for name in data if name != "train"}
    if trainer.is_world_process_zero():
        teacher.tower.float().save_pretrained(folder)
        processor.save_pretrained(folder)
        training = {
            "learning_rates": {"adamw": args.learning_rate, "muon": muon_learning_rate},
            "batch": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "epochs": args.num_train_epochs,
            "seed": args.seed,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": recorded_versions(),
            "machine": describe_machine(),
            "minutes": round(minutes, 2),
            "resumed_from": None if checkpoint is None else checkpoint.name,
            "images": {name: len(split) for name, split in data.items()},
            "parameters": teacher.tower.num_parameters(),
        }
        merge_metrics(folder, {"training": training, "patches": scores})
    return folder


def patch_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Score patches that show an object: shares of right colours and shapes, and of both (`accuracy`); of right
    `numbers`; the mean distance of the middle in shares of the side.
    """
    found: Any = prediction.predictions
    labels: Any = prediction.label_ids
    colours, shapes, places, numbers = labels
    shown = colours > 0
    colour, shape = found[..., 0] == colours, found[..., 1] == shapes
    distance = ((found[..., 2:4] - places) ** 2).sum(-1) ** 0.5
    return {
        "accuracy": float((colour & shape)[shown].mean()),
        "colour": float(colour[shown].mean()),
        "shape": float(shape[shown].mean()),
        "numbers": float((found[..., 4:] == numbers)[shown].mean()),
        "distance": float(distance[shown].mean()),
    }


def _scores(trainer: PatchTrainer, split: Dataset) -> dict[str, float]:
    found: Any = trainer.predict(split, metric_key_prefix="").metrics
    return {name: found[f"_{name}"] for name in ("accuracy", "colour", "shape", "numbers", "distance")}


class _Collator:
    def __init__(self, processor: OmniVisionImageProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images: list[PilImage.Image] = [open_stored(row["image"]) for row in rows]
        return {
            "pixel_values": self.processor(images, return_tensors="pt")["pixel_values"],
            **{name: torch.tensor([row[name] for row in rows]) for name in ("colours", "shapes", "places", "numbers")},
        }


__all__ = ["PatchTeacher", "PatchTrainer", "patch_metrics", "train_patches"]
