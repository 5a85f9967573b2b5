"""Grounding accuracy of per-token similarity maps and their alternatives, on drawn scenes with exact masks.

For every word that names one object of a scene each kind of map is scored by the pointing game (is its highest patch
on the object? Zhang et al. 2016, https://arxiv.org/abs/1608.00507), the mass in the mask, and deletion (the fall of
the word's score when the highest patches are removed; Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from ..data.synthetic.shapes import DrawnObject, Scene, draw_scene
from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval
from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor


MAPS = ("MaxSim", "CLS attention", "attention rollout", "gradient x input", "random")
# A patch is on an object if the object covers at least this fraction of it.
ON_OBJECT = 0.25
DELETED = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class NamedWord:
    """A word of a caption that names one object: its text, the index of its token, and the covered part of patches."""

    word: str
    token: int
    cover: torch.Tensor  # (rows, columns)


def draw_test_scenes(
    combinations: Sequence[tuple[str, str]], count: int, objects: int = 2, size: int = 64, seed: int = 7
) -> list[Scene]:
    """Draw scenes whose objects differ in colour and in shape, so that every such word names one of them."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        chosen = [combinations[index] for index in rng.choice(len(combinations), size=objects, replace=False)]
        colours, shapes = zip(*chosen, strict=True)
        if len(set(colours)) == len(set(shapes)) == objects:
            scenes.append(draw_scene(np.random.default_rng([seed, len(scenes)]), chosen, size))
    return scenes


def named_words(scene: Scene, tokenizer: Any, rows: int, columns: int) -> list[NamedWord]:
    """List the words of a scene's caption that name colours and shapes, with their tokens."""
    text = scene.caption
    read = tokenizer(text, return_offsets_mapping=True)
    found = []
    for item in scene.objects:
        for word in (item.colour, item.shape):
            start = text.lower().find(f" {word}") + 1
            token = next(index for index, (first, last) in enumerate(read["offset_mapping"]) if first <= start < last)
            found.append(NamedWord(word, token, patch_cover(item, rows, columns)))
    return found


def patch_cover(item: DrawnObject, rows: int, columns: int) -> torch.Tensor:
    """Return the fraction of each patch that an object covers, (rows, columns)."""
    mask = torch.from_numpy(item.mask.astype(np.float32))
    return torch.nn.functional.adaptive_avg_pool2d(mask[None, None], (rows, columns))[0, 0]


def points_at(heatmap: torch.Tensor, cover: torch.Tensor) -> bool:
    """Whether the highest patch is on the object: a hit of the pointing game."""
    return bool(cover.flatten()[heatmap.flatten().argmax()] >= ON_OBJECT)


def mass_in(heatmap: torch.Tensor, cover: torch.Tensor) -> float:
    """Return the fraction of a map, above its lowest value, that lies on the object."""
    heatmap = heatmap - heatmap.min()
    return float((heatmap * cover).sum() / heatmap.sum().clamp_min(1e-12))


