"""Teach a tower what each patch of a drawn scene holds: colour, shape and centre of the object, and the counts.

A tower that was trained on whole images, or to be found by a bag of words, need not know which shape is where, and
no language model can read from its patches what is not in them. Labels for every patch teach it in minutes.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image as PilImage
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import EvalPrediction

from experiments.scene_patches import PATCH_COLOURS, PATCH_SHAPES, draw_scene_patches
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.data.synthetic.scene_questions import MOST_OBJECTS
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments
from modeling_omni_vision.training.optimizer import parameter_groups
from modeling_omni_vision.training.skeleton import SkeletonTrainer, TrainingRun


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


class PatchTrainer(SkeletonTrainer):
    """Trains a `PatchTeacher`, the tower's layers by Muon where that has a learning rate."""

    muon_learning_rate: float = 0.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with Muon for the layers of the tower."""
        layers, args = self.core.tower.config.num_hidden_layers, self.args
        return parameter_groups(self.core, layers, args.learning_rate, args.weight_decay, 1.0, self.muon_learning_rate)


def train_patches(config: OmniVisionConfig, muon_learning_rate: float, args: OmniVisionTrainingArguments) -> Path:
    """Teach a new tower and save it, with the scores of its heads, which are left out, in `metrics.json`.

    Args:
        config: The tower; its image size and patch size must be square.
        muon_learning_rate: Muon's for the matrices of the layers; 0 disables it.
        args: Everything that transformers' Trainer knows.

    Raises:
        TrainingInterruptedError: after SIGTERM or Ctrl-C, once a checkpoint is saved.
        NonFiniteLossError: if the loss or a gradient becomes NaN or infinite.
        ValueError: for patches that drawn scenes cannot be cut into.
    """
    run = PatchRun(config, args)
    run.muon_learning_rate = muon_learning_rate
    return run.run()


class PatchRun(TrainingRun):
    """The run of a tower; see `train_patches`."""

    evaluated = {"eval_accuracy": "accuracy", "eval_numbers": "numbers", "eval_distance": "distance"}
    muon_learning_rate: float = 0.0

    def build(self) -> PatchTrainer:
        """Draw scenes, make the tower and its heads, and return their Trainer."""
        (height, width), (patch, across) = self.recipe.image_size_hw, self.recipe.patch_size_hw
        if height != width or patch != across or self.recipe.num_channels != 3:
            raise ValueError(
                f"Drawn scenes are square and coloured, got images of {height} x {width} in "
                f"{self.recipe.num_channels} channel(s) and patches of {patch} x {across}. Correct --config."
            )
        with self.args.main_process_first(desc="drawing scenes"):
            self.data = draw_scene_patches(patch, size=height)
        self.processor = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=3)
        self.args.label_names = ["colours", "shapes", "places", "numbers"]
        trainer = PatchTrainer(
            PatchTeacher(OmniVisionModel(self.recipe)),
            args=self.args,
            data_collator=_Collator(self.processor),
            train_dataset=self.data["train"],
            eval_dataset=self.data["validation"],
            compute_metrics=patch_metrics,
        )
        trainer.muon_learning_rate = self.muon_learning_rate
        return trainer

    def describe(self) -> dict[str, Any]:
        """Return learning rates and sizes of the data; every process takes part in scoring the heads."""
        args = self.args
        self.scores = {name: self._scores(split) for name, split in self.data.items() if name != "train"}
        return {
            "arguments": {
                "batch": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
                "learning_rates": {"adamw": args.learning_rate, "muon": self.muon_learning_rate},
                "epochs": args.num_train_epochs,
            },
            "images": {name: len(split) for name, split in self.data.items()},
        }

    def _scores(self, split: Dataset) -> dict[str, float]:
        found: Any = self.trainer.predict(split, metric_key_prefix="").metrics
        return {name: found[f"_{name}"] for name in ("accuracy", "colour", "shape", "numbers", "distance")}

    def save(self) -> None:
        """Write the tower and its image processor."""
        if self.trainer.is_world_process_zero():
            self.trainer.core.tower.float().save_pretrained(self.folder)
            self.processor.save_pretrained(self.folder)

    def measure(self) -> dict[str, Any]:
        """Return the scores of the heads, which are not saved."""
        return {"patches": self.scores}


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


class _Collator:
    def __init__(self, processor: OmniVisionImageProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images: list[PilImage.Image] = [open_stored(row["image"]) for row in rows]
        return {
            "pixel_values": self.processor(images, return_tensors="pt")["pixel_values"],
            **{name: torch.tensor([row[name] for row in rows]) for name in ("colours", "shapes", "places", "numbers")},
        }


__all__ = ["PatchRun", "PatchTeacher", "PatchTrainer", "patch_metrics", "train_patches"]
