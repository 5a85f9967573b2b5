"""Train a new vision tower on labels of each patch of drawn scenes: colour, shape and centre of the object there.

    python -m experiments.patches --output_dir runs/patches --muon_learning_rate 0.02 --learning_rate 2e-3

Training images are mirrored at random (`--flip`), and some are grey (`--grey`): those teach shapes, places and numbers
alone, so that the shape of an object is recognised whatever colour it has.

A tower that was trained on whole images, or to be found by a bag of words, need not know which shape is where, and
no language model can read from its patches what is not in them. Labels for every patch teach it in minutes. What is
saved is a vision tower for `omni-vision train-language --vision`; the accuracy of its patches, also on combinations of
colour and shape not in training, is in `metrics.json`. All TrainingArguments work as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import EvalPrediction

from experiments.scene_patches import LABELS, PATCH_COLOURS, PATCH_SHAPES, SCENE_SIZES, draw_scene_patches
from modeling_omni_vision.cli.arguments import option, parse_training
from modeling_omni_vision.cli.program import program, run_training
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.data.synthetic.scene_questions import MOST_OBJECTS
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.interop import load_image_processor, load_vision_tower
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, read_fields
from modeling_omni_vision.training.optimizer import parameter_groups
from modeling_omni_vision.training.run_record import given_recipe
from modeling_omni_vision.training.skeleton import SkeletonTrainer, TrainingRun


SCORES = ("accuracy", "colour", "shape", "numbers", "distance")
# How much a miss of the centre weighs beside a word: a tenth of the side, both ways, costs 0.75, a word of which the
# tower is half sure 0.69.
PLACE_WEIGHT, PLACE_BEND = 10.0, 0.05
UNKNOWN = -100  # label of what a grey image does not show
OF_THAT_COLOUR = 1  # the second of the numbers of a patch
LAST: dict[str, tuple[int, ...]] = {"colours": (), "shapes": (), "places": (2,), "numbers": (3,)}


@dataclass
class PatchArguments:
    """The vision tower to train."""

    model: str | None = option("Checkpoint whose vision tower is trained further; by default a new one.", None)
    config: str = option(
        "Fields of OmniVisionConfig, as JSON; without dropout by default.",
        '{"image_size": 64, "patch_size": 8, "num_attention_heads": 4}',
    )
    muon_learning_rate: float = option("Muon for the matrices of the layers (0.02 is usual); 0 disables.", 0.0)
    scenes: int = option("Scenes to train on.", SCENE_SIZES["train"])
    flip: bool = option("Mirror every second image.", False)
    grey: float = option("Probability that an image is grey.", 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.grey <= 1:
            raise ValueError(f"`grey` is a probability from 0 to 1, got {self.grey!r}. Correct it.")


class PatchTeacher(nn.Module):
    """
    A tower with linear heads on its patches: colour, shape and centre of the object, and how many objects there are
    in all, of that colour and of that shape.
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
        """Compare the output of the heads for a batch of images with the labels of `draw_scene_patches`.

        Returns:
            `loss`; `found`, for each patch the most probable colour and shape, the centre and the most probable
            numbers (batch, patches, 7).
        """
        grid: Any = self.tower(pixel_values=pixel_values).grid
        colour, shape, place = self.colour(grid), self.shape(grid), self.place(grid)
        number = self.number(grid).unflatten(-1, (3, -1))
        covered = colours != 0
        loss = mean_cross_entropy(colour.flatten(0, 1), colours.flatten())
        loss = loss + cross_entropy(shape.flatten(0, 1), shapes.flatten())
        loss = loss + PLACE_WEIGHT * smooth_l1_loss(place[covered], places[covered], beta=PLACE_BEND)
        loss = loss + mean_cross_entropy(number[covered].flatten(0, 1), numbers[covered].flatten())
        words = torch.stack((colour.argmax(-1), shape.argmax(-1)), dim=-1)
        found = torch.cat((words, place, number.argmax(-1)), dim=-1)
        return {"loss": loss, "found": found}


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of all labels but those of `UNKNOWN`, 0 where there are no others."""
    known = (labels != UNKNOWN).sum().clamp(min=1)
    return cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum") / known


class PatchScenes(torch.utils.data.Dataset):
    """Scenes of `draw_scene_patches` in memory: decoding their images and labels takes longer than a step on a GPU.

    Args:
        rows: A split.
        processor: Prepares the images.
        flip: Whether every second image is mirrored.
        grey: Probability that an image is grey, with the colours of its objects `UNKNOWN`.
    """

    def __init__(self, rows: Dataset, processor: Any, flip: bool = False, grey: float = 0.0) -> None:
        table, width = rows.with_format("arrow"), (len(rows), -1)
        self.labels = {
            name: torch.from_numpy(_flat(table[:][name].combine_chunks()).copy()).reshape(*width, *LAST[name])
            for name in LABELS
        }
        pixels = [np.asarray(open_stored(image)) for image in rows["image"][:]]
        self.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self.scale, self.shift = (1 / 255 / std)[:, None, None], (mean / std)[:, None, None]
        self.flip, self.grey = 0.5 if flip else 0.0, grey

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return rows as a batch."""
        pixels, labels = self.pixels[indices].float(), {name: of[indices] for name, of in self.labels.items()}
        if self.grey:
            is_grey = torch.rand(len(indices)) < self.grey
            pixels = torch.where(is_grey[:, None, None, None], _luminance(pixels), pixels)
            hidden = is_grey[:, None] & (labels["colours"] != 0)
            labels["colours"][hidden] = UNKNOWN
            labels["numbers"][..., OF_THAT_COLOUR][hidden] = UNKNOWN
        if self.flip:
            turned = torch.rand(len(indices)) < self.flip
            pixels[turned] = pixels[turned].flip(-1)
            for of in labels.values():
                of[turned] = _mirrored(of[turned])
            x = labels["places"][..., 0]
            x[turned] = torch.where(labels["colours"][turned] != 0, 1 - x[turned], 0.0)
        return {"pixel_values": pixels * self.scale - self.shift, **labels}


