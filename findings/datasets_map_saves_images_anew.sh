#!/usr/bin/env bash
# A `map` of `datasets` that only looks at images saves them anew: JPEG at quality 75, lossless WebP with losses, without colour profile.
#
# Guess: `rows.map(lambda row: {"width": row["image"].width})` adds a column; the image column, which the function does not return,
# keeps its bytes, as it does for `lambda row: {"next": row["label"] + 1}`.
# Seen (datasets 5.2.0, Pillow 13.0.0; images as bytes, as Parquet and the Hub have them): a column that the function has looked at counts as
# new. Its image is encoded again with Pillow's defaults for its format. A JPEG of quality 95 is 2.5 levels off on average (up to 21)
# and has less than half of its bytes, each further `map` that looks takes a little more; lossless WebP is lossy then; the colour profile
# is gone, so that a Display P3 photograph has other colours. No word of it. `filter` and `input_columns=["image"]` leave bytes alone.
# Matters for: any preparation that measures, hashes or captions images and then trains, embeds or uploads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import io

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from PIL import ImageCms

noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
photo = Pillow.fromarray(noise).resize((640, 480), Pillow.Resampling.BICUBIC)
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def rows_of(kind, **options):
    stream = io.BytesIO()
    photo.save(stream, kind, icc_profile=profile, **options)
    features = Features({"image": Image(), "label": Value("int64")})
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}], "label": [0]}
    return Dataset.from_dict(rows, features=features)


def seen(rows):
    image = rows[0]["image"]
    stored = rows.cast_column("image", Image(decode=False))[0]["image"]["bytes"]
    return np.asarray(image).astype(int), bool(image.info.get("icc_profile")), len(stored)


ways = {
    "map that looks": lambda rows: rows.map(lambda row: {"width": row["image"].width}),
    "the same, five times": lambda rows: [rows := rows.map(lambda row: {"width": row["image"].width + n}) for n in range(5)][-1],
    "map of the label": lambda rows: rows.map(lambda row: {"next": row["label"] + 1}),
    "input_columns": lambda rows: rows.map(lambda image: {"width": image.width}, input_columns=["image"]),
    "filter that looks": lambda rows: rows.filter(lambda row: row["image"].width > 1),
}
for kind, options in (("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("PNG", {})):
    rows = rows_of(kind, **options)
    before, _, length = seen(rows)
    found = {}
    for name, way in ways.items():
        after, has_profile, new_length = seen(way(rows))
        off = abs(after - before)
        found[name] = (float(off.mean()), has_profile, new_length / length)
        print(f"{kind:5} {name:21} mean {off.mean():.2f}, largest {off.max():3} levels off; "
              f"profile kept: {has_profile}; bytes {length:,} -> {new_length:,}")
    for name in ("map of the label", "input_columns", "filter that looks"):
        assert found[name] == (0.0, True, 1.0), (kind, name, found)
    if kind == "PNG":
        assert found["map that looks"][0] == 0, found
    else:
        mean, has_profile, share = found["map that looks"]
        assert mean > 1 and share < 0.6 and not has_profile, (kind, found)
        assert found["the same, five times"][0] > mean, (kind, found)
print("as described")
PY
