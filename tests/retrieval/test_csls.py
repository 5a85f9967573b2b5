import pytest
import torch


pytest.importorskip("sentence_transformers")

from modeling_omni_vision.retrieval.csls import csls_scores


def test_a_candidate_similar_to_every_query_no_longer_wins_from_the_right_one():
    # The first candidate is similar to every query, the second to its own only.
    scores = torch.tensor([[0.6, 0.5], [0.6, 0.1]])
    known = torch.tensor([[0.6, 0.0], [0.6, 0.1], [0.1, 0.1]])
    assert scores.argmax(1).tolist() == [0, 0]
    assert csls_scores(scores, known, num_neighbours=2).argmax(1).tolist() == [1, 0]


def test_only_the_nearest_known_queries_count():
    scores, known = torch.rand(3, 5), torch.rand(40, 5)
    wanted = 2 * scores - known.sort(dim=0, descending=True).values[:10].mean(0)
    torch.testing.assert_close(csls_scores(scores, known), wanted)
    far = torch.cat((known, torch.full((7, 5), -1.0)))
    torch.testing.assert_close(csls_scores(scores, far), wanted)


@pytest.mark.parametrize("known", [torch.rand(9, 5), torch.rand(10, 4)])
def test_too_few_known_queries_or_other_candidates_are_refused(known):
    with pytest.raises(ValueError, match="at least 10 known queries with 5 candidates"):
        csls_scores(torch.rand(3, 5), known)
