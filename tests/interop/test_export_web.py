"""The static page as files: what is in it, what is refused, and where its JavaScript comes from."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionImageProcessor,
    OmniVisionModel,
)
from modeling_omni_vision.cli.export import main as export_command
from modeling_omni_vision.interop.export import ExportedModel, ExportOptions, export_web, vendor, web


OURS = ("index.html", "page.js", "page.css", "preprocess.js", "sw.js")


@pytest.fixture(autouse=True)
def _runtime(request):
    if "without_runtime" not in request.fixturenames:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra `onnx` is not installed")


@pytest.fixture
def without_runtime():
    """For tests of what comes before a graph is made."""


@pytest.fixture(scope="module")
def stand_in():
    """Bytes in place of the packages of npm."""
    names = [name for package in vendor.PACKAGES for name in package.files.values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "vendored", lambda folder: {name: name.encode() for name in names})
        yield


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, redrawn, stand_in):
    """A checkpoint, and what `export_web` says of its page."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    place = tmp_path_factory.mktemp("classifier")
    folder, images = save(place / "a <model> & more", redrawn), images_in(place / "images")
    options = ExportOptions(max_drop=100)
    return folder, export_web(folder, place / "page", options, images=[str(images)])


def save(folder, redrawn, model_class=OmniVisionForImageClassification, **fields):
    options = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_labels": 4}
    config = OmniVisionConfig(**options | fields)
    redrawn(model_class(config).eval()).save_pretrained(folder)
    channels = {"num_channels": config.num_channels} if config.num_channels != 3 else {}
    if config.num_channels == 4:
        channels |= {"image_mean": [0.5] * 4, "image_std": [0.5] * 4}
    size = dict(zip(("height", "width"), config.image_size_hw, strict=True))
    OmniVisionImageProcessor(size=size, **channels).save_pretrained(folder)
    return folder


