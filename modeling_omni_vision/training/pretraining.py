"""Pre-training without labels: the encoder learns to paint the patches that masks hide."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch import nn
from transformers import EvalPrediction

from ..configuration_omni_vision import OmniVisionConfig
from ..data.augmentation import Augmentation
from ..data.image_dataset import MEMORY_LIMIT, ImageDataset, moved_to_device
from ..data.sources import load_unlabelled
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_image_processor, load_vision_config, load_vision_tower
from ..interop.vision_tower import load_complete
from ..interpretability.plots import GREY, draw_sheet
from ..masked_omni_vision import masked_pixels
from ..modeling_omni_vision import OmniVisionForMaskedImageModeling
from .arguments import read_fields
from .image_run import ImageRun
from .initialization import mimetic_, new_image_processor
from .masks import MaskingCollator, PatchMasks
from .pretrain_arguments import PretrainArguments, PretrainTrainingArguments
from .run_record import evaluation_of_chosen, training_command, without_folders
from .trainer import OmniVisionTrainer, replays_steps


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHEET, SHOWN, SHOWN_IN_A_ROW = "reconstructions.png", 8, 2
MEASURED_BATCH = 256


def pretrain(recipe: PretrainArguments, args: PretrainTrainingArguments) -> Path:
    """Train an encoder to reconstruct masked patches, save it with its decoder, and measure it on validation images.

    Returns `args.output_dir`, which `train --model` starts from, and raises as [`TrainingRun.run`] does.
    """
    return PretrainRun(recipe, args).run()


class MaskedImageTrainer(OmniVisionTrainer):
    """Trains on batches of `MaskingCollator`; evaluates the loss of each image alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compute_metrics, self.preprocess_logits_for_metrics = mean_loss, None

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch, and twice that of each image: what is predicted need not be gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        losses, _ = errors(inputs["pixel_values"], output.reconstruction, self._pixel_masks(inputs))
        return output.loss.detach(), losses, losses

    def _pixel_masks(self, inputs: dict[str, Any]) -> torch.Tensor:
        size = inputs["pixel_values"].shape[2:]
        return masked_pixels(inputs["bool_masked_pos"], size, self.core.config.patch_size_hw)


def mean_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Return the mean loss of images, of which all have as many masked pixels."""
    return {"loss": float(np.asarray(prediction.predictions, dtype=np.float64).mean())}


def errors(
    pixels: torch.Tensor, reconstruction: torch.Tensor, masks: torch.Tensor, scale: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far masked pixels of each image (images,) are off on average.

    Args:
        pixels: Images (images, channels, height, width).
        reconstruction: Likewise.
        masks: Masked pixels (images, 1, height, width).
        scale: Of each channel, to measure in other units.

    Returns:
        What the reconstruction is off, and what the mean colour of the visible pixels would be.
    """
    count, channels = masks.sum((1, 2, 3)), pixels.shape[1]
    visible = (pixels * ~masks).sum((2, 3), keepdim=True) / (~masks).sum((2, 3), keepdim=True)
    off = [(scale * (pixels - found).abs() * masks).sum((1, 2, 3)) for found in (reconstruction, visible)]
    return off[0] / count / channels, off[1] / count / channels


