"""A new projector that maps patches to the word embeddings of their content, before the language model is trained.

The tower encodes colour and shape of a patch, the language model knows their names; from answers alone a new projector
learns late to connect them. Here it learns, in seconds and without a pass through the language model, to map a patch
to the mean of the embeddings of two words, such as " red" and " square". A sum of two words also fits combinations
that were not in training.
"""

import logging
from typing import Any

import torch
from datasets import Dataset

from experiments.scene_patches import PATCH_COLOURS, PATCH_SHAPES, draw_scene_patches
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.modeling_omni_vision import OmniVisionModelOutput
from modeling_omni_vision.modeling_omni_vision_language import pixel_shuffle


logger = logging.getLogger(__name__)

IMAGES, BATCH = 1_500, 32
LEARNING_RATE, LAST_SHARE = 2e-3, 0.02


def align_projector(model: Any, processor: Any, steps: int, seed: int = 0, images: int = IMAGES) -> float:
    """
    Train the projector of a composite, in place, to give the embeddings of the words for colour and shape.

    Args:
        model: A composite of early fusion of the grid; nothing else of it changes.
        processor: Its processor.
        steps: Steps of 32 images.
        seed: Seed of their order.
        images: Scenes to draw, none with a combination of `HELD_OUT_COMBINATIONS`.

    Returns:
        The error at the end: the squared distance to the embeddings as a fraction of their variance.

    Raises:
        ValueError: for another kind of composite, or images that cannot be drawn.
    """
    config = model.config
    if (config.fusion, config.vision_feature_select_strategy) != ("early", "grid"):
        raise ValueError(
            f"Only a grid between the words can be aligned, got {config.fusion} fusion of "
            f"{config.vision_feature_select_strategy}. Choose early fusion of the grid, or leave out the alignment."
        )
    height, patch = config.vision_config.image_size_hw[0], config.vision_config.patch_size_hw[0]
    scenes = draw_scene_patches(patch, size=height, sizes={"train": images})["train"]
    (cls, grid), words = _encode(model, processor, scenes), _words(model, processor, scenes, height // patch)
    projector = model.multi_modal_projector
    weights = [*projector.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_SHARE, steps)
    generator = torch.Generator().manual_seed(seed)
    missed = torch.tensor(1.0)
    for _ in range(steps):
        rows = torch.randint(len(grid), (BATCH,), generator=generator)
        output: Any = {"cls": cls[rows], "grid": grid[rows]}
        found = projector(OmniVisionModelOutput(**output), height)
        missed = (found - words[rows]).square().mean() / words.var()
        # Their gradients alone: others would be left over for the training that follows.
        missed.backward(inputs=weights)
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    logger.info("The projector misses %.3f of the words after %d steps.", missed.item(), steps)
    return missed.item()


@torch.no_grad()
def _encode(model: Any, processor: Any, scenes: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode scenes: CLS (images, 1, hidden) and patches (images, patches, hidden)."""
    tower, found = model.vision_tower.eval(), []
    for start in range(0, len(scenes), BATCH):
        images = [open_stored(image) for image in scenes[start : start + BATCH]["image"]]
        found.append(tower(**processor.image_processor(images, return_tensors="pt")))
    return torch.cat([output.cls for output in found]), torch.cat([output.grid for output in found])


@torch.no_grad()
def _words(model: Any, processor: Any, scenes: Dataset, rows: int) -> torch.Tensor:
    """Return target embeddings (images, tokens, text hidden); for background, the mean of all words."""
    embeddings = model.get_input_embeddings().weight
    colours, shapes = (_named(embeddings, processor, names[1:]) for names in (PATCH_COLOURS, PATCH_SHAPES))
    colour, shape = (torch.tensor(scenes[name][:]) for name in ("colours", "shapes"))
    covered = (colour > 0).float().unsqueeze(-1)
    factor = model.config.scale_factor
    named = covered * (colours[colour] + shapes[shape]) / 2
    total = pixel_shuffle(named, rows, factor).unflatten(-1, (factor**2, -1)).sum(-2)
    count = pixel_shuffle(covered, rows, factor).sum(-1, keepdim=True)
    return torch.where(count > 0, total / count.clamp(min=1), embeddings.mean(0))


def _named(embeddings: torch.Tensor, processor: Any, names: tuple[str, ...]) -> torch.Tensor:
    """Return the embedding of each name, the mean of its tokens, after one of zeros for no name."""
    # With the blank before it, as within a sentence.
    tokens = [processor.tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in names]
    return torch.stack([torch.zeros_like(embeddings[0]), *(embeddings[found].mean(0) for found in tokens)])


__all__ = ["align_projector"]