def images_in(folder, count=24):
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(count):
        low = draw.integers(0, 200, 3)
        Image.fromarray(draw.integers(low, low + 55, (20 + index, 30, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    return folder


def read_page(folder):
    return json.loads((folder / "page.json").read_text())


def test_a_page_names_its_files_relative_to_itself_and_asks_no_other_host(classifier):
    found = classifier[1]
    about = read_page(found.folder)
    assert about["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    assert [one["dtype"] for one in about["models"]] == ["q8", "fp32"]
    assert len(about["examples"]) == 12
    assert all((found.folder / name).is_file() for name in about["files"])
    assert not [name for name in about["files"] if "webgpu" in name or name.endswith("/model.onnx")]
    for name in OURS:
        assert not re.search(r"https?://|[\"'(]/(?!/)\w", (found.folder / name).read_text()), name
    assert found.downloaded == sum(found.download.values()) > 0


def test_the_policy_allows_this_import_map_and_no_other_script(classifier):
    page = classifier[1].folder
    html = (page / "index.html").read_text()
    importmap = re.search(r'<script type="importmap">(.*?)</script>', html)[1]
    digest = base64.b64encode(hashlib.sha256(importmap.encode()).digest()).decode()
    assert f"script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert "<h1>a &lt;model&gt; &amp; more</h1>" in html
    targets = [*json.loads(importmap)["imports"].values(), *json.loads(importmap)["scopes"].popitem()[1].values()]
    assert all((page / target).is_file() for target in targets)


def test_attention_of_the_graph_is_that_of_the_class_token_in_our_model(classifier):
    check_outputs(classifier[0], classifier[1].folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"num_channels": 1, "pooling": "mean"}, {"num_register_tokens": 2}, {"image_size": (16, 32)}]
)
def test_attention_is_found_in_every_kind_of_twin(tmp_path, redrawn, stand_in, fields):
    folder = save(tmp_path / "model", redrawn, **fields)
    check_outputs(folder, export_web(folder, tmp_path / "page", ExportOptions(quantize="none")).folder)


def check_outputs(folder, page):
    model = OmniVisionForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    record = json.loads((page / "model" / "export.json").read_text())
    float_only = ExportedModel(page / "model", record | {"quantize": None}, model.config, None)
    pixels = torch.randn(2, model.config.num_channels, *model.config.image_size_hw)
    with torch.inference_mode():
        ours = model(pixels, output_attentions=True)
        theirs = float_only(pixels.expand(2, 3, -1, -1))
    rows, columns = read_page(page)["grid"]
    maps = torch.stack([one[:, :, 0, -rows * columns :] for one in ours.attentions], 1)
    torch.testing.assert_close(theirs["attention"], maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs["logits"], ours.logits, atol=1e-4, rtol=0)


def test_an_encoder_without_images_has_a_small_index_of_drawn_scenes(tmp_path, redrawn, stand_in):
    folder = save(tmp_path / "model", redrawn, OmniVisionModel)
    page = export_web(folder, tmp_path / "drawn", ExportOptions(max_drop=100)).folder
    index = read_page(page)["index"]
    assert (page / index["images"][99]["file"]).is_file()
    assert len(index["images"][0]["label"].split()) >= 2  # colour and shape
    vectors = np.frombuffer((page / index["vectors"]["fp32"]).read_bytes(), "<f4").reshape(100, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_cache_has_another_name_when_anything_changes(tmp_path):
    names = []
    for content in ("one", "two", "two"):
        page = tmp_path / str(len(names))
        (page / "model").mkdir(parents=True)
        (page / "model" / "config.json").write_text(content)
        web.write_service_worker(page, 'a "page"')
        names.append(re.search(r"CACHE = (\".*\");", (page / "sw.js").read_text())[1])
    assert json.loads(names[0]).startswith('a "page"-')
    assert names[0] != names[1] == names[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantize": "int8"}, "int8 is calibrated on images"),
        ({"batch_size": 2}, "leave out --batch_size"),
        ({"dynamic_size": True}, "leave out --batch_size"),
        ({"uint8": True}, "leave out --batch_size"),
        ({"outputs": "vector"}, "reads tokens: leave out --outputs, got 'vector'"),
        ({"precision": "bfloat16"}, "is for the format openvino"),
    ],
)
def test_options_that_a_page_has_no_place_for_are_refused(tmp_path, without_runtime, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        export_web(tmp_path, tmp_path / "page", ExportOptions(**options))
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"problem_type": "regression"}, "regression"), ({"num_channels": 4}, "1 or 3 channels")],
)
def test_a_model_that_a_page_cannot_show_is_refused(tmp_path, redrawn, without_runtime, fields, sentence):
    folder = save(tmp_path / "model", redrawn, **fields)
    with pytest.raises(ValueError, match=sentence):
        export_web(folder, tmp_path / "page")


def test_packages_come_from_a_folder_or_from_npm_and_are_those_expected(tmp_path, monkeypatch, without_runtime):
    with pytest.raises(ValueError, match=r"Expected huggingface-transformers-4\.3\.2\.tgz in --vendor"):
        vendor.vendored(tmp_path)
    (tmp_path / vendor.TRANSFORMERS_JS.archive).write_bytes(b"something else")
    with pytest.raises(ValueError, match="digest"):
        vendor.vendored(tmp_path)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(ValueError, match=r"Expected npm on the path.*--vendor FOLDER"):
        vendor.vendored()
    (bin_folder / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    (bin_folder / "npm").chmod(0o755)
    with pytest.raises(ValueError, match=r"npm error code ENOTFOUND.*--vendor FOLDER"):
        vendor.vendored()


def test_vendor_belongs_to_a_page(tmp_path, without_runtime):
    with pytest.raises(ValueError, match="--vendor is for --format web"):
        export_command(["--model", str(tmp_path), "--output", str(tmp_path / "o"), "--vendor", str(tmp_path)])
