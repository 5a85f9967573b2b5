import pytest
import torch
from PIL import Image, ImageDraw


pytest.importorskip("sentence_transformers")

from experiments.emoji_styles import keyword_scores, on_white, pixel_scores, ranked


def test_recall_counts_the_questions_whose_answer_is_among_the_first():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.3, 0.2]])
    found = ranked(scores, ["a", "b", "c"], ["a", "b", "c"])
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == 1
    assert (found["candidates"], found["questions"]) == (3, 3)


def test_scores_that_are_all_equal_give_chance():
    names = [str(number) for number in range(20)]
    found = ranked(torch.zeros(20, 20), names, names)
    assert found["recall@1"] == pytest.approx(1 / 20)
    assert found["recall@5"] == pytest.approx(5 / 20)


def test_one_of_several_right_answers_is_enough():
    found = ranked(torch.tensor([[0.1, 0.9, 0.5]]), ["a"], ["a", "a", "b"])
    assert found["recall@1"] == 1


def test_a_question_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="1 questions without one"):
        ranked(torch.zeros(2, 2), ["a", "x"], ["a", "b"])


def test_the_oracle_finds_a_name_whose_words_are_among_the_keywords():
    scores = keyword_scores([["red apple", "fruit", "an apple"], ["boat", "ship"], ["ship", "boat, sea"]])
    assert scores[0].tolist() == [0.5, 0, 0]
    assert scores[1].tolist() == [0, 0, 1]
    assert scores[2].tolist() == [0, 1, 0]


def test_pixels_find_the_same_drawing_and_not_its_mirror():
    images = []
    for place in (0, 20):
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        ImageDraw.Draw(image).rectangle((place, 5, place + 15, 20), fill="red")
        images.append(image)
    assert pixel_scores(images, images).argmax(1).tolist() == [0, 1]


def test_what_is_transparent_is_white():
    assert on_white(Image.new("RGBA", (10, 20), (9, 9, 9, 0)), 4).getcolors() == [(16, (255, 255, 255))]
