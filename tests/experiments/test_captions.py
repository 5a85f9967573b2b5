import pytest


pytest.importorskip("transformers", minversion="5.23", reason="vision-language models need transformers 5.23")

from experiments import captions
from experiments.captions import caption_metrics, compare, named_objects
from modeling_omni_vision.data.synthetic.scene_questions import draw_questions


TRUTH = "a red square, a blue circle and a green star"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (TRUTH, (3, 3, 0)),
        ("a green star, a blue circle and a red square", (3, 3, 0)),  # the order is another question
        ("a red square and a blue circle", (2, 3, 0)),
        ("a red circle, a blue square and a green star", (1, 3, 2)),  # right words, wrong objects
        ("a red square, a red square, a blue circle and a green star", (3, 3, 1)),
        ("a red squarely blue circle", (1, 3, 0)),
        ("", (0, 3, 0)),
    ],
)
def test_a_caption_is_compared_by_the_objects_that_it_names(caption, expected):
    found = compare(caption, TRUTH)
    assert (found.right, found.there, found.invented) == expected


def test_objects_are_pairs_of_words_in_their_order():
    assert named_objects("a pink cross and an orange hexagon, red") == ["pink cross", "orange hexagon"]


def test_exact_captions_name_everything_and_invent_nothing():
    said = [TRUTH, "a red square and a blue circle", TRUTH + " and a black cross", "a red square"]
    found = caption_metrics([compare(caption, TRUTH) for caption in said])
    assert found["images"] == 4
    assert found["exact"]["share"] == 0.25
    assert found["named"]["share"] == pytest.approx(9 / 12)
    assert found["invented"]["share"] == 0.25
    low, high = found["exact"]["interval"]
    assert low < 0.25 < high


def test_captions_are_measured_against_their_own_scene_and_against_the_next(monkeypatch):
    rows = draw_questions(("caption",), size=32, sizes={"test": 6})["test"]
    truths = [asked[0]["answer"] for asked in rows["questions"][:]]
    said = [*truths[:5], "a red"]
    monkeypatch.setattr(captions, "captions", lambda model, processor, images: said[: len(images)])
    found = captions.measure(None, None, rows)
    assert found["own"]["exact"]["share"] == pytest.approx(5 / 6)
    assert found["of_another_scene"]["exact"]["share"] < 0.5
    assert found["wrong"] == [{"said": "a red", "truth": truths[5]}]
