"""A search checkpoint on emoji: held-out concepts by text, and concepts in the style of a vendor it never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from torch.nn.functional import normalize

from ..analysis.record import merge_metrics
from .evaluation import DIRECTIONS, decoded, retrieval_metrics
from .styles import imagenet_scores, keyword_scores, own_scores, pixel_scores, ranked


STYLE = "google"
# What a concept is called: its name, an emoji of it, its name with all keywords, each keyword. Chosen on validation.
ENSEMBLE: tuple[Callable[[Sequence[str]], Sequence[str]], ...] = (
    lambda lines: lines[:1],
    lambda lines: [f"an emoji of {lines[0]}"],
    lambda lines: [", ".join(lines)],
    lambda lines: lines[1:] or lines,
)


def study_emoji(checkpoint: Path, data: DatasetDict) -> dict[str, Any]:
    """Measure a checkpoint and peers on the splits of `load_emoji`, and keep it as `emoji` in its metrics.json.

    Returns:
        `texts`: both directions on each held-out split, for wholes and parts, by names alone, by names with all
        keywords, for wholes by several texts at once too (see `ensemble_metrics`), and for an oracle of keywords;
        `styles`: pictures of the vendor never trained on asking for the same concept in a trained style, for
        concepts that were trained, those of the validation split, and held-out ones.
    """
    doors: dict[str, Any] = {
        "wholes": SentenceTransformer(str(checkpoint), trust_remote_code=True),
        "parts": MultiVectorEncoder(str(checkpoint), trust_remote_code=True),
    }
    texts: dict[str, Any] = {}
    for name in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        worded = data[name].map(_in_one_text)
        texts[name] = {kind: retrieval_metrics(door, data[name]) for kind, door in doors.items()}
        texts[name] |= {f"{kind}, keywords": retrieval_metrics(door, worded) for kind, door in doors.items()}
        texts[name]["wholes, ensemble"] = ensemble_metrics(doors["wholes"], data[name])
        known = dict(zip(data[name]["concept"][:], data[name]["texts"][:], strict=True))
        oracle = ranked(keyword_scores(list(known.values())), list(known), list(known))
        texts[name]["keyword oracle"] = {"picture_to_text": oracle}
    found: dict[str, Any] = {"texts": texts, "styles": {}}
    for name, asking, asked in (
        ("trained concepts", "unseen_style", "train"),
        ("validation concepts", "validation_unseen_style", "validation"),
        ("held-out concepts", "test_unseen_style", "test"),
    ):
        found["styles"][name] = _styles(doors, data[asking], data[asked])
    merge_metrics(checkpoint, {"emoji": found})
    return found


def ensemble_metrics(model: Any, split: Dataset) -> dict[str, dict[str, float]]:
    """Measure both directions with a concept as the mean of what it can be called, as zero-shot CLIP has it of names.

    Args:
        model: A `SentenceTransformer`.
        split: Columns `image`, `texts` and `concept`, as `load_pairs` gives them.
    """
    concepts = split["concept"][:]
    known = dict(zip(concepts, split["texts"][:], strict=True))
    options: dict[str, Any] = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
    asked = torch.zeros(())
    for called in ENSEMBLE:
        texts = [called(lines) for lines in known.values()]
        vectors = model.encode_query([text for lines in texts for text in lines], **options).cpu()
        means = torch.stack([part.mean(0) for part in vectors.split([len(lines) for lines in texts])])
        asked = asked + normalize(means, dim=-1)
    scores = model.encode_document(decoded(split), **options).cpu() @ normalize(asked, dim=-1).T
    found = ranked(scores.T, list(known), concepts), ranked(scores, concepts, list(known))
    return dict(zip(DIRECTIONS, found, strict=True))


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


__all__ = ["ensemble_metrics", "study_emoji"]
