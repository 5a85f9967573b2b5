"""Arguments of `omni-vision distill`, beside the training arguments of transformers."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import TrainingArguments

from .arguments import (
    AUTO,
    MUON,
    NO_TOKENS,
    CommonTrainingArguments,
    _given,
    check_choices,
    check_field,
    check_nonnegative,
    read_fields,
)
from .option import option


KINDS = ("auto", "transformers", "timm", "open_clip", "sentence_transformers", "exported")


@dataclass
class DistillArguments:
    """The teacher, the images, the student, and what is taught."""

    teacher: str = option(
        "A vision model of transformers, a folder of timm (or timm:NAME), open_clip or sentence-transformers, or one "
        "that omni-vision export wrote."
    )
    images: list[str] = option("Files, folders, globs, Parquet files, tars, lists, datasets or addresses of images.")
    teacher_kind: str = option(f"Library of the teacher: {', '.join(KINDS)}.", "auto")
    trust_remote_code: bool = option("Run the code that comes with the teacher.", False)
    model: str | None = option("Checkpoint that the student starts from; by default a new ViTTiny.", None)
    config: str | None = option("Fields of OmniVisionConfig (and attn_implementation), as JSON or a JSON file.", None)
    held_out: str | None = option("List of images (ids or paths, one a line) to measure on, never trained on.", None)
    held_out_fraction: float = option("Without a list: fraction of the images to measure on, or their number.", 0.1)
    label_file: str | None = option("CSV or JSON lines of id and label: they measure, and teach nothing.", None)
    vector_weight: float = option("Weight of 1 - cosine of the image vectors.", 1.0)
    neighbour_weight: float = option("Weight of the similarities to the other images of a batch.", 1.0)
    neighbour_bank: bool = option(
        "Compare with the teacher's vectors of all training images, not with those of the batch alone.",
        False,
    )
    relation_weight: float = option("Weight of the similarities among the student's own vectors of a batch.", 0.0)
    token_weight: float = option("Weight of 1 - cosine of patch tokens, or of a feature map.", 0.5)
    logit_weight: float = option("Weight of the teacher's class probabilities, where it classifies.", 0.0)
    temperature: float = option(
        "Temperature of the similarities to other images; a smaller one sees the nearest.", 0.05
    )
    logit_temperature: float = option("Temperature of the class probabilities.", 2.0)
    views: int = option(
        "Views of an image, the whole one among them, whose teacher outputs are computed once and kept; 0 computes "
        "them anew for each epoch.",
        8,
    )
    min_crop_scale: float = option("Smallest fraction of the area that a view keeps; 1 for the whole image.", 0.35)
    flip: bool = option("Mirror every second view.", True)
    low_resolution: int = option("Image size in the first part of training, for speed; 0 for the full size.", 0)
    low_resolution_fraction: float = option("That part of training.", 0.6)
    ema_decay: float = option("Decay of the average of weights; 0 disables.", 0.0)
    muon_learning_rate: float = option(MUON, 0.0)
    mimetic_init: bool = option("Start a new student with attention between similar tokens.", True)
    cache: str | None = option("Folder of pixels and teacher outputs; by default beside --output_dir.", None)
    learning_curve: bool = option("Also train with a half and a quarter of the images.", False)
    scratch: bool = option("Also train the same student on the labels alone, for comparison.", True)
    images_on_device: str = option(
        "Keep images on the GPU and cut views there: auto (if they fit), true, false.", "auto"
    )
    cuda_graphs: str = option("Replay steps as CUDA graphs: auto (small models on one GPU), true or false.", "auto")

    def __post_init__(self) -> None:
        self.given = _given(self)
        weights = ("vector_weight", "neighbour_weight", "relation_weight", "token_weight", "logit_weight")
        check_nonnegative(self, *weights, "views", "low_resolution", "muon_learning_rate", "held_out_fraction")
        check_choices(self, teacher_kind=KINDS, images_on_device=AUTO, cuda_graphs=AUTO)
        recipe: object = self
        some = any(getattr(self, name) for name in weights)
        check_field(recipe, "vector_weight", some, "above 0 where the others are 0", "Else nothing is taught.")  # type: ignore[arg-type]
        for name in ("temperature", "logit_temperature"):
            check_field(recipe, name, getattr(self, name) > 0, "above 0", "Correct it.")  # type: ignore[arg-type]
        check_field(recipe, "min_crop_scale", 0 < self.min_crop_scale <= 1, "above 0 and at most 1", "0.35 is usual.")  # type: ignore[arg-type]
        for name in ("low_resolution_fraction", "ema_decay"):
            check_field(recipe, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1", "Correct it.")  # type: ignore[arg-type]
        read_fields("config", self.config)


@dataclass
class DistillTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for a student; every default can be changed."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "neftune_noise_alpha": NO_TOKENS,
        "include_num_input_tokens_seen": NO_TOKENS,
        "label_smoothing_factor": "the student learns from a teacher, not from labels",
    }
    per_device_train_batch_size: int = option("Images per step and device.", 128)
    per_device_eval_batch_size: int = option("Images per evaluation batch and device.", 64)
    num_train_epochs: float = option("Passes over the training images.", 30.0)
    metric_for_best_model: str | None = option("Metric of the best on validation: overlap, cosine or loss.", "overlap")


__all__ = ["DistillArguments", "DistillTrainingArguments"]