def ground(
    model: OmniVisionForRetrieval,
    processor: OmniVisionRetrievalProcessor,
    scenes: Sequence[Scene],
    kinds: Sequence[str] = MAPS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Score `kinds` of `MAPS` on scenes of `draw_test_scenes`; `seed` is that of the random map.

    Returns:
        For each kind: `pointing` (grounding accuracy, a fraction of words), `mass`, `deletion` (mean fall of the
        word's best cosine with 5, 10, 20 and 40 % of the patches removed), for all of which higher is better,
        `background` (fraction of words whose highest patch is on no object), and `words`, their number.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = {kind: dict.fromkeys(("pointing", "mass", "deletion", "background"), 0.0) for kind in kinds}
    count = 0
    for scene in scenes:
        pixels = processor(images=[scene.image], return_tensors="pt")["pixel_values"]
        rows, columns = _grid(model, pixels)
        asked = named_words(scene, processor.tokenizer, rows, columns)
        vectors = word_vectors(model, processor, scene.caption)
        anything = torch.stack([patch_cover(item, rows, columns) for item in scene.objects]).sum(0)
        heatmaps = dict(_maps(model, pixels, vectors[[word.token for word in asked]], kinds, generator))
        for kind, heatmap in heatmaps.items():
            falls = _deletion(model, pixels, vectors[[word.token for word in asked]], heatmap)
            for index, word in enumerate(asked):
                totals[kind]["pointing"] += points_at(heatmap[index], word.cover)
                totals[kind]["mass"] += mass_in(heatmap[index], word.cover)
                totals[kind]["background"] += not points_at(heatmap[index], anything)
                totals[kind]["deletion"] += falls[index]
        count += len(asked)
    return {
        kind: {**{name: value / count for name, value in sums.items()}, "words": count}
        for kind, sums in totals.items()
    }


@torch.no_grad()
def word_vectors(model: OmniVisionForRetrieval, processor: OmniVisionRetrievalProcessor, text: str) -> torch.Tensor:
    """Return the embeddings of the tokens of one text, (tokens, dim); those of skipped tokens are zero."""
    embeddings = model(**processor(text=[text], return_tensors="pt")).embeddings
    assert embeddings is not None
    return embeddings[0]


def maxsim_maps(model: OmniVisionForRetrieval, pixels: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each word (words, dim) with each patch of one image, (words, rows, columns)."""
    patches = _patches(model, pixels)
    return (words @ patches[0].T).unflatten(-1, _grid(model, pixels))


def _maps(
    model: OmniVisionForRetrieval,
    pixels: torch.Tensor,
    words: torch.Tensor,
    kinds: Sequence[str],
    generator: torch.Generator,
) -> Iterator[tuple[str, torch.Tensor]]:
    grid = _grid(model, pixels)
    makers: dict[str, Callable[[], torch.Tensor]] = {
        "MaxSim": lambda: maxsim_maps(model, pixels, words).detach(),
        "CLS attention": lambda: model.vision_model.attention_maps(pixels)[0, -1].mean(0).expand(len(words), -1, -1),
        "attention rollout": lambda: _rollout(model, pixels).unflatten(-1, grid).expand(len(words), -1, -1),
        "gradient x input": lambda: _gradient_maps(model, pixels, words),
        "random": lambda: torch.rand(len(words), *grid, generator=generator),
    }
    for kind in kinds:
        yield kind, makers[kind]()


def _patches(model: OmniVisionForRetrieval, pixels: torch.Tensor) -> torch.Tensor:
    tokens = model.vision_model(pixels).last_hidden_state[:, model.vision_model.num_prefix_tokens :]
    return normalize(model.visual_projection(tokens), dim=-1)


def _grid(model: OmniVisionForRetrieval, pixels: torch.Tensor) -> tuple[int, int]:
    height, width = model.vision_model.config.patch_size_hw
    return pixels.shape[2] // height, pixels.shape[3] // width


@torch.no_grad()
def _rollout(model: OmniVisionForRetrieval, pixels: torch.Tensor) -> torch.Tensor:
    """Return attention rollout (https://huggingface.co/papers/2005.00928) from each patch to CLS, (patches,)."""
    vision = model.vision_model
    before = vision.config._attn_implementation
    vision.set_attn_implementation("eager")
    try:
        attentions = vision(pixels, output_attentions=True).attentions
    finally:
        vision.set_attn_implementation(before)
    flow = torch.eye(attentions[0].shape[-1])
    for layer in attentions:
        mixed = (layer[0].mean(0) + torch.eye(len(flow))) / 2
        flow = mixed @ flow
    return flow[0, vision.num_prefix_tokens :]


def _gradient_maps(model: OmniVisionForRetrieval, pixels: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    height, width = model.vision_model.config.patch_size_hw
    heatmaps = []
    for word in words:
        inputs = pixels.clone().requires_grad_()
        (_patches(model, inputs)[0] @ word).max().backward()
        assert inputs.grad is not None
        product = (inputs.grad * inputs).abs().sum(1, keepdim=True).detach()
        heatmaps.append(torch.nn.functional.avg_pool2d(product, (height, width))[0, 0])
    model.zero_grad(set_to_none=True)
    return torch.stack(heatmaps)


@torch.no_grad()
def _deletion(
    model: OmniVisionForRetrieval, pixels: torch.Tensor, words: torch.Tensor, heatmap: torch.Tensor
) -> list[float]:
    """Return the mean fall of each word's best cosine when its highest patches get the colour of the background.

    A difference, not a ratio: scores of an untrained model are about zero.
    """
    height, width = model.vision_model.config.patch_size_hw
    rows, columns = heatmap.shape[1:]
    background = pixels.flatten(2).median(-1).values[0][:, None, None]
    order = heatmap.flatten(1).argsort(dim=1, descending=True)
    images = []
    for index in range(len(words)):
        for fraction in DELETED:
            deleted = torch.zeros(rows * columns, dtype=torch.bool)
            deleted[order[index, : max(1, round(fraction * rows * columns))]] = True
            deleted = deleted.view(rows, columns).repeat_interleave(height, 0).repeat_interleave(width, 1)
            images.append(torch.where(deleted, background, pixels[0]))
    patches = _patches(model, torch.cat((pixels, torch.stack(images))))
    best = (patches @ words.T).amax(1)  # (1 + words * fractions, words)
    left = best[1:].view(len(words), len(DELETED), len(words))
    return [float(best[0, index] - left[index, :, index].mean()) for index in range(len(words))]


__all__ = ["MAPS", "draw_test_scenes", "ground", "maxsim_maps", "named_words", "patch_cover", "word_vectors"]
