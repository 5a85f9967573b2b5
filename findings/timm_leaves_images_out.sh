#!/usr/bin/env bash
# timm reads PNG and JPEG out of a folder of images and leaves WebP, TIFF, BMP and AVIF out, without a word.
#
# Guess: `ImageDataset(folder)`, which opens files by Pillow, takes what Pillow opens, or says what it does not take.
# Seen (timm 1.0.31, torchvision 0.28.0, Pillow 13.0.0): of nine files of one class, in formats that Pillow reads, timm takes three by their suffix,
# `ImageFolder` of torchvision seven (not AVIF and GIF). The others are not counted, and nothing is printed or raised as long as a class has a
# file left (timm: any file at all). A class of WebP images alone is no class for timm: labels of the other classes move.
# Matters for: training and validation with `create_dataset`, numbers of images, and class indices, which then belong to other names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its operators were compiled for another build of torch than pip found, and none is used here
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from pathlib import Path

from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

image = Image.new("RGB", (16, 16), "red")
KINDS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "avif")


def write(place, kinds):
    Path(place).mkdir(parents=True)
    for kind in kinds:
        image.save(f"{place}/one.{kind}")
        assert Image.open(f"{place}/one.{kind}").size == (16, 16)


write("all/cat", KINDS)
theirs = {
    "timm": [Path(name).suffix[1:] for name in create_dataset("", "all").filenames()],
    "torchvision": [Path(name).suffix[1:] for name, _ in ImageFolder("all").samples],
}
for name, taken in theirs.items():
    print(f"{name:11} takes {len(taken)} of {len(KINDS)} files, not {', '.join(sorted(set(KINDS) - set(taken)))}")
assert set(theirs["timm"]) == {"jpg", "jpeg", "png"}, theirs
assert set(KINDS) - set(theirs["torchvision"]) == {"gif", "avif"}, theirs
write("classes/ant", ("webp",))
write("classes/bee", ("png",))
write("classes/cat", ("png",))
timm = create_dataset("", "classes").reader.class_to_idx
print("classes of timm:", timm, "of torchvision:", ImageFolder("classes").class_to_idx)
assert timm == {"bee": 0, "cat": 1} and ImageFolder("classes").class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
print("as described")
PY
