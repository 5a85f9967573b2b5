"""Arguments of `omni-vision train-retrieval`, beside the training arguments of sentence-transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig, check_field
from ..data.hold_out import VALIDATION_FRACTION
from .arguments import (
    HELD_OUT,
    MUON,
    NO_TOKENS,
    OWN_EVALUATION,
    CommonTrainingArguments,
    check_choices,
    check_nonnegative,
    fill_defaults,
    read_fields,
)
from .option import option


try:
    from sentence_transformers import MultiVectorEncoderTrainingArguments, SentenceTransformerTrainingArguments
except ModuleNotFoundError:  # `--help` works without the extra; training then names the package that is missing
    SentenceTransformerTrainingArguments = TrainingArguments  # type: ignore[misc, assignment]
    MultiVectorEncoderTrainingArguments = type("NoExtra", (TrainingArguments,), {})  # type: ignore[misc, assignment]


TRAINED = ("all", "image", "text", "heads")
VECTORS = ("both", "multi_vector", "single_vector")
TEXT_SAMPLING = ("any", "first")


@dataclass
class RetrievalArguments:
    """The pairs, the model, and what is trained of it."""

    dataset: str = option(
        "scenes (also scenes:2, scenes:1-3), a folder of images with a metadata.jsonl, "
        "Parquet files, a saved dataset, or a dataset of the Hub with images and texts."
    )
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    text_column: str | None = option("Column of the texts, if it cannot be inferred.", None)
    validation_fraction: float = option(HELD_OUT, VALIDATION_FRACTION)
    text_sampling: str = option(
        "Of several texts of an image, train with any, chosen anew each time, or the first. Where some "
        "texts name one object of the image only, any makes the per-token similarity maps more accurate.",
        "any",
    )
    model: str | None = option("Retrieval checkpoint to start from; by default a new one of two towers.", None)
    vision: str | None = option("Checkpoint of the vision tower; by default new.", None)
    config: str | None = option(
        "Fields of OmniVisionConfig as JSON, for a new vision tower or in place of `vision`'s.", None
    )
    text: str | None = option(
        "Text encoder: minilm (a package, the default), new or new:WIDTH (words of the training texts), a checkpoint.",
        None,
    )
    embedding_dim: int | None = option("Width of what both towers are projected to, by default 64.", None)
    vectors: str = option(
        "multi_vector: MaxSim of patches and words; single_vector: one vector for each; or both.", "both"
    )
    single_vector_weight: float = option(
        "With `vectors` both: weight of the single-vector loss beside the multi-vector one. With "
        "registers and `text_sampling` any, 1 gave the best grounding and 0.5 the best recall.",
        1.0,
    )
    vision_feature_select_strategy: str | None = option(
        "Image tokens in late interaction: grid, the default, or cls+grid.", None
    )
    contrastive_loss: str | None = option("softmax (CLIP, the default) or sigmoid (SigLIP).", None)
    train: str = option("Towers to train beside the projections: all, image, text, or heads for neither.", "image")
    lora_rank: int = option(
        "Train the vision tower by LoRA of this rank on q_proj and v_proj; 0: all of its weights.", 0
    )
    mini_batch_size: int = option("GradCache: embed so many rows at a time and compute them twice; 0: at once.", 0)
    image_pair_weight: float = option(
        "Weight of a loss by which images of the same concept find each other, in batches that bring "
        "them together; 0 disables. Of use where a concept is drawn or photographed in several ways.",
        0.0,
    )
    augment: bool = option("Shift, turn, scale and tint images, on random backgrounds where they have none.", False)
    muon_learning_rate: float = option(MUON, 0.0)

    def __post_init__(self) -> None:
        recipe: Any = self
        check_choices(recipe, train=TRAINED, vectors=VECTORS, text_sampling=TEXT_SAMPLING)
        check_nonnegative(recipe, "mini_batch_size", "muon_learning_rate", "image_pair_weight")
        if self.lora_rank < 0 or (self.lora_rank and self.train not in ("image", "all")):
            raise ValueError(
                f"`lora_rank` must be at least 0, and needs the vision tower among what is trained, got "
                f"{self.lora_rank!r} with `train` {self.train!r}. Set one of them otherwise."
            )
        if self.model is not None and any((self.vision, self.config, self.text)):
            raise ValueError("`model` has both towers, got `vision`, `config` or `text` too. Leave out one of them.")
        defaults = {"vision_feature_select_strategy": "grid", "contrastive_loss": "softmax"}
        fill_defaults(recipe, text="minilm", embedding_dim=64, **defaults)
        if self.single_vector_weight <= 0 or (self.single_vector_weight != 1 and self.vectors != "both"):
            raise ValueError(
                f"`single_vector_weight` must be above 0, and is for `vectors` both, got "
                f"{self.single_vector_weight!r} with {self.vectors!r}. Leave it out, or set --vectors both."
            )
        self.vision_config()

    @property
    def single_vector_loss_weight(self) -> float:
        """Weight of the single-vector loss beside the multi-vector one, 0 where that is trained alone."""
        return self.single_vector_weight if self.vectors == "both" else 0.0

    @property
    def late_interaction(self) -> bool:
        """Whether one vector for each patch and word is trained, alone or beside a single vector."""
        return self.vectors != "single_vector"

    def vision_config(self) -> OmniVisionConfig:
        """Return the configuration of a new tower, from `config`; raises as `read_fields` does."""
        return OmniVisionConfig(**read_fields("config", self.config))


@dataclass
class RetrievalTrainingArguments(
    CommonTrainingArguments, MultiVectorEncoderTrainingArguments, SentenceTransformerTrainingArguments
):
    """Training arguments of sentence-transformers, single- and multi-vector, with defaults for small towers."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "label_smoothing_factor": "pairs have no labels to smooth",
        "neftune_noise_alpha": NO_TOKENS,
        "include_num_input_tokens_seen": NO_TOKENS,
        "train_sampling_strategy": "`batch_sampler` of sentence-transformers decides on the batches",
        "eval_accumulation_steps": OWN_EVALUATION,
        "eval_use_gather_object": OWN_EVALUATION,
    }
    per_device_train_batch_size: int = option("Pairs per step and device.", 128)
    per_device_eval_batch_size: int = option("Rows that evaluation embeds at a time.", 64)
    metric_for_best_model: str | None = option(
        "Metric of the best: the mean nDCG@10 of both directions.", "eval_sequential_score"
    )
    max_length: int | None = option("Longest text in tokens, in training.", None)
    dataloader_drop_last: bool = option(
        "Leave out an incomplete last batch: its loss would be on another scale.", True
    )

    def __post_init__(self) -> None:
        args: Any = self
        enough = self.per_device_train_batch_size >= 2
        check_field(args, "per_device_train_batch_size", enough, "at least 2", "One pair has no negatives. Raise it.")
        super().__post_init__()


__all__ = ["RetrievalArguments", "RetrievalTrainingArguments"]
