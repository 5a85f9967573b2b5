"""Training of a classifier, from arguments to a folder that can go to the Hub."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from ..configuration_omni_vision import PROBABILITIES, OmniVisionConfig
from ..data.augmentation import Augmentation
from ..data.image_dataset import MEMORY_LIMIT, ImageCollator, ImageDataset, moved_to_device
from ..data.label_lists import has_label_lists, label_names
from ..data.sources import load_images
from ..evaluation.evaluate import class_names, draw_all, load_classifier, measure, predict
from ..evaluation.multi_label import MULTI_LABEL, choose_thresholds
from ..evaluation.test_split import open_test_split
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_classifier_weights, load_image_processor, load_vision_config, load_vision_tower
from ..modeling_omni_vision import OmniVisionForImageClassification
from ..records.machine import has_bf16_instructions
from ..records.metrics_file import write_json
from .arguments import OmniVisionTrainingArguments, RecipeArguments, check_checkpoint
from .classifier_teachers import ClassifierTeachers
from .image_run import ImageRun
from .initialization import mimetic_, new_image_processor
from .report import Picture
from .run_record import evaluation_of_chosen, training_command, without_folders
from .trainer import OmniVisionTrainer, replays_steps


logger = logging.getLogger(__name__)

UNCENTRED = 1e-4  # a residual mean above this was not left by rounding
# Fields of a configuration that a checkpoint can take in place of its own.
OF_TRAINING = (*PROBABILITIES, "image_size", "attn_implementation", "id2label", "label2id", "problem_type")
EAGER_IS_FASTER_BELOW = 200  # tokens, for bf16 on CPUs


def train(recipe: RecipeArguments, args: OmniVisionTrainingArguments) -> Path:
    """Train a classifier, save it, and (unless `args.do_predict` is false) evaluate it once on the test split.

    Returns `args.output_dir` and raises as [`TrainingRun.run`] does. Also raises `SplitRefusedError` if the test
    split must stay closed, once everything else is saved.
    """
    return ClassificationRun(recipe, args).run()


class ClassificationRun(ImageRun):
    """The run of a classifier; see `train`."""

    evaluated = {
        "eval_accuracy": "accuracy",
        "eval_balanced_accuracy": "balanced_accuracy",
        "eval_loss": "loss",
    }

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
        self.lists = has_label_lists(data["train"])
        if self.lists:
            self._expect_lists()
        model, processor = build_model(recipe, label_names(data["train"]), self.lists)
        _recommend_eager_attention(model, args)
        limit = 0 if args.dry_run else MEMORY_LIMIT

        def images(data: DatasetDict) -> tuple[ImageDataset, ImageDataset]:
            train = training_images(recipe, args, data["train"], processor)
            return train, ImageDataset(data["validation"], processor, memory_limit=limit, of_run=True)

        train, validation = self.read_images(data, images)
        if moved_to_device(recipe.images_on_device, (train, validation), args.device, args.dataloader_num_workers):
            args.dataloader_pin_memory = False
        return OmniVisionTrainer(
            ema_decay=recipe.ema_decay,
            layer_decay=recipe.layer_decay,
            muon_learning_rate=recipe.muon_learning_rate,
            center_residual=recipe.center_residual,
            class_balance=recipe.class_balance,
            cuda_graphs=replays_steps(recipe.cuda_graphs, args, model.num_parameters()),
            teachers=self.open_teachers(class_names(model.config), processor),
            teacher_weight=recipe.teacher_weight,
            model=model,
            args=args,
            data_collator=ImageCollator(processor),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=processor,
        )

    def open_teachers(self, classes: list[str], processor: OmniVisionImageProcessor) -> ClassifierTeachers | None:
        """Open the classifiers that teach, if there are any."""
        recipe = self.recipe
        if not recipe.teachers:
            return None
        if self.lists:
            raise ValueError("`teachers` is for one class for each image, got lists of labels. Leave it out.")
        return ClassifierTeachers(recipe.teachers, processor, classes, recipe.teacher_temperature, self.args.device)

    def _expect_lists(self) -> None:
        """Choose what suits lists of labels."""
        if self.recipe.class_balance:
            raise ValueError("`class_balance` is for one class for each image, got lists of labels. Leave it out.")
        names = {"eval_accuracy": "accuracy", "eval_mean_average_precision": "mean_average_precision"}
        self.evaluated = {**names, "eval_loss": "loss"}
        if "metric_for_best_model" not in self.args.given and self.args.metric_for_best_model:
            self.args.metric_for_best_model = "mean_average_precision"

    @property
    def compares_images_of_a_batch(self) -> bool:
        """Whether images of a batch are mixed."""
        return bool(self.recipe.mixup or self.recipe.cutmix)

    def seen(self) -> dict[str, Any]:
        """Return also the classifiers that teach."""
        teachers = self.trainer.teachers
        return {**super().seen(), "teachers": teachers.digests if teachers else None}

    def save(self) -> None:
        """Write the model, thresholds for lists of labels, and which files were held out of training."""
        super().save()
        if self.lists and self.trainer.is_world_process_zero():
            model, processor = load_classifier(self.folder)
            found = predict(model, processor, self.data["validation"])
            chosen = choose_thresholds(found.probabilities, found.labels)
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            config["label_thresholds"] = dict(zip(class_names(model.config), chosen, strict=True))
            write_json(self.folder / "config.json", config)

    def describe(self) -> dict[str, Any]:
        """Return the command with its arguments, the dataset, and the best validation accuracy."""
        changed, config = without_folders({**self.recipe.given, **self.args.given}), self.recipe.config_fields()
        best = evaluation_of_chosen(self.trainer, self.evaluated)
        self.command = training_command(
            "omni-vision train", {**changed, **({"config": json.dumps(config)} if config else {})}
        )
        return {
            "command": self.command,
            "arguments": {**changed, **({"config": config} if config else {})},
            **({"teachers": self.trainer.teachers.digests} if self.trainer.teachers else {}),
            "best_epoch": best.get("epoch"),
            "validation_accuracy": best.get("accuracy"),
            "dataset": self.dataset_record() | {"classes": class_names(self.trainer.core.config)},
        }

    def measure(self) -> dict[str, Any]:
        """Open the test split, for the one time that a run does, with the saved weights in float32."""
        if "test" not in self.data:
            logger.warning("There is no labelled test split: only validation numbers are reported.")
            return {}
        model, processor = load_classifier(self.folder)
        opened = open_test_split(self.folder, model, self.data["test"], self.recipe.dataset, self.command)
        predictions = predict(model, processor, self.data["test"])
        found = measure(model.config, predictions)
        precision = {name: found[name] for name in ("mean_average_precision",) if name in found}
        return {
            "test": {
                "accuracy": found["accuracy"],
                "accuracy_interval": found["accuracy_interval"],
                "loss": found["nll"],
                "images": found["num_examples"],
                **precision,
            },
            **opened.section(found["accuracy"]),
        }

    def pictures(self, folder: Path) -> Iterator[Picture | Mapping[str, Any]]:
        """Measure what was saved on validation, never on test, and draw it."""
        model, processor = load_classifier(self.folder)
        rows = self.data["validation"]
        predictions = predict(model, processor, rows)
        found = measure(model.config, predictions)
        yield found
        # The curves are those of the record.
        for path in draw_all({}, folder, model, processor, rows, predictions, {"evaluation": found}):
            yield Picture.of(path, "validation")


def build_model(
    recipe: RecipeArguments, class_names: list[str], lists: bool = False
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
        "problem_type": MULTI_LABEL if lists else "single_label_classification",
    }
    if recipe.model is None:
        config = OmniVisionConfig(**fields)
        model = OmniVisionForImageClassification(config)
        if recipe.mimetic_init:
            mimetic_(model)
        return model, new_image_processor(config)
    before = load_vision_config(recipe.model)
    check_config(recipe.model, before, fields)
    size = fields.pop("image_size", before.image_size)
    config = load_vision_config(recipe.model, **fields)
    same_kind = before.problem_type in (None, fields["problem_type"])
    if (
        before.id2label == id2label
        and same_kind
        and before.architectures == [OmniVisionForImageClassification.__name__]
    ):
        model = load_classifier_weights(recipe.model, config)
    else:
        if any("ForImageClassification" in name for name in before.architectures or ()):
            logger.warning("The head of %s is for other classes: it is replaced by a new one.", recipe.model)
        model = OmniVisionForImageClassification(config)
        model.omni_vision = load_vision_tower(recipe.model, **fields)
    config = load_vision_config(recipe.model, **fields, image_size=size)
    if config.image_size_hw != before.image_size_hw:
        logger.warning(
            "Positions of %s are interpolated, from images of %s to %s.",
            recipe.model,
            before.image_size_hw,
            config.image_size_hw,
        )
        model = with_config(model, config)
    # A final LayerNorm takes the mean away: centring then changes nothing.
    keeps_mean = config.final_norm != "layer_norm"
    if recipe.center_residual and keeps_mean and model.residual_mean() > UNCENTRED:
        logger.warning(
            "%s was not trained with a centred residual stream; centring changes what it computes. Pass "
            "--center_residual false to keep it as it is.",
            recipe.model,
        )
    size = dict(zip(("height", "width"), config.image_size_hw, strict=True))
    return model.float(), load_image_processor(recipe.model, size=size, do_center_crop=False)


def check_config(path: str, before: OmniVisionConfig, fields: dict[str, Any]) -> None:
    """Raise `ValueError` for fields that a checkpoint cannot take: all but dropout, `image_size` and names."""
    own = before.to_dict()
    asked = {name: value for name, value in fields.items() if name not in OF_TRAINING}
    if asked.get("patch_size") in (before.patch_size, list(before.patch_size_hw), before.patch_size_hw[0]):
        own["patch_size"] = asked["patch_size"]  # a number, or a pair of it
    check_checkpoint(path, own, asked)


def with_config(model: OmniVisionForImageClassification, config: OmniVisionConfig) -> OmniVisionForImageClassification:
    """Return the model for images of another size, its positions interpolated as its `forward` would."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        resized = OmniVisionForImageClassification(config)
        weights = model.state_dict()
        positions = model.omni_vision.embeddings.positions(*config.grid_size)
        resized.load_state_dict({**weights, "omni_vision.embeddings.position_embeddings": positions})
    return resized.eval()


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
        num_classes=len(label_names(train)),
        seed=args.data_seed if args.data_seed is not None else args.seed,
    )
    limit = 0 if args.dry_run else MEMORY_LIMIT
    return ImageDataset(train, processor, augmentation, memory_limit=limit, of_run=True)


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
