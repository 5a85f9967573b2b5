"""Pixels of a converted checkpoint are those of the original, at the sizes that checkpoints have."""

import functools
import json

import pytest
import torch
from transformers import AutoImageProcessor, CLIPImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from modeling_omni_vision import OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop import load_image_processor
from modeling_omni_vision.interop.clean_comparison import (
    difference,
    open_original,
    original_outputs,
    original_transform,
    our_outputs,
    our_processors,
    pixel_differences,
    pixels_of,
)
from modeling_omni_vision.interop.converted import Converted
from modeling_omni_vision.interop.from_source import (
    MAX_GREY_LEVELS,
    TOLERANCE,
    check_pixels,
    comparison_request,
    processor_of,
)
from modeling_omni_vision.interop.source import read_source
from modeling_omni_vision.interop.source_processor import from_open_clip, from_timm, from_transformers


NARROW = {"depth": 1, "embed_dim": 32, "num_heads": 2}
WORDS = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
OWN = {"image_size": 224, "patch_size": 32, "width": 32, "layers": 1, "head_width": 16}
OF_TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}


def save_timm(folder, size):
    """What timm itself writes of a narrow model, with the settings of its images as they are."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(f"vit_tiny_patch16_{size}", num_classes=3, **NARROW)
    assert model.pretrained_cfg["input_size"] == (3, size, size)
    timm.models.save_for_hf(model, folder, model_args=NARROW)


def save_open_clip(folder, vision, **preprocess):
    pytest.importorskip("transformers", minversion="5.23", reason="retrieval models need transformers 5.23")
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": WORDS}
    is_custom = "timm_model_name" in vision
    model = (open_clip.CustomTextCLIP if is_custom else open_clip.CLIP)(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    written = {"model_cfg": {**config, "custom_text": is_custom}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(written))


def differences(ours, folder, **request):
    """Do as the clean process does, here, with settings of ours in a folder of their own."""
    OmniVisionImageProcessor(**ours).save_pretrained(folder)
    return pixel_differences({"ours": str(folder), "channels": 3, **request})


def rewrite(file, change):
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def timm_settings(size, **changes):
    config = {"input_size": (3, size, size), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.9}
    return {**config, "interpolation": "bicubic", "crop_mode": "center", **changes}


def check(found, library="timm"):
    return check_pixels(Converted(library, OmniVisionModel, None, {}), found, False)


# --- the whole command ---


@pytest.mark.parametrize("size", [224, pytest.param(384, marks=pytest.mark.slow)])
def test_what_timm_saves_is_converted_with_its_own_settings_of_images(size, tmp_path, capsys):
    save_timm(tmp_path / "theirs", size)
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    printed = capsys.readouterr().out
    assert "Largest difference of pixels on twenty images: 0.00 of 255 levels" in printed
    # Two levels show that the clean process opened the torchvision one too: Pillow alone would give 0.
    assert "with torchvision, up to 2 of 255 levels apart, more than one for" in printed
    conversion = json.loads((tmp_path / "ours" / "metrics.json").read_text())["conversion"]
    assert conversion["grey_levels"] == 0
    assert "backend='pil'" in conversion["notes"][-1]


@pytest.mark.parametrize(("statistics", "has_processor"), [((0.5, 0.25), True), (([0.5] * 3, [0.25] * 3), False)])
def test_a_model_of_grey_images_is_converted_with_the_settings_that_serve_it(
    statistics, has_processor, tmp_path, capsys
):
    body = {"image_size": 32, "patch_size": 8, "num_channels": 1, "intermediate_size": 64, "num_hidden_layers": 1}
    ViTModel(ViTConfig(**body, hidden_size=32, num_attention_heads=2)).save_pretrained(tmp_path / "theirs")
    mean, std = (one if isinstance(one, list) else [one] for one in statistics)
    size = {"height": 32, "width": 32}
    ViTImageProcessor(size=size, image_mean=mean, image_std=std).save_pretrained(tmp_path / "theirs")
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    assert ("Largest difference of pixels on twenty images: 0.0" in capsys.readouterr().out) is has_processor
    assert (tmp_path / "ours" / "preprocessor_config.json").is_file() is has_processor
    if has_processor:
        assert load_image_processor(tmp_path / "ours").image_mean == (0.5,)


def test_one_number_of_open_clip_is_for_all_channels():
    found = from_open_clip({"mean": 0.5, "std": [0.2, 0.3, 0.4]}, (32, 32))
    assert (found["image_mean"], found["image_std"]) == ([0.5] * 3, [0.2, 0.3, 0.4])


@pytest.mark.slow
def test_open_clips_files_of_224_pixels_are_converted_with_their_settings_of_images(tmp_path, capsys):
    save_open_clip(tmp_path / "theirs", OWN, interpolation="bicubic", resize_mode="shortest")
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    printed = capsys.readouterr().out
    assert "is an OmniVisionForRetrieval" in printed
    assert "Largest difference of pixels on twenty images: 0.00 of 255 levels" in printed


@pytest.mark.parametrize(
    "vision", [{**OWN, "pool_type": "avg"}, pytest.param(OF_TIMM, marks=pytest.mark.slow)], ids=["own", "timm"]
)
def test_the_vision_tower_of_open_clip_alone_is_converted_by_the_command(vision, tmp_path, capsys):
    save_open_clip(tmp_path / "theirs", vision, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], resize_mode="squash")
    arguments = ["--source", "auto", "--encoder_only", "true", "--model", str(tmp_path / "theirs")]
    main([*arguments, "--output", str(tmp_path / "ours")])
    printed = capsys.readouterr().out
    assert "ours is an OmniVisionModel" in printed
    assert "Largest difference to open_clip by image size" in printed
    assert "Largest difference of pixels on twenty images: 0.00 of 255 levels" in printed
    assert OmniVisionImageProcessor.from_pretrained(tmp_path / "ours").image_mean == (0.5, 0.4, 0.3)
    pooling = OmniVisionModel.from_pretrained(tmp_path / "ours").config.pooling
    assert pooling == ("mean" if vision.get("pool_type") == "avg" else "cls")


@pytest.mark.parametrize("vision", [OWN, OF_TIMM], ids=["own", "timm"])
def test_the_vision_tower_of_open_clip_alone_is_compared_with_the_one_that_open_clip_opens(vision, tmp_path):
    save_open_clip(tmp_path, vision, mean=[0.5, 0.4, 0.3])
    converted = read_source(tmp_path, encoder_only=True)
    request = comparison_request(converted, tmp_path, True, {"encoder_only": True}, False)
    assert (request["library"], request["weights"], request["whole"]) == ("open_clip", None, False)
    pixels = pixels_of(converted.config.image_size_hw, 3)
    theirs = original_outputs(open_original(request), pixels, None, False)
    assert difference(theirs, our_outputs(converted.model(), pixels, None)) <= TOLERANCE
    assert load_image_processor(tmp_path).image_mean == processor_of(converted).image_mean == (0.5, 0.4, 0.3)


# --- the comparison of pixels ---


@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize(
    "settings", [{}, {"interpolation": "bilinear", "crop_pct": 0.875}, {"crop_mode": "squash"}], ids=str
)
def test_ours_on_pillow_gives_the_pixels_of_timm(settings, size, tmp_path):
    pytest.importorskip("timm")
    settings = timm_settings(size, **settings)
    config = {"pretrained_cfg": settings}
    found = differences(from_timm(settings, (size, size)), tmp_path, library="timm", config=config)
    assert (found["backend"], check(found)) == ("pil", 0)
    assert 1 <= found["grey_levels"]["torchvision"] < 2.01


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_ours_on_pillow_gives_the_pixels_of_open_clip(mode, tmp_path):
    settings = {"interpolation": "bicubic", "resize_mode": mode}
    save_open_clip(tmp_path / "theirs", OWN, **settings)
    request = {"library": "open_clip", "source": str(tmp_path / "theirs")}
    found = differences(from_open_clip(settings, (224, 224)), tmp_path / "ours", **request)
    assert (found["backend"], check(found, "open_clip")) == ("pil", 0)
    assert found["grey_levels"]["torchvision"] == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize("processor_class", [ViTImageProcessor, CLIPImageProcessor])
def test_ours_on_torchvision_gives_the_pixels_of_transformers(processor_class, size, tmp_path):
    options = {} if processor_class is ViTImageProcessor else {"crop_size": {"height": size, "width": size}}
    edges = {"shortest_edge": size} if options else {"height": size, "width": size}
    processor_class(size=edges, resample=3, **options).save_pretrained(tmp_path / "theirs")
    request = {"library": "transformers", "source": str(tmp_path / "theirs")}
    found = differences(from_transformers(tmp_path / "theirs"), tmp_path / "ours", **request)
    assert (found["backend"], check(found, "transformers")) == ("torchvision", 0)
    assert found["grey_levels"]["pil"] == pytest.approx(2, abs=1e-3)


def test_a_processor_of_transformers_that_resizes_with_pillow_is_compared_with_ours_on_pillow(tmp_path, monkeypatch):
    # As transformers does unasked for some, before torchvision 0.27.
    opened = functools.partial(AutoImageProcessor.from_pretrained, backend="pil")
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", opened)
    ViTImageProcessor(size={"height": 224, "width": 224}, resample=3).save_pretrained(tmp_path / "theirs")
    request = {"library": "transformers", "source": str(tmp_path / "theirs")}
    found = differences(from_transformers(tmp_path / "theirs"), tmp_path / "ours", **request)
    assert (found["backend"], check(found, "transformers")) == ("pil", 0)
    assert found["grey_levels"]["torchvision"] == pytest.approx(2, abs=1e-3)


def test_a_grey_level_is_one_in_the_scale_of_the_processor(tmp_path):
    options = {"size": {"height": 224, "width": 224}, "resample": 3, "rescale_factor": 1 / 127.5}
    ViTImageProcessor(**options).save_pretrained(tmp_path / "theirs")
    request = {"library": "transformers", "source": str(tmp_path / "theirs")}
    found = differences(from_transformers(tmp_path / "theirs"), tmp_path / "ours", **request)
    assert found["grey_levels"] == {"torchvision": 0, "pil": pytest.approx(2, abs=1e-3)}


WRONG = {
    "a mean": {"image_mean": [0.502, 0.4, 0.3]},  # half a level
    "a standard deviation": {"image_std": [0.2, 0.3, 0.402]},
    "an interpolation": {"resample": 2},
    "a size before the crop": {"size": {"shortest_edge": 250}},
    "a crop": {"crop_size": {"height": 224, "width": 223}},
    "an odd margin": {"round_center_crop": False},
    "no normalisation": {"do_normalize": False},
}


@pytest.mark.parametrize("name", WRONG)
def test_other_settings_than_timms_are_refused_however_small_the_difference(name, tmp_path):
    pytest.importorskip("timm")
    settings = timm_settings(224)
    ours = {**from_timm(settings, (224, 224)), **WRONG[name]}
    found = differences(ours, tmp_path, library="timm", config={"pretrained_cfg": settings})
    named = "another shape" if name == "a crop" else r"\d+\.\d\d"
    with pytest.raises(ValueError, match=rf"within {MAX_GREY_LEVELS} grey levels, got (images of )?{named}\. Nothing"):
        check(found)


def test_the_processor_that_opens_by_default_may_not_be_far_off_either():
    found = {"backend": "pil", "grey_levels": {"pil": 0.0, "torchvision": 2.0}}
    assert check({**found, "strayed": {"pil": 0.0, "torchvision": 1e-4}}) == 0
    with pytest.raises(ValueError, match=r"got 1\.0% of the values more than one level off by torchvision"):
        check({**found, "strayed": {"pil": 0.0, "torchvision": 0.01}})


def test_each_backend_of_our_image_processor_is_opened(tmp_path):
    OmniVisionImageProcessor().save_pretrained(tmp_path)
    names = {backend: type(processor).__name__ for backend, processor in our_processors(str(tmp_path)).items()}
    assert names == {"pil": "OmniVisionImageProcessorPil", "torchvision": "OmniVisionImageProcessor"}


# --- the advice of the refusal ---


@pytest.mark.parametrize("library", ["transformers", "timm", "open_clip"])
def test_what_a_refusal_advises_leaves_an_encoder_without_an_image_processor(library, tmp_path):
    folder = tmp_path / "theirs"
    found = {"backend": "pil", "grey_levels": {"pil": 9.0, "torchvision": 9.0}, "strayed": {"torchvision": 1.0}}
    is_whole = library == "open_clip"
    with pytest.raises(ValueError, match="convert a copy") as refused:
        check_pixels(Converted(library, OmniVisionModel, None, {}), found, is_whole)
    advice = str(refused.value)
    assert ("--encoder_only true" in advice) == is_whole
    if library == "transformers":
        ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
        ViTImageProcessor().save_pretrained(folder)
        assert "without preprocessor_config.json" in advice
        (folder / "preprocessor_config.json").unlink()
    elif library == "timm":
        save_timm(folder, 224)
        assert "config.json has no `mean`" in advice
        rewrite(folder / "config.json", lambda config: config["pretrained_cfg"].pop("mean"))
    else:
        save_open_clip(folder, OWN)
        assert processor_of(read_source(folder, encoder_only=True)) is not None  # an empty one means the defaults
        assert "open_clip_config.json has null for `preprocess_cfg`" in advice
        rewrite(folder / "open_clip_config.json", lambda config: config.update(preprocess_cfg=None))
    assert processor_of(read_source(folder, encoder_only=is_whole)) is None
    if library == "open_clip":  # with which open_clip itself still opens it
        original_transform({"library": library, "source": str(folder)})
        with pytest.raises(ValueError, match=r"got none that ours can follow .*--encoder_only true"):
            processor_of(read_source(folder))
