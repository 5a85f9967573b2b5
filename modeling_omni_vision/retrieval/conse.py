"""What an image of something never seen may mean, told from what its nearest known images mean.

Convex combination of semantic embeddings (ConSE, https://huggingface.co/papers/1312.5650), with neighbours in place of
a classifier: a text encoder knows how words it was never trained on here relate, and that knowledge is lost in a
projection that was trained on few words. Added to the cosines of that projection, it completes them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from .losses import TEXT_FEATURES, TextFeatureCache, unwrap_retrieval_model


# Chosen on validation emoji, together with the weight 1 of what is added, over three trained models.
NEIGHBOURS, TEMPERATURE = 20, 0.1


def conse_scores(
    images: torch.Tensor,
    known: torch.Tensor,
    known_meanings: torch.Tensor,
    meanings: torch.Tensor,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """
    Score texts by how near they are to what the images most alike mean, on average.

    Args:
        images: Directions of images (images, embedding_dim).
        known: Directions of images whose meaning is known, such as training images (known, embedding_dim).
        known_meanings: What these mean: directions of their texts (known, width) by a text encoder alone.
        meanings: Directions of the texts to score, by the same encoder (texts, width).
        neighbours: How many known images count, the nearest ones; all, if there are fewer.
        temperature: Of the softmax over their cosines: the lower, the more the nearest count.

    Returns:
        Cosines (images, texts), around the mean of what is known: what all texts share says nothing.

    Raises:
        ValueError: for no known images, or another number of their meanings.
    """
    if not len(known) or len(known) != len(known_meanings):
        raise ValueError(f"Expected the meaning of each known image, got {len(known_meanings)} for {len(known)}.")
    middle = known_meanings.mean(0)
    near = (images @ known.T).topk(min(neighbours, len(known)), dim=1)
    shares = (near.values / temperature).softmax(1)
    # (images, neighbours, width)
    alike = normalize(known_meanings - middle, dim=-1)[near.indices]
    guessed = normalize((shares.unsqueeze(-1) * alike).sum(1), dim=-1)
    return guessed @ normalize(meanings - middle, dim=-1).T


class TextEncoderOnly:
    """
    The text encoder alone, before its projection, called as a `SentenceTransformer` is.

    Args:
        model: A `SentenceTransformer` around an [`OmniVisionForRetrieval`].
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self.means = TextFeatureCache(unwrap_retrieval_model(model))

    def encode_query(self, texts: Sequence[str], batch_size: int = 64, **options: Any) -> torch.Tensor:
        """Give the directions of texts (texts, width), the means of their words; each text is read only once."""
        parts = []
        for start in range(0, len(texts), batch_size):
            features = self.model.preprocess(list(texts[start : start + batch_size]))
            given = {name: features[name].to(self.model.device) for name in TEXT_FEATURES if name in features}
            parts.append(normalize(self.means(given), dim=-1))
        return torch.cat(parts)


__all__ = ["TextEncoderOnly", "conse_scores"]
