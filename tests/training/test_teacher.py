"""Teachers of transformers: their own pixels, tokens and logits, whatever their processors and heads are like."""

import json

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    SiglipConfig,
    SiglipForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from modeling_omni_vision.embedding.vision_encoder import VisionEncoder
from modeling_omni_vision.training.teacher import load_teacher


PART = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY = PART | {"image_size": 32, "patch_size": 8}
WORDS = PART | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
SIZE = {"height": 32, "width": 32}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}


def save(model, folder, processor=None):
    model.eval().save_pretrained(folder)
    (processor or ViTImageProcessor(size=SIZE)).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size=SIZE, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
        ViTImageProcessor(size=SIZE, do_rescale=False, do_normalize=False),
        MobileViTImageProcessor(size=SIZE, do_center_crop=False),  # blue, green, red
        MobileViTImageProcessor(size=SIZE, do_center_crop=False, do_flip_channel_order=False),
        EfficientNetImageProcessor(size=SIZE, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False),
    ],
    ids=["normalised", "levels", "flipped", "not-flipped", "offset"],
)
def test_a_teacher_sees_the_pixels_of_its_own_processor(processor, tmp_path):
    model, teacher = save(ViTModel(ViTConfig(**TINY)), tmp_path, processor), load_teacher(str(tmp_path))
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    own = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = own(images=[Image.fromarray(image[0].permute(1, 2, 0).numpy())], return_tensors="pt")["pixel_values"]
    found, expected = teacher(image).vectors, model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_classifier_on_one_tower_of_two_answers_too(tmp_path):
    config = SiglipConfig(vision_config=TINY, num_labels=3)
    model, teacher = save(SiglipForImageClassification(config), tmp_path), load_teacher(str(tmp_path))
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    pixels, found = image / 127.5 - 1, teacher(image)
    torch.testing.assert_close(found.logits, model(pixels).logits)
    torch.testing.assert_close(found.vectors, model.vision_model(pixels).pooler_output)
    assert found.tokens.shape == (1, 4, 4, 32)


@pytest.mark.parametrize("kind", ["one of two towers", "merged patches", "with texts", "alone"])
def test_a_teacher_computes_its_tower_once(kind, tmp_path):
    models = {
        "one of two towers": lambda: SiglipForImageClassification(SiglipConfig(vision_config=TINY, num_labels=3)),
        "merged patches": lambda: SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)),
        "with texts": lambda: CLIPModel(CLIPConfig(vision_config=TINY, text_config=WORDS, projection_dim=16)),
        "alone": lambda: ViTModel(ViTConfig(**TINY)),
    }
    save(models[kind](), tmp_path)
    teacher, calls = load_teacher(str(tmp_path)), []
    inside = teacher.model.model
    tower = getattr(inside, "vision_model", None) or getattr(inside, "swin", inside)
    tower.register_forward_hook(lambda *event: calls.append(event))
    found = teacher(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8))
    assert len(calls) == 1
    output = calls[0][2]
    torch.testing.assert_close(
        found.tokens.flatten(1, 2), output.last_hidden_state[:, -found.tokens[0, ..., 0].numel() :]
    )
    if kind == "with texts":  # which stand in the tower's own output by now
        torch.testing.assert_close(found.vectors, output.pooler_output)
        assert found.vectors.shape == (2, 16)


def test_tokens_of_merged_patches_are_a_grid_too(tmp_path):
    save(SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)), tmp_path)
    found = load_teacher(str(tmp_path))(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert found.tokens.shape == (1, 4, 4, 32)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_teacher_of_merged_patches_can_be_traced_as_openvino_does(tmp_path):
    save(SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)), tmp_path)
    model = load_teacher(str(tmp_path)).model
    first, other = torch.randn(2, 1, 3, 32, 32)
    traced = torch.jit.trace(lambda pixels: model(pixels).tokens, first)
    torch.testing.assert_close(traced(other), model(other).tokens)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_openvino_gives_what_torch_gives_for_any_number_of_images(count, tmp_path):
    pytest.importorskip("openvino")
    save(SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)), tmp_path)
    teacher = load_teacher(str(tmp_path))
    assert teacher.fastest() is not teacher
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    for found, expected in zip(teacher.fastest()(images), teacher(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_timm_model_that_transformers_saved_is_opened_by_transformers(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    theirs = timm.create_model("test_vit", num_classes=3)
    save_for_hf(theirs, tmp_path / "timm", safe_serialization=True, model_config={"num_classes": 3})
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config.pop("model_args")  # which transformers 5.23 refuses
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    AutoModelForImageClassification.from_pretrained(tmp_path / "timm").save_pretrained(tmp_path / "saved")
    teacher = load_teacher(str(tmp_path / "saved"))
    found = teacher(torch.zeros(1, 3, teacher.size, teacher.size, dtype=torch.uint8))
    assert (found.vectors.shape, found.logits.shape) == ((1, 64), (1, 3))
    assert VisionEncoder(str(tmp_path / "saved")).vector_shape == [64]
