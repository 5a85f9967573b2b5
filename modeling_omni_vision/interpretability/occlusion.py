"""Occlusion maps: the patches of an image that an answer, or a class, depends on.

A window of patches is replaced by the mean of the image, and the fall of the answer's log-probability is measured
(Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901). Attention of one layer does not show this: words read
patches in one layer, the answer reads those words in the next. Gradient x input does not either: patches of the object
are redundant, and the answer is too confident for a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch.nn.functional import logsigmoid

from .plots import Scale, add_colour_bar, drawable, overlay, panel_grid, save, show
from .style import OURS, TRUTH


WINDOW = 3  # patches, about an object of a scene


@dataclass(frozen=True)
class OcclusionResult:
    """A question, the answer of the model, and its occlusion map: by how many nats the first token of the answer is
    less probable without each patch and those around it, (rows, columns); None where the model gets CLS only.
    """

    question: str
    answer: str
    relevance: np.ndarray | None


@torch.no_grad()
def explain_answer(
    model: Any, processor: Any, image: PilImage.Image, question: str, max_new_tokens: int = 32
) -> OcclusionResult:
    """Answer a question about an image with a vision-language model of ours and compute the occlusion map."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return explain_chat(model, processor, [{"role": "user", "content": content}], max_new_tokens)


@torch.no_grad()
def explain_chat(
    model: Any, processor: Any, chat: Sequence[dict[str, Any]], max_new_tokens: int = 32, **options: Any
) -> OcclusionResult:
    """Answer the last question of a chat about one image and compute the occlusion map; `options` format the chat."""
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **options
    ).to(model.device)
    question = chat[-1]["content"][-1]["text"]
    generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    tokens = generated[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(tokens, skip_special_tokens=True).strip()
    pixels = inputs.pop("pixel_values")
    rows, columns = grid_shape(model.config, pixels)
    if not rows:
        return OcclusionResult(question, answer, None)
    encoded = model.get_image_features(pixels)
    features = encoded.pooler_output[0]
    variants = occluded(features.reshape(-1, model.multi_modal_projector.width), rows, columns)
    encoded.pooler_output = [variant.reshape_as(features) for variant in variants]
    many = {name: value.expand(len(variants), -1) for name, value in inputs.items()}
    scores = model(**many, mm_encoder_outputs={"image": encoded}).logits[:, -1].log_softmax(-1)[:, tokens[0]]
    relevance = (scores[0] - scores[1:]).unflatten(0, (rows, columns))
    return OcclusionResult(question, answer, relevance.cpu().numpy())


def grid_shape(config: Any, pixels: torch.Tensor) -> tuple[int, int]:
    """Return rows and columns of the image tokens for images (images, channels, height, width); 0, 0 for CLS only."""
    if config.vision_feature_select_strategy == "cls":
        return 0, 0
    patch_height, patch_width = config.vision_config.patch_size_hw
    rows, columns = pixels.shape[-2] // patch_height, pixels.shape[-1] // patch_width
    return rows // config.scale_factor, columns // config.scale_factor


def occluded(vectors: torch.Tensor, rows: int, columns: int) -> list[torch.Tensor]:
    """Return the image tokens (..., [CLS +] rows * columns, hidden) as they are, and once for each place of the grid
    with the mean of the grid in a window of `WINDOW` x `WINDOW` around it.
    """
    first = vectors.shape[-2] - rows * columns
    mean = vectors[..., first:, :].mean(-2, keepdim=True)
    variants = [vectors]
    for window in windows(rows, columns).flatten(1):
        changed = vectors.clone()
        changed[..., first + window.nonzero().flatten(), :] = mean
        variants.append(changed)
    return variants


def windows(rows: int, columns: int) -> torch.Tensor:
    """Return for each place of a grid which places are in the window around it, (rows * columns, rows, columns)."""
    row, column = ((one[:, None] - one).abs() <= WINDOW // 2 for one in map(torch.arange, (rows, columns)))
    return (row[:, None, :, None] & column[:, None, :]).flatten(0, 1)


@torch.no_grad()
def explain_class(model: Any, pixel_values: torch.Tensor, batch_size: int = 64) -> tuple[int, np.ndarray]:
    """Return the most probable class of an image and its occlusion map.

    Args:
        model: A classifier of ours.
        pixel_values: The image (1, channels, height, width).
        batch_size: Occluded images in one forward.

    Returns:
        The number of the class, and by how many nats it is less probable where the pixels of a patch and those around
        it have the mean of the image, (rows, columns).
    """
    height, width = model.config.patch_size_hw
    rows, columns = pixel_values.shape[-2] // height, pixel_values.shape[-1] // width
    hidden = windows(rows, columns).repeat_interleave(height, 1).repeat_interleave(width, 2)[:, None]
    mean = pixel_values.mean((-2, -1), keepdim=True)
    logits = [model(pixel_values).logits]
    logits += [model(torch.where(some, mean, pixel_values)).logits for some in hidden.split(batch_size)]
    lists = model.config.problem_type == "multi_label_classification"
    scores = torch.cat(logits).float()
    scores = logsigmoid(scores) if lists else scores.log_softmax(-1)
    number = int(scores[0].argmax())
    return number, (scores[0, number] - scores[1:, number]).unflatten(0, (rows, columns)).numpy()


def plot_occlusion(
    images: Sequence[np.ndarray], results: Sequence[OcclusionResult], truths: Sequence[str], path: Path
) -> Path:
    """
    Draw a sheet: each image with its question, beside it the occlusion map with the answer.

    Args:
        images: Arrays (height, width, 3) of pixel values 0..255.
        results: One for each image.
        truths: Right answers, "" where unknown; a wrong answer is red, with the right one in brackets.
        path: PNG to write.
    """
    figure, panels = panel_grid(2 * len(results), 6, (2.05, 2.25), 0.5)
    maps = [found.relevance for found in results if found.relevance is not None]
    scale = Scale.of(maps, "nats lost without the patch", least=0.5)
    title = "Questions, answers, and the patches that the answer depends on (occlusion)"
    figure.suptitle(f"{title}{scale.note if maps else ''}", fontsize=11)
    for left, right, image, found, truth in zip(panels[::2], panels[1::2], images, results, truths, strict=True):
        show(left, image)
        left.set_title(_broken(found.question), fontsize=8, color=OURS)
        correct = truth in ("", found.answer)
        answer = found.answer if correct else f"{found.answer} ({truth})"
        if found.relevance is None:
            show(right, image)
        else:
            overlay(right, image, found.relevance, scale)
            right.set_xlabel(f"at most {found.relevance.max():.2f}", fontsize=8, labelpad=3)
        right.set_title(_broken(answer), fontsize=8, color=OURS if correct else TRUTH)
    if maps:
        add_colour_bar(figure, panels, scale)
    return save(figure, path, exact_colours=True)


def _broken(text: str, width: int = 30) -> str:
    """Return a text as it can be drawn, a long one broken into two lines of about equal length."""
    text = drawable(text)
    places = [place for place, sign in enumerate(text) if sign == " "]
    if len(text) <= width or not places:
        return text
    middle = min(places, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


__all__ = ["OcclusionResult", "explain_answer", "explain_chat", "explain_class", "plot_occlusion"]
