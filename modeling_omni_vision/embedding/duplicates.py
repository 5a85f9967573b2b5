"""Groups of images that are one image: by their vectors, and by a perceptual hash that knows no model.

The hash (64 bits, `phash` of imagehash) finds copies that were scaled or saved anew; the vectors also find those that
were cropped or recoloured, as far as the model takes these for the same. How near two vectors of one image are depends
on the model, so the threshold is measured: a sample of the images is saved anew (JPEG of quality `RESAVED`, half the
size) and encoded, and `KEPT` of these copies lie above it. How many pairs drawn at random do so is said beside it.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import imagehash
import numpy as np

from ..data.image_files import displayed
from .embedded import CHUNK, Embedded, Encode


HASH_BITS, HASH_SIDE = 4, 256
RESAVED, SAMPLE, KEPT, PAIRS = 50, 64, 0.95, 20_000
MAX_PAIRS = 1_000_000


class Threshold(NamedTuple):
    """Least cosine of duplicates, and the sentence that says where it comes from."""

    cosine: float
    reason: str


class Duplicate(NamedTuple):
    """An image of a group: what it shares with the first of the group."""

    group: int
    position: int
    cosine: float
    hash_bits: int


class Hashes(NamedTuple):
    """The perceptual hash (64 bits, uint64) of each image that can still be read, and its position."""

    positions: np.ndarray
    bits: np.ndarray


def measure_threshold(embedded: Embedded, encode: Encode, positions: np.ndarray) -> Threshold:
    """Measure how near copies of images at these positions are, and return the cosine that nearly all of them have."""
    draws = np.random.default_rng(0)
    sample = np.sort(draws.choice(positions, min(SAMPLE, len(positions)), replace=False))
    copies = []
    for image in embedded.readable_images(sample.tolist(), 1024):
        if image is None:
            raise ValueError("Expected images that stay where they are, got one that was removed. Run again.")
        content = io.BytesIO()
        image.resize((max(image.width // 2, 1), max(image.height // 2, 1))).save(content, "JPEG", quality=RESAVED)
        copies.append(encode.pipeline.pixels.read(content.getvalue()))
    size, vectors = encode.pipeline.batch_size, list[Any]()
    for start in range(0, len(copies), size):
        vectors += [vector for vector, _ in encode.pipeline.encode(copies[start : start + size])]
    kept = [(one, vector) for one, vector in zip(sample, vectors, strict=True) if not isinstance(vector, str)]
    near = np.stack([vector.astype(np.float32) for _, vector in kept])
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    copied = (near * embedded.unit[[one for one, _ in kept]]).sum(axis=1)
    first, second = draws.integers(0, len(embedded.rows), (2, PAIRS))
    others = (embedded.unit[first] * embedded.unit[second]).sum(axis=1)[first != second]
    # float16 rounds: copies that are equal to the bit must not fall below.
    low = min(float(np.quantile(copied, 1 - KEPT)), 0.9999)
    near_by_chance = float(np.mean(others >= low)) if len(others) else 0.0
    said = f"{KEPT:.0%} of {len(kept)} copies saved anew (JPEG {RESAVED}, half the size) lie above it"
    return Threshold(low, f"{said}, and {near_by_chance:.3%} of pairs drawn at random")


def perceptual_hashes(embedded: Embedded) -> Hashes:
    """Return the hashes of all images that can still be read.

    Raises:
        ValueError: where none can.
    """
    images = embedded.readable_images(range(len(embedded.rows)), HASH_SIDE)
    found = {row: int(str(imagehash.phash(image)), 16) for row, image in enumerate(images) if image is not None}
    if not found:
        raise ValueError(
            f"Expected the images of {str(embedded.folder)!r}, but none of {len(embedded.rows):,} can be read any "
            f"more, as {displayed(embedded.rows[0]['path'])}. Bring them back, or embed those that you have."
        )
    return Hashes(np.array([*found], dtype=np.int64), np.array([*found.values()], dtype=np.uint64))


def find_duplicates(
    embedded: Embedded, threshold: float, hashes: Hashes, hash_bits: int = HASH_BITS
) -> list[Duplicate]:
    """Return all images of which the vectors, or the hashes, of two are near, group by group, the first one first.

    Images without a hash are left out: what is gone is no duplicate.

    Raises:
        ValueError: where so many are near that the threshold cannot mean duplicates.
    """
    places, bits = hashes
    unit = embedded.unit if len(places) == len(embedded.unit) else embedded.unit[places]
    parents = list(range(len(places)))
    for count, (first, second) in enumerate(_pairs(unit, threshold, bits, hash_bits), 1):
        if count > MAX_PAIRS:
            raise ValueError(
                f"More than {MAX_PAIRS:,} pairs have vectors of a cosine of {threshold:.4f} or hashes that differ in "
                f"{hash_bits} bits: the model does not separate these images. Pass a larger `threshold`, up to 1, or "
                "fewer `hash_bits`."
            )
        one, other = _root(parents, first), _root(parents, second)
        parents[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for row in range(len(parents)):
        groups.setdefault(_root(parents, row), []).append(row)
    return [
        Duplicate(
            number, int(places[row]), float(unit[first] @ unit[row]), int(np.bitwise_count(bits[first] ^ bits[row]))
        )
        for number, (first, rows) in enumerate((one for one in groups.items() if len(one[1]) > 1), 1)
        for row in rows
    ]


def advice(found: Sequence[Duplicate], images: int, hash_bits: int = HASH_BITS) -> str | None:
    """Return what to do where vectors alone put most images into one group, which are hardly one; else None."""
    by_vector = Counter(one.group for one in found if one.hash_bits > hash_bits)
    group, count = max(by_vector.items(), key=itemgetter(1), default=(0, 0))
    if 2 * count <= images:
        return None
    members = sum(one.group == group for one in found)
    return (
        f"Group {group} holds {members:,} of {images:,} images, most of them for their vectors alone: the model does "
        "not separate these images at this threshold. Pass a larger `threshold`, up to 1, or embed with another model."
    )


def _pairs(unit: np.ndarray, threshold: float, hashes: np.ndarray, hash_bits: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions, the smaller first, that are near by either."""
    for one in range(0, len(unit), CHUNK):
        for other in range(one, len(unit), CHUNK):
            near = unit[one : one + CHUNK] @ unit[other : other + CHUNK].T >= threshold
            near |= (
                np.bitwise_count(hashes[one : one + CHUNK, None] ^ hashes[None, other : other + CHUNK]) <= hash_bits
            )
            for first, second in zip(*np.nonzero(near), strict=True):
                if one + first < other + second:
                    yield int(one + first), int(other + second)


def _root(parents: list[int], position: int) -> int:
    while parents[position] != position:
        parents[position] = parents[parents[position]]
        position = parents[position]
    return position


__all__ = [
    "HASH_BITS",
    "Duplicate",
    "Hashes",
    "Threshold",
    "advice",
    "find_duplicates",
    "measure_threshold",
    "perceptual_hashes",
]
