"""A sheet of questions that a vision-language model answers wrong, for the report of its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.summary import evenly_spread
from ..evaluation.answers import AnswerResult
from ..image_processing_omni_vision import read_image
from ..interpretability.dataset_sheet import wrapped
from ..interpretability.plots import draw_sheet, plot_mistakes, shortened
from ..interpretability.style import TRUTH
from .language_data import replace_images


SHOWN, LENGTH = 18, 32


def draw_wrong_answers(rows: Dataset, answers: Sequence[AnswerResult], tokenizer: Any, path: Path) -> Path:
    """Draw some wrong answers: image and question, the right answer, and how the model's begins.

    Args:
        rows: Conversations with one question or several.
        answers: One for each question, in order.
        tokenizer: Reads what was said.
        path: PNG to write.
    """
    asked = [question for some in rows["questions"][:] for question in some]
    wrong = [pair for pair in zip(asked, answers, strict=True) if not pair[1].right]
    shown = [wrong[index] for index in evenly_spread(len(wrong), SHOWN)]
    if not shown:
        return plot_mistakes([], [], [], [], path)
    texts = [replace_images(question["messages"])[-1]["content"] for question, _ in shown]
    said = [tokenizer.decode(answer.said, skip_special_tokens=True).strip() for _, answer in shown]
    right = [question["answer"] for question, _ in shown]
    return draw_sheet(
        [image_of(rows, answer.row) for _, answer in shown],
        [wrapped(text, LENGTH) for text in texts],
        [
            f"right: {shortened(one, LENGTH - 7)}\nsaid: {shortened(other or '(nothing)', LENGTH - 7)}"
            for one, other in zip(right, said, strict=True)
        ],
        [TRUTH] * len(shown),
        f"{len(shown)} of {len(wrong)} wrong answers to {len(asked)} questions",
        path,
        columns=min(6, len(shown)) if len(shown) > 2 else 3,
        panel=(2.2, 3.0),
    )


def image_of(rows: Dataset, row: int) -> np.ndarray:
    """Return the first image of a conversation, grey where it has none."""
    images = rows[row]["images"]
    return read_image(images[0], num_channels=3) if images else np.full((64, 64, 3), 200, dtype=np.float32)


__all__ = ["draw_wrong_answers"]
