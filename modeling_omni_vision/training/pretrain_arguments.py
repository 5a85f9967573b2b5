"""Arguments of `omni-vision pretrain`, beside the training arguments of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..data.hold_out import VALIDATION_FRACTION
from .arguments import HELD_OUT, MUON, NO_TOKENS, CommonTrainingArguments, _given, check_field, check_levers
from .option import option


@dataclass
class PretrainArguments:
    """The images, the encoder, and what is masked."""

    dataset: str = option(
        "A folder of images, with classes or without, IDX or Parquet files, a saved dataset, a dataset of the Hub, "
        "digits or shapes; labels are not read."
    )
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    validation_fraction: float = option(HELD_OUT, VALIDATION_FRACTION)
    model: str | None = option("Checkpoint to start from; by default a new model.", None)
    config: str | None = option("Fields of OmniVisionConfig (and attn_implementation), as JSON or a JSON file.", None)
    mask_ratio: float = option("Fraction of each image that is masked.", 0.6)
    mask_patch_size: int | None = option(
        "Side of a mask in pixels, a multiple of the patch size; by default one patch.", None
    )
    min_crop_scale: float = option("Random-resized crop: smallest fraction of the area; 0 disables.", 0.0)
    max_translate: int = option("Random shift in pixels of the model's input; 0 disables.", 0)
    flip: bool = option("Mirror every second image.", False)
    ema_decay: float = option("Decay of the average of weights; 0 disables.", 0.0)
    layer_decay: float = option("Learning rate of each layer relative to the one above it; 1 means equal.", 1.0)
    muon_learning_rate: float = option(MUON, 0.0)
    mimetic_init: bool = option("Start a new model with attention between similar tokens.", False)
    center_residual: bool = option("Keep the residual stream zero-mean, so that the native twin is exact.", True)
    images_on_device: str = option(
        "Keep images on the GPU, changed there by epochs: auto (if they fit), true, false.", "auto"
    )
    cuda_graphs: str = option("Replay steps as CUDA graphs: auto (small models on one GPU), true or false.", "auto")

    def __post_init__(self) -> None:
        self.given = _given(self)
        recipe: Any = self
        check_field(recipe, "mask_ratio", 0 < self.mask_ratio < 1, "above 0 and below 1", "0.6 is usual.")
        check_levers(recipe)


@dataclass
class PretrainTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for masked images; every default can be changed."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "neftune_noise_alpha": NO_TOKENS,
        "include_num_input_tokens_seen": NO_TOKENS,
        "label_smoothing_factor": "there are no labels",
    }
    per_device_train_batch_size: int = option("Images per step and device.", 128)
    per_device_eval_batch_size: int = option("Images per evaluation batch and device.", 256)
    num_train_epochs: float = option("Passes over the training images.", 100.0)
    metric_for_best_model: str | None = option("Validation metric of the best: loss.", "loss")


__all__ = ["PretrainArguments", "PretrainTrainingArguments"]
