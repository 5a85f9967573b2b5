"""Model repositories: the layout that the servers read, checked by what their packages offer."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.cli.export import main as export_command
from modeling_omni_vision.interop.export import ExportOptions, export_for_server, load_exported


SEARCH = Path(__file__).parent.parent.parent / "checkpoints" / "omni-vision-search-scenes"


@pytest.fixture
def model(tmp_path, redrawn):
    options = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_labels": 3}
    redrawn(OmniVisionForImageClassification(OmniVisionConfig(**options)).eval()).save_pretrained(tmp_path / "tiny")
    OmniVisionImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(4):
        Image.new("RGB", (20, 20), (60 * index, 90, 200)).save(tmp_path / "images" / f"{index}.png")
    return [str(tmp_path / "images")]


def parsed(file):
    """config.pbtxt as tritonclient's message."""
    text_format = pytest.importorskip("google.protobuf.text_format", reason="protobuf is not installed")
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("tritonclient is not installed")
    # The module alone: its package imports grpc.
    place = Path(next(iter(package.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(file.read_text(), module.ModelConfig())


def needs(format):
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}[
        format
    ]:
        pytest.importorskip(package, reason=f"the extra `{format}` is not installed")


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_triton_reads_the_configuration_and_the_folder_is_an_export_still(tmp_path, model, images, format):
    needs(format)
    export_for_server("triton", model, tmp_path / "models", ExportOptions(format=format), images=images)
    folder = tmp_path / "models" / "tiny"
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["tiny"]
    assert (folder / "1" / ("model.onnx" if format == "onnx" else "model.bin")).is_file()
    assert (folder / "labels.txt").read_text() == "LABEL_0\nLABEL_1\nLABEL_2\n"
    ours = OmniVisionForImageClassification.from_pretrained(model).eval()
    pixels = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(folder)(pixels)["logits"], ours(pixels).logits, atol=1e-4, rtol=0)
    config = parsed(folder / "config.pbtxt")
    assert (config.name, config.backend) == ("tiny", {"onnx": "onnxruntime", "openvino": "openvino"}[format])
    batch = [] if format == "onnx" else [-1]
    assert config.max_batch_size == (64 if format == "onnx" else 0)
    assert config.HasField("dynamic_batching") == (format == "onnx")
    (pixel_values,), (logits,) = config.input, config.output
    assert (pixel_values.name, list(pixel_values.dims)) == ("pixel_values", [*batch, 3, 16, 16])
    assert (logits.name, list(logits.dims), logits.label_filename) == ("logits", [*batch, 3], "labels.txt")


@pytest.mark.slow
def test_a_retrieval_model_is_two_models(tmp_path):
    needs("onnx")
    options = ExportOptions(max_drop=100)
    where = {"dataset": "scenes", "count": 8}
    export_for_server("triton", SEARCH, tmp_path / "models", options, **where)
    text = parsed(tmp_path / "models" / "omni-vision-search-scenes-text_model" / "config.pbtxt")
    assert [(one.name, list(one.dims)) for one in text.input] == [("input_ids", [-1]), ("attention_mask", [-1])]
    vision = tmp_path / "models" / "omni-vision-search-scenes-vision_model"
    assert [one.name for one in parsed(vision / "config.pbtxt").output] == ["image_embeds", "embeddings"]
    assert "image_embeds" in load_exported(vision)(torch.rand(1, 3, 64, 64))


def test_openvino_model_server_has_a_list_of_models_and_version_folders(tmp_path, model, images):
    needs("onnx")
    where = ["--model", str(model), "--output", str(tmp_path / "models"), "--images", *images]
    export_command([*where, "--server", "ovms"])
    listed = json.loads((tmp_path / "models" / "config.json").read_text())
    assert listed == {"model_config_list": [{"config": {"name": "tiny", "base_path": "tiny"}}]}
    assert (tmp_path / "models" / "tiny" / "1" / "model.onnx").is_file()
    assert not (tmp_path / "models" / "tiny" / "config.pbtxt").exists()


@pytest.mark.parametrize(
    ("server", "format", "sentence"),
    [
        ("tfserving", "onnx", "ovms or triton"),
        ("triton", "torch", "onnx or openvino"),
        ("ovms", "web", "onnx or openvino"),
    ],
)
def test_servers_and_formats_that_do_not_fit_are_refused(tmp_path, server, format, sentence):
    with pytest.raises(ValueError, match=sentence):
        export_for_server(server, tmp_path / "tiny", tmp_path / "models", ExportOptions(format=format))


def test_a_name_that_no_server_takes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'my model'"):
        export_for_server("triton", tmp_path / "my model", tmp_path / "models")
