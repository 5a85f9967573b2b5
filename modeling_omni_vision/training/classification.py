"""Training of a classifier, from arguments to a folder that can go to the Hub."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..configuration_omni_vision import OmniVisionConfig
from ..data.augmentation import Augmentation
from ..data.hold_out import save_splits
from ..data.image_dataset import MEMORY_LIMIT, ImageCollator, ImageDataset, moved_to_device
from ..data.sources import load_images
from ..evaluation.evaluate import class_names, load_classifier, predict
from ..evaluation.metrics import classification_metrics
from ..evaluation.test_split import open_test_split
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop.vision_tower import load_complete, load_vision_tower
from ..modeling_omni_vision import OmniVisionForImageClassification
from ..records.command import without_folder
from ..records.machine import has_bf16_instructions
from .arguments import OmniVisionTrainingArguments, RecipeArguments
from .initialization import mimetic_, new_image_processor
from .run_record import evaluations, training_command, without_folders
from .skeleton import TrainingRun
from .trainer import OmniVisionTrainer, replays_steps


logger = logging.getLogger(__name__)

UNCENTRED = 1e-4  # a residual mean above this was not left by rounding
EAGER_IS_FASTER_BELOW = 200  # tokens, for bf16 on CPUs


def train(recipe: RecipeArguments, args: OmniVisionTrainingArguments) -> Path:
    """Train a classifier, save it, and (unless `args.do_predict` is false) evaluate it once on the test split.

    Returns `args.output_dir` and raises as [`TrainingRun.run`] does. Also raises `SplitRefusedError` if the test
    split must stay closed, once everything else is saved.
    """
    return ClassificationRun(recipe, args).run()


class ClassificationRun(TrainingRun):
    """The run of a classifier; see `train`."""

    def build(self) -> OmniVisionTrainer:
        """Load images, make or load the classifier, and return their Trainer."""
        recipe, args = self.recipe, self.args
        with args.main_process_first(desc="loading images"):
            data = load_images(
                recipe.dataset,
                recipe.image_column,
                recipe.label_column,
                recipe.validation_fraction,
                test_fraction=recipe.test_fraction,
            )
            self.data = self.check_data(data)
        memory_limit = 0 if args.dry_run else MEMORY_LIMIT
        model, processor = build_model(recipe, self.data["train"].features["label"].names)
        _recommend_eager_attention(model, args)
        train = training_images(recipe, args, self.data["train"], processor)
        validation = ImageDataset(self.data["validation"], processor, memory_limit=memory_limit)
        if moved_to_device(recipe.images_on_device, (train, validation), args.device, args.dataloader_num_workers):
            args.dataloader_pin_memory = False
        return OmniVisionTrainer(
            ema_decay=recipe.ema_decay,
            layer_decay=recipe.layer_decay,
            muon_learning_rate=recipe.muon_learning_rate,
            center_residual=recipe.center_residual,
            cuda_graphs=replays_steps(recipe.cuda_graphs, args, model.num_parameters()),
            model=model,
            args=args,
            data_collator=ImageCollator(processor),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=processor,
        )

    def describe(self) -> dict[str, Any]:
        """Return the command with its arguments, the dataset, and the best validation accuracy."""
        changed, config = without_folders({**self.recipe.given, **self.args.given}), self.recipe.config_fields()
        found = evaluations(self.trainer.state.log_history, self.evaluated)
        best = max(found, key=lambda entry: entry["accuracy"], default={})
        self.command = training_command(
            "omni-vision train", {**changed, **({"config": json.dumps(config)} if config else {})}
        )
        return {
            "command": self.command,
            "arguments": {**changed, **({"config": config} if config else {})},
            "best_epoch": best.get("epoch"),
            "validation_accuracy": best.get("accuracy"),
            "dataset": {
                "name": without_folder(self.recipe.dataset),
                "classes": class_names(self.trainer.core.config),
                **{name: len(split) for name, split in self.data.items()},
            },
        }

    def save(self) -> None:
        """Write the model, and which files were held out of training."""
        super().save()
        if self.trainer.is_world_process_zero():
            save_splits(self.folder, self.data, self.recipe.dataset)

    def measure(self) -> dict[str, Any]:
        """Open the test split, for the one time that a run does, with the saved weights in float32."""
        if "test" not in self.data:
            logger.warning("There is no labelled test split: only validation numbers are reported.")
            return {}
        model, processor = load_classifier(self.folder)
        opened = open_test_split(self.folder, model, self.data["test"], self.recipe.dataset, self.command)
        predictions = predict(model, processor, self.data["test"])
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


def build_model(
    recipe: RecipeArguments, class_names: list[str]
) -> tuple[OmniVisionForImageClassification, OmniVisionImageProcessor]:
    """Make or load the model and its image processor.

    A loaded model keeps its head only if the classes are the same.
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
        return model, new_image_processor(config)
    before = OmniVisionConfig.from_pretrained(recipe.model)
    config = OmniVisionConfig.from_pretrained(recipe.model, **fields)
    if before.id2label == id2label and before.architectures == [OmniVisionForImageClassification.__name__]:
        model = load_complete(OmniVisionForImageClassification, recipe.model, config=config)
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
    """Return the training images with the augmentation of the recipe."""
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
    return ImageDataset(train, processor, augmentation, memory_limit=0 if args.dry_run else MEMORY_LIMIT)


def _recommend_eager_attention(model: OmniVisionForImageClassification, args: OmniVisionTrainingArguments) -> None:
    tokens = 1 + model.config.num_register_tokens + model.config.num_patches
    fast_bf16 = torch.device(args.device).type == "cpu" and args.bf16 and has_bf16_instructions()
    if fast_bf16 and tokens < EAGER_IS_FASTER_BELOW and model.config._attn_implementation == "sdpa":
        logger.warning(
            "In bf16 on a CPU, %d tokens are usually faster with "
            '--config \'{"attn_implementation": "eager", ...}\' than with sdpa.',
            tokens,
        )


__all__ = ["ClassificationRun", "build_model", "train", "training_images"]
