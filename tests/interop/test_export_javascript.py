"""preprocess.mjs, run by node without any package: the same pixels as our processors', to the bit where opaque."""

import json
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import PIL
import pytest
import torch
from packaging.version import Version
from PIL import Image

from modeling_omni_vision import OmniVisionImageProcessorPil


NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
MODULE = files("modeling_omni_vision") / "interop" / "javascript" / "preprocess.mjs"
RUN = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, folder] = process.argv.slice(1);
const { pixelValues, prepared } = await import(module);
for (const [index, { config, ...image }] of JSON.parse(readFileSync(`${folder}/images.json`)).entries()) {
  const given = { ...image, data: new Uint8Array(readFileSync(`${folder}/${index}.in`)) };
  writeFileSync(`${folder}/${index}.bytes`, prepared(given, config).data);
  writeFileSync(`${folder}/${index}.values`, pixelValues(given, config).data);
}
"""
# Width, height, mode: shrunk, enlarged, not square, one side unchanged, one pixel, as is.
IMAGES = [
    *[(width, height, mode) for width, height in ((97, 61), (32, 48), (20, 15), (300, 32)) for mode in ("RGB", "L")],
    *[(width, height, mode) for width, height in ((97, 61), (33, 200), (7, 9)) for mode in ("RGBA", "LA")],
    (1, 1, "RGB"),
    (32, 32, "RGB"),
    (1000, 3, "RGB"),
    (640, 480, "RGB"),
    (224, 225, "RGBA"),
    (31, 33, "L"),
]


# Earlier ones always shrink the width first.
needs_pillow_13 = pytest.mark.skipif(Version(PIL.__version__) < Version("13"), reason="Pillow 13 changed the order")


def drawn(width, height, mode, seed):
    bands = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(bands.squeeze(-1) if len(mode) == 1 else bands, mode)


def through_node(tmp_path, images, configs):
    """Bytes (height, width, channels) and values (channels, height, width) of each image."""
    for index, image in enumerate(images):
        (tmp_path / f"{index}.in").write_bytes(image.tobytes())
    described = [
        {"width": image.width, "height": image.height, "channels": len(image.getbands()), "config": config}
        for image, config in zip(images, configs, strict=True)
    ]
    (tmp_path / "images.json").write_text(json.dumps(described))
    subprocess.run([NODE, "--input-type=module", "-e", RUN, str(MODULE), str(tmp_path)], check=True)
    found = []
    for index in range(len(images)):
        values = np.frombuffer((tmp_path / f"{index}.values").read_bytes(), np.float32)
        found.append((np.frombuffer((tmp_path / f"{index}.bytes").read_bytes(), np.uint8), values))
    return found


@needs_pillow_13
@pytest.mark.parametrize("resample", [2, 3, 1])
@pytest.mark.parametrize("num_channels", [3, 1])
def test_twenty_images_of_any_mode_have_the_bytes_of_the_processor(tmp_path, resample, num_channels):
    images = [drawn(*image, seed) for seed, image in enumerate(IMAGES)]
    assert len(images) == 20
    processor = OmniVisionImageProcessorPil(
        size={"height": 32, "width": 24}, resample=resample, num_channels=num_channels
    )
    raw = processor(images, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    values = processor(images, return_tensors="np")["pixel_values"]
    found = through_node(tmp_path, images, [processor.to_dict()] * len(images))
    for (got_bytes, got_values), expected, normalised in zip(found, raw, values, strict=True):
        assert np.array_equal(got_bytes.reshape(32, 24, num_channels), np.moveaxis(expected, 0, -1))
        # The last bit of a float: NumPy multiplies in another order.
        np.testing.assert_allclose(got_values.reshape(normalised.shape), normalised, atol=1e-6, rtol=0)


def test_logits_of_twenty_images_are_those_of_the_processor(tmp_path, tiny_classifier):
    images = [drawn(*image, seed) for seed, image in enumerate(IMAGES)]
    processor = OmniVisionImageProcessorPil(size={"height": 32, "width": 32})
    found = through_node(tmp_path, images, [processor.to_dict()] * len(images))
    pixels = torch.stack([torch.tensor(values).reshape(3, 32, 32) for _, values in found])
    with torch.inference_mode():
        ours = tiny_classifier(processor(images, return_tensors="pt")["pixel_values"]).logits
        torch.testing.assert_close(tiny_classifier(pixels).logits, ours, atol=1e-4, rtol=0)


@needs_pillow_13
def test_both_orders_of_the_passes_are_those_of_pillow(tmp_path):
    sizes = [(100, 150), (100, 151), (100, 49), (100, 50), (50, 51), (40, 52), (20, 300)]
    images = [drawn(width, height, "RGB", width) for width, height in sizes]
    config = {"size": {"height": 50, "width": 50}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    for (got, _), image in zip(through_node(tmp_path, images, [config] * len(images)), images, strict=True):
        expected = np.asarray(image.resize((50, 50), Image.Resampling.BILINEAR))
        assert np.array_equal(got.reshape(50, 50, 3), expected)


def test_shortest_edge_and_centre_crop_are_those_of_stock_processors(tmp_path):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 30})
    images = [drawn(width, height, "RGB", width) for width, height in ((97, 61), (61, 98), (20, 15), (40, 40))]
    raw = processor(images, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    found = through_node(tmp_path, images, [processor.to_dict()] * len(images))
    for (got, _), expected in zip(found, raw, strict=True):
        assert np.array_equal(got.reshape(32, 30, 3), np.moveaxis(expected, 0, -1))


def test_what_is_no_image_of_bytes_is_refused(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        through_node(tmp_path, [Image.new("CMYK", (4, 4)).convert("I")], [{"size": {"height": 2, "width": 2}}])
