#!/usr/bin/env bash
# TorchCodec, to which torchvision's image decoders are moving, puts transparent AVIF on black and shows transparent PNG and WebP as they lie.
#
# Guess: `decode_image(file)` gives the same picture the same values whatever lossless format it is kept in; in its default mode RGB it drops
# alpha, or composites, for all formats alike.
# Seen (torchcodec 0.17.0, pillow 13.0.0): PNG and WebP lose their alpha and keep the colours beneath, as Pillow's `convert("RGB")` does and as
# torchvision's `decode_image` did; AVIF is multiplied by alpha, so that clear parts are black and edges dark: an orange of alpha 64 is (200,
# 100, 50) from PNG and WebP and (50, 25, 12) from AVIF, in mode GRAY 124 and 31. With mode RGB_ALPHA or UNCHANGED all three are equal.
# Matters for: encoders of icons, clip art and cut-out products, where the same image in two formats gets two vectors, and an index of AVIF
# does not match its queries in PNG. Decode with RGB_ALPHA and composite on one background.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchcodec==0.17.0 torch==2.15.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import io

import numpy as np
from PIL import Image
from torchcodec.decoders import decode_image

pixels = np.empty((8, 8, 4), np.uint8)
pixels[...] = (200, 100, 50, 64)
image = Image.fromarray(pixels, "RGBA")
options = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}
found = {}
for name, more in options.items():
    kept = io.BytesIO()
    image.save(kept, name, **more)
    found[name] = {mode: decode_image(kept.getvalue(), mode=mode)[:, 4, 4].tolist() for mode in ("RGB", "GRAY", "RGB_ALPHA")}
    print(f"{name:5}", found[name])
    assert found[name]["RGB_ALPHA"] == [200, 100, 50, 64], found
    assert list(Image.open(kept).convert("RGB").getpixel((4, 4))) == [200, 100, 50]
    assert decode_image(kept.getvalue()).tolist() == decode_image(kept.getvalue(), mode="RGB").tolist()
assert found["PNG"] == found["WEBP"] and found["PNG"]["RGB"] == [200, 100, 50], found
assert max(found["AVIF"]["RGB"]) < 60 and found["AVIF"]["GRAY"][0] < 40 < found["PNG"]["GRAY"][0], found
print("as described")
PY
