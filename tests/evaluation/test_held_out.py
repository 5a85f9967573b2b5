import numpy as np
import pytest

from modeling_omni_vision.evaluation.held_out import (
    check_held_out,
    check_loss,
    recorded_losses,
    validation_fraction_of,
    why_not_fitted,
)
from modeling_omni_vision.evaluation.predictions import Predictions


RUN = {"arguments": {"validation_fraction": 9}, "dataset": {"name": "photos", "train": 15, "validation": 9}}


@pytest.mark.parametrize(
    ("training", "given", "fraction"),
    [
        (RUN, None, 9),
        (RUN, 9.0, 9),
        ({**RUN, "arguments": {}}, None, 0.1),
        ({**RUN, "dataset": {"name": "other"}}, None, 0.1),
        ({**RUN, "dataset": {"name": "other"}}, 0.2, 0.2),
        ({}, None, 0.1),
        ({}, 0.2, 0.2),
    ],
)
def test_what_is_held_out_is_what_the_run_held_out_of_this_data(training, given, fraction):
    assert validation_fraction_of(training, "photos", given) == fraction


def test_another_fraction_than_that_of_the_run_is_refused():
    with pytest.raises(ValueError, match=r"training run, 9, got 0\.1"):
        validation_fraction_of(RUN, "photos", 0.1)
    with pytest.raises(ValueError, match=r"training run, 0\.1, got 9"):
        validation_fraction_of({**RUN, "arguments": {}}, "photos", 9)


def test_data_that_changed_since_the_run_is_refused():
    check_held_out(RUN, {"train": range(15), "validation": range(9), "test": range(4)}, "photos")
    check_held_out(RUN, {"train": range(1), "validation": range(1)}, "other")
    with pytest.raises(ValueError, match="as it was"):
        check_held_out(RUN, {"train": range(15), "validation": range(8)}, "photos")
    with pytest.raises(ValueError, match="as it was"):
        check_held_out(RUN, {"train": range(16), "validation": range(9)}, "photos")


def test_nothing_is_fitted_on_what_is_measured_or_on_what_may_have_been_trained_on():
    assert why_not_fitted(RUN, "photos", "test", None) is None
    assert why_not_fitted({}, "photos", "test", 0.2) is None
    assert "the evaluated split" in why_not_fitted(RUN, "photos", "validation", None)
    assert "no record" in why_not_fitted(RUN, "other", "test", None)
    assert "no record" in why_not_fitted({}, "photos", "test", None)


EVALUATIONS = [
    {"epoch": 1.0, "accuracy": 0.7, "loss": 0.6},
    {"epoch": 2.0, "accuracy": 0.9, "loss": 0.55},
    {"epoch": 3.0, "accuracy": 0.9, "loss": 0.5},
    {"epoch": 4.0, "accuracy": 0.8, "loss": 0.7},
]


def with_loss(loss):
    """Predictions of nine images with that negative log-likelihood."""
    sure = np.exp(-loss)
    return Predictions(np.log([[sure, 1 - sure]] * 9), np.zeros(9, dtype=int))


def test_a_run_may_end_with_its_best_or_its_last_weights():
    assert recorded_losses({"evaluations": EVALUATIONS}) == [0.7, 0.55, 0.5]
    assert recorded_losses({"evaluations": [{"epoch": 1.0, "loss": 0.6}]}) == recorded_losses({}) == []


@pytest.mark.parametrize("loss", [0.7, 0.55, 0.5, 0.505])
def test_the_loss_of_the_run_found_again_up_to_rounding_is_its_split(loss):
    check_loss({**RUN, "evaluations": EVALUATIONS}, with_loss(loss), "photos")


@pytest.mark.parametrize("loss", [0.46, 0.6, 0.8])
def test_another_loss_means_other_images_though_the_counts_are_the_same(loss):
    with pytest.raises(ValueError, match=f"got {loss:.4f}: these are not the images"):
        check_loss({**RUN, "evaluations": EVALUATIONS}, with_loss(loss), "photos")
    # Of other data, or where nothing was recorded, nothing is known.
    check_loss({**RUN, "evaluations": EVALUATIONS}, with_loss(loss), "other")
    check_loss(RUN, with_loss(loss), "photos")
