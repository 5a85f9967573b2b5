"""What an export computes beside torch, and how fast: differences, cosines, agreement, a speed ratio."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .runtimes import Arrays


Function = Callable[[Arrays], Arrays]
SPEED_ROUNDS, SECONDS_PER_ROUND = 7, 0.2


@dataclass(frozen=True)
class Compared:
    """The vectors (items, width) of torch and of an export, and how far any of all outputs is apart."""

    before: np.ndarray
    after: np.ndarray
    difference: float
    largest: float

    def cosines(self) -> np.ndarray:
        """Cosine of each pair of vectors (items,)."""
        return (unit(self.before) * unit(self.after)).sum(1)


def compare(
    reference: Function,
    exported: Function,
    batches: Sequence[tuple[Arrays, Arrays]],
    name: str,
    other_sizes: Sequence[tuple[Arrays, Arrays]] = (),
) -> Compared:
    """Run both on the same batches (inputs of torch, inputs of the export); `name` is the output with vectors.

    Batches of `other_sizes` count in the difference alone.
    """
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    difference = largest = 0.0
    for number, (inputs, exported_inputs) in enumerate(chain(batches, other_sizes)):
        ours, theirs = reference(inputs), exported(exported_inputs)
        for output, array in ours.items():
            apart = np.abs(array - theirs[output]).max()
            # Written so that a NaN stays.
            difference = difference if apart <= difference else float(apart)
            largest = max(largest, float(np.abs(array).max()))
        if number < len(batches):
            for vectors, found in zip(kept, (ours, theirs), strict=True):
                vectors.append(found[name])
    before, after = map(np.concatenate, kept)
    return Compared(before, after, difference, largest)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors (items, width) by their lengths."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(vectors: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Return the index of the nearest of the others by cosine; without others, of all but the vector itself."""
    scores = unit(vectors) @ unit(vectors if others is None else others).T
    if others is None:
        np.fill_diagonal(scores, -np.inf)
    return scores.argmax(1)


def classified(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image whether the largest logit is that of its label."""
    return logits.argmax(1) == labels


def drop(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return shares of hits before and after, and points lost with the 95 % interval of the paired difference."""
    lost = 100 * (before.astype(float) - after.astype(float))
    half = 1.96 * float(lost.std()) / max(len(lost), 1) ** 0.5
    mean = float(lost.mean())
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "drop_points": mean,
        "interval_points": [mean - half, mean + half],
    }


def speed_ratio(reference: Function, exported: Function, inputs: tuple[Arrays, Arrays]) -> float:
    """Return how many times faster an export is: CPU seconds of the same batch, in turn, medians of the rounds."""
    pairs = ((reference, inputs[0]), (exported, inputs[1]))
    seconds: tuple[list[float], list[float]] = ([], [])
    number = 1 + int(SECONDS_PER_ROUND / max(cpu_seconds(reference, inputs[0], 1), 1e-4))
    for _ in range(SPEED_ROUNDS):
        for found, (function, batch) in zip(seconds, pairs, strict=True):
            found.append(cpu_seconds(function, batch, number))
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def cpu_seconds(function: Function, batch: Arrays, number: int) -> float:
    """Return the CPU seconds of this process, all threads, for a number of calls."""
    start = time.process_time()
    for _ in range(number):
        function(batch)
    return time.process_time() - start


__all__ = ["Compared", "classified", "compare", "drop", "nearest", "speed_ratio", "unit"]
