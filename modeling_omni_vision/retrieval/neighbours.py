"""What a picture of something never seen may mean, told from what its nearest known pictures mean.

Convex combination of semantic embeddings (ConSE, https://huggingface.co/papers/1312.5650), with neighbours in place of
a classifier: a text encoder knows how words it was never trained on here relate, and that knowledge is lost in a
projection that was trained on few words. Added to the cosines of that projection, it completes them.
"""

import torch
from torch.nn.functional import normalize


# Chosen on validation emoji, together with the weight 1 of what is added, over three trained models.
NEIGHBOURS, TEMPERATURE = 20, 0.1


def neighbour_scores(
    pictures: torch.Tensor,
    known: torch.Tensor,
    known_meanings: torch.Tensor,
    meanings: torch.Tensor,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """
    Score texts by how near they are to what the pictures most alike mean, on average.

    Args:
        pictures: Directions of pictures (pictures, embedding_dim).
        known: Directions of pictures whose meaning is known, such as training pictures (known, embedding_dim).
        known_meanings: What these mean: directions of their texts (known, width) by a text encoder alone.
        meanings: Directions of the texts to score, by the same encoder (texts, width).
        neighbours: How many known pictures count, the nearest ones; all, if there are fewer.
        temperature: Of the softmax over their cosines: the lower, the more the nearest count.

    Returns:
        Cosines (pictures, texts), around the mean of what is known: what all texts share says nothing.

    Raises:
        ValueError: for no known pictures, or another number of their meanings.
    """
    if not len(known) or len(known) != len(known_meanings):
        raise ValueError(f"Expected the meaning of each known picture, got {len(known_meanings)} for {len(known)}.")
    middle = known_meanings.mean(0)
    near = (pictures @ known.T).topk(min(neighbours, len(known)), dim=1)
    shares = (near.values / temperature).softmax(1)
    # (pictures, neighbours, width)
    alike = normalize(known_meanings - middle, dim=-1)[near.indices]
    guessed = normalize((shares.unsqueeze(-1) * alike).sum(1), dim=-1)
    return guessed @ normalize(meanings - middle, dim=-1).T


__all__ = ["neighbour_scores"]
