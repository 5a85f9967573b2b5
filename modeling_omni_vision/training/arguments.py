"""Arguments of `omni-vision train`, and what those of all training commands share."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..configuration_omni_vision import OmniVisionConfig, check_field
from ..data.hold_out import VALIDATION_FRACTION
from ..records.nearest import nearest
from .option import option


AUTO = ("auto", "true", "false")
SECRETS = ("hub_token",)
EMPTY: tuple[Any, ...] = (None, "", "no", [], {})  # 0 and False are values: another run than that of None
HELD_OUT = "Held out of train if there is no validation split: a fraction, or a number."
MUON = "Muon for the matrices of the vision tower's layers, at this learning rate (0.02 is usual); 0 disables."
# Keywords that a configuration takes beside its fields.
OTHER_CONFIG_KEYS = ("attn_implementation", "id2label", "label2id")
# Words in the name of a metric that says how wrong a model is.
LOWER_IS_BETTER = frozenset(
    (
        "loss",
        "nll",
        "ece",
        "brier",
        "error",
        "errors",
        "rmse",
        "mse",
        "mae",
        "distance",
        "perplexity",
        "ppl",
        "wer",
        "cer",
    )
)
WHOLE_SPLIT = "the metrics are computed from the whole split at once"
OWN_BATCHES = "the batches of this task have inputs and lengths of their own"
IN_TRAINING = "evaluation runs within training, with the weights as they are trained"
NO_TOKENS = "images are not tokens"
OWN_EVALUATION = "this task is evaluated without the prediction loop of the Trainer"


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
    class_balance: str | None = option(
        "For classes of unequal size: weights (in the loss) or sampler (rows are drawn until classes are equal).", None
    )
    teachers: list[str] = option("Classifiers of the same classes that also teach, as the mean of their answers.", [])
    teacher_weight: float = option("Share of the teachers in the loss, labels have the rest.", 0.5)
    teacher_temperature: float = option("Temperature of the teachers' and the model's probabilities.", 1.0)
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
        if self.class_balance is not None:
            check_choices(recipe, class_balance=("weights", "sampler"))
        check_nonnegative(recipe, "test_fraction")
        check_field(recipe, "teacher_weight", 0 < recipe.teacher_weight <= 1, "above 0 and at most 1", "0.5 is usual.")
        check_field(recipe, "teacher_temperature", recipe.teacher_temperature > 0, "above 0", "1 is usual.")
        check_levers(recipe)

    def config_fields(self) -> dict[str, Any]:
        """Return the fields in `config`; raises as `read_fields` does."""
        return read_fields("config", self.config)


@dataclass
class CommonTrainingArguments:
    """Defaults that suit small models, and what follows from others; comes before a class of `TrainingArguments`."""

    # Arguments of the Trainer that a task cannot honour, with the reason.
    refused: ClassVar[dict[str, str]] = {
        "prediction_loss_only": WHOLE_SPLIT,
        "batch_eval_metrics": WHOLE_SPLIT,
        "eval_do_concat_batches": WHOLE_SPLIT,
        "include_for_metrics": WHOLE_SPLIT,
        "bf16_full_eval": IN_TRAINING,
        "fp16_full_eval": IN_TRAINING,
        "label_names": OWN_BATCHES,
        "length_column_name": OWN_BATCHES,
        "optim_target_modules": "the parameter groups are those of this project",
    }

    output_dir: str | None = option("Folder of the run; required.", None)
    overwrite_output_dir: bool = option("Replace the run in --output_dir, once the new one is saved.", False)
    num_train_epochs: float = option("Passes over the training data.", 5.0)
    learning_rate: float = option("Peak learning rate; with layer decay that of the topmost layers.", 1e-3)
    lr_scheduler_type: str = option("Shape of the learning rate over time.", "cosine")
    warmup_steps: float = option("Steps to warm up, or their fraction if below 1.", 0.05)
    weight_decay: float = option("Weight decay, not for norms, biases and tokens.", 0.05)
    max_minutes: float = option(
        "Minutes of training in which the learning rate ends its shape, after fewer steps if need be; 0: no limit.",
        0.0,
    )
    eval_strategy: str = option("When to evaluate: epoch, steps or no.", "epoch")
    save_strategy: str = option("When to save: epoch, steps, best or no.", "epoch")
    save_total_limit: int | None = option("Checkpoints to keep; the best is among them.", 2)
    load_best_model_at_end: bool = option("End with the best weights, not the last.", True)
    greater_is_better: bool | None = option(
        "Whether that metric should be large; by default by its name: a loss or an error should be small.", None
    )
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
        check_nonnegative(args, "max_minutes")
        if self.output_dir is None:
            raise ValueError("`output_dir` must name the folder of the run, got none. Add --output_dir runs/NAME.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be false, got true: it removes the images. Leave it out.")
        self._refuse()
        if not torch.accelerator.is_available():
            # Otherwise torchrun starts separate runs without a GPU, bf16 is refused, and memory is pinned in vain.
            args.use_cpu = True
        if args.use_cpu:
            args.dataloader_pin_memory = False
        if args.data_seed is None:
            args.data_seed = args.seed
        if self.eval_strategy == "no":
            self.load_best_model_at_end, args.metric_for_best_model, self.greater_is_better = False, None, None
        if self.greater_is_better is None and args.metric_for_best_model is not None:
            self.greater_is_better = is_better_when_greater(args.metric_for_best_model)
        # The Trainer would replace a non-finite loss by an average; ours stops at it.
        args.logging_nan_inf_filter = False
        super().__post_init__()  # type: ignore[misc]
        if args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") and self.greater_is_better is not None:
            # By default they take the metric for a loss.
            mode = "max" if self.greater_is_better else "min"
            args.lr_scheduler_kwargs = {"mode": mode, **(args.lr_scheduler_kwargs or {})}

    def _refuse(self) -> None:
        args: Any = self
        for name, reason in self.refused.items():
            if name in args.given:
                raise ValueError(f"`{name}` cannot act here, got {args.given[name]!r}: {reason}. Leave it out.")
        if self.eval_strategy == "no" and {"metric_for_best_model", "greater_is_better"} & set(args.given):
            raise ValueError(
                "`metric_for_best_model` needs evaluations, got `eval_strategy` no. Leave out one of them."
            )
        if args.fp16 and args.use_cpu:
            raise ValueError("`fp16` needs a GPU, got none. Leave it out, or use bf16.")
        check_trackers([args.report_to] if isinstance(args.report_to, str) else args.report_to or ())
        for name in ("fsdp", "deepspeed"):
            if getattr(args, name, None) and args.use_cpu:
                raise ValueError(f"`{name}` needs a GPU, got none: it would be ignored. Leave it out.")


@dataclass
class OmniVisionTrainingArguments(CommonTrainingArguments, TrainingArguments):
    """`TrainingArguments` for classifiers; every default can be changed."""

    refused: ClassVar[dict[str, str]] = {
        **CommonTrainingArguments.refused,
        "neftune_noise_alpha": NO_TOKENS,
        "include_num_input_tokens_seen": NO_TOKENS,
    }

    per_device_train_batch_size: int = option("Images per step and device.", 64)
    per_device_eval_batch_size: int = option("Images per evaluation batch and device.", 256)
    num_train_epochs: float = option("Passes over the training images.", 30.0)
    metric_for_best_model: str | None = option(
        "Validation metric of the best: accuracy, balanced_accuracy or loss.", "accuracy"
    )

    def __post_init__(self) -> None:
        if self.train_sampling_strategy == "group_by_length":
            raise ValueError(
                "`train_sampling_strategy` must be random or sequential, got 'group_by_length': all images are "
                "resized to one length. Leave it out."
            )
        super().__post_init__()


def check_levers(recipe: Any) -> None:
    """Check what recipes for images have in common: averages, learning rates, devices, start and configuration."""
    check_choices(recipe, images_on_device=AUTO, cuda_graphs=AUTO)
    check_field(recipe, "ema_decay", 0 <= recipe.ema_decay < 1, "at least 0 and below 1", "0.999 is usual.")
    check_field(recipe, "layer_decay", 0 < recipe.layer_decay <= 1, "above 0 and at most 1", "0.75 is usual.")
    check_nonnegative(recipe, "muon_learning_rate")
    if recipe.mimetic_init and recipe.model is not None:
        raise ValueError("`mimetic_init` is for new models, got a checkpoint in `model` too. Leave out one of them.")
    read_fields("config", recipe.config)


def is_better_when_greater(metric: str) -> bool:
    """Return the direction of a metric by the words of its name: a loss, an error or a perplexity should be small."""
    return not LOWER_IS_BETTER & set(re.split("[^a-z]+", metric.casefold()))


def fill_defaults(recipe: Any, **defaults: Any) -> None:
    """Fill what was left out of a new model; with a checkpoint in `model`, leave it to `check_checkpoint`."""
    for name, value in defaults.items():
        if recipe.model is None and getattr(recipe, name) is None:
            setattr(recipe, name, value)


def check_checkpoint(path: str, own: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise a `ValueError` that names what is asked of a checkpoint, if it differs from its own; None asks nothing."""
    for name, value in asked.items():
        if value is not None and value != own[name]:
            raise ValueError(
                f"{str(path)!r} was trained with `{name}` {own[name]!r}, got {value!r}: its weights are made for the "
                f"former. Leave {name} out, or start a new model without --model."
            )


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
        words = unknown if isinstance(unknown, list) else []
        did = "".join(nearest(str(word), sorted(known)) for word in words) or "."
        raise ValueError(f"`{name}` must hold fields of {kind.__name__}, got {unknown!r}. Correct or remove them{did}")
    return found


