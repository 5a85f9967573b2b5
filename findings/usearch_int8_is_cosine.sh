#!/usr/bin/env bash
# usearch with int8 storage ranks by cosine, whatever metric the index has.
#
# Guess: `Index(metric="ip", dtype="i8")` and `metric="l2sq"` rank by inner product and Euclidean distance, off by rounding, as with "f16".
# Seen (usearch 2.26.6): each float vector is scaled to length 1 before it is rounded to int8, queries too, so lengths are lost.
# On vectors of different lengths an exact search finds a tenth (ip) and two fifths (l2sq) of the true ten nearest, and 94 % of those by cosine.
# Distances are those of the integers. f16 and bf16 (bf16 is what an index has without `dtype`) find 99 % and more. No word of it.
# Matters for: encoders whose vectors are not normalised: CLS and pooled outputs of ViT and DINOv2, scores where length counts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
from usearch.index import Index

draw = np.random.default_rng(0)
vectors = (draw.normal(0, 1, (2000, 32)) * draw.lognormal(0, 0.7, (2000, 1))).astype(np.float32)
queries = draw.normal(0, 1, (50, 32)).astype(np.float32)
lengths = np.linalg.norm(vectors, axis=1)
scores = {
    "l2sq": ((queries[:, None] - vectors) ** 2).sum(-1),
    "ip": -(queries @ vectors.T),
    "cos": -(queries @ (vectors / lengths[:, None]).T),
}
best = {metric: np.argsort(score, axis=1)[:, :10] for metric, score in scores.items()}


def recall(found, metric):
    return np.mean([len(set(one) & set(two)) / 10 for one, two in zip(found, best[metric])])


assert "BF16" in str(Index(ndim=32)), "without `dtype` an index has another one now"
for metric in scores:
    for dtype in ("f32", "f16", "bf16", "i8"):
        index = Index(ndim=32, metric=metric, dtype=dtype)
        index.add(np.arange(len(vectors)), vectors)
        found = index.search(queries, 10, exact=True).keys
        own, cosine = recall(found, metric), recall(found, "cos")
        print(f"{metric:4} {dtype:4} finds {own:4.0%} of the ten nearest by {metric}, {cosine:4.0%} of those by cosine")
        assert own > 0.98 if dtype != "i8" else cosine > 0.9, "another result"
        if dtype == "i8" and metric != "cos":
            assert own < 0.5, f"int8 keeps lengths now: {own}"
one, long = (Index(ndim=32, metric="l2sq", dtype="i8") for _ in range(2))
one.add(0, vectors[0])
long.add(0, vectors[0] * 50)
assert np.array_equal(one.get(0), long.get(0))
print("a vector and fifty times it are stored as the same integers")
PY
