"""preprocess.mjs, run by node without any package: the same pixels as our processors', to the bit where opaque."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image

from modeling_omni_vision import OmniVisionImageProcessorPil
from modeling_omni_vision.interop import convert_to_native


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


# --- transformers.js itself, where `make transformers-js` has fetched it ---

TRANSFORMERS_JS = Path(__file__).parent.parent.parent / ".cache" / "transformers-js" / "node_modules"
TRANSFORMERS_JS /= "@huggingface/transformers/dist/transformers.node.mjs"
CLASSIFY = """
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, basename } from "node:path";
const [library, module, folder, images] = process.argv.slice(1);
const { AutoModelForImageClassification, RawImage, Tensor, env, pipeline } = await import(library);
const { pixelValues } = await import(module);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const options = { dtype: "fp32" };
const model = await AutoModelForImageClassification.from_pretrained(basename(folder), options);
const classify = await pipeline("image-classification", basename(folder), options);
const settings = JSON.parse(readFileSync(`${folder}/preprocessor_config.json`));
const found = [];
for (const [index, { width, height, channels }] of JSON.parse(readFileSync(`${images}/images.json`)).entries()) {
  const bytes = new Uint8Array(readFileSync(`${images}/${index}.in`));
  const { data, dims } = pixelValues({ data: bytes, width, height, channels }, settings);
  const { logits } = await model({ pixel_values: new Tensor("float32", data, dims) });
  // Its own processor refuses grey with alpha.
  const scores = channels === 2 ? [] : await classify(new RawImage(bytes, width, height, channels), { top_k: null });
  found.push({ logits: [...logits.data], scores });
}
writeFileSync(`${images}/found.json`, JSON.stringify(found));
"""


def in_transformers_js(twin, images, folder):
    """Logits from the pixels of preprocess.mjs, and scores of the pipeline with its own pixels, of each image."""
    folder.mkdir()
    for index, image in enumerate(images):
        (folder / f"{index}.in").write_bytes(image.tobytes())
    described = [{"width": one.width, "height": one.height, "channels": len(one.getbands())} for one in images]
    (folder / "images.json").write_text(json.dumps(described))
    module = twin / "preprocess.mjs"
    command = [NODE, "--input-type=module", "-e", CLASSIFY, *map(str, (TRANSFORMERS_JS, module, twin, folder))]
    # Without a network: what is not in the folder is an error.
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    names = {name: int(number) for number, name in json.loads((twin / "config.json").read_text())["id2label"].items()}
    logits = torch.tensor([one["logits"] for one in found])
    scores = torch.zeros_like(logits)
    for row, one in zip(scores, found, strict=True):
        for entry in one["scores"]:
            row[names[entry["label"]]] = entry["score"]
    return logits, scores


@pytest.mark.slow
@needs_pillow_13
@pytest.mark.skipif(not TRANSFORMERS_JS.is_file(), reason="`make transformers-js` has not been run")
def test_transformers_js_opens_the_twin_offline_and_gives_its_logits_on_twenty_images(tmp_path, tiny_classifier):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    from modeling_omni_vision.interop.export import export_model

    images = [drawn(*image, seed) for seed, image in enumerate(IMAGES)]
    tiny_classifier.save_pretrained(tmp_path / "model")
    processor = OmniVisionImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "model")
    convert_to_native(tmp_path / "model", tmp_path / "twin")
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(images):
        image.save(tmp_path / "photos" / f"{index}.png")
    export_model(tmp_path / "twin", tmp_path / "web", images=[str(tmp_path / "photos")])
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "twin").eval()
    with torch.inference_mode():
        expected = model(processor(images, return_tensors="pt")["pixel_values"]).logits
    logits, _ = in_transformers_js(tmp_path / "web", images, tmp_path / "any")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    # Of the native size its own processor has nothing to resize, and its pixels are ours.
    native = [drawn(32, 32, ("RGB", "L")[seed % 2], seed) for seed in range(20)]
    with torch.inference_mode():
        expected = model(processor(native, return_tensors="pt")["pixel_values"]).logits
    logits, scores = in_transformers_js(tmp_path / "web", native, tmp_path / "native")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, expected.softmax(-1), atol=1e-5, rtol=0)
