import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from modeling_omni_vision import (
    OmniVisionForImageClassification,
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    OmniVisionModel,
)
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop import convert_to_native, convert_to_vit


# Same operations in the same order but for the last norm: measured 4.8e-7 on outputs up to 4.
EXACT = 1e-5

# Run where our package cannot be imported and no remote code is trusted.
WITHOUT_PACKAGE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_omni_vision", "scripts"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

classifier_folder, encoder_folder, given, result = sys.argv[1:]
given = np.load(given)
pixels = torch.from_numpy(given["pixels"])
classifier, report = AutoModelForImageClassification.from_pretrained(classifier_folder, output_loading_info=True)
assert not any(report.values()), report
encoder, report = AutoModel.from_pretrained(encoder_folder, output_loading_info=True)
assert not any(report.values()), report
images = [Image.fromarray(given["rgb"]), Image.fromarray(given["grey"])]
found = {}
with torch.inference_mode():
    found["logits"] = classifier(pixels).logits.numpy()
    output = encoder(pixels)
    found["tokens"], found["pooled"] = output.last_hidden_state.numpy(), output.pooler_output.numpy()
    # Twice the native size: positions are interpolated by both in the same way.
    large = torch.nn.functional.interpolate(pixels, scale_factor=2.0)
    found["large"] = classifier(large, interpolate_pos_encoding=True).logits.numpy()
    body, _ = AutoModel.from_pretrained(classifier_folder, add_pooling_layer=False, output_loading_info=True)
    found["body"] = body(pixels).last_hidden_state.numpy()
for backend in ("torchvision", "pil"):
    processor = AutoImageProcessor.from_pretrained(classifier_folder, backend=backend)
    found[backend] = processor(images, return_tensors="np")["pixel_values"]
    found[backend + "_name"] = type(processor).__name__
