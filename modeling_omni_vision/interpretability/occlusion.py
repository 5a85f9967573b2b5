"""Where in an image an answer comes from: images, questions, answers, and the patches that the answer needs.

The attention of one layer does not tell: words read patches in one layer, and the answer reads those words in the
next. Occlusion does (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901): a window of patches is made like the
rest of the image, and the answer becomes less probable where it was needed. Gradient x input, tried first, was no
guide: patches of the object in question are redundant, and the answer too sure for a slope.
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


WINDOW = 3  # patches, about an object of a scene


@dataclass(frozen=True)
class OcclusionResult:
    """A question about an image, the answer of the model, and what each patch says for it (rows, columns), or None
    where CLS is all that is shown.
    """

    question: str
    answer: str
    relevance: np.ndarray | None


@torch.no_grad()
def look(
    model: Any, processor: Any, image: PilImage.Image, question: str, max_new_tokens: int = 32
) -> OcclusionResult:
    """
    Ask and see where the answer comes from.

    Args:
        model: An [`OmniVisionForConditionalGeneration`], of early or late fusion.
        processor: Its processor.
        image: What the question is about.
        question: A line of text.
        max_new_tokens: The answer is cut there.
    """
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    ).to(model.device)
    said = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(said, skip_special_tokens=True).strip()
    pixels = inputs.pop("pixel_values")
    rows, columns = grid_shape(model.config, pixels)
    if not rows:
        return OcclusionResult(question, answer, None)
    encoded = model.get_image_features(pixels)
    variants = occluded(encoded.pooler_output[0], rows, columns)
    encoded.pooler_output = variants
    many = {name: value.expand(len(variants), -1) for name, value in inputs.items()}
    scores = model(**many, mm_encoder_outputs={"image": encoded}).logits[:, -1].log_softmax(-1)[:, said[0]]
    relevance = (scores[0] - scores[1:]).unflatten(0, (rows, columns))
    return OcclusionResult(question, answer, relevance.cpu().numpy())


def grid_shape(config: Any, pixels: torch.Tensor) -> tuple[int, int]:
    """Give rows and columns of what the language model sees of images (images, channels, height, width); none of
    CLS alone.
    """
    if config.vision_feature_select_strategy == "cls":
        return 0, 0
    patch_height, patch_width = config.vision_config.patch_size_hw
    rows, columns = pixels.shape[-2] // patch_height, pixels.shape[-1] // patch_width
    return rows // config.scale_factor, columns // config.scale_factor


def occluded(vectors: torch.Tensor, rows: int, columns: int) -> list[torch.Tensor]:
    """
    Make the vectors of an image, as they are and once for each place of the grid without what is around it.

    Args:
        vectors: (..., rows * columns, hidden), after any CLS.
        rows: Of the grid.
        columns: Of the grid.

    Returns:
        1 + rows * columns variants; in each but the first a window of `WINDOW` x `WINDOW` has the mean of the grid.
    """
    places = torch.arange(rows * columns).unflatten(0, (rows, columns))
    first, reach = vectors.shape[-2] - rows * columns, WINDOW // 2
    mean = vectors[..., first:, :].mean(-2, keepdim=True)
    variants = [vectors]
    for row in range(rows):
        for column in range(columns):
            window = places[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            changed = vectors.clone()
            changed[..., first + window.flatten(), :] = mean
            variants.append(changed)
    return variants


def plot_looks(
    images: Sequence[np.ndarray], looks: Sequence[OcclusionResult], truths: Sequence[str], path: Path
) -> Path:
    """
    Draw a sheet: each image with its question, beside it the patches that the answer needs.

    Args:
        images: Arrays (height, width, 3) of levels 0..255.
        looks: One for each image.
        truths: Right answers; another answer is drawn in red, with the right one in brackets. "" where none is known.
        path: PNG to write.
    """
    across = 3
    down = -(-len(looks) // across)
    figure = Figure(figsize=(4.1 * across, 2.25 * down + 0.5), layout="constrained")
    figure.suptitle("Questions, answers, and the patches that the answer needs (occlusion)", fontsize=11)
    panels = figure.subplots(down, 2 * across, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    pairs = [(row[column], row[column + 1]) for row in panels for column in range(0, 2 * across, 2)]
    for (left, right), image, found, truth in zip(pairs, images, looks, truths, strict=False):
        for axes in (left, right):
            axes.axis("on")
        show(left, image)
        left.set_title(_broken(found.question), fontsize=8, color=OURS)
        correct = truth in ("", found.answer)
        said = found.answer if correct else f"{found.answer} ({truth})"
        if found.relevance is None:
            show(right, image)
        else:
            overlay(right, image, found.relevance.clip(min=0))
        right.set_title(_broken(said), fontsize=8, color=OURS if correct else TRUTH)
    return save(figure, path)


def _broken(text: str, width: int = 30) -> str:
    """Break a text into two lines of about equal length where it is long; $ is no formula."""
    text = text.replace("$", r"\$")
    if len(text) <= width:
        return text
    middle = min((place for place, sign in enumerate(text) if sign == " "), key=lambda p: abs(p - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


__all__ = ["OcclusionResult", "look", "plot_looks"]
