import json

import numpy as np
import pytest

from modeling_omni_vision.evaluation.metrics import (
    accuracy_interval,
    calibration_bins,
    classification_metrics,
    expected_calibration_error,
    negative_log_likelihood,
)


def one_hot(classes, num_classes):
    return np.eye(num_classes)[classes]


def test_everything_agrees_with_a_confusion_matrix_counted_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2])
    said = np.array([0, 0, 0, 1, 1, 0, 2])
    found = classification_metrics(one_hot(said, 3), truth, ["a", "b", "c"])
    assert found["confusion_matrix"] == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["per_class"]["a"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4}
    assert found["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert found["macro_f1"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert found["num_examples"] == 7


def test_a_class_that_never_occurs_does_not_pull_the_macro_average_down():
    found = classification_metrics(one_hot(np.array([0, 1]), 3), np.array([0, 1]), ["a", "b", "absent"])
    assert found["macro_f1"] == 1
    assert found["per_class"]["absent"]["support"] == 0


def test_a_class_that_is_only_predicted_does_pull_it_down():
    found = classification_metrics(one_hot(np.array([0, 2]), 3), np.array([0, 1]), ["a", "b", "c"])
    assert found["macro_f1"] == pytest.approx(1 / 3)


def test_the_result_can_be_written_as_json_and_read_again():
    found = classification_metrics(one_hot(np.array([0, 1]), 2), np.array([0, 0]), ["a", "b"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_interval_is_that_of_resampled_images_and_the_same_every_time():
    correct = np.arange(200) % 10 != 0
    low, high = accuracy_interval(correct)
    assert (low, high) == accuracy_interval(correct)
    draw = np.random.default_rng(1)
    resampled = draw.choice(correct, size=(4000, 200)).mean(axis=1)
    expected = np.quantile(resampled, (0.025, 0.975))
    # Ends of 2,000 and 4,000 resamples of steps of 0.005 differ by at most two steps.
    assert np.abs(np.array((low, high)) - expected).max() <= 0.0101
    assert low < 0.9 < high


def test_the_interval_of_a_perfect_model_is_a_point():
    assert accuracy_interval(np.ones(50, dtype=bool)) == (1.0, 1.0)
    assert accuracy_interval(np.zeros(50, dtype=bool)) == (0.0, 0.0)


def test_calibration_error_equals_the_gap_that_was_built_in():
    # 100 images said with 0.8, of which 60 are right; 50 said with 0.55, of which 50 are right.
    probabilities = np.array([[0.8, 0.2]] * 100 + [[0.55, 0.45]] * 50)
    labels = np.array([0] * 60 + [1] * 40 + [0] * 50)
    expected = (100 * 0.2 + 50 * 0.45) / 150
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_confidence_and_accuracy_that_agree_have_no_calibration_error():
    probabilities = np.array([[0.75, 0.25]] * 8)
    assert expected_calibration_error(probabilities, np.array([0] * 6 + [1] * 2)) == pytest.approx(0)


@pytest.mark.parametrize(("confidence", "index"), [(1.0, 14), (0.6, 8), (0.6001, 9), (2 / 3, 9)])
def test_a_bin_holds_its_upper_edge(confidence, index):
    _, _, counts = calibration_bins(np.array([[confidence, 1 - confidence]]), np.array([0]))
    assert counts.nonzero()[0].tolist() == [index]


def test_empty_bins_are_nan_and_count_for_nothing():
    confidence, accuracy, counts = calibration_bins(np.array([[1.0, 0.0]]), np.array([1]))
    assert np.isnan(confidence[:-1]).all()
    assert accuracy[-1] == 0
    assert counts.sum() == 1


def test_nll_is_the_mean_of_minus_log_p_and_stays_finite_at_zero():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert negative_log_likelihood(probabilities, np.array([0, 0])) == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert np.isfinite(negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "at least one"),
        (np.ones(3), np.zeros(3, dtype=int), "shape"),
        (np.full((2, 2), 0.5), np.zeros(3, dtype=int), "shape"),
        (np.full((2, 2), 0.5), np.zeros(2), "float64"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "from 0 to 1"),
        (np.full((2, 2), 0.5), np.array([-1, 0]), "from 0 to 1"),
        (np.array([[2.0, -1.0]]), np.array([0]), "not negative"),
        (np.array([[3.0, 1.0]]), np.array([0]), "add up to"),
        (np.full((1, 2), np.nan), np.array([0]), "NaN"),
    ],
)
def test_what_cannot_be_predictions_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(probabilities, labels, ["a", "b"])
