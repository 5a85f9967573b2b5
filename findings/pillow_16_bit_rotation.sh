#!/usr/bin/env bash
# Pillow rotates and warps 16-bit grey images into noise when it interpolates: each pixel is made of single bytes.
#
# Guess: `rotate` and `transform` with BILINEAR or BICUBIC interpolate a 16-bit grey image (mode I;16, as 16-bit PNG and TIFF open) as
# `resize` does, or refuse it, as `filter` and `reduce` do ("image has wrong mode").
# Seen (Pillow 13.0.0): no error, an image of the right size and mode, and other values: a ramp of steps of 1,040 levels,
# moved by half a pixel, becomes one of steps of about 9; of a rotated one most pixels are wrong by up to 65,000 levels.
# NEAREST, multiples of 90 degrees and `resize` are right, and so is everything after `convert("F")`.
# Matters for: augmentation of X-ray, microscopy and depth images; RandomRotation, RandomAffine and RandomPerspective of torchvision pass PIL
# images on to these two methods.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
from PIL import Image
from PIL.Image import Resampling, Transform

levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
Image.fromarray(levels).save("ramp.png")
deep = Image.open("ramp.png")
assert deep.mode == "I;16" and np.array_equal(np.asarray(deep), levels)
HALF = (1, 0, 0.5, 0, 1, 0)
ways = {
    "resize, bilinear": lambda image: image.resize((40, 40), Resampling.BILINEAR),
    "rotate by 90, bilinear": lambda image: image.rotate(90, Resampling.BILINEAR),
    "rotate by 30, nearest": lambda image: image.rotate(30, Resampling.NEAREST),
    "rotate by 30, bilinear": lambda image: image.rotate(30, Resampling.BILINEAR),
    "rotate by 30, bicubic": lambda image: image.rotate(30, Resampling.BICUBIC),
    "half a pixel, bilinear": lambda image: image.transform((64, 64), Transform.AFFINE, HALF, Resampling.BILINEAR),
}
wrong = {}
for name, way in ways.items():
    found, right = np.asarray(way(deep)).astype(float), np.asarray(way(deep.convert("F"))).clip(0, 65535)
    off = abs(found - right)
    wrong[name] = float((off > 1).mean())
    print(f"{name:24} {wrong[name]:6.1%} of the pixels differ from the same in float, by up to {off.max():,.0f} levels")
moved = np.asarray(ways["half a pixel, bilinear"](deep))
print("ramp, and moved by half a pixel:", levels[0, :8].tolist(), moved[0, :8].tolist())
assert all(wrong[name] == 0 for name in list(ways)[:3]), wrong
assert all(wrong[name] > 0.5 for name in list(ways)[3:]), wrong
print("as described")
PY
