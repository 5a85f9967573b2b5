"""Retrieval in both directions, by the evaluators of sentence-transformers, and zero-shot predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from PIL import Image as PilImage
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim, maxsim

from ..image_processing_omni_vision import OmniVisionImageProcessor


RANKS = [1, 5, 10]
DIRECTIONS = ("text_to_image", "image_to_text")
TEMPLATES = ("This is a {}", "a {}", "an image of a {}")


def evaluators(split: Dataset, late_interaction: bool, batch_size: int = 64) -> dict[str, Any]:
    """Return an evaluator for each of `DIRECTIONS`: every text once against all images of a split, and back.

    An image is right for a text that is among its texts, or is the first one of an image of the same concept.

    Args:
        split: Columns `image`, `texts` (the first one is the query) and `concept`, as `load_pairs` returns them.
        late_interaction: For a `MultiVectorEncoder`; otherwise for a `SentenceTransformer`.
        batch_size: Rows that are embedded at a time.
    """
    images = {str(row): image for row, image in enumerate(decoded(split))}
    concepts, lines = split["concept"][:], split["texts"][:]
    texts = {f"text {number}": text for number, text in enumerate(dict.fromkeys(some[0] for some in lines))}
    names = {text: name for name, text in texts.items()}
    first_of: dict[str, set[str]] = {}
    for concept, some in zip(concepts, lines, strict=True):
        first_of.setdefault(concept, set()).add(names[some[0]])
    text_of = {
        str(row): first_of[concept] | {names[text] for text in some if text in names}
        for row, (concept, some) in enumerate(zip(concepts, lines, strict=True))
    }
    images_of: dict[str, set[str]] = {name: set() for name in texts}
    for row, right in text_of.items():
        for name in right:
            images_of[name].add(row)
    kind: Any = MultiVectorInformationRetrievalEvaluator if late_interaction else InformationRetrievalEvaluator
    inputs = {DIRECTIONS[0]: (texts, images, images_of), DIRECTIONS[1]: (images, texts, text_of)}
    return {
        name: kind(
            *queries_corpus_relevant,
            name=name,
            batch_size=batch_size,
            accuracy_at_k=RANKS,
            precision_recall_at_k=RANKS,
            ndcg_at_k=[10],
            mrr_at_k=[10],
            map_at_k=[10],
            write_csv=False,
            score_functions={"score": scorer(late_interaction, texts_are_queries=name == DIRECTIONS[0])},
        )
        for name, queries_corpus_relevant in inputs.items()
    }


def retrieval_metrics(model: Any, split: Dataset, batch_size: int = 64) -> dict[str, dict[str, float]]:
    """Measure retrieval in both directions.

    Returns:
        For each of `DIRECTIONS`: recall@1, recall@5, recall@10 (share of queries with a right answer among so many),
        ndcg@10, mrr@10, and the number of `candidates`.
    """
    results = {}
    for name, evaluator in evaluators(split, isinstance(model, MultiVectorEncoder), batch_size).items():
        found, prefix = evaluator(model), f"{name}_score_"
        results[name] = {
            **{f"recall@{rank}": float(found[f"{prefix}accuracy@{rank}"]) for rank in RANKS},
            "ndcg@10": float(found[f"{prefix}ndcg@10"]),
            "mrr@10": float(found[f"{prefix}mrr@10"]),
            "candidates": len(evaluator.corpus),
        }
    return results


def zero_shot_predictions(
    model: Any, images: Sequence[Any], names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> torch.Tensor:
    """Return the index of the best name for each image (images,), by `zero_shot_scores`."""
    return zero_shot_scores(model, images, names, templates).argmax(dim=0).cpu()


def zero_shot_scores(
    model: Any, images: Sequence[Any], names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> torch.Tensor:
    """Return the score of each name for each image (names, images), added up over the templates.

    Raises:
        ValueError: for a template without {}, or fewer than two names.
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"Expected templates with {{}} where the name belongs, got {wrong!r}. Put each into quotes.")
    if len(names) < 2:
        raise ValueError(f"Expected at least two names to choose from, got {list(names)!r}. Add some.")
    score = scorer(isinstance(model, MultiVectorEncoder), texts_are_queries=True)
    embeds = model.encode_document(list(images))
    total = sum(
        score(model.encode_query([filled(template, name) for name in names]), embeds) for template in templates
    )
    return torch.as_tensor(total)


def filled(template: str, name: str) -> str:
    """Return a template with the name in place of each {}; other braces are text, which `str.format` would refuse."""
    return template.replace("{}", name)


def decoded(split: Dataset) -> list[PilImage.Image]:
    """Return the images of a split, all in memory, read by the rules of the image processor."""
    return OmniVisionImageProcessor().fetch_images(list(split["image"][:]))


def scorer(late_interaction: bool, texts_are_queries: bool) -> Any:
    """Return a function of queries and candidates to scores; MaxSim is always averaged over the tokens of texts."""
    if not late_interaction:
        return cos_sim
    if texts_are_queries:
        return lambda texts, images: maxsim(texts, images, length_normalize=True)
    return lambda images, texts: maxsim(texts, images, length_normalize=True).T


__all__ = ["DIRECTIONS", "TEMPLATES", "decoded", "evaluators", "filled", "retrieval_metrics"]
__all__ += ["zero_shot_predictions", "zero_shot_scores"]