class PretrainRun(ImageRun):
    """The run of an encoder on masked images; see `pretrain`."""

    evaluated = {"eval_loss": "loss"}
    recipe: PretrainArguments

    def build(self) -> MaskedImageTrainer:
        """Load images, make or load the model, and return their Trainer."""
        recipe, args = self.recipe, self.args
        with args.main_process_first(desc="loading images"):
            data = load_unlabelled(recipe.dataset, recipe.image_column, recipe.validation_fraction)
            data.pop("test", None)  # which stays closed
        model, processor = start_of(recipe)
        masks = PatchMasks(model.config, recipe.mask_ratio, recipe.mask_patch_size, args.data_seed)
        train, validation = self.read_images(data, lambda data: self._images(data, processor))
        if moved_to_device(recipe.images_on_device, (train, validation), args.device, args.dataloader_num_workers):
            args.dataloader_pin_memory = False
        return MaskedImageTrainer(
            ema_decay=recipe.ema_decay,
            layer_decay=recipe.layer_decay,
            muon_learning_rate=recipe.muon_learning_rate,
            center_residual=recipe.center_residual,
            cuda_graphs=replays_steps(recipe.cuda_graphs, args, model.num_parameters()),
            model=model,
            args=args,
            data_collator=MaskingCollator(processor, masks),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=processor,
        )

    def _images(self, data: DatasetDict, processor: OmniVisionImageProcessor) -> tuple[ImageDataset, ImageDataset]:
        recipe, limit = self.recipe, 0 if self.args.dry_run else MEMORY_LIMIT
        augmentation = Augmentation(
            num_images=len(data["train"]),
            size=(processor.size["height"], processor.size["width"]),
            min_crop_scale=recipe.min_crop_scale,
            max_translate=recipe.max_translate,
            flip=recipe.flip,
            seed=self.args.data_seed,
        )
        train = ImageDataset(data["train"], processor, augmentation, memory_limit=limit, of_run=True)
        return train, ImageDataset(data["validation"], processor, memory_limit=limit, of_run=True)

    def describe(self) -> dict[str, Any]:
        """Return the command with its arguments, the dataset, and the best validation loss."""
        given = without_folders({**self.recipe.given, **self.args.given})
        config = read_fields("config", self.recipe.config)
        command = {**given, **({"config": json.dumps(config)} if config else {})}
        best = evaluation_of_chosen(self.trainer, self.evaluated)
        masks = self.trainer.data_collator.masks
        return {
            "command": training_command("omni-vision pretrain", command),
            "arguments": {**given, **({"config": config} if config else {})},
            "best_epoch": best.get("epoch"),
            "validation_loss": best.get("loss"),
            "masked_patches": masks.count * masks.scale[0] * masks.scale[1],
            "dataset": self.dataset_record(),
        }

    @torch.inference_mode()
    def measure(self) -> dict[str, Any]:
        """Measure what was saved on the validation images, and draw some of them."""
        model = load_complete(OmniVisionForMaskedImageModeling, self.folder, dtype=torch.float32)
        collate, images = self.trainer.data_collator, self.trainer.eval_dataset
        mean, std = (torch.tensor(one).reshape(-1, 1, 1) for one in statistics(collate.processor))
        found: list[torch.Tensor] = []
        for start in range(0, len(images), MEASURED_BATCH):
            rows = range(start, min(start + MEASURED_BATCH, len(images)))
            batch = {name: value.cpu() for name, value in collate(images.__getitems__(rows)).items()}
            pixels, made = batch["pixel_values"], model(**batch).reconstruction
            masks = masked_pixels(batch["bool_masked_pos"], pixels.shape[2:], model.config.patch_size_hw)
            losses, levels = errors(pixels, made, masks), errors(pixels, made, masks, 255 * std)
            found.append(torch.stack((losses[0], *levels)))
            if not start:
                given, painted = (255 * (one[:SHOWN] * std + mean) for one in (pixels, made))
                drawn = masks[:SHOWN], levels[0], self.recipe.mask_ratio
                draw_reconstructions(given, painted, *drawn, self.folder / SHEET)
        loss, levels_off, levels_of_mean = torch.cat(found, dim=1).double().mean(dim=1).tolist()
        measured = {"loss": loss, "levels": levels_off, "levels_of_mean_colour": levels_of_mean}
        return {"reconstruction": {"images": len(images), **measured}}


def start_of(recipe: PretrainArguments) -> tuple[OmniVisionForMaskedImageModeling, OmniVisionImageProcessor]:
    """Return model and image processor; a new one has no dropout, one from an encoder a new decoder and mask token."""
    fields, path = read_fields("config", recipe.config), recipe.model
    if path is None:
        config = OmniVisionConfig(**{**NO_DROPOUT, **fields})
        model = OmniVisionForMaskedImageModeling(config)
        if recipe.mimetic_init:
            mimetic_(model)
        return model, new_image_processor(config)
    tower = load_vision_tower(path, dtype=torch.float32, **fields)
    model = OmniVisionForMaskedImageModeling(tower.config)
    if load_vision_config(path).architectures == [OmniVisionForMaskedImageModeling.__name__]:
        model = load_complete(OmniVisionForMaskedImageModeling, path, config=tower.config, dtype=torch.float32)
    else:
        model.omni_vision.load_state_dict(tower.state_dict(), strict=False)
    size = dict(zip(("height", "width"), tower.config.image_size_hw, strict=True))
    return model, load_image_processor(path, size=size, do_center_crop=False)


def statistics(processor: OmniVisionImageProcessor) -> tuple[list[float], list[float]]:
    """Return mean and deviation of pixels from 0 to 1 in each channel, by which they were normalised."""
    if not processor.do_normalize:
        return [0.0], [1.0]
    return list(np.atleast_1d(processor.image_mean)), list(np.atleast_1d(processor.image_std))


def draw_reconstructions(
    pixels: torch.Tensor, made: torch.Tensor, masks: torch.Tensor, levels: torch.Tensor, ratio: float, path: Path
) -> Path:
    """Draw each image as it is, masked, and with its masked patches reconstructed.

    Args:
        pixels: Images (images, channels, height, width), in levels of 255.
        made: Likewise, reconstructed.
        masks: Masked pixels (images, 1, height, width).
        levels: How far masked pixels of each image are off.
        ratio: Fraction of an image that is masked.
        path: PNG to write.
    """
    grey = torch.full_like(pixels, 128.0)
    parts = {"original": pixels, "masked": torch.where(masks, grey, pixels)}
    parts["reconstructed"] = torch.where(masks, made, pixels)
    drawn = [(name, viewable(part[row])) for row in range(len(pixels)) for name, part in parts.items()]
    below = [f"{levels[row]:.1f} levels off" if last else "" for row in range(len(pixels)) for last in (0, 0, 1)]
    title = f"Validation images, {ratio:.0%} of each masked; visible patches are kept"
    names, images = zip(*drawn, strict=True)
    columns = len(parts) * SHOWN_IN_A_ROW
    return draw_sheet(images, names, below, [GREY] * len(drawn), title, path, columns, panel=(1.7, 2.1))


def viewable(image: torch.Tensor) -> np.ndarray:
    """Return an image (channels, height, width) in levels of 255 as (height, width, 3), other channels as a mean."""
    if len(image) != 3:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return image.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


__all__ = ["MaskedImageTrainer", "PretrainRun", "pretrain"]
