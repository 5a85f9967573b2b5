import numpy as np
import pytest
from scipy.special import softmax

from modeling_omni_vision.evaluation.calibration import fit_temperature, softened, temperature_scaling
from modeling_omni_vision.evaluation.metrics import expected_calibration_error, negative_log_likelihood
from modeling_omni_vision.evaluation.predictions import Predictions


def drawn(temperature, count, seed):
    """Logits of a model that is too sure by a factor: labels come from the softened probabilities."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, 5)) * 3
    cumulated = softmax(logits / temperature, axis=1).cumsum(axis=1)
    labels = (draw.random((count, 1)) > cumulated).sum(axis=1).clip(max=4)
    return Predictions(logits, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_built_in_is_found_again(temperature):
    sample = drawn(temperature, 20_000, 0)
    # The standard error at 20,000 labels is about 1 %.
    assert fit_temperature(sample.logits, sample.labels) == pytest.approx(temperature, rel=0.04)


def test_no_temperature_nearby_is_more_likely():
    sample = drawn(1.7, 500, 1)
    found = fit_temperature(sample.logits, sample.labels)
    losses = [
        negative_log_likelihood(softened(sample.logits, factor * found), sample.labels) for factor in (1, 0.99, 1.01)
    ]
    assert losses[0] == min(losses)


def test_a_temperature_changes_how_sure_a_model_is_and_no_answer():
    sample = drawn(1.0, 200, 2)
    np.testing.assert_allclose(softened(sample.logits, 1.0), sample.probabilities, rtol=1e-12)
    softer = softened(sample.logits, 4.0)
    assert (softer.argmax(axis=1) == sample.predicted).all()
    assert (softer.max(axis=1) < sample.probabilities.max(axis=1)).all()


@pytest.mark.parametrize("max_translate", [0, 1], ids=["never wrong", "always wrong"])
def test_a_model_that_is_never_or_always_wrong_has_no_temperature(max_translate):
    labels = np.arange(30) % 3
    logits = np.eye(3)[(labels + max_translate) % 3] * 2.0
    assert fit_temperature(logits, labels) is None
    left_out = temperature_scaling(Predictions(logits, labels), Predictions(logits, labels))
    assert list(left_out) == ["left_out"]


def test_it_is_fitted_on_one_split_and_measured_on_the_other():
    held_out, measured = drawn(2.0, 4000, 3), drawn(2.0, 3000, 4)
    found = temperature_scaling(held_out, measured)
    assert found["temperature"] == fit_temperature(held_out.logits, held_out.labels)
    assert found["temperature"] != fit_temperature(measured.logits, measured.labels)
    assert found["fitted_on"] == {"split": "validation", "images": 4000}
    after = softmax(measured.logits / found["temperature"], axis=1)
    for name, measure in (
        ("expected_calibration_error", expected_calibration_error),
        ("nll", negative_log_likelihood),
    ):
        assert found[name]["before"] == measure(measured.probabilities, measured.labels)
        assert found[name]["after"] == pytest.approx(measure(after, measured.labels), rel=1e-9)
        assert found[name]["after"] < found[name]["before"]
