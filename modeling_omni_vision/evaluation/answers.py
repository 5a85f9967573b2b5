"""Exact-match accuracy of answers, and the text-only baseline."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from .metrics import ratio_interval


@dataclass(frozen=True)
class AnswerResult:
    """Whether an answer is exactly right, the kind of its question, and the row of its conversation.

    Of a wrong one `said` are the tokens up to the first wrong one; what `generate` would say after it is not known.
    """

    right: bool
    kind: str
    row: int
    said: tuple[int, ...] = ()


def answer_metrics(answers: Sequence[AnswerResult]) -> dict[str, Any]:
    """Return `accuracy`, its `interval` (95 %, bootstrap) and the number of `questions`, for all answers, and the same
    under `kinds` for each kind; raise `ValueError` if there are none.
    """
    if not answers:
        raise ValueError("Expected answers to measure, got none. Give a split with questions.")
    by_kind: defaultdict[str, list[AnswerResult]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.kind].append(answer)
    return {**_measured(answers), "kinds": {kind: _measured(found) for kind, found in by_kind.items()}}


def text_only_prior(train: Dataset, split: Dataset) -> list[AnswerResult]:
    """Answer the questions of a split with the most frequent answer of training to that text, or else to that kind.

    No text-only baseline that learns from the same questions does better, but by chance.
    """
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, question in _questions(train):
        by_text[_text(question)][question["answer"]] += 1
        by_kind[question["kind"]][question["answer"]] += 1
    answers = []
    for row, question in _questions(split):
        known = by_text.get(_text(question)) or by_kind.get(question["kind"]) or Counter([""])
        best = known.most_common(1)[0][0]
        answers.append(AnswerResult(best == question["answer"], question["kind"], row))
    return answers


def _questions(split: Dataset) -> Iterable[tuple[int, dict[str, Any]]]:
    return ((row, question) for row, asked in enumerate(split["questions"][:]) for question in asked)


def _text(question: dict[str, Any]) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in question["messages"])


def _measured(answers: Sequence[AnswerResult]) -> dict[str, Any]:
    """Measure one kind; the bootstrap draws conversations, as questions of one conversation share an image."""
    _, rows = np.unique([answer.row for answer in answers], return_inverse=True)
    right = np.bincount(rows, weights=[answer.right for answer in answers])
    asked = np.bincount(rows)
    interval = list(ratio_interval(right, asked))
    return {"accuracy": float(right.sum() / asked.sum()), "interval": interval, "questions": len(answers)}


__all__ = ["AnswerResult", "answer_metrics", "text_only_prior"]
