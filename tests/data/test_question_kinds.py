import json
from itertools import product
from pathlib import Path

import pytest


pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision.data.question_kinds import learn_questions
from modeling_omni_vision.data.synthetic.scene_questions import SCENE_KINDS
from modeling_omni_vision.processing_omni_vision_language import is_learned, question_words


ROOT = Path(__file__).parents[2]
COLOURS, SHAPES = ("red", "blue", "green", "black"), ("circle", "square", "star")
NAMES = [" ".join(pair) for pair in product(COLOURS, SHAPES)]


def questions():
    """A closed set without "black star" in one kind, and an exception: the plural "objects"."""
    yield from (f"What colour is the {shape}?" for shape in SHAPES)
    yield from (f"How many {colour} objects are there?" for colour in COLOURS)
    yield from (f"How many {thing} are there?" for thing in ("objects", "circles", "squares", "stars"))
    yield from (f"Is the {one} left or right of the {two}?" for one, two in product(NAMES[:-1], NAMES[:-1]))


def fits(learned, text):
    return is_learned(question_words(text), learned)


def test_kinds_are_templates_with_the_words_that_came_up_at_a_place():
    learned = learn_questions([*questions()] * 5)
    assert len(learned["templates"]) == len(learned["examples"]) == 4
    assert all(fits(learned, text) for text in questions())
    # A combination that never came up is of a kind that did.
    assert fits(learned, "is the black star left or right of the red circle")
    for other in ("How many red circles are there?", "What shape is the circle?", "What colour is the dog?", ""):
        assert not fits(learned, other)
    json.dumps(learned)


@pytest.mark.parametrize(
    ("texts", "held_out"),
    [
        (
            [
                f"Why does {letter} follow {number} in case {number}{letter}?"
                for number in range(9)
                for letter in "abc"
            ],
            (),
        ),
        ([" ".join(sorted(set(str(number**7)))) for number in range(300)], ()),
        ([*questions()] * 5, ["Whose dog is this?"]),
        ([], ()),
    ],
    ids=["few of each", "peoples own words", "validation asks others", "none"],
)
def test_an_open_set_of_questions_has_no_kinds(texts, held_out):
    assert learn_questions(texts, held_out) is None


def test_the_bundled_model_knows_its_questions_and_catches_a_held_out_list_of_others():
    settings = ROOT / "checkpoints" / "omni-vision-language-scenes" / "processor_config.json"
    learned = json.loads(settings.read_text())["learned_questions"]
    taught = {*SCENE_KINDS} - {"caption"}
    assert len(learned["templates"]) == len(taught) + 1  # numbers of objects of a colour are asked in other words
    assert not fits(learned, "What is in the picture?")
    others = (ROOT / "docs" / "language" / "other_questions.txt").read_text().splitlines()
    caught = [not fits(learned, text) for text in others]
    recorded = json.loads((ROOT / "docs" / "language" / "question_kinds.json").read_text())["scenes"]
    assert len(others) >= 200
    assert sum(caught) / len(caught) == recorded["caught"] >= 0.95
    assert recorded["false_alarms"] <= 0.01
