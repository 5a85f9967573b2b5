"""Arguments of `omni-vision train`, and what those of all training commands share."""

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..configuration_omni_vision import OmniVisionConfig, check_field
from ..data.hold_out import VALIDATION_FRACTION
from .option import option


AUTO = ("auto", "true", "false")
SECRETS = ("hub_token",)
HELD_OUT = "Held out of train if there is no validation split: a fraction, or a number."
MUON = "Muon for the matrices of the vision tower's layers, at this learning rate (0.02 is usual); 0 disables."
# Keywords that a configuration takes beside its fields.
OTHER_CONFIG_KEYS = ("attn_implementation", "id2label", "label2id")


@dataclass
class RecipeArguments:
    """The data, the model, and the levers that `TrainingArguments` does not have."""

    dataset: str = option(
        "digits, shapes (also shapes:colour, shapes:shape, shapes:red,blue), a folder of images, IDX or "
        "Parquet files, a saved dataset, or a dataset of the Hub."
    )
    image_column: str | None = option("Column of the images, if it cannot be inferred.", None)
    label_column: str | None = option("Column of the classes, if it cannot be inferred.", None)
    validation_fraction: float = option(HELD_OUT, VALIDATION_FRACTION)
    test_fraction: float = option("Held out of train as a test split: a fraction, or a number; 0 for none.", 0.0)
    model: str | None = option("Checkpoint to start from; by default a new model.", None)
    config: str | None = option("Fields of OmniVisionConfig (and attn_implementation), as JSON or a JSON file.", None)
    min_crop_scale: float = option("Random-resized crop: smallest fraction of the area; 0 disables.", 0.0)
    max_translate: int = option("Random shift in pixels of the model's input; 0 disables.", 0)
    flip: bool = option("Mirror every second image.", False)
    rand_augment: int = option("RandAugment magnitude, 1 to 30 (3 is light); 0 disables.", 0)
    random_erasing: float = option("Probability that a rectangle is erased.", 0.0)
    mixup: float = option("Mixup alpha; 0 disables.", 0.0)
    cutmix: float = option("CutMix alpha; 0 disables. With mixup, one per batch.", 0.0)
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
        check_choices(recipe, images_on_device=AUTO, cuda_graphs=AUTO)
        check_field(recipe, "ema_decay", 0 <= self.ema_decay < 1, "at least 0 and below 1", "0.999 is usual.")
        check_field(recipe, "layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1", "0.75 is usual.")
        check_nonnegative(recipe, "muon_learning_rate", "test_fraction")
        if self.mimetic_init and self.model is not None:
            raise ValueError(
                "`mimetic_init` is for new models, got a checkpoint in `model` too. Leave out one of them."
            )
        self.config_fields()

    def config_fields(self) -> dict[str, Any]:
        """Return the fields in `config`; raises as `read_fields` does."""
        return read_fields("config", self.config)


@dataclass
class CommonTrainingArguments:
    """Defaults that suit small models, and what follows from others; comes before a class of `TrainingArguments`."""

    num_train_epochs: float = option("Passes over the training data.", 5.0)
    learning_rate: float = option("Peak learning rate; with layer decay that of the topmost layers.", 1e-3)
    lr_scheduler_type: str = option("Shape of the learning rate over time.", "cosine")
    warmup_steps: float = option("Steps to warm up, or their fraction if below 1.", 0.05)
    weight_decay: float = option("Weight decay, not for norms, biases and tokens.", 0.05)
    eval_strategy: str = option("When to evaluate: epoch, steps or no.", "epoch")
    save_strategy: str = option("When to save: epoch, steps, best or no.", "epoch")
    save_total_limit: int | None = option("Checkpoints to keep; the best is among them.", 2)
    load_best_model_at_end: bool = option("End with the best weights, not the last.", True)
    greater_is_better: bool | None = option("Whether that metric should be large.", True)
    logging_steps: float = option("Steps between logs, or their fraction if below 1.", 0.02)
    # The type of TrainingArguments in its own order: the parser takes the second one for the flag's.
    report_to: None | str | list[str] = option("Trackers to report to.", "none")  # noqa: RUF036
    do_predict: bool = option("Measure the test splits at the end, once; false for trial runs.", True)
    check: str | None = option("full or headers: how images are checked; by default full below 50,000.", None)
    on_error: str = option("stop or skip, for images that cannot be read.", "stop")
    dry_run: bool = option("Print what would be trained on, draw it beside --output_dir, and end.", False)
    remove_unused_columns: bool = option("Must stay false: images are a column.", False)

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

    per_device_train_batch_size: int = option("Images per step and device.", 64)
    per_device_eval_batch_size: int = option("Images per evaluation batch and device.", 256)
    num_train_epochs: float = option("Passes over the training images.", 30.0)
    metric_for_best_model: str | None = option("Validation metric of the best.", "accuracy")


def check_choices(arguments: Any, **choices: Iterable[str]) -> None:
    """Raise a `ValueError` for an argument whose value is not among its choices."""
    for name, allowed in choices.items():
        check_field(arguments, name, getattr(arguments, name) in allowed, f"one of {', '.join(allowed)}")


def check_nonnegative(arguments: Any, *names: str) -> None:
    """Raise a `ValueError` for an argument below 0; None is as good as 0."""
    for name in names:
        check_field(arguments, name, (getattr(arguments, name) or 0) >= 0, "at least 0", "0 disables.")


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


__all__ = [
    "HELD_OUT",
    "MUON",
    "CommonTrainingArguments",
    "OmniVisionTrainingArguments",
    "RecipeArguments",
    "check_choices",
    "check_nonnegative",
    "read_fields",
]
