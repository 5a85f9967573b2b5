"""What `scripts/train_language.py` can be told, beside transformers' own `TrainingArguments`."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig
from ..data.sources import VALIDATION_FRACTION
from .fields import read_fields


STAGES = ("projector", "lora", "all")
IMAGE_INPUTS = ("images", "shuffled", "nothing", "symbols", "symbol_map")
NEW = "new"
# A decoder that learns drawn scenes in minutes of one core; with its words below a million parameters.
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

    dataset: str = field(
        metadata={
            "help": "scenes (also scenes:colour,count or scenes:caption), easy-vqa, or a .jsonl of conversations with "
            "images or a folder of such; several, joined by ' + ', are trained on together."
        }
    )
    validation_fraction: float = field(
        default=VALIDATION_FRACTION,
        metadata={"help": "Held out of train if there is no validation split: a share, or a number."},
    )
    model: str | None = field(
        default=None, metadata={"help": "Composite to train further; by default a new one is composed."}
    )
    vision: str | None = field(
        default=None,
        metadata={"help": "Checkpoint of the image tower, or of a model for search that has one; by default new."},
    )
    config: str | None = field(
        default=None, metadata={"help": "Fields of OmniVisionConfig for a new image tower, as JSON."}
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
        default=4, metadata={"help": "Late fusion: the layers that look at images, every k-th."}
    )
    align_steps: int = field(
        default=0,
        metadata={"help": "First teach a new projector the words for what patches of drawn scenes show; 0: not."},
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
        default=None, metadata={"help": "Of the image tower; by default --learning_rate, in stage lora 0."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the language model or its LoRA; by default --learning_rate."}
    )
    muon_learning_rate: float = field(
        default=0.0,
        metadata={"help": "Muon for the matrices of the image tower's layers (0.02 is usual); 0: none."},
    )
    text_muon_learning_rate: float = field(
        default=0.0, metadata={"help": "Muon for those of the language model's layers, in stage all; 0: none."}
    )
    max_questions_per_sequence: int = field(
        default=20, metadata={"help": "Questions about one image that share one reading of it; 1: none do."}
    )
    image_input: str = field(
        default="images",
        metadata={
            "help": "images, or a control: nothing, shuffled images, the truth in words (symbols) or, "
            "without anything to recognise, in patches (symbol_map)."
        },
    )

    def __post_init__(self) -> None:
        for name, allowed in (("stage", STAGES), ("image_input", IMAGE_INPUTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        composed = [name for name in ("vision", "config", "text_config", "align_steps") if getattr(self, name)]
        if self.model is not None and composed:
            raise ValueError(f"`model` has all of its parts, got {composed!r} too. Leave out one of them.")
        if self.vision is not None and self.config is not None:
            raise ValueError("`config` is for a new image tower, got a checkpoint in `vision` too. Leave out one.")
        if self.text != NEW and self.text_config is not None:
            raise ValueError(f"`text_config` is for a new language model, got the checkpoint {self.text!r} too.")
        for name in ("max_questions_per_sequence", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}.")
        rates = ("vision_learning_rate", "text_learning_rate", "muon_learning_rate", "text_muon_learning_rate")
        for name in (*rates, "align_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}. 0 is none.")
        if self.image_input in ("nothing", "symbols") and self.stage != "all":
            raise ValueError(
                f"Without images only the language model learns: `image_input` {self.image_input!r} needs `stage` "
                f"'all', got {self.stage!r}."
            )
        self.vision_config()
        self.decoder_fields()

    def vision_config(self) -> OmniVisionConfig:
        """Read `config`; a new tower has no dropout unless it is asked for.

        Raises:
            ValueError: if it is not JSON of an object with fields of [`OmniVisionConfig`].
        """
        given = read_fields("config", self.config)
        return OmniVisionConfig(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **given})

    def decoder_fields(self) -> dict[str, Any]:
        """Read `text_config`, the fields of a new language model.

        Raises:
            ValueError: if it is not JSON of an object with fields of `LlamaConfig`.
        """
        # Not at the top: it takes as long to import as all the rest, also for `--help`.
        from transformers import LlamaConfig

        return {**NEW_DECODER, **read_fields("text_config", self.text_config, LlamaConfig)}


@dataclass
class LanguageTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults that suit small models; every one can be changed."""

    per_device_train_batch_size: int = field(
        default=16,
        metadata={"help": "Conversations per step and device, each of up to `max_questions_per_sequence` questions."},
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Conversations measured at a time."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training conversations."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate, of the projector for one."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps to warm up, or their share if below 1."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length (less padding), random or sequential."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: epoch, steps or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: epoch, steps, best or no."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best is among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best weights, not the last."})
    metric_for_best_model: str | None = field(
        default="accuracy", metadata={"help": "Validation metric of the best: the share of exact answers."}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether that metric should be large."})
    logging_steps: float = field(default=0.02, metadata={"help": "Steps between logs, or their share if below 1."})
    report_to: str | None = field(default="none", metadata={"help": "Trackers to report to."})
    do_predict: bool = field(default=True, metadata={"help": "Measure all splits and the controls at the end, once."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: images are a column."})

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be false, got true: it removes the images. Leave it out.")
        if not torch.accelerator.is_available():
            # Otherwise torchrun starts separate runs without a GPU, bf16 is refused, and memory is pinned in vain.
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False
        if self.data_seed is None:
            self.data_seed = self.seed
        if self.eval_strategy == "no":
            self.load_best_model_at_end, self.metric_for_best_model, self.greater_is_better = False, None, None
        super().__post_init__()


__all__ = ["NEW", "LanguageArguments", "LanguageTrainingArguments"]
