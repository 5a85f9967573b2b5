"""Arguments of `scripts/train_language.py`, beside those of `TrainingArguments`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig
from ..data.hold_out import VALIDATION_FRACTION
from .arguments import CommonTrainingArguments, read_fields


STAGES = ("projector", "lora", "all")
NEW = "new"
# A decoder that learns drawn scenes in minutes of one core; below a million parameters with its vocabulary.
NEW_DECODER = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@dataclass
class LanguageArguments:
    """The questions, the model, and what is trained of it."""

    # Experiments extend these.
    image_inputs: ClassVar[tuple[str, ...]] = ("images", "shuffled", "nothing")
    without_images: ClassVar[tuple[str, ...]] = ("nothing",)
    of_new_models: ClassVar[tuple[str, ...]] = ("vision", "config", "text_config")

    dataset: str = field(
        metadata={
            "help": "scenes (also scenes:colour,count or scenes:caption), easy-vqa, or a .jsonl of conversations with "
            "images or a folder of such; several, joined by ' + ', are trained on together."
        }
    )
    validation_fraction: float = field(
        default=VALIDATION_FRACTION,
        metadata={"help": "Held out of train if there is no validation split: a fraction, or a number."},
    )
    model: str | None = field(
        default=None, metadata={"help": "Composite to train further; by default a new one is composed."}
    )
    vision: str | None = field(
        default=None,
        metadata={"help": "Checkpoint of the vision tower, or of a model for search that has one; by default new."},
    )
    config: str | None = field(
        default=None, metadata={"help": "Fields of OmniVisionConfig for a new vision tower, as JSON."}
    )
    text: str = field(
        default=NEW,
        metadata={
            "help": "Language model: a checkpoint (of a composite, its own), or new: a small Llama with the words of "
            "the training data."
        },
    )
    text_config: str | None = field(
        default=None, metadata={"help": "Fields of LlamaConfig for a new language model, as JSON."}
    )
    fusion: str = field(default="early", metadata={"help": "early or late, as in scripts/compose.py."})
    vision_feature_select_strategy: str | None = field(
        default=None, metadata={"help": "cls, grid or cls+grid; by default cls for early and grid for late fusion."}
    )
    projector: str = field(default="linear", metadata={"help": "linear, or mlp: two layers."})
    scale_factor: int = field(
        default=1, metadata={"help": "Side of the squares of patches that become one token: 2 makes 16 of 64."}
    )
    cross_attention_interval: int = field(
        default=4, metadata={"help": "Late fusion: every k-th layer gets cross-attention to the images."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention while training; by default transformers' choice. On CPU in bf16 eager is faster."
        },
    )
    stage: str = field(
        default="all",
        metadata={
            "help": "projector: what is new only (projector, late fusion's attention); lora: with LoRA in the "
            "language model; all: everything. A part whose learning rate is 0 stays as it is."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of LoRA on q_proj and v_proj, in stage lora."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the vision tower; by default --learning_rate, in stage lora 0."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the language model or its LoRA; by default --learning_rate."}
    )
    muon_learning_rate: float = field(
        default=0.0,
        metadata={"help": "Muon for the matrices of the vision tower's layers (0.02 is usual); 0 disables."},
    )
    text_muon_learning_rate: float = field(
        default=0.0, metadata={"help": "Muon for those of the language model's layers, in stage all; 0 disables."}
    )
    max_questions_per_sequence: int = field(
        default=20, metadata={"help": "Questions about one image that share its tokens in one sequence; 1: none do."}
    )
    image_input: str = field(
        default="images",
        metadata={"help": "images, or a control: shuffled (images of other questions), or nothing (text only)."},
    )

    def __post_init__(self) -> None:
        for name, allowed in (("stage", STAGES), ("image_input", self.image_inputs)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        composed = [name for name in self.of_new_models if getattr(self, name)]
        if self.model is not None and composed:
            raise ValueError(f"`model` has all of its parts, got {composed!r} too. Leave out one of them.")
        if self.vision is not None and self.config is not None:
            raise ValueError("`config` is for a new vision tower, got a checkpoint in `vision` too. Leave out one.")
        if self.text != NEW and self.text_config is not None:
            raise ValueError(f"`text_config` is for a new language model, got the checkpoint {self.text!r} too.")
        for name in ("max_questions_per_sequence", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}.")
        rates = ("vision_learning_rate", "text_learning_rate", "muon_learning_rate", "text_muon_learning_rate")
        for name in rates:
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}. 0 disables.")
        if self.image_input in self.without_images and self.stage != "all":
            raise ValueError(
                f"Without images only the language model learns: `image_input` {self.image_input!r} needs `stage` "
                f"'all', got {self.stage!r}."
            )
        self.vision_config()
        self.decoder_fields()

    def vision_config(self) -> OmniVisionConfig:
        """Return the configuration of a new tower from `config`, without dropout unless that is asked for.

        Raises:
            ValueError: if it is not JSON of an object with fields of [`OmniVisionConfig`].
        """
        given = read_fields("config", self.config)
        return OmniVisionConfig(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **given})

    def decoder_fields(self) -> dict[str, Any]:
        """Return the fields of a new language model, from `text_config`.

        Raises:
            ValueError: if it is not JSON of an object with fields of `LlamaConfig`.
        """
        # Not at the top: it takes as long to import as all the rest, also for `--help`.
        from transformers import LlamaConfig

        return {**NEW_DECODER, **read_fields("text_config", self.text_config, LlamaConfig)}


@dataclass
class LanguageTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for vision-language models; every default can be changed."""

    per_device_train_batch_size: int = field(
        default=16,
        metadata={"help": "Conversations per step and device, each of up to `max_questions_per_sequence` questions."},
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Conversations measured at a time."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training conversations."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate, of the projector for one."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length (less padding), random or sequential."}
    )
    metric_for_best_model: str | None = field(
        default="accuracy", metadata={"help": "Validation metric of the best: the fraction of exact answers."}
    )
    do_predict: bool = field(default=True, metadata={"help": "Measure all splits and the controls at the end, once."})


__all__ = ["NEW", "LanguageArguments", "LanguageTrainingArguments"]
