"""Numbers about a classifier, from its probabilities and the truth; exact, seeded, vectorised.

Classes count only where they occur: a class that is neither in the truth nor predicted takes no part in
the macro average.
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


def accuracy_interval(
    correct: np.ndarray, confidence: float = CONFIDENCE, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of an accuracy.

    Resampling images with replacement makes the number of right ones binomial, so it is drawn from that
    distribution: the same interval as drawing images, at any number of them.

    Args:
        correct: For each image, whether its class was right; shape (images,).
        confidence: Share of resamples inside the interval.
        num_resamples: How often the set is drawn again.
        seed: Seed of the draws.

    Returns:
        Lower and upper end, from 0 to 1.
    """
    count = len(correct)
    drawn = np.random.default_rng(seed).binomial(count, float(np.mean(correct)), size=num_resamples) / count
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def calibration_bins(
    probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Sort images into bins of equal width by the probability of the predicted class.

    Args:
        probabilities: Shape (images, classes).
        labels: Classes, shape (images,).
        num_bins: Bins between 0 and 1; each holds its upper edge, the first 0 too.

    Returns:
        Mean confidence, accuracy and number of images of each bin, each of shape (bins,); the first two
        are NaN for an empty bin.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, weights=confidence, minlength=num_bins) / counts
        accuracy = np.bincount(index, weights=correct, minlength=num_bins) / counts
    return mean_confidence, accuracy, counts


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    Mean gap between confidence and accuracy over bins of equal width, weighted by the images in each.

    0 means that of the images predicted with 80 % confidence 80 % are right. See `calibration_bins`.
    """
    mean_confidence, accuracy, counts = calibration_bins(probabilities, labels, num_bins)
    used = counts > 0
    return float((np.abs(mean_confidence - accuracy)[used] * counts[used]).sum() / counts.sum())


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log of the probability given to the right class, in nats; a probability of 0 counts as 1e-12."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def classification_metrics(probabilities: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """
    Everything that `metrics.json` says about predictions.

    Args:
        probabilities: Shape (images, classes), rows adding up to 1.
        labels: Classes, integers of shape (images,).
        names: Name of each class.

    Returns:
        Plain numbers, lists and dicts: `accuracy`, `accuracy_interval` (95 %, bootstrap), `macro_f1`,
        `expected_calibration_error`, `nll`, `num_examples`, `per_class` (name to precision, recall, f1,
        support), `confusion_matrix` (rows truth, columns prediction).

    Raises:
        `ValueError`: if shapes, labels or probabilities are not what is said above.
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
    "calibration_bins",
    "classification_metrics",
    "expected_calibration_error",
    "negative_log_likelihood",
]
