"""Arguments of `scripts/train.py`, and what those of all training commands share."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig
from ..data.hold_out import VALIDATION_FRACTION


SECRETS = ("hub_token",)
# Keywords that a configuration takes beside its fields.
OTHER_CONFIG_KEYS = ("attn_implementation", "id2label", "label2id")


@dataclass
class RecipeArguments:
    """The data, the model, and the levers that `TrainingArguments` does not have."""

    dataset: str = field(
        metadata={
            "help": "digits, shapes (also shapes:colour, shapes:shape, shapes:red,blue), a folder of images, IDX or "
            "Parquet files, a saved dataset, or a dataset of the Hub."
        }
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images, if it cannot be inferred."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the classes, if it cannot be inferred."}
    )
    validation_fraction: float = field(
        default=VALIDATION_FRACTION,
        metadata={"help": "Held out of train if there is no validation split: a fraction, or a number."},
    )
    model: str | None = field(default=None, metadata={"help": "Checkpoint to start from; by default a new model."})
    config: str | None = field(
        default=None,
        metadata={"help": "Fields of OmniVisionConfig (and attn_implementation), as JSON or a JSON file."},
    )
    min_crop_scale: float = field(
        default=0.0, metadata={"help": "Random-resized crop: smallest fraction of the area; 0 disables."}
    )
    max_translate: int = field(
        default=0, metadata={"help": "Random shift in pixels of the model's input; 0 disables."}
    )
    flip: bool = field(default=False, metadata={"help": "Mirror every second image."})
    rand_augment: int = field(default=0, metadata={"help": "RandAugment magnitude, 1 to 30 (3 is light); 0 disables."})
    random_erasing: float = field(default=0.0, metadata={"help": "Probability that a rectangle is erased."})
    mixup: float = field(default=0.0, metadata={"help": "Mixup alpha; 0 disables."})
    cutmix: float = field(default=0.0, metadata={"help": "CutMix alpha; 0 disables. With mixup, one per batch."})
    ema_decay: float = field(default=0.0, metadata={"help": "Decay of the average of weights; 0 disables."})
    layer_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of each layer relative to the one above it; 1 means equal."}
    )
    muon_learning_rate: float = field(
        default=0.0,
        metadata={"help": "Muon for the matrices of the layers, at this learning rate (0.02 is usual); 0 disables."},
    )
    mimetic_init: bool = field(
        default=False, metadata={"help": "Start a new model with attention between similar tokens."}
    )
    center_residual: bool = field(
        default=True, metadata={"help": "Keep the residual stream zero-mean, so that the native twin is exact."}
    )

    def __post_init__(self) -> None:
        self.given = _given(self)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and below 1, got {self.ema_decay!r}. 0.999 is usual.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must be above 0 and at most 1, got {self.layer_decay!r}. 0.75 is usual.")
        if self.muon_learning_rate < 0:
            raise ValueError(
                f"`muon_learning_rate` must be at least 0, got {self.muon_learning_rate!r}. 0.02 is usual, 0 is AdamW."
            )
        if self.mimetic_init and self.model is not None:
            raise ValueError(
                "`mimetic_init` is for new models, got a checkpoint in `model` too. Leave out one of them."
            )
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """Read `config`.

        Raises:
            ValueError: if it is not JSON of an object, or has a key that `OmniVisionConfig` does not know.
        """
        return read_fields("config", self.config)


@dataclass
class CommonTrainingArguments:
    """Defaults that suit small models, and what follows from others; comes before a class of `TrainingArguments`."""

    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training data."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps to warm up, or their fraction if below 1."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: epoch, steps or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: epoch, steps, best or no."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best is among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best weights, not the last."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether that metric should be large."})
    logging_steps: float = field(default=0.02, metadata={"help": "Steps between logs, or their fraction if below 1."})
    # The type of TrainingArguments in its own order: the parser takes the second one for the flag's.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers to report to."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: images are a column."})

    def __post_init__(self) -> None:
        args: Any = self
        args.given = _given(self)
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be false, got true: it removes the images. Leave it out.")
        if not torch.accelerator.is_available():
            # Otherwise torchrun starts separate runs without a GPU, bf16 is refused, and memory is pinned in vain.
            args.use_cpu = True
        if args.use_cpu:
            args.dataloader_pin_memory = False
        if args.data_seed is None:
            args.data_seed = args.seed
        if self.eval_strategy == "no":
            self.load_best_model_at_end, args.metric_for_best_model, self.greater_is_better = False, None, None
        # The Trainer would replace a non-finite loss by an average; ours stops at it.
        args.logging_nan_inf_filter = False
        super().__post_init__()  # type: ignore[misc]


@dataclass
class OmniVisionTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for classifiers; every default can be changed."""

    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Images per evaluation batch and device."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over the training images."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate, for the topmost layers."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay, not for norms, biases and tokens."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "Validation metric of the best."})
    do_predict: bool = field(
        default=True,
        metadata={"help": "Open the test split, once, at the end; false for trial runs, compared on validation."},
    )


def read_fields(name: str, given: str | None, kind: Any = OmniVisionConfig) -> dict[str, Any]:
    """Return the fields of a configuration that an option holds, none where it was left out.

    Args:
        name: The option, for messages.
        given: JSON of an object, or a file of it.
        kind: Class of the configuration.

    Raises:
        ValueError: if it is neither, or has a key that the configuration does not know.
    """
    if given is None:
        return {}
    is_file = not given.lstrip().startswith("{")
    if is_file and not Path(given).is_file():
        raise ValueError(f"`{name}` must be JSON that starts with {{ or a file of it, got {given!r}.")
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8") if is_file else given)
    except ValueError as error:
        raise ValueError(f"`{name}` must be JSON, got {given!r} ({error}). Correct it.") from error
    known = {item.name for item in fields(kind)} | set(OTHER_CONFIG_KEYS)
    if not isinstance(found, dict) or not set(found) <= known:
        unknown = sorted(set(found) - known) if isinstance(found, dict) else found
        raise ValueError(f"`{name}` must hold fields of {kind.__name__}, got {unknown!r}. Correct or remove them.")
    return found


def _given(arguments: Any) -> dict[str, Any]:
    """Return what differs from the defaults, before `__post_init__` fills in the rest; secrets are left out."""
    given = {}
    for field_ in fields(arguments):
        value, default = getattr(arguments, field_.name), field_.default
        # The parser writes some empty values in another way than the default does.
        both_empty = not value and (not default or default in (MISSING, "no"))
        if field_.name not in SECRETS and value != default and not both_empty:
            given[field_.name] = value
    return given


__all__ = ["CommonTrainingArguments", "OmniVisionTrainingArguments", "RecipeArguments", "read_fields"]
