"""What a student is worth: agreement with its teacher on held-out images, accuracy by labels, speed and size."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from ..data.image_dataset import normalised
from ..embedding.sheets import draw_rows
from ..evaluation.agreement import knn_accuracy, linear_probe_accuracy, nearest, unit
from .teacher import Teacher


# Two images are one above this cosine or, where a teacher finds all images alike, that of nearly all pairs.
SAME_COSINE, SAME_HASH_BITS = 0.95, 4
PAIRS, NEARLY_ALL = 20_000, 0.9999
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 5, 5
ROUNDS, TIMED_IMAGES = 5, 16


def near_duplicates(
    held_out: np.ndarray, training: np.ndarray, held_out_pixels: np.ndarray, training_pixels: np.ndarray
) -> np.ndarray:
    """Return which held-out images have a near-duplicate among those trained on, by vectors or by perceptual hash.

    Args:
        held_out: The teacher's vectors (N, D).
        training: Likewise of the images trained on.
        held_out_pixels: Images in uint8 (N, 3, H, W).
        training_pixels: Likewise.

    Returns:
        Booleans (N,). Without imagehash (the extra `embed`) by vectors alone.
    """
    theirs, ours = unit(training).T, unit(held_out)
    draws = np.random.default_rng(0)
    pairs = ours[draws.integers(len(ours), size=PAIRS)] * theirs.T[draws.integers(theirs.shape[1], size=PAIRS)]
    threshold = max(SAME_COSINE, float(np.quantile(pairs.sum(axis=1), NEARLY_ALL)))
    found = np.concatenate(
        [(ours[at : at + 512] @ theirs).max(axis=1) > threshold for at in range(0, len(held_out), 512)]
    )
    try:
        import imagehash
    except ModuleNotFoundError:
        return found
    hashes = [
        np.array([int(str(imagehash.phash(as_image(one))), 16) for one in pixels], dtype=np.uint64)
        for pixels in (held_out_pixels, training_pixels)
    ]
    for at in range(0, len(found), 512):
        bits = np.bitwise_count(hashes[0][at : at + 512, None] ^ hashes[1][None])
        found[at : at + 512] |= bits.min(axis=1) <= SAME_HASH_BITS
    return found


def as_image(pixels: np.ndarray) -> Image.Image:
    """Return stored pixels (channels, rows, columns) as an image."""
    return Image.fromarray(np.asarray(pixels).transpose(1, 2, 0))


def read_labels(place: str | Path, ids: Sequence[str]) -> dict[int, str]:
    """Return the labels of rows out of a CSV file or JSON lines with `id` and `label`.

    Raises:
        ValueError: for a file without these columns, or that names none of the images.
    """
    text = Path(place).read_text(encoding="utf-8")
    is_json = text.lstrip().startswith("{")
    rows: Any = map(json.loads, text.splitlines()) if is_json else csv.DictReader(io.StringIO(text))
    try:
        named = {str(row["id"]): str(row["label"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise ValueError(f"Expected the columns id and label in {str(place)!r}, got no {error}. Add it.") from error
    found = {row: named[name] for row, name in enumerate(ids) if name in named}
    if not found:
        raise ValueError(f"Expected ids of images in {str(place)!r}, such as {ids[0]!r}, got none of them.")
    return found


def label_accuracies(
    vectors: Mapping[str, Callable[[Sequence[int]], np.ndarray]],
    labels: Mapping[int, str],
    training: Sequence[int],
    held_out: Sequence[int],
) -> dict[str, Any]:
    """Return the accuracy of ten nearest neighbours and of a linear probe for each model, on held-out images.

    Args:
        vectors: By the name of a model, a function from rows to vectors.
        labels: By row.
        training: Rows whose labels are known to the neighbours and to the probe.
        held_out: Rows that are asked for.
    """
    known, asked = ([row for row in rows if row in labels] for rows in (training, held_out))
    if len(known) < 10 or not asked:
        return {}
    given, wanted = ([labels[row] for row in rows] for rows in (known, asked))
    majority = max(wanted.count(name) for name in set(wanted)) / len(wanted)
    found: dict[str, Any] = {"images": len(asked), "classes": len(set(given)), "majority": majority}
    for name, encode in vectors.items():
        gallery, queries = encode(known), encode(asked)
        found[name] = {
            "knn_accuracy": knn_accuracy(queries, wanted, gallery, given),
            "linear_probe_accuracy": linear_probe_accuracy(queries, wanted, gallery, given),
        }
    return found


def draw_neighbours(
    teacher: np.ndarray, student: np.ndarray, pixels: np.ndarray, names: Sequence[str], path: Path, seed: int = 0
) -> Path:
    """Draw a few images with their nearest by the teacher, and below them by the student, among the same images."""
    queries = np.random.default_rng(seed).choice(len(names), min(SHOWN_QUERIES, len(names)), replace=False)
    rows = []
    for name, vectors in (("teacher", teacher), ("student", student)):
        near = nearest(vectors, vectors, min(SHOWN_NEIGHBOURS, len(names) - 1), skip_self=True)
        rows.append(
            [
                [(as_image(pixels[one]), "" if one == at else name, names[one]) for one in (at, *near[at])]
                for at in queries
            ]
        )
    interleaved = [row for pair in zip(*rows, strict=True) for row in pair]
    return draw_rows(interleaved, "Held-out images, their nearest by the teacher and by the student", str(path))


def speed(models: Mapping[str, tuple[Callable[[torch.Tensor], Any], int]]) -> dict[str, float]:
    """Return images per CPU second of each model with the size of its images, the best of several rounds in turn.

    On one thread: two on a busy machine are slower than one, and others running disturb wall time.
    """
    best = dict.fromkeys(models, float("inf"))
    batches = {name: torch.randn(TIMED_IMAGES, 3, size, size) for name, (_, size) in models.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for round_ in range(ROUNDS + 1):
                for name, (run, _) in models.items():
                    start = time.process_time()
                    run(batches[name])
                    spent = time.process_time() - start
                    best[name] = min(best[name], spent) if round_ else best[name]  # the first one warms up
    finally:
        torch.set_num_threads(threads)
    return {name: round(TIMED_IMAGES / max(spent, 1e-9), 1) for name, spent in best.items()}


def compare_speed(student: Any, teacher: Teacher) -> dict[str, Any]:
    """Return images per CPU second of student and teacher in torch and, where OpenVINO is installed, in that.

    Each takes images of its own size.
    """
    if not isinstance(teacher.model, torch.nn.Module):
        return {}
    size = student.config.image_size_hw[0]
    cpu = torch.device("cpu")
    student.to(cpu), teacher.to(cpu)
    found: dict[str, Any] = {"image_size": {"student": size, "teacher": teacher.size}}
    pairs: dict[str, tuple[Any, Any]] = {"torch": (student, teacher.model)}
    exported = [
        Teacher(name, model, side, [0.0] * 3, [1.0] * 3).fastest(threads=1).model
        for name, model, side in (("student", _Vectors(student), size), ("teacher", teacher.model, teacher.size))
    ]
    if not any(isinstance(model, torch.nn.Module) for model in exported):
        pairs["openvino"] = (exported[0], exported[1])
    for name, (ours, theirs) in pairs.items():
        rates = speed({"student": (ours, size), "teacher": (theirs, teacher.size)})
        ratio = round(rates["student"] / rates["teacher"], 2)
        found[name] = {f"{kind}_images_per_cpu_second": rate for kind, rate in rates.items()} | {"ratio": ratio}
    return found


class _Vectors(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).pooler_output


@torch.inference_mode()
def encode_pixels(model: Any, processor: Any, pixels: np.ndarray, rows: Sequence[int], size: int) -> np.ndarray:
    """Return the vectors (rows, D) of an encoder for whole images in uint8, resized to `size`."""
    device = next(model.parameters()).device
    count = 32 if device.type == "cpu" else 256
    found = np.empty((len(rows), model.config.hidden_size), np.float32)  # one array: see vectors_of
    for start in range(0, len(rows), count):
        batch = torch.from_numpy(np.stack([pixels[row] for row in rows[start : start + count]]))
        if batch.shape[2:] != (size, size):
            batch = functional.resize(batch, [size, size], antialias=True)
        vectors = model(normalised(processor, batch.to(device))).pooler_output
        found[start : start + count] = vectors.float().cpu().numpy()
    return found


__all__ = ["as_image", "compare_speed", "draw_neighbours", "encode_pixels", "label_accuracies", "near_duplicates"]
__all__ += ["read_labels", "speed"]
