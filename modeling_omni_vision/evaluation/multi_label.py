"""Metrics of a classifier whose images have any number of labels, and the threshold of each class.

A class without a positive image has no average precision and takes no part in the mean.
"""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, precision_recall_fscore_support

from .metrics import accuracy_interval, negative_log_likelihood


MULTI_LABEL = "multi_label_classification"
DEFAULT_THRESHOLD = 0.5


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return for each class the threshold of highest F1 on validation, 0.5 where it has no positive image there.

    It lies halfway to the next lower probability, so that rounding does not change what was chosen.
    """
    thresholds = []
    for scores, truth in zip(probabilities.T, labels.T, strict=True):
        if not truth.any():
            thresholds.append(DEFAULT_THRESHOLD)
            continue
        precision, recall, found = precision_recall_curve(truth, scores)
        best = float(found[(2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1].argmax()])
        below = scores[scores < best]
        thresholds.append((best + (float(below.max()) if len(below) else 0.0)) / 2)
    return thresholds


def thresholds_of(config: Any) -> np.ndarray:
    """Return the thresholds (classes,) that the configuration of a model holds, 0.5 where it has none."""
    chosen = getattr(config, "label_thresholds", None) or {}
    return np.array(
        [chosen.get(str(config.id2label[number]), DEFAULT_THRESHOLD) for number in range(config.num_labels)]
    )


def mean_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the average precisions of the classes that have a positive image, 0 where none has."""
    present = labels.any(axis=0)
    return float(average_precision_score(labels[:, present], probabilities[:, present])) if present.any() else 0.0


def multi_label_metrics(
    probabilities: np.ndarray, labels: np.ndarray, names: list[str], thresholds: np.ndarray
) -> dict[str, Any]:
    """
    Compute the section `evaluation` of `metrics.json` from probabilities and labels (images, classes).

    Returns:
        `accuracy` (images whose labels are all right), its `accuracy_interval`, `mean_average_precision`, `micro_f1`,
        `macro_f1`, `nll`, `num_examples`, and `per_class`: average precision, threshold, precision, recall, f1 and
        support.
    """
    predicted = probabilities >= thresholds
    correct = (predicted == labels).all(axis=1)
    columns = precision_recall_fscore_support(labels, predicted, zero_division=0)
    micro = precision_recall_fscore_support(labels, predicted, average="micro", zero_division=0)
    return {
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(accuracy_interval(correct)),
        "mean_average_precision": mean_average_precision(probabilities, labels),
        "micro_f1": float(micro[2]),
        "macro_f1": float(columns[2][labels.any(axis=0)].mean()) if labels.any() else 0.0,
        "nll": negative_log_likelihood(probabilities, labels),
        "num_examples": len(labels),
        "per_class": {
            name: {
                "average_precision": mean_average_precision(probabilities[:, [number]], labels[:, [number]]),
                "threshold": float(thresholds[number]),
                **dict(
                    zip(("precision", "recall", "f1"), (float(column[number]) for column in columns), strict=False)
                ),
                "support": int(columns[3][number]),
            }
            for number, name in enumerate(names)
        },
    }


__all__ = ["MULTI_LABEL", "choose_thresholds", "mean_average_precision", "multi_label_metrics", "thresholds_of"]
