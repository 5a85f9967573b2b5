"""A search checkpoint on emoji: held-out concepts by text, and concepts in the style of a vendor it never saw."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from PIL import Image as PilImage
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from torch.nn.functional import normalize

from ..analysis.record import merge_metrics
from .evaluation import DIRECTIONS, decoded, retrieval_metrics
from .hubs import without_hubs
from .styles import imagenet_scores, keyword_scores, own_scores, pixel_scores, ranked
from .views import view_vectors


STYLE = "google"
Called = Callable[[Sequence[str]], Sequence[str]]


def name(lines: Sequence[str]) -> Sequence[str]:
    """Call a concept by its name; `lines` are the name and its keywords."""
    return lines[:1]


def name_with_keywords(lines: Sequence[str]) -> Sequence[str]:
    """Call a concept by its name and all keywords in one text."""
    return [", ".join(lines)]


# What a concept is called: its name, an emoji of it, its name with all keywords, each keyword. Chosen on validation.
ENSEMBLE: tuple[Called, ...] = (
    name,
    lambda lines: [f"an emoji of {lines[0]}"],
    name_with_keywords,
    lambda lines: lines[1:] or lines,
)
# Ways to ask.
WAYS: dict[str, tuple[Called, ...]] = {
    "wholes": (name,),
    "wholes, keywords": (name_with_keywords,),
    "wholes, ensemble": ENSEMBLE,
}
OPTIONS: dict[str, Any] = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
# Ways to look at a picture.
LOOKS: dict[str, Callable[[Any, list[PilImage.Image]], torch.Tensor]] = {
    "": lambda model, pictures: model.encode_document(pictures, **OPTIONS).cpu(),
    ", six views": partial(view_vectors, **OPTIONS),
}


def study_emoji(checkpoint: Path, data: DatasetDict) -> dict[str, Any]:
    """Measure a checkpoint and peers on the splits of `load_emoji`, and keep it as `emoji` in its metrics.json.

    Returns:
        `texts`: both directions on each held-out split, for wholes and parts, by names alone and by names with all
        keywords, for wholes by the ways of `way_metrics` too, and for an oracle of keywords;
        `styles`: pictures of the vendor never trained on asking for the same concept in a trained style, for
        concepts that were trained, those of the validation split, and held-out ones.
    """
    doors: dict[str, Any] = {
        "wholes": SentenceTransformer(str(checkpoint), trust_remote_code=True),
        "parts": MultiVectorEncoder(str(checkpoint), trust_remote_code=True),
    }
    texts: dict[str, Any] = {}
    trained = _vectors(doors["wholes"], data["train"])
    for split in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        asked, worded = data[split], data[split].map(_in_one_text)
        texts[split] = way_metrics(doors["wholes"], asked, trained)
        # Those of the library, with nDCG.
        texts[split] |= {kind: retrieval_metrics(door, asked) for kind, door in doors.items()}
        texts[split] |= {f"{kind}, keywords": retrieval_metrics(door, worded) for kind, door in doors.items()}
        known = _known(asked)
        oracle = ranked(keyword_scores(list(known.values())), list(known), list(known))
        texts[split]["keyword oracle"] = {"picture_to_text": oracle}
    found: dict[str, Any] = {"texts": texts, "styles": {}}
    for concepts, asking, found_in in (
        ("trained concepts", "unseen_style", "train"),
        ("validation concepts", "validation_unseen_style", "validation"),
        ("held-out concepts", "test_unseen_style", "test"),
    ):
        found["styles"][concepts] = _styles(doors, data[asking], data[found_in])
    merge_metrics(checkpoint, {"emoji": found})
    return found


def way_metrics(
    model: Any, split: Dataset, trained: dict[str, torch.Tensor]
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure each of `WAYS` to call a concept, its texts as one direction, as zero-shot CLIP has it of names.

    Args:
        model: A `SentenceTransformer`.
        split: Columns `image`, `texts` and `concept`, as `load_pairs` gives them.
        trained: For each of `LOOKS`, vectors of training pictures (pictures, embedding_dim), whose concepts are not
            those of the split.

    Returns:
        Both directions for each way and look; and of pictures that ask for texts, with what texts win anyway from
        training pictures taken off, as "..., without hubs".
    """
    known, concepts, found = _known(split), split["concept"][:], {}
    pictures = _vectors(model, split)
    for way, called in WAYS.items():
        texts = _directions(model, called, list(known.values()))
        for look, vectors in pictures.items():
            scores = vectors @ texts.T
            both = ranked(scores.T, list(known), concepts), ranked(scores, concepts, list(known))
            found[f"{way}{look}"] = dict(zip(DIRECTIONS, both, strict=True))
            scores = without_hubs(scores, trained[look] @ texts.T)
            found[f"{way}{look}, without hubs"] = {"picture_to_text": ranked(scores, concepts, list(known))}
    return found


def _known(split: Dataset) -> dict[str, list[str]]:
    """Give the texts of each concept."""
    return dict(zip(split["concept"][:], split["texts"][:], strict=True))


def _vectors(model: Any, split: Dataset) -> dict[str, torch.Tensor]:
    """Encode the pictures of a split, for each of `LOOKS`."""
    pictures = decoded(split)
    return {look: encode(model, pictures) for look, encode in LOOKS.items()}


def _directions(model: Any, ways: Sequence[Called], texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Give the direction of each concept, as the mean of what it is called in each way, and then of the ways."""
    asked = torch.zeros(())
    for called in ways:
        given = [called(lines) for lines in texts]
        vectors = model.encode_query([text for lines in given for text in lines], **OPTIONS).cpu()
        means = torch.stack([part.mean(0) for part in vectors.split([len(lines) for lines in given])])
        asked = asked + normalize(means, dim=-1)
    return normalize(asked, dim=-1)


def _in_one_text(row: dict[str, Any]) -> dict[str, Any]:
    return {"texts": name_with_keywords(row["texts"])}


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


__all__ = ["study_emoji", "way_metrics"]
