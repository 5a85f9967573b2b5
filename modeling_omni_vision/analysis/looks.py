"""Where in a picture an answer comes from: pictures, questions, answers, and the patches that spoke for the answer.

The attention of one layer does not tell: words read patches in one layer, and the answer reads those words in the
next. Gradient x input follows all ways: for each picture vector, how much the score of the answer's first token would
fall, to first order, were that vector zero (Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image as PilImage

from .plots import OURS, TRUTH, overlay, save, show


@dataclass(frozen=True)
class Look:
    """A question about a picture, the answer of the model, and what each patch says for it (rows, columns), or None
    where CLS is all that is shown.
    """

    question: str
    answer: str
    relevance: np.ndarray | None


def look(model: Any, processor: Any, picture: PilImage.Image, question: str, max_new_tokens: int = 32) -> Look:
    """
    Ask and see where the answer comes from.

    Args:
        model: An [`OmniVisionForConditionalGeneration`], of early or late fusion.
        processor: Its processor.
        picture: What the question is about.
        question: A line of text.
        max_new_tokens: The answer is cut there.
    """
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    ).to(model.device)
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        pixels = inputs.pop("pixel_values")
        encoded = model.get_image_features(pixels)
    said = said[0, inputs["input_ids"].shape[1] :]
    vectors = [vector.detach().requires_grad_() for vector in encoded.pooler_output]
    encoded.pooler_output = vectors
    logits = model(**inputs, mm_encoder_outputs={"image": encoded}).logits
    # Above the mean of all tokens: what lifts every score says nothing for this answer.
    score = logits[0, -1, said[0]] - logits[0, -1].mean()
    (gradient,) = torch.autograd.grad(score, vectors)
    relevance = (gradient * vectors[0]).sum(-1).detach().flatten()
    return Look(question, processor.decode(said, skip_special_tokens=True).strip(), _on_grid(model, pixels, relevance))


def _on_grid(model: Any, pixels: torch.Tensor, relevance: torch.Tensor) -> np.ndarray | None:
    config = model.config
    if config.select_feature == "cls":
        return None
    patch_height, patch_width = config.vision_config.patch_size_hw
    rows = pixels.shape[-2] // patch_height // config.pixel_shuffle
    columns = pixels.shape[-1] // patch_width // config.pixel_shuffle
    # CLS, where it is shown too, stands before the grid.
    return relevance[-rows * columns :].unflatten(0, (rows, columns)).cpu().numpy()


def plot_looks(pictures: Sequence[np.ndarray], looks: Sequence[Look], truths: Sequence[str], path: Path) -> Path:
    """
    Draw a sheet: each picture with its question, beside it the patches that spoke for the answer.

    Args:
        pictures: Arrays (height, width, 3) of levels 0..255.
        looks: One for each picture.
        truths: Right answers; another answer is drawn in red, with the right one in brackets. "" where none is known.
        path: PNG to write.
    """
    across = 3
    down = -(-len(looks) // across)
    figure = Figure(figsize=(4.1 * across, 2.25 * down + 0.5), layout="constrained")
    figure.suptitle("Questions, answers, and the patches that spoke for the answer (gradient x input)", fontsize=11)
    panels = figure.subplots(down, 2 * across, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    pairs = [(row[column], row[column + 1]) for row in panels for column in range(0, 2 * across, 2)]
    for (left, right), picture, found, truth in zip(pairs, pictures, looks, truths, strict=False):
        for axes in (left, right):
            axes.axis("on")
        show(left, picture)
        left.set_title(_broken(found.question), fontsize=8, color=OURS)
        correct = truth in ("", found.answer)
        said = found.answer if correct else f"{found.answer} ({truth})"
        if found.relevance is None:
            show(right, picture)
        else:
            overlay(right, picture, found.relevance.clip(min=0))
        right.set_title(_broken(said), fontsize=8, color=OURS if correct else TRUTH)
    return save(figure, path)


def _broken(text: str, width: int = 30) -> str:
    """Break a text into two lines of about equal length where it is long; $ is no formula."""
    text = text.replace("$", r"\$")
    if len(text) <= width:
        return text
    middle = min((place for place, sign in enumerate(text) if sign == " "), key=lambda p: abs(p - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


__all__ = ["Look", "look", "plot_looks"]
