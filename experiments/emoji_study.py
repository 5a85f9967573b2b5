"""A search checkpoint on emoji: held-out concepts by text, and concepts in the style of a vendor it never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from torch.nn.functional import normalize

from experiments.emoji_styles import imagenet_scores, keyword_scores, own_scores, pixel_scores, ranked
from modeling_omni_vision.records.metrics_file import merge_metrics
from modeling_omni_vision.retrieval.conse import TextEncoderOnly, conse_scores
from modeling_omni_vision.retrieval.csls import csls_scores
from modeling_omni_vision.retrieval.evaluation import DIRECTIONS, decoded, retrieval_metrics


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
    "single_vector": (name,),
    "single_vector, keywords": (name_with_keywords,),
    "single_vector, ensemble": ENSEMBLE,
}
OPTIONS: dict[str, Any] = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}


@dataclass(frozen=True)
class Known:
    """
    What was trained on.

    Args:
        images: Vectors of the images (images, embedding_dim).
        meanings: For each of `WAYS`, directions by the text encoder alone of what is called so (images, width).
    """

    images: torch.Tensor
    meanings: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: Any, reader: Any, split: Dataset) -> "Known":
        """Encode the images of a split with a `SentenceTransformer`, and their texts with a `TextEncoderOnly`."""
        called = _called(split)
        places, texts = {concept: place for place, concept in enumerate(called)}, list(called.values())
        rows = torch.tensor([places[concept] for concept in split["concept"][:]])
        meanings = {way: _directions(reader, ways, texts)[rows] for way, ways in WAYS.items()}
        return cls(_vectors(model, split), meanings)


def study_emoji(checkpoint: Path, data: DatasetDict) -> dict[str, Any]:
    """Measure a checkpoint and peers on the splits of `load_emoji`, and keep it as `emoji` in its metrics.json.

    Returns:
        `texts`: both directions on each held-out split, for wholes and parts, by names alone and by names with all
        keywords, for wholes by the ways of `way_metrics` too, and for an oracle of keywords;
        `styles`: images of the vendor never trained on asking for the same concept in a trained style, for
        concepts that were trained, those of the validation split, and held-out ones.
    """
    doors: dict[str, Any] = {
        "single_vector": SentenceTransformer(str(checkpoint), trust_remote_code=True),
        "multi_vector": MultiVectorEncoder(str(checkpoint), trust_remote_code=True),
    }
    texts: dict[str, Any] = {}
    reader = TextEncoderOnly(doors["single_vector"])
    known = Known.of(doors["single_vector"], reader, data["train"])
    for split in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        asked, worded = data[split], data[split].map(_in_one_text)
        texts[split] = way_metrics(doors["single_vector"], reader, asked, known)
        # Those of the library, with nDCG.
        texts[split] |= {kind: retrieval_metrics(door, asked) for kind, door in doors.items()}
        texts[split] |= {f"{kind}, keywords": retrieval_metrics(door, worded) for kind, door in doors.items()}
        called = _called(asked)
        oracle = ranked(keyword_scores(list(called.values())), list(called), list(called))
        texts[split]["keyword oracle"] = {"image_to_text": oracle}
    found: dict[str, Any] = {"texts": texts, "styles": {}}
    for concepts, asking, found_in in (
        ("trained concepts", "unseen_style", "train"),
        ("validation concepts", "validation_unseen_style", "validation"),
        ("held-out concepts", "test_unseen_style", "test"),
    ):
        found["styles"][concepts] = _styles(doors, data[asking], data[found_in])
    merge_metrics(checkpoint, {"emoji": found})
    return found


def way_metrics(model: Any, reader: Any, split: Dataset, known: Known) -> dict[str, dict[str, dict[str, float]]]:
    """Measure each of `WAYS` to call a concept, its texts as one direction, as zero-shot CLIP has it of names.

    Args:
        model: A `SentenceTransformer`.
        reader: Gives the directions of texts by their encoder alone.
        split: Columns `image`, `texts` and `concept`, as `load_pairs` gives them.
        known: Training images, whose concepts are not those of the split.

    Returns:
        Both directions for each way, by cosines alone, and, as "..., with neighbours", with what the nearest known
        images mean added; each, of images that ask for texts, also with what texts win anyway from known images
        taken off, as "..., without hubs".
    """
    called, concepts, found = _called(split), split["concept"][:], {}
    images = _vectors(model, split)
    for way, ways in WAYS.items():
        texts, meanings = (_directions(encoder, ways, list(called.values())) for encoder in (model, reader))
        # Of the split's images, and of those that say which texts are hubs.
        scores = [vectors @ texts.T for vectors in (images, known.images)]
        guessed = [
            conse_scores(vectors, known.images, known.meanings[way], meanings) for vectors in (images, known.images)
        ]
        both = [first + second for first, second in zip(scores, guessed, strict=True)]
        for how, (asked, anyway) in {"": scores, ", with neighbours": both}.items():
            forth, back = ranked(asked.T, list(called), concepts), ranked(asked, concepts, list(called))
            found[f"{way}{how}"] = dict(zip(DIRECTIONS, (forth, back), strict=True))
            corrected = ranked(csls_scores(asked, anyway), concepts, list(called))
            found[f"{way}{how}, without hubs"] = {"image_to_text": corrected}
    return found


def _called(split: Dataset) -> dict[str, list[str]]:
    """Give the texts of each concept."""
    return dict(zip(split["concept"][:], split["texts"][:], strict=True))


def _vectors(model: Any, split: Dataset) -> torch.Tensor:
    return model.encode_document(decoded(split), **OPTIONS).cpu()


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


__all__ = ["Known", "study_emoji", "way_metrics"]
