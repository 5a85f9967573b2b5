#!/usr/bin/env bash
# An image processor of transformers that is given the path of a 16-bit PNG makes pixel values of up to 513, or white, or the right ones: it depends on what else is installed.
#
# Guess: `processor(processor.fetch_images(path))`, the way of chat templates, gives the same pixel values whichever library decodes the file, and values within the
# processor's range; a kind of file that it cannot take is refused.
# Seen (transformers 5.24.0, torch 2.15.0, torchvision 0.29.2, pillow 13.0.0; torchcodec 0.17.0 where said), a ramp from black to white of 16 bits:
# ViTImageProcessor, whose values lie between -1 and 1, decodes by torchvision into uint16, scales by 1/255 and gives values up to 513; once torchcodec is
# installed it decodes by that, and is right; ViTImageProcessorPil clips at 255 of 65535, and nearly all is white. No warning says so.
# Likewise by path: TIFF and BMP are refused by ViTImageProcessor with either decoder, AVIF without torchcodec, and opened by ViTImageProcessorPil.
# Matters for: scans, X-ray, depth and microscopy. Open files with Pillow, bring 16 bits to 8 by dividing by 257, and give the processor images, not paths.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 transformers==5.24.0 numpy==2.4.6 pillow==13.0.0
cat > "$folder/read.py" <<'PY'
import json

import numpy as np
from PIL import Image
from transformers import ViTImageProcessor, ViTImageProcessorPil

ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
Image.fromarray(ramp).save("ramp.png")
plain = Image.fromarray((ramp // 257).astype(np.uint8)).convert("RGB")
for kind, options in {"tiff": {}, "bmp": {}, "avif": {"quality": 100}, "webp": {"lossless": True}}.items():
    plain.save(f"plain.{kind}", **options)
found = {}
for kind in (ViTImageProcessor, ViTImageProcessorPil):
    processor = kind(size={"height": 32, "width": 32})
    wanted = processor(plain, return_tensors="pt")["pixel_values"]
    for name in ("ramp.png", "plain.tiff", "plain.bmp", "plain.avif", "plain.webp"):
        try:
            pixels = processor(processor.fetch_images(name), return_tensors="pt")["pixel_values"]
        except Exception as error:
            found[f"{kind.__name__} {name}"] = type(error).__name__
            continue
        found[f"{kind.__name__} {name}"] = {
            "from": round(pixels.min().item(), 2), "to": round(pixels.max().item(), 2), "mean": round(pixels.mean().item(), 2),
            "right": bool((pixels - wanted).abs().max() < 0.02),
        }
print(json.dumps(found))
PY
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python read.py 2>without.log | tail -n 1 > without.json || { cat without.log; exit 1; }
venv/bin/pip install --quiet --disable-pip-version-check torchcodec==0.17.0
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python read.py 2>with.log | tail -n 1 > with.json || { cat with.log; exit 1; }
venv/bin/python - <<'PY'
import json

without, beside = (json.load(open(f"{name}.json")) for name in ("without", "with"))
for name in without:
    print(f"{name}: without torchcodec {without[name]}, with it {beside[name]}")
default, pillow = "ViTImageProcessor ramp.png", "ViTImageProcessorPil ramp.png"
assert without[default]["to"] > 400 and not without[default]["right"]
assert beside[default]["right"] and beside[default]["to"] <= 1
for found in (without, beside):
    assert found[pillow]["mean"] > 0.9 and not found[pillow]["right"]
    for kind in ("tiff", "bmp"):
        assert isinstance(found[f"ViTImageProcessor plain.{kind}"], str)
        assert found[f"ViTImageProcessorPil plain.{kind}"]["right"]
    assert found["ViTImageProcessor plain.webp"]["right"] and found["ViTImageProcessorPil plain.avif"]["right"]
assert isinstance(without["ViTImageProcessor plain.avif"], str) and beside["ViTImageProcessor plain.avif"]["right"]
print("as described")
PY
