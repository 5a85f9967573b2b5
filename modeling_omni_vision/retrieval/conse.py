"""Zero-shot scores by convex combination of semantic embeddings (ConSE), of images that were never trained on.

ConSE (Norouzi et al. 2014, https://huggingface.co/papers/1312.5650) averages the text embeddings of the classes that a
classifier finds most probable for an image, by their probabilities, and ranks texts by their cosine with that average.
Ours differs in three ways:
- No classifier: a softmax over the cosines of the image with its nearest known images takes its place, and each of
  these brings the embedding of its own text.
- All embeddings are taken around the mean of the known ones: what all texts share must not decide.
- The embeddings come from the text encoder before its projection. It relates words that the projection was never
  trained on; callers add these scores to the cosines after the projection, which know the images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from .losses import TEXT_FEATURES, TextFeatureCache, unwrap_retrieval_model


# Chosen on validation emoji over three trained models, with these scores added to the cosines unweighted.
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.1


def conse_scores(
    images: torch.Tensor,
    known_images: torch.Tensor,
    known_texts: torch.Tensor,
    texts: torch.Tensor,
    num_neighbours: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """Score texts by their similarity to the texts of the known images nearest to each image.

    Args:
        images: Normalized embeddings of images (images, embedding_dim).
        known_images: Those of images whose texts are known, such as training images (known, embedding_dim).
        known_texts: Normalized embeddings of their texts (known, width) by a text encoder alone.
        texts: Those of the texts to score, by the same encoder (texts, width).
        num_neighbours: How many known images, the nearest ones, are averaged; all, if there are fewer.
        temperature: Of the softmax over their cosines: the lower, the more the nearest count.

    Returns:
        Cosines (images, texts) around the mean of `known_texts`.

    Raises:
        ValueError: for no known images, or another number of their texts.
    """
    if not len(known_images) or len(known_images) != len(known_texts):
        raise ValueError(f"Expected one text for each known image, got {len(known_texts)} for {len(known_images)}.")
    center = known_texts.mean(0)
    nearest = (images @ known_images.T).topk(min(num_neighbours, len(known_images)), dim=1)
    weights = (nearest.values / temperature).softmax(1)
    # (images, neighbours, width)
    embeds = normalize(known_texts - center, dim=-1)[nearest.indices]
    combined = normalize((weights.unsqueeze(-1) * embeds).sum(1), dim=-1)
    return combined @ normalize(texts - center, dim=-1).T


class TextEncoderOnly:
    """The text encoder alone, before its projection, of a `SentenceTransformer`, and called as one."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self.text_features = TextFeatureCache(unwrap_retrieval_model(model))

    def encode_query(self, texts: Sequence[str], batch_size: int = 64, **options: Any) -> torch.Tensor:
        """Return normalized means over the tokens of texts (texts, width); each text is encoded only once."""
        embeds = []
        for start in range(0, len(texts), batch_size):
            features = self.model.preprocess(list(texts[start : start + batch_size]))
            inputs = {name: features[name].to(self.model.device) for name in TEXT_FEATURES if name in features}
            embeds.append(normalize(self.text_features(inputs), dim=-1))
        return torch.cat(embeds)


__all__ = ["TextEncoderOnly", "conse_scores"]