def check_trackers(names: Iterable[str]) -> None:
    """Raise `ValueError` for trackers that transformers does not know, or whose package is not installed."""
    for name in {*names} - {"none", "all", *get_available_reporting_integrations()}:
        if name in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"`report_to` must name installed trackers, got {name!r}. Install its package, in most cases by pip "
                f"install {name}, or leave it out."
            )
        near = difflib.get_close_matches(name, [*INTEGRATION_TO_CALLBACK, "none", "all"], 1)
        known = f"Did you mean {near[0]}?" if near else f"Name one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}."
        raise ValueError(f"`report_to` must name trackers that transformers knows, got {name!r}. {known}")


def _given(arguments: Any) -> dict[str, Any]:
    """Return what differs from the defaults, before `__post_init__` fills in the rest; secrets are left out."""
    given = {}
    for field_ in fields(arguments):
        value, default = getattr(arguments, field_.name), field_.default
        # The parser writes some empty values in another way than the default does.
        both_empty = (value in EMPTY and (default is MISSING or default in EMPTY)) or (not value and default == "no")
        if field_.name not in SECRETS and value != default and not both_empty:
            given[field_.name] = value
    return given


__all__ = [
    "HELD_OUT",
    "MUON",
    "CommonTrainingArguments",
    "OmniVisionTrainingArguments",
    "RecipeArguments",
    "check_checkpoint",
    "check_choices",
    "check_levers",
    "check_nonnegative",
    "fill_defaults",
    "is_better_when_greater",
    "read_fields",
]
