import numpy as np
import pytest

from experiments.symbol_maps import draw_symbol_map
from modeling_omni_vision.data.synthetic.scene_questions import draw_questions
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES


SYMBOLS = "red square 3 4, blue circle 20 9, blue star 10 25"


def read(image):
    """Read a map again: what its bars say, with all patches (row, column) that say so."""
    pixels = np.asarray(image.convert("L"))
    found = {}
    for row, column in np.ndindex(8, 8):
        patch = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        if (patch == 128).all():
            continue
        on = patch == 255
        assert (on[0] == on[1]).all()
        assert on[:3].sum(1).tolist() == [1, 1, 1]
        counts = [int(line.sum()) for line in on[3:]]
        # As many as are on are the first ones.
        assert all(line[:many].all() for line, many in zip(on[3:], counts, strict=True))
        fact = ([*COLOURS][on[0].argmax()], SHAPES[on[2].argmax()], *counts[:3], counts[3] - 1, counts[4] - 1)
        found.setdefault(fact, set()).add((row, column))
    return found


def test_a_map_says_of_each_object_where_it_stands_all_that_questions_are_about():
    image = draw_symbol_map(SYMBOLS)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    found = read(image)
    around = {
        (*facts, column, row): {
            (y, x) for y in range(row - 1, row + 2) for x in range(column - 1, column + 2) if min(x, y) >= 0
        }
        for (*facts, column, row) in (
            ("red", "square", 3, 1, 1, 0, 1),
            ("blue", "circle", 3, 2, 1, 5, 2),
            ("blue", "star", 3, 2, 1, 2, 6),
        )
    }
    assert found == around


def test_a_patch_between_two_objects_is_of_the_nearer_one():
    found = {fact[0]: patches for fact, patches in read(draw_symbol_map("red square 8 8, blue circle 16 12")).items()}
    assert found["red"] == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)}
    assert found["blue"] == {(2, 4), (2, 5), (3, 3), (3, 4), (3, 5), (4, 3), (4, 4), (4, 5)}


def test_every_scene_of_the_questions_has_a_map_that_orders_sides_as_the_questions_do():
    sides = set()
    for row in draw_questions(("left_right", "above_below"), sizes={"train": 150})["train"]:
        objects = {f"{one[0]} {one[1]}": one[-2:] for one in read(draw_symbol_map(row["symbols"]))}
        for question in row["questions"]:
            words = question["messages"][0]["content"].removesuffix("?").split()
            one, other = " ".join(words[3:5]), " ".join(words[-2:])
            axis = 0 if question["kind"] == "left_right" else 1
            first = objects[one][axis] < objects[other][axis]
            assert objects[one][axis] != objects[other][axis]
            assert question["answer"] == (("left", "above") if first else ("right", "below"))[axis], (row, question)
            sides.add(question["answer"])
    assert sides == {"left", "right", "above", "below"}


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ("", "one to 4 objects"),
        ("red square", "one to 4 objects"),
        ("red dog 3 4", "one to 4 objects"),
        (", ".join(f"red square {place} {place}" for place in (0, 8, 16, 24, 31)), "one to 4 objects"),
        ("red square 32 4", "patches of their own"),
        ("red square 3 4, blue circle 0 7", "patches of their own"),
    ],
)
def test_what_is_no_map_is_refused(symbols, message):
    with pytest.raises(ValueError, match=message):
        draw_symbol_map(symbols)
