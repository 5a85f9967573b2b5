"""`omni-vision convert --source`: both models run in a clean process; a folder appears that is equal, or none."""

import json
import sys

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, CLIPImageProcessor, ViTConfig, ViTImageProcessor

from modeling_omni_vision import OmniVisionImageProcessor, OmniVisionImageProcessorPil
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop.clean_comparison import fixed_images
from modeling_omni_vision.interop.from_source import convert_from_source, origin_of
from modeling_omni_vision.interop.source_processor import from_open_clip, from_timm, from_transformers


SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
README = """---
license: mit
---
# A model

```bibtex
@article{someone2026,
  title={A model}
}
```
"""


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def vit(tmp_path):
    folder = tmp_path / "vit"
    config = ViTConfig(**SMALL, intermediate_size=64, num_labels=3)
    perturbed(transformers.ViTForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "README.md").write_text(README)
    return folder


def test_the_command_writes_a_folder_that_opens_without_our_package_and_says_where_it_is_from(
    vit, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # the process that compares has another current directory
    main(["--source", "auto", "--model", vit.name, "--output", "ours"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("OK: ours is an OmniVisionForImageClassification with")
    assert printed[1].startswith("Largest difference to transformers by image size: 32x32 ")
    assert printed[2] == "Largest difference of pixels on twenty images: 0.00 of 255 levels"
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "features_omni_vision.py",
        "masked_omni_vision.py",
    }
    conversion = json.loads((tmp_path / "ours" / "metrics.json").read_text())["conversion"]
    assert (conversion["source"], conversion["license"], conversion["library"]) == ("vit", "mit", "transformers")
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "license: mit" in card
    assert "@article{someone2026," in card


@pytest.mark.slow
def test_a_folder_that_computes_something_else_is_never_left(vit, tmp_path, monkeypatch):
    from modeling_omni_vision.interop import from_source

    weights = load_file(vit / "model.safetensors")
    read = from_source.read_source

    def wrong(*args, **kwargs):
        converted = read(*args, **kwargs)
        converted.config.hidden_act = "gelu_pytorch_tanh"
        return converted

    monkeypatch.setattr(from_source, "read_source", wrong)
    with pytest.raises(ValueError, match=r"same within 1e-05, got differences at 32x32 pixels: .*Nothing was written"):
        convert_from_source(vit, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit"]
    assert load_file(vit / "model.safetensors").keys() == weights.keys()


def pixels(levels):
    both = {"torchvision": levels, "pil": levels}
    return {"backend": "torchvision", "grey_levels": both, "strayed": {"torchvision": 0.0, "pil": 0.0}}


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"differences": [1e-7, 2e-5]}, r"differences at 16x16 pixels: 2\.0e-05"),
        ({"differences": [float("nan"), 0.0]}, r"differences at 32x32 pixels: nan"),
        ({"ids_equal": False}, "other token ids"),
        ({"pixels": pixels(3.0)}, r"within 0\.01 grey levels, got 3\.00\. .*copy without preprocessor_config"),
        ({"pixels": pixels(float("inf"))}, "got images of another shape"),
    ],
)
def test_every_difference_is_refused_and_named(vit, tmp_path, monkeypatch, answer, named):
    from modeling_omni_vision.interop import from_source

    def compared(request):
        request["sizes"] = [(32, 32), (16, 16)]
        return {"differences": [0.0, 0.0], "ids_equal": True, "pixels": pixels(0.0), **answer}

    monkeypatch.setattr(from_source, "run_comparison", compared)
    with pytest.raises(ValueError, match=named):
        convert_from_source(vit, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit"]


def test_a_mistake_is_one_line_and_leaves_nothing(vit, tmp_path, monkeypatch, capsys):
    weights = load_file(vit / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layernorm.bias" not in name}, vit / "model.safetensors"
    )
    command = ["convert", "--source", "auto", "--model", str(vit), "--output", str(tmp_path / "ours")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert "missing: layernorm.bias" in printed[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit"]


@pytest.mark.slow
def test_timms_folder_is_converted_by_the_command_too(tmp_path, capsys):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    model = perturbed(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3))
    save_for_hf(model, tmp_path / "theirs", safe_serialization=True)
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    assert "Largest difference to timm by image size" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["test_vit", "test_vit2"])
def test_a_state_dict_is_converted_with_the_name_of_its_architecture(architecture, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    model = perturbed(timm.create_model(architecture, num_classes=3))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    arguments = ["--source", "timm", "--architecture", architecture, "--model", str(tmp_path / "weights.pth")]
    main([*arguments, "--output", str(tmp_path / "ours")])
    assert "has no image processor" in capsys.readouterr().out


# --- images ---


def levels(ours, theirs, std):
    scale = torch.tensor(std).reshape(-1, 1, 1) * 255
    return max(
        float(((ours(brought, return_tensors="pt")["pixel_values"][0] - theirs(meant)).abs() * scale).max())
        for brought, meant in fixed_images(3)
    )


PROCESSORS = {
    "vit": ViTImageProcessor(size={"height": 32, "width": 32}),
    "dinov2": BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=3),
    "clip": CLIPImageProcessor(size={"shortest_edge": 33}, crop_size={"height": 32, "width": 32}),
}


@pytest.mark.parametrize("backend", [OmniVisionImageProcessor, OmniVisionImageProcessorPil])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor_of_transformers_within_one_grey_level(name, backend, tmp_path):
    PROCESSORS[name].save_pretrained(tmp_path)
    ours, theirs = backend(**from_transformers(tmp_path)), PROCESSORS[name]
    found = levels(ours, lambda image: theirs(image, return_tensors="pt")["pixel_values"][0], ours.image_std)
    assert found <= (1.01 if backend is OmniVisionImageProcessorPil else 0)


@pytest.mark.parametrize("backend", [OmniVisionImageProcessor, OmniVisionImageProcessorPil])
@pytest.mark.parametrize(
    "settings",
    [{"crop_pct": 0.9}, {"crop_pct": 1.0, "interpolation": "bilinear"}, {"crop_pct": 0.875, "crop_mode": "squash"}],
    ids=str,
)
def test_pixels_are_those_of_timms_transform_within_one_grey_level(settings, backend):
    timm = pytest.importorskip("timm")
    config = {"interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "input_size": (3, 32, 32)}
    ours = backend(**from_timm({**config, **settings}, (32, 32)))
    theirs = timm.data.create_transform(**{**config, **settings}, is_training=False)
    assert levels(ours, theirs, ours.image_std) <= 1.01


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pixels_are_those_of_open_clips_transform_within_one_grey_level(mode):
    open_clip = pytest.importorskip("open_clip")
    settings = {"interpolation": "bicubic", "resize_mode": mode}
    ours = OmniVisionImageProcessor(**from_open_clip(settings, (32, 32)))
    theirs = open_clip.image_transform(32, is_train=False, **settings)
    assert levels(ours, theirs, ours.image_std) <= 1.01


def test_settings_that_ours_cannot_follow_are_none():
    assert from_timm({"mean": (0.5,), "std": (0.5,), "crop_mode": "border"}, (32, 32)) is None
    assert from_open_clip({"resize_mode": "longest"}, (32, 32)) is None


def test_an_odd_margin_is_halved_as_torchvision_does_only_where_that_is_asked_for():
    image = Image.new("RGB", (39, 32))
    image.paste((255, 255, 255), (4, 0, 36, 32))
    options = {
        "do_resize": False,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_normalize": False,
    }
    for backend in (OmniVisionImageProcessor, OmniVisionImageProcessorPil):
        rounded = backend(**options, round_center_crop=True)(image, return_tensors="pt")["pixel_values"]
        floored = backend(**options)(image, return_tensors="pt")["pixel_values"]
        assert rounded.min() == 1
        assert floored.min() == 0


def test_where_a_checkpoint_is_from_is_read_from_its_card_and_its_commit(tmp_path):
    folder = tmp_path / ("a" * 40)
    folder.mkdir()
    (folder / "README.md").write_text(README)
    found = origin_of(folder, "someone/model", {})
    assert (found["source"], found["revision"], found["license"]) == ("someone/model", "a" * 40, "mit")
    assert origin_of(tmp_path, str(tmp_path), {"pretrained_cfg": {"license": "apache-2.0"}})["license"] == "apache-2.0"
