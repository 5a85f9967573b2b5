#!/usr/bin/env bash
# Pillow cannot write a noisy image as an optimized JPEG without chroma subsampling into memory.
#
# Guess: `optimize=True` makes a JPEG smaller and is slower, no more; every RGB image can be saved at every quality.
# Seen (Pillow 13.0.0): an image of random pixels at quality 85 with `subsampling=0, optimize=True` raises
# "OSError: broken data stream when writing image file" (libjpeg says "Suspension not allowed here"): an optimized file needs one
# buffer for all of it, for which Pillow takes a byte for each pixel (two from quality 95 on), and noise needs more. Without `optimize` the same
# image is saved, and with it where `ImageFile.MAXBLOCK` is raised to the bytes of the image.
# Matters for: whoever saves images of others with `optimize=True`: screenshots, photographs at night, noise for tests.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PY'
import io
import random

from PIL import Image, ImageFile

noise = Image.frombytes("RGB", (1600, 1200), random.Random(0).randbytes(1600 * 1200 * 3))
plain = {"quality": 85, "subsampling": 0}
seen = {}
for name, options, block in (
    ("plain", plain, ImageFile.MAXBLOCK),
    ("optimized", {**plain, "optimize": True}, ImageFile.MAXBLOCK),
    ("optimized, large block", {**plain, "optimize": True}, 1600 * 1200 * 3),
):
    stream, ImageFile.MAXBLOCK = io.BytesIO(), block
    try:
        noise.save(stream, "JPEG", **options)
        seen[name] = f"{stream.tell():,} bytes"
    except OSError as error:
        seen[name] = f"OSError: {error}"
    print(f"{name:22} {seen[name]}")
assert "bytes" in seen["plain"] and "OSError" in seen["optimized"] and "bytes" in seen["optimized, large block"], seen
PY
