#!/usr/bin/env bash
# `encode("photo.jfif")` of a model of images and texts in sentence-transformers embeds the letters of the path, not the photo: so for `.tif`,
# `.avif`, `.jp2` too, which Pillow opens, and for a file that is not there.
#
# Guess: where a string may be a path, the file decides: what Pillow opens is an image, or else there is an error or at least a warning.
# Seen (sentence-transformers 6.2.0, transformers 5.23.0, Pillow 13.0.0, torch 2.13.0): a string is an image if it ends in one of seven suffixes
# and names a file. The same JPEG as `a.jpg` and as `a.jfif` gives an image's vector and a text's; `a.tiff` is an image, `a.tif` a text. Nothing is
# said, and the vector looks like any other. A list of both kinds raises an error, which names no file; a list of one kind passes.
# `{"image": "a.jfif"}` always reads the file, and names one that is missing.
# Matters for: collections with other suffixes than `.jpg` and `.png`, or with paths that are relative to another folder: their rows in an index are
# texts. Give PIL images or `{"image": path}`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python - <<'PY' 2>warnings.txt || { cat warnings.txt; exit 1; }
import json
import warnings
from pathlib import Path

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer, util
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

torch.manual_seed(0)
letters = [chr(one) for one in range(33, 127)]
tokens = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
Path("vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
Path("merges.txt").write_text("#version: 0.2\n")
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ends = {"vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
vision = {**size, "image_size": 32, "patch_size": 8}
CLIPModel(CLIPConfig(text_config={**size, **ends}, vision_config=vision, projection_dim=16)).save_pretrained("clip")
images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
CLIPProcessor(images, CLIPTokenizer("vocab.json", "merges.txt", model_max_length=77)).save_pretrained("clip")
model = SentenceTransformer("clip")

image = Image.radial_gradient("L").convert("RGB")
expected, found = model.encode([image]), {}
formats = {"jpg": "JPEG", "jfif": "JPEG", "tiff": "TIFF", "tif": "TIFF", "png": "PNG", "avif": "AVIF", "jp2": "JPEG2000"}
for suffix, kind in formats.items():
    image.save(f"a.{suffix}", format=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = util.cos_sim(model.encode([f"a.{suffix}"]), expected).item()
        named = util.cos_sim(model.encode([{"image": f"a.{suffix}"}]), expected).item()
    found[suffix] = plain
    print(f"a.{suffix:5} cosine with the vector of the image: {plain:5.2f} as a string, {named:.2f} as an image by name")
    assert named > 0.98, named
missing = util.cos_sim(model.encode(["missing.jpg"]), expected).item()
print(f"missing.jpg cosine {missing:.2f} as a string")
assert min(found[one] for one in ("jpg", "tiff", "png")) > 0.98
assert max(missing, *(found[one] for one in ("jfif", "tif", "avif", "jp2"))) < 0.9
for batch, name in ((["a.jpg", "a.jfif"], None), ([{"image": "missing.jpg"}], "missing.jpg")):
    try:
        model.encode(batch)
    except ValueError as error:
        print(f"{batch}: {str(error)[:120]}")
        assert name in str(error) if name else "jfif" not in str(error)
    else:
        raise AssertionError(batch)
print("as described")
PY
