#!/usr/bin/env bash
# imagehash takes different icons on transparent ground for one image, and different 16-bit scans too: their distance is 0.
#
# Guess: the hash is that of what one sees; black drawings on transparent ground differ as the same ones on white do, and the levels of a
# 16-bit image are scaled.
# Seen (imagehash 4.3.2, Pillow 13.0.0): every hash begins with `convert("L")`, which drops alpha and clips 16 bits at 255. Black icons (SVG sets
# exported as PNG, logos, signatures) are then black everywhere, images whose 16-bit levels are all above 255 white everywhere: any two of
# them have the distance 0 in `phash`, `dhash`, `average_hash` and `whash`. Over white, and scaled to 8 bits, they are far apart. No word of it.
# Matters for: removing duplicates by hash from a data set, which leaves one icon, or one scan, of all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imagehash==4.3.2 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import itertools

import imagehash
import numpy as np
from PIL import Image, ImageDraw

shapes = ("ellipse", "rectangle", "line", "triangle")


def drawn(shape, image, ink):
    draw, corners = ImageDraw.Draw(image), (20, 30, 90, 80)
    if shape == "triangle":
        draw.polygon([(20, 100), (60, 10), (110, 90)], fill=ink)
    elif shape == "line":
        draw.line(corners, fill=ink, width=12)
    else:
        getattr(draw, shape)(corners, fill=ink)
    return image


icons = [drawn(shape, Image.new("RGBA", (128, 128), (0, 0, 0, 0)), (0, 0, 0, 255)) for shape in shapes]
small = [drawn(shape, Image.new("L", (128, 128), 230), 60) for shape in shapes]
kinds = {
    "icons on transparent ground": icons,
    "the same over white": [Image.alpha_composite(Image.new("RGBA", icon.size, "white"), icon) for icon in icons],
    "16-bit scans": [Image.fromarray(np.asarray(image).astype(np.uint16) * 257) for image in small],
    "the same in 8 bits": small,
}
for name, images in kinds.items():
    for hash_of in (imagehash.phash, imagehash.dhash, imagehash.average_hash, imagehash.whash):
        far = [int(hash_of(one) - hash_of(two)) for one, two in itertools.combinations(images, 2)]
        print(f"{name:28} {hash_of.__name__:13} distances of different images {far}")
        assert (max(far) == 0) if name in ("icons on transparent ground", "16-bit scans") else max(far) > 4, far
print("as described")
PY
