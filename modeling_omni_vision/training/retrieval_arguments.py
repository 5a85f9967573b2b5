"""Arguments of `scripts/train_retrieval.py`, beside the training arguments of sentence-transformers."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig
from ..data.hold_out import VALIDATION_FRACTION
from .arguments import CommonTrainingArguments, read_fields


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

    dataset: str = field(
        metadata={
            "help": "scenes (also scenes:2, scenes:1-3), a folder of images with a metadata.jsonl, "
            "Parquet files, a saved dataset, or a dataset of the Hub with images and texts."
        }
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images, if it cannot be inferred."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts, if it cannot be inferred."})
    validation_fraction: float = field(
        default=VALIDATION_FRACTION,
        metadata={"help": "Held out of train if there is no validation split: a fraction, or a number."},
    )
    text_sampling: str = field(
        default="any",
        metadata={
            "help": "Of several texts of an image, train with any, chosen anew each time, or the first. Where some "
            "texts name one object of the image only, any makes the per-token similarity maps more accurate."
        },
    )
    model: str | None = field(
        default=None, metadata={"help": "Retrieval checkpoint to start from; by default a new one of two towers."}
    )
    vision: str | None = field(default=None, metadata={"help": "Checkpoint of the vision tower; by default new."})
    config: str | None = field(
        default=None,
        metadata={"help": "Fields of OmniVisionConfig as JSON: of a new vision tower, or instead of `vision`'s own."},
    )
    text: str = field(
        default="minilm",
        metadata={
            "help": "Text encoder: minilm (a package), new or new:WIDTH (words of the training texts), a checkpoint."
        },
    )
    embedding_dim: int = field(default=64, metadata={"help": "Width of what both towers are projected to."})
    vectors: str = field(
        default="both",
        metadata={"help": "multi_vector: MaxSim of patches and words; single_vector: one vector for each; or both."},
    )
    single_vector_weight: float = field(
        default=1.0,
        metadata={
            "help": "With `vectors` both: weight of the single-vector loss beside the multi-vector one. 0.2, with "
            "registers and `text_sampling` any, gave the best grounding at about the same recall."
        },
    )
    vision_feature_select_strategy: str = field(
        default="grid", metadata={"help": "Image tokens in late interaction: grid, or cls+grid."}
    )
    contrastive_loss: str = field(default="softmax", metadata={"help": "softmax (CLIP) or sigmoid (SigLIP)."})
    train: str = field(
        default="image",
        metadata={"help": "Towers to train beside the projections: all, image, text, or heads for neither."},
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "Train the vision tower by LoRA of this rank on q_proj and v_proj; 0: all of its weights."},
    )
    mini_batch_size: int = field(
        default=0, metadata={"help": "GradCache: embed so many rows at a time and compute them twice; 0: at once."}
    )
    image_pair_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss by which images of the same concept find each other, in batches that bring "
            "them together; 0 disables. Of use where a concept is drawn or photographed in several ways."
        },
    )
    augment: bool = field(
        default=False,
        metadata={"help": "Shift, turn, scale and tint images, on random backgrounds where they have none."},
    )
    muon_learning_rate: float = field(
        default=0.0,
        metadata={"help": "Muon for the matrices of the vision tower's layers (0.02 is usual); 0 disables."},
    )

    def __post_init__(self) -> None:
        for name, known in (("train", TRAINED), ("vectors", VECTORS), ("text_sampling", TEXT_SAMPLING)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.lora_rank < 0 or (self.lora_rank and self.train not in ("image", "all")):
            raise ValueError(
                f"`lora_rank` must be at least 0, and needs the vision tower among what is trained, got "
                f"{self.lora_rank!r} with `train` {self.train!r}. Set one of them otherwise."
            )
        if self.model is not None and (self.vision is not None or self.config is not None):
            raise ValueError("`model` has both towers, got `vision` or `config` too. Leave out one of them.")
        if self.single_vector_weight <= 0 or (self.single_vector_weight != 1 and self.vectors != "both"):
            raise ValueError(
                f"`single_vector_weight` must be above 0, and is for `vectors` both, got "
                f"{self.single_vector_weight!r} with {self.vectors!r}. Leave it out, or set --vectors both."
            )
        for name in ("mini_batch_size", "muon_learning_rate", "image_pair_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}. 0 disables.")
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
        """Return the configuration of a new tower, from `config`.

        Raises:
            ValueError: if it is not JSON of an object, or has a key that `OmniVisionConfig` does not know.
        """
        return OmniVisionConfig(**self.vision_fields())

    def vision_fields(self) -> dict[str, Any]:
        """Return the fields in `config`; see `vision_config`."""
        return read_fields("config", self.config)


@dataclass
class RetrievalTrainingArguments(
    CommonTrainingArguments, MultiVectorEncoderTrainingArguments, SentenceTransformerTrainingArguments
):
    """Training arguments of sentence-transformers, single- and multi-vector, with defaults for small towers."""

    per_device_train_batch_size: int = field(default=128, metadata={"help": "Pairs per step and device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows that evaluation embeds at a time."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training pairs."})
    metric_for_best_model: str | None = field(
        default="eval_sequential_score", metadata={"help": "Metric of the best: the mean nDCG@10 of both directions."}
    )
    do_predict: bool = field(default=True, metadata={"help": "Measure the test splits at the end, once."})
    max_length: int | None = field(default=None, metadata={"help": "Longest text in tokens, in training."})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave out an incomplete last batch: its loss would be on another scale."}
    )

    def __post_init__(self) -> None:
        if self.per_device_train_batch_size < 2:
            raise ValueError(
                f"`per_device_train_batch_size` must be at least 2, got {self.per_device_train_batch_size!r}: one "
                "pair has no negatives. Raise it."
            )
        super().__post_init__()


__all__ = ["RetrievalArguments", "RetrievalTrainingArguments"]
