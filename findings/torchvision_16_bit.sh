#!/usr/bin/env bash
# torchvision makes white black in 16 bits: `ToTensor` reads 65535 as -1, and `ToDtype(torch.uint16, scale=True)` writes 1.0 as 0.
#
# Guess: `ToTensor` scales a 16-bit grey image (as 16-bit PNG and TIFF open) to 0..1, as it does 8-bit ones, or leaves its values as they are;
# float to uint16 with `scale=True` and back gives the image again, as with uint8.
# Seen (torchvision 0.28.0, torch 2.13.0, CPU; 0.29.2 with torch 2.15.0 too): `ToTensor` returns signed int16, so that the brighter half is negative:
# 32768 is -32768, white is -1. `Normalize` behind it stops at integers; `.float()` does not. `v2.ToDtype(torch.uint16, scale=True)` multiplies
# by 65536: 1.0 wraps to 0. Neither says a word. `v2.ToImage` and `v2.ToDtype(torch.float32, scale=True)` are right.
# Matters for: X-ray, microscopy and depth images, whose brightest pixels become the darkest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its operators were compiled for another build of torch than pip found, and none is used here
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

levels = [0, 1000, 32767, 32768, 65535]
Image.fromarray(np.array([levels], np.uint16)).save("deep.png")
image = Image.open("deep.png")
assert image.mode == "I;16"
old = transforms.ToTensor()(image)
print("ToTensor", old.dtype, old.flatten().tolist())
new = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(image)
print("ToImage, ToDtype(float32)", [round(one, 5) for one in new.flatten().tolist()])
values = torch.tensor([0.0, 0.5, 0.75, 1.0])
small, deep = (v2.functional.to_dtype(values, dtype, scale=True).tolist() for dtype in (torch.uint8, torch.uint16))
print("ToDtype of 0, 0.5, 0.75, 1: uint8", small, "uint16", deep)
assert old.dtype == torch.int16 and old.flatten().tolist() == [0, 1000, 32767, -32768, -1]
assert torch.allclose(new.flatten(), torch.tensor(levels) / 65535)
assert small[-1] == 255 and deep[-1] == 0 and deep[2] > 49000
print("as described")
PY
