#!/usr/bin/env bash
# Where a centre crop is larger than the image, the two backends of one image processor of transformers put the image one pixel apart.
#
# Guess: `CLIPImageProcessor` (torchvision, opened by default) and `CLIPImageProcessorPil` (where torchvision is not installed, or `backend="pil"`)
# differ by rounding at most: no pixel is resized here, only copied.
# Seen (transformers 5.23.0, torchvision 0.29.2, torch 2.15.0, Pillow 13.0.0): with an odd margin torchvision's pads the smaller half above and to
# the left, Pillow's the larger one. 31 x 20 pixels in a crop of 40 x 25 begin at row 4 and column 2, or at row 5 and column 3. Even margins and crops
# within the image are equal.
# Matters for: processors whose `crop_size` is above their `size`, or that do not resize: vectors made with and without torchvision differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor


def corner(pixels):
    """First row and column that are not padding."""
    grey = np.asarray(pixels)[0, 0]
    return int(grey.any(1).argmax()), int(grey.any(0).argmax())


def found(height, width, crop):
    image = Image.fromarray(np.full((height, width, 3), 200, np.uint8))
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "crop_size": dict(zip(("height", "width"), crop))}
    CLIPImageProcessor(**options).save_pretrained("processor")
    opened = [AutoImageProcessor.from_pretrained("processor", backend=one) for one in ("torchvision", "pil")]
    pixels = [one(image, return_tensors="np")["pixel_values"] for one in opened]
    assert [type(one).__name__ for one in opened] == ["CLIPImageProcessor", "CLIPImageProcessorPil"]
    return [corner(one) for one in pixels], np.array_equal(*pixels)


for image, crop, places, equal in (
    ((31, 20), (40, 25), [(4, 2), (5, 3)], False),
    ((31, 20), (41, 26), [(5, 3), (5, 3)], True),
    ((31, 20), (20, 11), [(0, 0), (0, 0)], True),
):
    seen = found(*image, crop)
    print(f"{image} in a crop of {crop}: the image begins at {seen[0][0]} with torchvision, at {seen[0][1]} with Pillow")
    assert seen == (places, equal), seen
PY
