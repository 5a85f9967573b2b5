"""How far a student agrees with its teacher: cosines, nearest neighbours, and what either is worth on labels."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn


NEIGHBOURS = 10
CHUNK = 1024
PROBE_STEPS, PROBE_DECAY = 200, 1e-4


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, D) of length 1 in float32."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int, skip_self: bool = False) -> np.ndarray:
    """Return positions (queries, count) of the nearest of a gallery by cosine, not the query's own if `skip_self`."""
    return np.concatenate(list(_nearest(unit(queries), unit(gallery), count, skip_self)))


def _nearest(queries: np.ndarray, gallery: np.ndarray, count: int, skip_self: bool) -> Iterator[np.ndarray]:
    for start in range(0, len(queries), CHUNK):
        cosines = queries[start : start + CHUNK] @ gallery.T
        if skip_self:
            own = np.arange(len(cosines))
            cosines[own, start + own] = -np.inf
        yield np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def neighbour_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean fraction that two lists of neighbours (queries, count) share."""
    shared = [len(np.intersect1d(one, other)) for one, other in zip(first, second, strict=True)]
    return float(np.mean(shared) / first.shape[1])


def agreement(student: np.ndarray, teacher: np.ndarray, shared_space: bool = True) -> dict[str, float]:
    """Compare vectors (N, D) of the same images, each among the others.

    Args:
        student: Its vectors.
        teacher: Those of the teacher, which with `shared_space` have the same axes.
        shared_space: Whether vectors of one can be compared with those of the other.

    Returns:
        `overlap` of the ten nearest by the student's vectors with those by the teacher's. In a shared space also
        `cosine` of the two vectors of an image, `overlap_student_to_teacher` of what a student's vector finds among
        the teacher's, and `overlap_teacher_to_student` the other way.
    """
    count = min(NEIGHBOURS, len(teacher) - 1)
    expected = nearest(teacher, teacher, count, skip_self=True)
    found = {"overlap": neighbour_overlap(nearest(student, student, count, skip_self=True), expected)}
    if not shared_space:
        return found
    return {
        "cosine": float((unit(student) * unit(teacher)).sum(axis=1).mean()),
        **found,
        "overlap_student_to_teacher": neighbour_overlap(nearest(student, teacher, count, skip_self=True), expected),
        "overlap_teacher_to_student": neighbour_overlap(nearest(teacher, student, count, skip_self=True), expected),
    }


def knn_accuracy(
    queries: np.ndarray, labels: Sequence[str], gallery: np.ndarray, gallery_labels: Sequence[str]
) -> float:
    """Return how often the majority of the ten nearest labelled images (weighted by cosine) is right."""
    names = sorted(set(gallery_labels))
    numbers = np.searchsorted(names, gallery_labels)
    near = nearest(queries, gallery, min(NEIGHBOURS, len(gallery)))
    cosines = (unit(queries)[:, None] * unit(gallery)[near]).sum(axis=2)
    votes = np.zeros((len(queries), len(names)))
    np.add.at(votes, (np.arange(len(queries))[:, None], numbers[near]), np.maximum(cosines, 1e-6))
    return float(np.mean(np.asarray(names)[votes.argmax(axis=1)] == np.asarray(labels)))


def linear_probe_accuracy(
    queries: np.ndarray, labels: Sequence[str], gallery: np.ndarray, gallery_labels: Sequence[str]
) -> float:
    """Return the accuracy of a logistic regression on standardised vectors, fitted to the gallery."""
    names = sorted(set(gallery_labels))
    mean, std = unit(gallery).mean(axis=0), unit(gallery).std(axis=0) + 1e-6
    given = torch.from_numpy((unit(gallery) - mean) / std)
    wanted = torch.from_numpy(np.searchsorted(names, gallery_labels))
    weight = torch.zeros(len(names), given.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(given @ weight.T + bias, wanted) + PROBE_DECAY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    scores = torch.from_numpy((unit(queries) - mean) / std) @ weight.detach().T + bias.detach()
    return float(np.mean(np.asarray(names)[scores.argmax(dim=1).numpy()] == np.asarray(labels)))


def recall_at_1(queries: np.ndarray, gallery: np.ndarray) -> float:
    """Return how often the nearest of a gallery is the one of the query's own position."""
    return float(np.mean(nearest(queries, gallery, 1)[:, 0] == np.arange(len(queries))))


__all__ = ["agreement", "knn_accuracy", "linear_probe_accuracy", "nearest", "neighbour_overlap", "recall_at_1", "unit"]
