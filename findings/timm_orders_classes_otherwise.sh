#!/usr/bin/env bash
# timm numbers the classes of a folder of images in another order than torchvision and `datasets`: class10 after class9, "Zebra" after "ant".
#
# Guess: the classes of `folder/CLASS/*.png` are numbered by sorted name, so that a classifier that timm trained on a folder is measured
# right on the same folder read by torchvision's `ImageFolder` or `load_dataset("imagefolder")`.
# Seen (timm 1.0.31, torchvision 0.29.2, datasets 5.2.0): timm sorts names without regard to case and digits as numbers, the other two by
# code point. Of twelve classes class0 to class11, ten have another number; with names of both cases all of them may. Files and counts agree,
# and nothing warns: the answers of a perfect model are scored at 17 %.
# Matters for: whoever trains or fine-tunes with timm and evaluates, distils or converts elsewhere. Write the names beside the weights
# (`label_names` in config.json) in timm's order, `ImageDataset(folder).reader.class_to_idx`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check timm==1.0.31 torch==2.15.0 torchvision==0.29.2 datasets==5.2.0 \
  pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
from pathlib import Path

from datasets import load_dataset
from PIL import Image
from timm.data import ImageDataset
from torchvision.datasets import ImageFolder


def orders(name, classes):
    for one in classes:
        Path(name, one).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(Path(name, one, "0.png"))
    by_timm = ImageDataset(name).reader.class_to_idx
    by_datasets = load_dataset("imagefolder", data_dir=name)["train"].features["label"].names
    return sorted(by_timm, key=by_timm.get), ImageFolder(name).classes, by_datasets


numbers = [f"class{number}" for number in range(12)]
timm, torchvision, datasets = orders("numbers", numbers)
print("timm       ", *timm)
print("torchvision", *torchvision)
assert timm == numbers and torchvision == datasets == sorted(numbers) != timm
same = sum(one == other for one, other in zip(timm, torchvision))
print(f"{same} of {len(numbers)} classes have the same number: {same / len(numbers):.0%} of a perfect model's answers are right")
assert same == 2
timm, torchvision, datasets = orders("cases", ["ant", "Bee", "Zebra"])
print("timm       ", *timm)
print("torchvision", *torchvision)
assert timm == ["ant", "Bee", "Zebra"] and torchvision == datasets == ["Bee", "Zebra", "ant"]
print("as described")
PY
