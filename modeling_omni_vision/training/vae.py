"""Training of a variational autoencoder, from images without labels to a folder that can go to the Hub."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import EvalPrediction

from ..configuration_omni_vision import OmniVisionConfig
from ..configuration_omni_vision_vae import OmniVisionVAEConfig, OmniVisionVAEDecoderConfig
from ..data.augmentation import Augmentation
from ..data.image_dataset import MEMORY_LIMIT, ImageCollator, ImageDataset
from ..data.sources import load_unlabelled
from ..evaluation.bounds import measure_bounds
from ..evaluation.test_split import open_test_split
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_image_processor, load_vision_tower
from ..interop.vision_tower import load_complete
from ..interpretability.generation_sheets import draw_generations
from ..modeling_omni_vision_vae import OmniVisionVAE
from .arguments import check_checkpoint, read_fields
from .image_run import ImageRun
from .initialization import new_image_processor
from .optimizer import parameter_groups
from .run_record import evaluation_of_chosen, training_command, without_folders
from .trainer import OmniVisionTrainer
from .vae_arguments import VaeArguments, VaeTrainingArguments


logger = logging.getLogger(__name__)

PLOTS = "plots"
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
# Streams of random numbers: noise in evaluation is the same in every epoch.
TRAINING, EVALUATION = 0, 1


def train_vae(
    recipe: VaeArguments,
    args: VaeTrainingArguments,
    make: Callable[[OmniVisionVAEConfig], OmniVisionVAE] | None = None,
) -> Path:
    """Train an autoencoder, save it, draw what it makes, and (unless `args.do_predict` is false) measure its bounds.

    Args:
        recipe: The images and the model.
        args: Everything that the Trainer knows.
        make: Makes a new model of a configuration, by default `OmniVisionVAE`.

    Returns `args.output_dir` and raises as [`TrainingRun.run`] does.
    """
    return VaeRun(recipe, args, make or OmniVisionVAE).run()


def latent_noise(seed: int, stream: int, epoch: int, rows: Any, size: int) -> torch.Tensor:
    """Return standard normal numbers (rows, size) that depend on seed, stream, epoch and row alone."""
    drawn = [np.random.default_rng((seed, stream, epoch, int(row))).standard_normal(size, np.float32) for row in rows]
    return torch.from_numpy(np.stack(drawn))


class VaeCollator(ImageCollator):
    """Batches of `pixel_values` and `latent_noise`, in training also `rows`; noise depends on seed, epoch and row."""

    def __init__(self, processor: OmniVisionImageProcessor, latent_size: int, seed: int) -> None:
        super().__init__(processor)
        self.latent_size, self.seed = latent_size, seed

    def __call__(self, samples: Any) -> dict[str, Any]:
        """Normalise the batch, and draw its noise."""
        inputs, rows, epoch = self.without_labels(samples)
        stream = EVALUATION if epoch is None else TRAINING
        return {**inputs, "latent_noise": latent_noise(self.seed, stream, epoch or 0, rows, self.latent_size)}


class VaeTrainer(OmniVisionTrainer):
    """Trains an `OmniVisionVAE`; evaluates reconstruction and divergence on validation images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # By which the Trainer knows that there is something to compute metrics with.
        self.label_names = ["latent_noise"]
        self.compute_metrics, self.preprocess_logits_for_metrics = self.parts_of_loss, losses_of

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """Return groups for Muon, with the layers of encoder and decoder; None for the Trainer's own."""
        if not self.muon_learning_rate:
            return None
        config, args = self.core.config, self.args
        layers = max(config.vision_config.num_hidden_layers, config.decoder_config.num_hidden_layers)
        rates = (args.learning_rate, args.weight_decay, 1.0, self.muon_learning_rate)
        return parameter_groups(self.core, layers, *rates)

    def parts_of_loss(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the loss and its parts, means over images in nats."""
        reconstruction, divergence = np.asarray(prediction.predictions).mean(axis=0).tolist()
        loss = reconstruction + self.core.config.beta * divergence
        return {"reconstruction": reconstruction, "kl": divergence, "loss": loss}


def losses_of(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return reconstruction loss and divergence of each image (batch, 2), of the outputs of an autoencoder."""
    return torch.stack(outputs[:2], dim=-1).double()


class VaeRun(ImageRun):
    """The run of an autoencoder; see `train_vae`."""

    evaluated = {"eval_loss": "loss", "eval_reconstruction": "reconstruction", "eval_kl": "kl"}
    recipe: VaeArguments

    def __init__(self, recipe: Any, args: Any, make: Callable[[OmniVisionVAEConfig], OmniVisionVAE]) -> None:
        super().__init__(recipe, args)
        self.make = make

    def build(self) -> VaeTrainer:
        """Load the images, make or load the model, and return their Trainer."""
        recipe, args = self.recipe, self.args
        with args.main_process_first(desc="loading images"):
            fraction, test = recipe.validation_fraction, recipe.test_fraction
            data = load_unlabelled(recipe.dataset, recipe.image_column, fraction, test_fraction=test)
        model, processor = build_vae(recipe, self.make)
        train, validation = self.read_images(data, lambda data: self._images(data, processor))
        return VaeTrainer(
            ema_decay=recipe.ema_decay,
            muon_learning_rate=recipe.muon_learning_rate,
            model=model,
            args=args,
            data_collator=VaeCollator(processor, model.config.latent_size, args.seed),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=processor,
        )

    def _images(self, data: DatasetDict, processor: OmniVisionImageProcessor) -> tuple[ImageDataset, ImageDataset]:
        recipe, limit = self.recipe, 0 if self.args.dry_run else MEMORY_LIMIT
        changes = {"max_translate": recipe.max_translate, "flip": recipe.flip, "seed": self.args.data_seed}
        augmentation = Augmentation(len(data["train"]), (processor.size["height"], processor.size["width"]), **changes)
        train = ImageDataset(data["train"], processor, augmentation, limit, of_run=True)
        return train, ImageDataset(data["validation"], processor, memory_limit=limit, of_run=True)

    def describe(self) -> dict[str, Any]:
        """Return the command with its arguments, the dataset, and the best losses on validation."""
        given = without_folders({**self.recipe.given, **self.args.given})
        for name in ("config", "decoder_config"):
            if name in given:  # perhaps a file
                given[name] = json.dumps(read_fields(name, getattr(self.recipe, name)))
        self.command = training_command("omni-vision train-vae", given)
        return {
            "command": self.command,
            "arguments": given,
            "best": evaluation_of_chosen(self.trainer, self.evaluated),
            "dataset": self.dataset_record(),
        }

    def measure(self) -> dict[str, Any]:
        """Draw validation images, and measure the bounds on validation and, for the one time, on the test split."""
        model, processor = self.trainer.core.float().eval(), self.trainer.processing_class
        validation = self.trainer.eval_dataset
        draw_generations(model, processor, validation, self.folder / PLOTS)
        found = {"validation": self.bounds(validation)}
        if "test" not in self.data:
            return {"generation": found}
        opened = open_test_split(self.folder, model, self.data["test"], self.recipe.dataset, self.command)
        found["test"] = self.bounds(ImageDataset(self.data["test"], processor))
        return {"generation": found, **opened.section(None)}

    def bounds(self, images: ImageDataset) -> dict[str, Any]:
        """Return bounds on images, with the seed of the run."""
        return measure_bounds(self.trainer.core, images, self.recipe.samples, self.args.seed).section()


def build_vae(
    recipe: VaeArguments, make: Callable[[OmniVisionVAEConfig], OmniVisionVAE] = OmniVisionVAE
) -> tuple[OmniVisionVAE, OmniVisionImageProcessor]:
    """Make or load an autoencoder and its image processor.

    A new one has no dropout, and weights as large as keep the size of what they read: with those of 0.02 that suit a
    classifier, a small model on Fashion-MNIST took twice the steps to use its latent vector.
    """
    if recipe.model is not None:
        model = load_complete(OmniVisionVAE, recipe.model, exact=True, dtype=torch.float32)
        own, asked = model.config, {"latent_size": recipe.latent_size}
        check_checkpoint(recipe.model, own.to_dict(), asked)
        own.beta = own.beta if recipe.beta is None else recipe.beta
        return model, load_image_processor(recipe.model)
    fields = read_fields("config", recipe.config)
    tower = None if recipe.vision is None else load_vision_tower(recipe.vision, dtype=torch.float32, **fields)
    vision = _new_part(OmniVisionConfig, {}, fields) if tower is None else tower.config
    processor = new_image_processor(vision) if recipe.vision is None else load_image_processor(recipe.vision)
    config = vae_config(vision, processor, recipe)
    model = make(config)
    if tower is not None:
        model.vision_model.load_state_dict(tower.state_dict())
    return model, processor


def _new_part(kind: type[OmniVisionConfig], defaults: dict[str, Any], fields: dict[str, Any]) -> OmniVisionConfig:
    """Return the configuration of a new encoder or decoder."""
    config = kind(**{**dict.fromkeys(DROPOUTS, 0.0), **defaults, **fields})
    if "initializer_range" not in fields:
        config.initializer_range = config.hidden_size**-0.5
    return config


def vae_config(vision: OmniVisionConfig, processor: Any, recipe: VaeArguments) -> OmniVisionVAEConfig:
    """Return the configuration of a new autoencoder: the decoder has the encoder's width and half of its layers."""
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "block_norm", "final_norm")
    defaults = {name: getattr(vision, name) for name in names}
    defaults["num_hidden_layers"] = max(vision.num_hidden_layers // 2, 1)
    decoder = _new_part(OmniVisionVAEDecoderConfig, defaults, read_fields("decoder_config", recipe.decoder_config))
    channels = vision.num_channels
    mean, std = (
        [float(one) for one in np.broadcast_to(found, channels)]
        for found in (processor.image_mean, processor.image_std)
    )
    made: Any = OmniVisionVAEConfig  # with what is no field
    return made(
        vision_config=copy.deepcopy(vision),
        decoder_config=decoder,
        latent_size=recipe.latent_size,
        beta=recipe.beta,
        image_means=mean,
        image_deviations=std,
        initializer_range=decoder.initializer_range,
        attn_implementation=vision._attn_implementation,
    )


__all__ = ["VaeCollator", "VaeRun", "VaeTrainer", "build_vae", "latent_noise", "train_vae"]
