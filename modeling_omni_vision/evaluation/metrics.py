"""Metrics of a classifier, from probabilities and labels; exact, seeded, vectorised.

A class that is neither in the labels nor predicted takes no part in the macro average.
"""

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


NUM_BINS = 15
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def check_predictions(probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Raise `ValueError` unless these are probabilities (images, classes) and classes (images,) of them."""
    count, classes = probabilities.shape if probabilities.ndim == 2 else (0, 0)
    if not count or labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected probabilities of shape (images, classes), at least one image, with an integer label each, "
            f"got shapes {probabilities.shape} and {labels.shape}, labels of {labels.dtype}. Pass the whole split."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}. "
            "Evaluate a model that was trained on these classes."
        )
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3) or probabilities.min() < 0:
        raise ValueError(
            "Probabilities must be finite, not negative, and add up to 1 for each image, got rows that add up to "
            f"{probabilities.sum(axis=1).min():.3f} or more. Apply softmax to the logits; NaN means a broken model."
        )


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the accuracy of `correct` (images,).

    Resampling images with replacement makes the number of correct ones binomial, so it is drawn from that
    distribution: the same interval as drawing images, at any number of them.
    """
    count = len(correct)
    return percentiles(np.random.default_rng(0).binomial(count, float(np.mean(correct)), size=NUM_RESAMPLES) / count)


def ratio_interval(parts: np.ndarray, wholes: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval of sum(parts) / sum(wholes), each (rows,), over resampled rows."""
    count = len(wholes)
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=NUM_RESAMPLES)
    return percentiles((drawn @ parts) / (drawn @ wholes))


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Return the interval that holds the middle 95 % of bootstrap samples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Sort images into 15 bins of equal width by the probability (images, classes) of the predicted class.

    Returns:
        Mean confidence, accuracy and number of images of each bin, each of shape (bins,); the first two are NaN for an
        empty bin. Each bin holds its upper edge, the first 0 too.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(index, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, weights=confidence, minlength=NUM_BINS) / counts
        accuracy = np.bincount(index, weights=correct, minlength=NUM_BINS) / counts
    return mean_confidence, accuracy, counts


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy over `calibration_bins`, weighted by the images in each."""
    mean_confidence, accuracy, counts = calibration_bins(probabilities, labels)
    used = counts > 0
    return float((np.abs(mean_confidence - accuracy)[used] * counts[used]).sum() / counts.sum())


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log of the probability of the true class, in nats; a probability of 0 counts as 1e-12.

    With lists of labels, (images, classes): of having or not having each class.
    """
    if labels.ndim == 2:
        return float(-np.log(np.maximum(np.where(labels > 0, probabilities, 1 - probabilities), 1e-12)).mean())
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes that have images of the fraction of their images that are right."""
    counts, right = np.bincount(labels), np.bincount(labels, weights=correct)
    return float((right[counts > 0] / counts[counts > 0]).mean())


def classification_metrics(probabilities: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """
    Compute the section `evaluation` of `metrics.json` from probabilities (images, classes) and labels (images,).

    Returns:
        Plain numbers, lists and dicts: `accuracy`, `accuracy_interval` (95 %, bootstrap), `balanced_accuracy`,
        `macro_f1`, `expected_calibration_error`, `nll`, `num_examples`, `per_class` (name to precision, recall, f1,
        support), `confusion_matrix` (rows truth, columns prediction).

    Raises:
        `ValueError`: if shapes, labels or probabilities are none.
    """
    check_predictions(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    classes = np.arange(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    present = np.union1d(labels, predicted)
    return {
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(accuracy_interval(correct)),
        "balanced_accuracy": balanced_accuracy(correct, labels),
        "macro_f1": float(columns[2][present].mean()),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "num_examples": len(labels),
        "per_class": {
            name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
            for name, precision, recall, f1, support in zip(names, *columns, strict=True)
        },
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


__all__ = [
    "accuracy_interval",
    "balanced_accuracy",
    "calibration_bins",
    "classification_metrics",
    "expected_calibration_error",
    "negative_log_likelihood",
    "ratio_interval",
]
