import numpy as np
import pytest
from datasets import Dataset

from modeling_omni_vision.data.hold_out import hold_out


ROWS = Dataset.from_dict({"row": list(range(40)), "label": [0, 1, 2, 3] * 10})
# What the three functions before this one held out.
EXPECTED = {"chosen": [4, 20, 22, 25], "stratified": [17, 19, 20, 30], "ordered": [4, 11, 24, 27]}


@pytest.mark.parametrize("options", [{}, {"stratify": True}, {"order": np.random.default_rng(0).permutation(40)}])
@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 4), (8, 8), (8.0, 8)])
def test_a_fraction_or_a_number_of_rows_is_held_out_and_no_row_is_lost(options, fraction, held_out):
    splits = hold_out(ROWS, fraction, 0, **options)
    train, validation = splits["train"]["row"][:], splits["validation"]["row"][:]
    assert len(validation) == held_out
    assert sorted(train + validation) == list(range(40))
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert hold_out(ROWS, fraction, 0, **options)["validation"]["row"][:] == validation


def test_the_rows_held_out_are_the_same_in_every_release():
    found = {
        "chosen": hold_out(ROWS, 4, 0),
        "stratified": hold_out(ROWS, 4, 0, stratify=True),
        "ordered": hold_out(ROWS, 4, 0, order=np.random.default_rng(0).permutation(40)),
    }
    assert {name: splits["validation"]["row"][:] for name, splits in found.items()} == EXPECTED


def test_every_class_gives_its_part_where_that_is_asked_for():
    assert sorted(hold_out(ROWS, 8, 1, stratify=True)["validation"]["label"][:]) == [0, 0, 1, 1, 2, 2, 3, 3]
    for wrong, number in ((3, 3), (37, 37), (0.05, 2)):
        with pytest.raises(
            ValueError, match=rf"Expected 4 to 36 of 40 images of 4 classes .* got {number} by .*_fraction"
        ):
            hold_out(ROWS, wrong, 0, stratify=True)
    with pytest.raises(ValueError, match=r"Expected at least two images of each class, .* got one of \[3\]"):
        hold_out(ROWS.select([0, 1, 2, 3, 4, 5, 6]), 4, 0, stratify=True)


@pytest.mark.parametrize("fraction", [0, -1, 40, 0.01, float("nan")])
def test_what_leaves_a_side_without_rows_is_refused(fraction):
    with pytest.raises(ValueError, match=r"leaves rows on both sides, got .* of 40"):
        hold_out(ROWS, fraction, 0, order=np.arange(40))
