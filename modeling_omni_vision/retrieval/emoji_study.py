"""A search checkpoint on emoji: held-out concepts by text, and concepts in the style of a vendor it never saw."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from ..analysis.record import merge_metrics
from .evaluation import decoded, retrieval_metrics
from .styles import imagenet_scores, keyword_scores, own_scores, pixel_scores, ranked


STYLE = "google"


def study_emoji(checkpoint: Path, data: DatasetDict) -> dict[str, Any]:
    """Measure a checkpoint and peers on the splits of `load_emoji`, and keep it as `emoji` in its metrics.json.

    Returns:
        `texts`: both directions on each held-out split, for wholes and parts, by names alone and by names with all
        keywords, and for an oracle of keywords;
        `styles`: pictures of the vendor never trained on asking for the same concept in a trained style, for
        concepts that were trained and for held-out ones.
    """
    doors: dict[str, Any] = {
        "wholes": SentenceTransformer(str(checkpoint), trust_remote_code=True),
        "parts": MultiVectorEncoder(str(checkpoint), trust_remote_code=True),
    }
    texts: dict[str, Any] = {}
    for name in ("validation", "test", "test_unseen_style"):
        worded = data[name].map(_in_one_text)
        texts[name] = {kind: retrieval_metrics(door, data[name]) for kind, door in doors.items()}
        texts[name] |= {f"{kind}, keywords": retrieval_metrics(door, worded) for kind, door in doors.items()}
        known = dict(zip(data[name]["concept"][:], data[name]["texts"][:], strict=True))
        oracle = ranked(keyword_scores(list(known.values())), list(known), list(known))
        texts[name]["keyword oracle"] = {"picture_to_text": oracle}
    found: dict[str, Any] = {"texts": texts, "styles": {}}
    for name, asking, asked in (
        ("trained concepts", "unseen_style", "train"),
        ("held-out concepts", "test_unseen_style", "test"),
    ):
        found["styles"][name] = _styles(doors, data[asking], data[asked])
    merge_metrics(checkpoint, {"emoji": found})
    return found


def _in_one_text(row: dict[str, Any]) -> dict[str, Any]:
    return {"texts": [", ".join(row["texts"])]}


def _styles(doors: dict[str, Any], asking: Dataset, asked: Dataset) -> dict[str, Any]:
    asked = asked.filter(lambda vendor: vendor == STYLE, input_columns="vendor")
    known = set(asked["concept"][:])
    asking = asking.filter(lambda concept: concept in known, input_columns="concept")
    questions, answers = decoded(asking), decoded(asked)
    names = asking["concept"][:], asked["concept"][:]
    scores: dict[str, torch.Tensor | None] = {
        **{kind: own_scores(door, questions, answers) for kind, door in doors.items()},
        "ImageNet EfficientNet-Lite0": imagenet_scores(questions, answers),
        "pixels": pixel_scores(questions, answers),
        "chance": torch.zeros(len(questions), len(answers)),
    }
    return {kind: ranked(found, *names) for kind, found in scores.items() if found is not None}


__all__ = ["study_emoji"]