def _flat(array: Any) -> np.ndarray:
    """Return all numbers of an Arrow column of lists."""
    while hasattr(array, "flatten") and array.type.num_fields:
        array = array.flatten()
    found: np.ndarray = array.to_numpy(zero_copy_only=False)
    return found


def _luminance(pixels: torch.Tensor) -> torch.Tensor:
    """Return images (images, 3, height, width) in grey, by ITU-R 601."""
    return (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).expand_as(pixels)


def _mirrored(labels: torch.Tensor) -> torch.Tensor:
    """Return the labels of square grids of patches (images, patches, ...) with columns in reverse order."""
    side = int(labels.shape[1] ** 0.5)
    return labels.unflatten(1, (side, side)).flip(2).flatten(1, 2)


@dataclass
class PatchTrainingArguments(OmniVisionTrainingArguments):
    """Training arguments of towers: the loss is that of several heads."""

    refused: ClassVar[dict[str, str]] = {
        **OmniVisionTrainingArguments.refused,
        "label_smoothing_factor": "the loss is that of several heads",
    }


class PatchTrainer(SkeletonTrainer):
    """Trains a `PatchTeacher`, the tower's layers by Muon where that has a learning rate."""

    muon_learning_rate: float = 0.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with Muon for the layers of the tower."""
        layers, args = self.core.tower.config.num_hidden_layers, self.args
        return parameter_groups(self.core, layers, args.learning_rate, args.weight_decay, 1.0, self.muon_learning_rate)


class PatchRun(TrainingRun):
    """The run of a tower, with the scores of its heads, which are not saved, in `metrics.json`."""

    evaluated = {"eval_accuracy": "accuracy", "eval_numbers": "numbers", "eval_distance": "distance"}

    def build(self) -> PatchTrainer:
        """Draw scenes, make the tower and its heads, and return their Trainer.

        Raises:
            ValueError: for patches that drawn scenes cannot be cut into.
        """
        tower, processor = tower_of(self.recipe)
        config = tower.config
        (height, width), (patch, across) = config.image_size_hw, config.patch_size_hw
        if height != width or patch != across or config.num_channels != 3:
            raise ValueError(
                f"Drawn scenes are square and coloured, got images of {height} x {width} in "
                f"{config.num_channels} channel(s) and patches of {patch} x {across}. Correct --config."
            )
        with self.args.main_process_first(desc="drawing scenes"):
            self.data = draw_scene_patches(patch, size=height, sizes={**SCENE_SIZES, "train": self.recipe.scenes})
        self.processor = processor
        self.args.label_names = list(LABELS)
        changes = {"train": (self.recipe.flip, self.recipe.grey)}
        self.scenes = {
            name: PatchScenes(rows, self.processor, *changes.get(name, ())) for name, rows in self.data.items()
        }
        trainer = PatchTrainer(
            PatchTeacher(tower),
            args=self.args,
            data_collator=_as_batch,
            train_dataset=self.scenes["train"],
            eval_dataset=self.scenes["validation"],
            compute_metrics=patch_metrics,
        )
        trainer.muon_learning_rate = self.recipe.muon_learning_rate
        return trainer

    def describe(self) -> dict[str, Any]:
        """Return learning rates and sizes of the data; every process takes part in scoring the heads."""
        args = self.args
        self.scores = {name: self._scores(split) for name, split in self.scenes.items() if name != "train"}
        return {
            "arguments": {
                "batch": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
                "learning_rates": {"adamw": args.learning_rate, "muon": self.recipe.muon_learning_rate},
                "epochs": args.num_train_epochs,
            },
            "recipe": given_recipe(self.recipe),
            "images": {name: len(split) for name, split in self.data.items()},
        }

    def _scores(self, split: PatchScenes) -> dict[str, float]:
        found: Any = self.trainer.predict(split, metric_key_prefix="").metrics
        return {name: found[f"_{name}"] for name in SCORES}

    def save(self) -> None:
        """Write the tower and its image processor."""
        if self.trainer.is_world_process_zero():
            self.trainer.core.tower.float().save_pretrained(self.folder)
            self.processor.save_pretrained(self.folder)

    def measure(self) -> dict[str, Any]:
        """Return the scores of the heads, which are not saved."""
        return {"patches": self.scores}


def tower_of(recipe: PatchArguments) -> tuple[OmniVisionModel, OmniVisionImageProcessor]:
    """Return a new vision tower, or that of a checkpoint, and its image processor."""
    if recipe.model is not None:
        tower = load_vision_tower(recipe.model, dtype=torch.float32)
        return tower, load_image_processor(recipe.model)
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = OmniVisionConfig(**{**plain, **read_fields("config", recipe.config)})
    height, width = config.image_size_hw
    processor = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=3)
    return OmniVisionModel(config), processor


def _as_batch(rows: Any) -> Any:
    """Return what `PatchScenes` has made a batch already."""
    return rows


def patch_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return `SCORES` of patches with an object: fractions of right colours and shapes, of both (`accuracy`) and of
    right `numbers`; the mean distance of the centre in fractions of the side.
    """
    found: Any = prediction.predictions
    labels: Any = prediction.label_ids
    colours, shapes, places, numbers = labels
    colour, shape = found[..., 0] == colours, found[..., 1] == shapes
    distance = ((found[..., 2:4] - places) ** 2).sum(-1) ** 0.5
    values = (colour & shape, colour, shape, found[..., 4:] == numbers, distance)
    return {name: float(value[colours > 0].mean()) for name, value in zip(SCORES, values, strict=True)}


@program
def main(argv: Sequence[str]) -> None:
    recipe, args = parse_training((PatchArguments, PatchTrainingArguments), argv, __name__)
    found = run_training(lambda recipe, args: PatchRun(recipe, args).run(), recipe, args)
    for split, scores in found.get("patches", {}).items():
        print(f"{split:11} " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
