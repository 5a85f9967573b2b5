"""Arguments of `omni-vision train-language`, beside those of `TrainingArguments`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig, check_field
from ..data.hold_out import VALIDATION_FRACTION
from .arguments import (
    HELD_OUT,
    MUON,
    OWN_EVALUATION,
    CommonTrainingArguments,
    check_choices,
    check_nonnegative,
    fill_defaults,
    read_fields,
)
from .option import option


LONG_CONVERSATIONS = ("stop", "skip", "cut")
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
    of_new_models: ClassVar[tuple[str, ...]] = ("vision", "config", "text", "text_config")

    dataset: str = option(
        "scenes (also scenes:colour,count or scenes:caption), easy-vqa, or a .jsonl of conversations with "
        "images or a folder of such; several, joined by ' + ', are trained on together."
    )
    validation_fraction: float = option(HELD_OUT, VALIDATION_FRACTION)
    model: str | None = option("Composite to train further; by default a new one is composed.", None)
    vision: str | None = option(
        "Checkpoint of the vision tower, or of a model for search that has one; by default new.", None
    )
    config: str | None = option("Fields of OmniVisionConfig for a new vision tower, as JSON.", None)
    text: str | None = option(
        "A checkpoint (of a composite its language model), or by default new: a small Llama, words of the training "
        "data.",
        None,
    )
    text_config: str | None = option("Fields of LlamaConfig for a new language model, as JSON.", None)
    fusion: str | None = option("early, the default, or late, as for omni-vision compose.", None)
    vision_feature_select_strategy: str | None = option(
        "cls, grid or cls+grid; by default cls (early), grid (late).", None
    )
    projector: str | None = option("linear, the default, or mlp: two layers.", None)
    scale_factor: int | None = option(
        "Side of the squares of patches that become one token: 2 makes 16 of 64; by default 1.", None
    )
    cross_attention_interval: int | None = option(
        "Late fusion: every k-th layer, by default the fourth, gets cross-attention to the images.", None
    )
    attn_implementation: str | None = option("Attention while training; on CPU in bf16 eager is faster.", None)
    stage: str = option(
        "projector: what is new only (projector, late fusion's attention); lora: with LoRA in the "
        "language model; all: everything. A part whose learning rate is 0 stays as it is.",
        "all",
    )
    lora_rank: int = option("Rank of LoRA, in stage lora.", 8)
    lora_targets: str | None = option(
        "Layers that get LoRA, as q_proj,v_proj; by default those two, or what PEFT has for the language model.", None
    )
    vision_learning_rate: float | None = option(
        "Of the vision tower; by default --learning_rate, or 0 with lora.", None
    )
    text_learning_rate: float | None = option("Of the language model or its LoRA; by default --learning_rate.", None)
    muon_learning_rate: float = option(MUON, 0.0)
    text_muon_learning_rate: float = option("Muon for those of the language model, in stage all; 0 disables.", 0.0)
    max_questions_per_sequence: int = option(
        "Questions about one image that share its tokens in one sequence; 1: none do.", 20
    )
    long_conversations: str = option(
        "What to do with those longer than the language model's positions: stop, skip, or cut (their first turns).",
        "stop",
    )
    image_input: str = option(
        "images, or a control: shuffled (images of other questions), or nothing (text only).", "images"
    )

    def __post_init__(self) -> None:
        recipe: Any = self
        check_choices(recipe, stage=STAGES, image_input=self.image_inputs, long_conversations=LONG_CONVERSATIONS)
        check_nonnegative(recipe, "vision_learning_rate", "text_learning_rate")
        check_nonnegative(recipe, "muon_learning_rate", "text_muon_learning_rate")
        composed = [name for name in self.of_new_models if getattr(self, name)]
        if self.model is not None and composed:
            raise ValueError(f"`model` has all of its parts, got {composed!r} too. Leave out one of them.")
        fill_defaults(recipe, text=NEW, fusion="early", projector="linear", scale_factor=1, cross_attention_interval=4)
        if self.vision is not None and self.config is not None:
            raise ValueError("`config` is for a new vision tower, got a checkpoint in `vision` too. Leave out one.")
        if self.text not in (NEW, None) and self.text_config is not None:
            raise ValueError(f"`text_config` is for a new language model, got the checkpoint {self.text!r} too.")
        for name in ("max_questions_per_sequence", "lora_rank"):
            check_field(recipe, name, getattr(self, name) >= 1, "at least 1", "Raise it.")
        if self.image_input in self.without_images and self.stage != "all":
            raise ValueError(
                f"Without images only the language model learns: `image_input` {self.image_input!r} needs `stage` "
                f"'all', got {self.stage!r}."
            )
        self.vision_config()
        self.decoder_fields()

    def vision_config(self) -> OmniVisionConfig:
        """Return the configuration of a new tower, from `config`; without dropout unless that is asked for."""
        given = read_fields("config", self.config)
        return OmniVisionConfig(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **given})

    def decoder_fields(self) -> dict[str, Any]:
        """Return the fields of a new language model, from `text_config`; raises as `read_fields` does."""
        # Not at the top: it takes as long to import as all the rest, also for `--help`.
        from transformers import LlamaConfig

        return {**NEW_DECODER, **read_fields("text_config", self.text_config, LlamaConfig)}


@dataclass
class LanguageTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for vision-language models; every default can be changed."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "eval_accumulation_steps": OWN_EVALUATION,
        "eval_use_gather_object": OWN_EVALUATION,
    }

    per_device_train_batch_size: int = option("Conversations (of several questions) per step and device.", 16)
    per_device_eval_batch_size: int = option("Conversations measured at a time.", 16)
    train_sampling_strategy: str = option("group_by_length (less padding), random or sequential.", "group_by_length")
    metric_for_best_model: str | None = option(
        "Validation metric of the best: the fraction of exact answers.", "accuracy"
    )


__all__ = ["NEW", "LanguageArguments", "LanguageTrainingArguments"]
