"""One training run from arguments to a folder that can go to the Hub, with its numbers in `metrics.json`."""

import logging
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import set_seed

from ..configuration_omni_vision import OmniVisionConfig
from ..data.augmentation import Augmentation
from ..data.image_dataset import ImageCollator, ImageDataset
from ..data.sources import load_images
from ..evaluation.evaluate import class_names, load_classifier, predict
from ..evaluation.metrics import classification_metrics
from ..evaluation.test_split import open_test_split
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_vision_tower
from ..modeling_omni_vision import OmniVisionForImageClassification
from ..records.metrics_file import METRICS_FILE, has_bf16_instructions, merge_metrics
from .arguments import OmniVisionTrainingArguments, RecipeArguments
from .callbacks import train_until_done
from .initialization import mimetic_
from .run_record import describe_run
from .trainer import OmniVisionTrainer


logger = logging.getLogger(__name__)

UNCENTRED = 1e-4  # a residual mean above this was not left by rounding
EAGER_IS_FASTER_BELOW = 200  # tokens, for bf16 on CPUs


def train(recipe: RecipeArguments, args: OmniVisionTrainingArguments) -> Path:
    """Train a classifier, save it, and (unless `args.do_predict` is false) evaluate it once on the test split.

    Args:
        recipe: Data, model and augmentation.
        args: Everything that transformers' Trainer knows.

    Returns:
        `args.output_dir`: model, image processor and code as the Hub wants them, and `metrics.json`.

    Raises:
        TrainingInterruptedError: after SIGTERM, once a checkpoint is saved.
        NonFiniteLossError: if the loss or a gradient becomes NaN or infinite.
        ValueError: for arguments, data or checkpoints that cannot be used; if the test split must stay closed
            (`SplitRefusedError`), once everything else is saved.
    """
    output_dir = Path(str(args.output_dir))
    checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)
    set_seed(args.seed)
    with args.main_process_first(desc="loading images"):
        data = load_images(recipe.dataset, recipe.image_column, recipe.label_column, recipe.validation_fraction)
    model, processor = build_model(recipe, data["train"].features["label"].names)
    trainer = OmniVisionTrainer(
        ema_decay=recipe.ema_decay,
        layer_decay=recipe.layer_decay,
        muon_learning_rate=recipe.muon_learning_rate,
        center_residual=recipe.center_residual,
        model=model,
        args=args,
        data_collator=ImageCollator(processor),
        train_dataset=training_images(recipe, args, data["train"], processor),
        eval_dataset=ImageDataset(data["validation"], processor),
        processing_class=processor,
    )
    _hint(model, args)
    seconds = train_until_done(trainer, checkpoint)
    training = describe_run(recipe, args, trainer, data, seconds, checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        # On disk before the test split is opened: whatever is refused there, no training is lost.
        merge_metrics(output_dir, {"training": training})
        if args.do_predict:
            merge_metrics(output_dir, _test(output_dir, data, recipe.dataset, training["command"]))
    return output_dir


def find_checkpoint(output_dir: Path, resume: str | bool | None) -> Path | None:
    """Decide where a run starts: None at the beginning, otherwise a checkpoint.

    Args:
        output_dir: Folder of the run.
        resume: None or `false` to start a new run, `true` for the newest complete checkpoint (the beginning, with a
            warning, where there is none yet), or the path of a checkpoint.

    Raises:
        ValueError: if a new run would write over something, a run is finished, or a checkpoint is not complete.
    """
    wanted = str(resume or "false").strip()
    if (output_dir / METRICS_FILE).is_file():
        raise ValueError(
            f"{output_dir} holds a finished run, and the test split is opened once. Choose another --output_dir; to "
            f"train further, start from this one with --model {output_dir}. If its test split is still closed, "
            "scripts/evaluate.py opens it."
        )
    if wanted.lower() in ("false", "no", "0"):
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise ValueError(
                f"Expected an empty --output_dir, got {output_dir} with files in it. Choose another, or continue its "
                "run with --resume_from_checkpoint true."
            )
        return None
    if wanted.lower() in ("true", "yes", "1"):
        complete = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
        if not complete:
            logger.warning("No complete checkpoint in %s yet: training starts at the beginning.", output_dir)
            return None
        return max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise ValueError(f"Expected 'true' or the folder of a complete checkpoint to resume, got {wanted!r}.")
    return Path(wanted)


def build_model(
    recipe: RecipeArguments, class_names: list[str]
) -> tuple[OmniVisionForImageClassification, OmniVisionImageProcessor]:
    """Make or load the model and its image processor.

    A new model's processor resizes to the model's `image_size`, with ImageNet's statistics for colour, the
    processor's own for grey, and 0.5 for any other number of channels. A loaded model keeps its head only if the
    classes are the same.
    """
    fields = recipe.config_fields()
    names = fields.pop("id2label", None) or dict(enumerate(class_names))
    id2label = {int(number): name for number, name in names.items()}
    if sorted(id2label) != list(range(len(class_names))):
        raise ValueError(
            f"`id2label` must name the classes 0 to {len(class_names) - 1}, got {id2label!r}. Correct it."
        )
    fields |= {
        "id2label": id2label,
        "label2id": {name: number for number, name in id2label.items()},
        "problem_type": "single_label_classification",
    }
    if recipe.model is None:
        config = OmniVisionConfig(**fields)
        model = OmniVisionForImageClassification(config)
        if recipe.mimetic_init:
            mimetic_(model)
        return model, _new_processor(config)
    before = OmniVisionConfig.from_pretrained(recipe.model)
    config = OmniVisionConfig.from_pretrained(recipe.model, **fields)
    if before.id2label == id2label and before.architectures == [OmniVisionForImageClassification.__name__]:
        model = OmniVisionForImageClassification.from_pretrained(recipe.model, config=config)
    else:
        logger.warning("The head of %s is for other classes: it is replaced by a new one.", recipe.model)
        model = OmniVisionForImageClassification(config)
        model.omni_vision = load_vision_tower(recipe.model, **fields)
    if recipe.center_residual and model.residual_mean() > UNCENTRED:
        logger.warning(
            "%s was not trained with a centred residual stream; centring changes what it computes. Pass "
            "--center_residual false to keep it as it is.",
            recipe.model,
        )
    size = dict(zip(("height", "width"), config.image_size_hw, strict=True))
    return model.float(), OmniVisionImageProcessor.from_pretrained(recipe.model, size=size)


def training_images(
    recipe: RecipeArguments,
    args: OmniVisionTrainingArguments,
    train: Dataset,
    processor: OmniVisionImageProcessor,
) -> ImageDataset:
    """Make the training images with the augmentation of the recipe."""
    augmentation = Augmentation(
        num_images=len(train),
        size=(processor.size["height"], processor.size["width"]),
        min_crop_scale=recipe.min_crop_scale,
        max_translate=recipe.max_translate,
        flip=recipe.flip,
        rand_augment=recipe.rand_augment,
        random_erasing=recipe.random_erasing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        num_classes=train.features["label"].num_classes,
        seed=args.data_seed if args.data_seed is not None else args.seed,
    )
    return ImageDataset(train, processor, augmentation)


def _new_processor(config: OmniVisionConfig) -> OmniVisionImageProcessor:
    height, width = config.image_size_hw
    options: dict[str, Any] = {"size": {"height": height, "width": width}, "num_channels": config.num_channels}
    if config.num_channels not in (1, 3):
        options |= dict.fromkeys(("image_mean", "image_std"), [0.5] * config.num_channels)
    return OmniVisionImageProcessor(**options)


def _test(folder: Path, data: DatasetDict, dataset: str, command: str) -> dict[str, Any]:
    """Open the test split, for the one time that a run does, with the saved weights in float32, as others will."""
    if "test" not in data:
        logger.warning("There is no labelled test split: only validation numbers are reported.")
        return {}
    model, processor = load_classifier(folder)
    opened = open_test_split(folder, model, data["test"], dataset, command)
    predictions = predict(model, processor, data["test"])
    found = classification_metrics(predictions.probabilities, predictions.labels, class_names(model.config))
    return {
        "test": {
            "accuracy": found["accuracy"],
            "accuracy_interval": found["accuracy_interval"],
            "loss": found["nll"],
            "images": found["num_examples"],
        },
        **opened.section(found["accuracy"]),
    }


def _hint(model: OmniVisionForImageClassification, args: OmniVisionTrainingArguments) -> None:
    tokens = 1 + model.config.num_register_tokens + model.config.num_patches
    on_cpu = torch.device(args.device).type == "cpu"
    if on_cpu and args.bf16 and not has_bf16_instructions():
        logger.warning(
            "This processor has no bfloat16 instructions: they are imitated, many times slower than float32. "
            "Leave out --bf16."
        )
        return
    if on_cpu and args.bf16 and tokens < EAGER_IS_FASTER_BELOW and model.config._attn_implementation == "sdpa":
        logger.warning(
            "In bf16 on a CPU, %d tokens are usually faster with "
            '--config \'{"attn_implementation": "eager", ...}\' than with sdpa.',
            tokens,
        )


__all__ = ["build_model", "find_checkpoint", "train", "training_images"]
