"""Cross-domain similarity local scaling (CSLS): texts that are similar to every image no longer win every ranking.

CSLS (Conneau et al. 2018, https://huggingface.co/papers/1710.04087) takes off each score how similar either side is to
its nearest neighbours on the other. In search the queries of the other side are not there yet: a bank of known queries
takes their place (Bogolin et al. 2022, https://huggingface.co/papers/2112.12777).
"""

import torch


def csls_scores(scores: torch.Tensor, known_scores: torch.Tensor, num_neighbours: int = 10) -> torch.Tensor:
    """Compute CSLS scores: twice the cosine, less the mean cosine of a candidate with its nearest known queries.

    Args:
        scores: Cosines of queries with candidates (queries, candidates).
        known_scores: Cosines of known queries, such as training images, with the same candidates (known, candidates).
        num_neighbours: How many known queries, the nearest ones of each candidate, are averaged; 10 as in the paper.

    Returns:
        Scores (queries, candidates) that rank the candidates of one query; between queries they cannot be compared.

    Raises:
        ValueError: for fewer known queries than neighbours, or other candidates.
    """
    if len(known_scores) < num_neighbours or known_scores.shape[1:] != scores.shape[1:]:
        raise ValueError(
            f"Expected scores of at least {num_neighbours} known queries with {scores.shape[1]} candidates, got "
            f"{tuple(known_scores.shape)}. Pass more known queries, scored with the same candidates."
        )
    # The paper also subtracts the mean of the query's own neighbours: the same for all candidates of a query.
    return 2 * scores - known_scores.topk(num_neighbours, dim=0).values.mean(0)


__all__ = ["csls_scores"]