found["classes"] = [type(classifier).__name__, type(encoder).__name__, classifier.config.id2label[2]]
np.savez(result, **found)
"""


@pytest.fixture(scope="module")
def twins(tmp_path_factory, module_config, redrawn):
    folder = tmp_path_factory.mktemp("twins")
    torch.manual_seed(0)
    classifier = redrawn(OmniVisionForImageClassification(module_config)).eval()
    encoder = redrawn(OmniVisionModel(module_config)).eval()
    classifier.save_pretrained(folder / "ours")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(
        folder / "ours"
    )
    encoder.save_pretrained(folder / "encoder")
    reports = [
        convert_to_vit(folder / "ours", folder / "classifier-twin"),
        convert_to_vit(folder / "encoder", folder / "encoder-twin"),
    ]
    draw = np.random.default_rng(0)
    given = {
        "pixels": draw.normal(size=(64, 3, 32, 32)).astype(np.float32),
        "rgb": draw.integers(0, 256, (50, 70, 3), dtype=np.uint8),
        "grey": draw.integers(0, 256, (41, 30), dtype=np.uint8),
    }
    np.savez(folder / "given.npz", **given)
    arguments = [folder / name for name in ("classifier-twin", "encoder-twin", "given.npz", "found.npz")]
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(folder / "home")}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = dict(np.load(folder / "found.npz"))
    return {
        "folder": folder,
        "classifier": classifier,
        "encoder": encoder,
        "given": given,
        "found": found,
        "reports": reports,
    }


@pytest.fixture(scope="module")
def module_config():
    from modeling_omni_vision import OmniVisionConfig

    names = ["cat", "dog", "a b, c"]
    return OmniVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="single_label_classification",
    )


def test_plain_transformers_opens_the_twin_without_our_package_and_without_remote_code(twins):
    assert list(twins["found"]["classes"]) == ["ViTForImageClassification", "ViTModel", "a b, c"]
    files = [path for name in ("classifier-twin", "encoder-twin") for path in (twins["folder"] / name).iterdir()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".mjs"}
    for file in (twins["folder"] / "classifier-twin").glob("*.json"):
        assert "auto_map" not in file.read_text()
        assert "omni" not in file.read_text().lower()


def test_the_twin_gives_our_logits_and_our_classes(twins):
    pixels = torch.from_numpy(twins["given"]["pixels"])
    with torch.inference_mode():
        ours = twins["classifier"](pixels).logits.numpy()
    assert np.abs(ours - twins["found"]["logits"]).max() <= EXACT
    assert (ours.argmax(-1) == twins["found"]["logits"].argmax(-1)).all()
    assert ours.std() > 0.01, "a constant model would be equal to anything"


def test_the_twin_of_an_encoder_gives_our_tokens_and_our_cls_as_pooler_output(twins):
    with torch.inference_mode():
        ours = twins["encoder"](torch.from_numpy(twins["given"]["pixels"]))
    assert np.abs(ours.last_hidden_state.numpy() - twins["found"]["tokens"]).max() <= EXACT
    assert np.abs(ours.pooler_output.numpy() - twins["found"]["pooled"]).max() <= EXACT


def test_the_twin_gives_our_logits_on_larger_images_too(twins):
    large = torch.nn.functional.interpolate(torch.from_numpy(twins["given"]["pixels"]), scale_factor=2.0)
    with torch.inference_mode():
        ours = twins["classifier"](large).logits.numpy()
    assert np.abs(ours - twins["found"]["large"]).max() <= EXACT


def test_auto_model_reads_the_body_of_a_twin_classifier(twins):
    with torch.inference_mode():
        ours = twins["classifier"].omni_vision(torch.from_numpy(twins["given"]["pixels"])).last_hidden_state
    assert np.abs(ours.numpy() - twins["found"]["body"]).max() <= EXACT


@pytest.mark.parametrize(
    ("backend", "ours", "stock"),
    [
        ("torchvision", OmniVisionImageProcessor, "ViTImageProcessor"),
        ("pil", OmniVisionImageProcessorPil, "ViTImageProcessorPil"),
    ],
)
def test_stock_image_processors_give_our_pixels_on_rgb_and_grey_images(twins, backend, ours, stock):
    processor = ours.from_pretrained(twins["folder"] / "ours")
    images = [Image.fromarray(twins["given"][name]) for name in ("rgb", "grey")]
    expected = processor(images, return_tensors="np")["pixel_values"]
    assert str(twins["found"][backend + "_name"]) == stock
    # The same resize on the same bytes; normalisation rounds alike or in the last bit.
    assert np.abs(expected - twins["found"][backend]).max() < 1e-6


def test_what_the_model_knows_of_its_task_is_kept(twins):
    written = json.loads((twins["folder"] / "classifier-twin" / "config.json").read_text())
    assert written["id2label"] == {"0": "cat", "1": "dog", "2": "a b, c"}
    assert written["label2id"] == {"cat": 0, "dog": 1, "a b, c": 2}
    assert written["problem_type"] == "single_label_classification"
    assert written["model_type"] == "vit"
    assert written["image_size"] == 32
    assert written["dtype"] == "float32"


def test_the_report_gives_the_measured_difference(twins):
    classifier, encoder = twins["reports"]
    assert 0 <= classifier.difference <= EXACT
    assert classifier.has_processor
    assert (classifier.architecture, encoder.architecture) == ("ViTForImageClassification", "ViTModel")
    assert not encoder.has_processor


@pytest.mark.parametrize(
    "change",
    [
        {"block_norm": "rms_norm"},
        {"image_size": (32, 16), "patch_size": (8, 4)},
        {"num_channels": 5},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
        {"num_attention_heads": 4, "drop_path_rate": 0.2},
    ],
    ids=str,
)
def test_every_option_that_a_stock_vit_has_is_carried_over_exactly(tiny_config, tmp_path, change, redrawn):
    config = type(tiny_config).from_dict({**tiny_config.to_dict(), **change})
    model = redrawn(OmniVisionForImageClassification(config)).eval()
    model.save_pretrained(tmp_path / "ours")
    convert_to_vit(tmp_path / "ours", tmp_path / "twin")
    twin = ViTForImageClassification.from_pretrained(tmp_path / "twin")
    pixels = torch.randn(4, config.num_channels, *config.image_size_hw)
    with torch.inference_mode():
        assert (model(pixels).logits - twin(pixels).logits).abs().max() <= EXACT


@pytest.mark.parametrize(
    "change", [{}, {"pooling": "mean"}, {"num_register_tokens": 2, "pooling": "cls_mean"}], ids=str
)
def test_the_twin_of_a_grey_model_takes_images_of_every_kind_and_sees_their_grey(
    tiny_config, tmp_path, change, redrawn
):
    config = type(tiny_config).from_dict({**tiny_config.to_dict(), "num_channels": 1, **change})
    model = redrawn(OmniVisionForImageClassification(config)).eval()
    model.save_pretrained(tmp_path / "ours")
    ours = OmniVisionImageProcessor(size={"height": 32, "width": 32}, num_channels=1)
    ours.save_pretrained(tmp_path / "ours")
    convert_to_native(tmp_path / "ours", tmp_path / "twin")
    twin = AutoModelForImageClassification.from_pretrained(tmp_path / "twin").eval()
    draw = np.random.default_rng(0)
    grey = Image.fromarray(draw.integers(0, 256, (40, 30), dtype=np.uint8))
    colour = Image.fromarray(draw.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    # A palette in another order than the levels of grey: its indices are none.
    palette = grey.quantize(8)
    for backend in ("torchvision", "pil"):
        stock = AutoImageProcessor.from_pretrained(tmp_path / "twin", backend=backend)
        for image, levels in ((grey, 0), (palette.convert("L").convert("P"), 0), (palette, 1), (colour, 2)):
            pixels = {
                name: one(image, return_tensors="pt")["pixel_values"] for name, one in (("ours", ours), ("t", stock))
            }
            assert pixels["t"].shape == (1, 3, 32, 32)
            luma = torch.tensor([19595, 38470, 7471]) / 65536
            # Ours rounds grey levels before the resize, the twin colours: a level each, on plain grey none.
            distance = (torch.einsum("bchw,c->bhw", pixels["t"], luma) - pixels["ours"][:, 0]).abs().max()
            assert distance <= levels / 255 / 0.226 + (1e-5 if backend == "torchvision" else 1.01 / 255 / 0.226)
            with torch.inference_mode():
                seen = torch.einsum("bchw,c->bhw", pixels["t"], luma)[:, None]
                assert (model(seen).logits - twin(pixels["t"]).logits).abs().max() <= EXACT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_register_tokens": 2}, "num_register_tokens"),
        ({"pooling": "mean"}, "pooling"),
        ({"pooling": "cls_mean"}, "cls_mean"),
    ],
)
def test_an_option_without_a_place_in_a_stock_vit_is_refused_by_name_with_the_target_that_works(
    tiny_config, tmp_path, change, named
):
    config = type(tiny_config).from_dict({**tiny_config.to_dict(), **change})
    OmniVisionForImageClassification(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=rf"{named}.*--target native"):
        convert_to_vit(tmp_path / "ours", tmp_path / "twin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_weights_that_are_not_centred_are_refused_with_the_difference_that_the_twin_would_have(
    tiny_classifier, tmp_path
):
    with torch.no_grad():
        tiny_classifier.omni_vision.layers[1].mlp.fc2.bias.add_(0.25)
    tiny_classifier.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"mean of up to 2\.5e-01.*differ by up to .*center_residual_") as refused:
        convert_to_vit(tmp_path / "ours", tmp_path / "twin")
    measured = float(str(refused.value).split("would differ by up to ")[1].split()[0])
    # What RMSNorm keeps and LayerNorm takes away: a mean of 0.25 over tokens of the order of 0.1.
    assert 0.1 < measured < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_weights_that_are_not_numbers_are_refused(tiny_classifier, tmp_path):
    with torch.no_grad():
        tiny_classifier.classifier.bias[0] = float("nan")
    tiny_classifier.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="differ by up to nan"):
        convert_to_vit(tmp_path / "ours", tmp_path / "twin")


def test_a_checkpoint_with_a_missing_weight_is_not_filled_up_with_random_ones(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_model.save_pretrained(tmp_path / "ours")
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    del weights["layers.0.mlp.fc1.bias"]
    save_file(weights, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.fc1\.bias"):
        convert_to_vit(tmp_path / "ours", tmp_path / "twin")


def test_the_checkpoint_of_another_model_is_refused_by_its_type(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert'"):
        convert_to_vit(tmp_path, tmp_path / "twin")
    with pytest.raises(ValueError, match=r"config\.json"):
        convert_to_vit(tmp_path / "nowhere", tmp_path / "twin")


def test_the_script_says_what_it_made(tiny_classifier, tmp_path, capsys):
    tiny_classifier.save_pretrained(tmp_path / "ours")
    main(["--target", "vit", "--model", str(tmp_path / "ours"), "--output", str(tmp_path / "twin")])
    printed = capsys.readouterr().out
    assert printed.startswith("OK")
    assert "stock ViTForImageClassification" in printed
    assert "no image processor" in printed


@pytest.mark.parametrize("wrong", [[], ["--source", "muomni", "--target", "vit"]], ids=str)
def test_the_script_wants_exactly_one_known_source_or_target(wrong, tmp_path):
    with pytest.raises(ValueError, match="Exactly one"):
        main([*wrong, "--model", "x", "--output", str(tmp_path / "y")])


def test_a_target_that_does_not_exist_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--target", "onnx", "--model", "x", "--output", str(tmp_path / "y")])
    assert ended.value.code == 2
    assert "--target must be one of native, vit, got 'onnx'" in capsys.readouterr().err
