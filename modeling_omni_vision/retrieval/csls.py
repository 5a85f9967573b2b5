"""Texts that are near to every image, hubs, win from those that are meant; here what they win anyway is taken off.

Cross-domain similarity local scaling (CSLS, https://huggingface.co/papers/1710.04087) lowers what is near to all
questions; for search, questions known before stand for those that come (https://huggingface.co/papers/2112.12777).
"""

import torch


NEIGHBOURS = 10  # as in the paper


def without_hubs(scores: torch.Tensor, known: torch.Tensor, neighbours: int = NEIGHBOURS) -> torch.Tensor:
    """
    Rank answers by how much nearer they are to a question than to those that are nearest to them anyway.

    Args:
        scores: Cosines of questions with answers (questions, answers).
        known: Cosines of other questions, such as training images, with the same answers (others, answers).
        neighbours: How many of those that are nearest to an answer count.

    Returns:
        Scores (questions, answers) that rank the answers of each question, and say nothing between questions.

    Raises:
        ValueError: for fewer other questions than neighbours, or other answers.
    """
    if len(known) < neighbours or known.shape[1:] != scores.shape[1:]:
        raise ValueError(
            f"Expected scores of at least {neighbours} known questions with {scores.shape[1]} answers, got "
            f"{tuple(known.shape)}."
        )
    # CSLS also takes off what a question is near to: for one question the same from all answers.
    return 2 * scores - known.topk(neighbours, dim=0).values.mean(0)


__all__ = ["without_hubs"]
