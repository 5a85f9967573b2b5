"""Arguments of `omni-vision train-vae`, beside the training arguments of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..configuration_omni_vision import check_field
from ..data.hold_out import VALIDATION_FRACTION
from .arguments import (
    HELD_OUT,
    MUON,
    NO_TOKENS,
    CommonTrainingArguments,
    _given,
    check_nonnegative,
    fill_defaults,
    read_fields,
)
from .option import option


@dataclass
class VaeArguments:
    """The images, the model, and what is trained."""

    dataset: str = option(
        "digits, shapes, a folder of images, IDX or Parquet files, a saved dataset, or a dataset of the Hub; labels "
        "are not read."
    )
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    validation_fraction: float = option(HELD_OUT, VALIDATION_FRACTION)
    test_fraction: float = option("Held out of train as a test split: a fraction, or a number; 0 for none.", 0.0)
    model: str | None = option("Autoencoder to start from; by default a new one.", None)
    vision: str | None = option("Checkpoint of the encoder; by default new.", None)
    config: str | None = option("Fields of OmniVisionConfig as JSON or a file, for the encoder.", None)
    decoder_config: str | None = option("The same for the decoder; by default half of the encoder's layers.", None)
    latent_size: int | None = option("Numbers of a latent vector, by default 64.", None)
    beta: float | None = option("Weight of the KL divergence, by default 1: the loss is then the bound.", None)
    max_translate: int = option("Random shift in pixels of the model's input; 0 disables.", 0)
    flip: bool = option("Mirror every second image.", False)
    ema_decay: float = option("Decay of the average of weights; 0 disables.", 0.0)
    muon_learning_rate: float = option(MUON, 0.0)
    samples: int = option("Latent vectors of an image for the importance-weighted bound at the end.", 16)

    def __post_init__(self) -> None:
        self.given = _given(self)
        recipe: Any = self
        check_nonnegative(recipe, "muon_learning_rate", "test_fraction", "beta")
        check_field(recipe, "ema_decay", 0 <= self.ema_decay < 1, "at least 0 and below 1", "0.999 is usual.")
        check_field(recipe, "samples", self.samples >= 1, "at least 1", "16 is usual.")
        parts = [name for name in ("vision", "config", "decoder_config") if getattr(self, name)]
        if self.model is not None and parts:
            raise ValueError(f"`model` has encoder and decoder, got `{parts[0]}` too. Leave out one of them.")
        fill_defaults(recipe, latent_size=64, beta=1.0)
        for name in ("config", "decoder_config"):
            read_fields(name, getattr(self, name))


@dataclass
class VaeTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for autoencoders; every default can be changed."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "neftune_noise_alpha": NO_TOKENS,
        "include_num_input_tokens_seen": NO_TOKENS,
        "label_smoothing_factor": "an autoencoder has no labels to smooth",
    }
    per_device_train_batch_size: int = option("Images per step and device.", 64)
    per_device_eval_batch_size: int = option("Images per evaluation batch and device.", 256)
    num_train_epochs: float = option("Passes over the training images.", 30.0)
    metric_for_best_model: str | None = option(
        "Validation metric of the best: loss, reconstruction or kl, in nats an image.", "loss"
    )


__all__ = ["VaeArguments", "VaeTrainingArguments"]
