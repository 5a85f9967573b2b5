"""Temperature scaling (Guo et al. 2017, https://huggingface.co/papers/1706.04599), fitted on the validation split.

The temperature divides all logits: it changes confidence, and no predicted class. It is never fitted on the images it
is measured on.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from .held_out import HELD_OUT
from .metrics import expected_calibration_error, negative_log_likelihood
from .predictions import Predictions


TEMPERATURES = (0.05, 20.0)
WITHOUT_TEMPERATURE = "the best one is 0 for a model without a mistake and infinite for one no better than chance"


def temperature_scaling(held_out: Predictions, measured: Predictions) -> dict[str, Any]:
    """
    Fit a temperature on held-out predictions and measure it on those of the evaluated split.

    Returns:
        `temperature`, `fitted_on` (split and number of images), and `before` and `after` for
        `expected_calibration_error` and `nll` of the evaluated split; or only `left_out`, the reason.
    """
    temperature = fit_temperature(held_out.logits, held_out.labels)
    if temperature is None:
        return {"left_out": f"no temperature suits the {HELD_OUT} split: {WITHOUT_TEMPERATURE}"}
    after = softened(measured.logits, temperature)
    found = {
        name: {"before": measure(measured.probabilities, measured.labels), "after": measure(after, measured.labels)}
        for name, measure in (
            ("expected_calibration_error", expected_calibration_error),
            ("nll", negative_log_likelihood),
        )
    }
    return {
        "temperature": temperature,
        "fitted_on": {"split": HELD_OUT, "images": len(held_out.labels)},
        **found,
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature of least negative log-likelihood for logits (images, classes) and labels (images,).

    None where there is none within bounds, as for a model without a mistake or no better than chance.
    """
    if (logits.argmax(axis=1) == labels).all():
        return None  # the likelihood rises without end, and soon by less than floats resolve
    low, high = np.log(TEMPERATURES)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    # Convex in the reciprocal of the temperature, so that there is no other minimum.
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    at_a_bound = min(found - low, high - found) < 1e-3
    return None if at_a_bound else float(np.exp(found))


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (images, classes) of logits divided by a temperature."""
    return np.exp(log_softmax(logits / temperature, axis=1))


__all__ = ["fit_temperature", "softened", "temperature_scaling"]
