#!/usr/bin/env bash
# An image that was opened from a file and changed in place is stored without the change: `datasets` and pillow-jxl-plugin take the file.
#
# Guess: what is stored is the image that is handed over: after `thumbnail` a small one, after `ImageDraw` one with the drawing.
# Seen (datasets 5.2.0, pillow-jxl-plugin 1.3.8, Pillow 13.0.0): `Dataset.from_dict`, and `map` on images that are files (`imagefolder`), keep the path
# of an image that has one, and with it the file as it was, at full size and without the drawing. No word of it. A photograph with an orientation in its Exif,
# and images stored as bytes, are changed as asked, so that of one folder some are scaled and some are not. `image.save("new.jxl")`
# packs the JPEG file that the image was opened from, too (with a warning about "JPEG reconstruction").
# `resize`, `copy`, `convert`, `crop` return new images, which are stored as they are.
# Matters for: scaling down, painting over and drawing boxes before training or upload.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow-jxl-plugin==1.3.8 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import pillow_jxl  # noqa: F401
from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from PIL import ImageDraw

features = Features({"image": Image()})
Pillow.new("RGB", (640, 480), "white").save("photo.jpg")
turned = Pillow.Exif()
turned[0x0112] = 6
Pillow.new("RGB", (640, 480), "white").save("turned.jpg", exif=turned)


def small(row):
    row["image"].thumbnail((64, 64))
    return row


def hidden(image):
    ImageDraw.Draw(image).rectangle((0, 0, 300, 300), fill="black")
    return image


def as_bytes(path):
    with open(path, "rb") as file:
        return {"bytes": file.read(), "path": None}


found = {}
for name, source in (("file", "photo.jpg"), ("file with an orientation", "turned.jpg"), ("bytes", as_bytes("photo.jpg"))):
    rows = Dataset.from_dict({"image": [source]}, features=features)
    found[f"map of thumbnail, {name}"] = max(rows.map(small)[0]["image"].size)
opened = Pillow.open("photo.jpg")
opened.thumbnail((64, 64))
assert opened.size == (64, 48)
found["from_dict, thumbnail"] = max(Dataset.from_dict({"image": [opened]}, features=features)[0]["image"].size)
found["from_dict, resize"] = max(Dataset.from_dict({"image": [opened.resize((64, 48))]}, features=features)[0]["image"].size)
opened.save("small.jxl")
found["JPEG XL, thumbnail"] = max(Pillow.open("small.jxl").size)
for name, side in found.items():
    print(f"{name:42} longer side {side}, asked for 64")
rows = Dataset.from_dict({"image": [hidden(Pillow.open("photo.jpg"))]}, features=features)
print("corner that was painted black:", rows[0]["image"].getpixel((5, 5)))
forgotten = {name for name, side in found.items() if side == 640}
assert forgotten == {"map of thumbnail, file", "from_dict, thumbnail", "JPEG XL, thumbnail"}, found
assert all(side == 64 for name, side in found.items() if name not in forgotten), found
assert rows[0]["image"].getpixel((5, 5)) == (255, 255, 255)
print("as described")
PY
