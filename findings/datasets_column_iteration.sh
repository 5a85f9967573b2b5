#!/usr/bin/env bash
# Going over a column of `datasets` reads it row by row: a thousand times dearer than its slice.
#
# Guess: `dataset["label"]` is the column, so `list(...)`, `Counter(...)`, `set(...)` and `np.asarray(...)` of it cost about what the
# list of its values does, as they did while it was a list (before release 4).
# Seen (datasets 5.2.0, pyarrow 26.0.1): it is a lazy object. `list(dataset["label"])` of 40,000 integers takes about a second of CPU, its
# slice `dataset["label"][:]`, the same values, about a thousandth of that. After `select` in random order the slice takes a
# hundred times as long as before, and the list still about ten times as long as the slice. `np.asarray` goes row by row too.
# Matters for: class weights, samplers, metrics and anything that looks at all labels of a large folder of images.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
HF_HOME="$folder/cache" venv/bin/python - <<'PY'
import time

import numpy as np
from datasets import Dataset

COUNT = 40_000
rows = Dataset.from_dict({"label": [number % 10 for number in range(COUNT)]})
shuffled = rows.select(np.random.default_rng(0).permutation(COUNT).tolist())


def seconds(work):
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


ratios = {}
for name, dataset in (("rows as loaded", rows), ("rows selected in random order", shuffled)):
    assert list(dataset["label"]) == dataset["label"][:]
    part = seconds(lambda: dataset["label"][:])
    for way, work in (("list", list), ("np.asarray", np.asarray)):
        whole = seconds(lambda: work(dataset["label"]))
        ratios[name, way] = whole / part
        print(f"{name:30} {way:11} {whole:.3f} s, slice {part:.4f} s, ratio {whole / part:,.0f}")
assert min(ratio for (name, _), ratio in ratios.items() if name == "rows as loaded") > 100, ratios
assert min(ratio for (name, _), ratio in ratios.items() if name != "rows as loaded") > 5, ratios
PY
