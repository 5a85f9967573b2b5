import pytest
import torch


pytest.importorskip("sentence_transformers")

from modeling_omni_vision.retrieval.csls import without_hubs


def test_a_hub_no_longer_wins_from_the_answer_that_is_meant():
    # The first answer is near to whatever is asked, the second to its own question only.
    scores = torch.tensor([[0.6, 0.5], [0.6, 0.1]])
    known = torch.tensor([[0.6, 0.0], [0.6, 0.1], [0.1, 0.1]])
    assert scores.argmax(1).tolist() == [0, 0]
    assert without_hubs(scores, known, neighbours=2).argmax(1).tolist() == [1, 0]


def test_only_the_nearest_known_questions_count():
    scores, known = torch.rand(3, 5), torch.rand(40, 5)
    wanted = 2 * scores - known.sort(dim=0, descending=True).values[:10].mean(0)
    torch.testing.assert_close(without_hubs(scores, known), wanted)
    far = torch.cat((known, torch.full((7, 5), -1.0)))
    torch.testing.assert_close(without_hubs(scores, far), wanted)


@pytest.mark.parametrize("known", [torch.rand(9, 5), torch.rand(10, 4)])
def test_too_few_known_questions_or_other_answers_are_refused(known):
    with pytest.raises(ValueError, match="at least 10 known questions with 5 answers"):
        without_hubs(torch.rand(3, 5), known)
