"""Vision models of transformers of many shapes: with and without CLS, pooler, or one size of images."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    IJepaConfig,
    IJepaModel,
    PvtV2Config,
    PvtV2Model,
    Siglip2ImageProcessor,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
)

from modeling_omni_vision.embedding import vision_encoder
from modeling_omni_vision.embedding.vision_encoder import VisionEncoder
from modeling_omni_vision.interop import load_vision_tower


WIDTHS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY = {**WIDTHS, "image_size": 32, "patch_size": 8}
MAPS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}


def saved(model, folder, processor=None):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    (processor or ViTImageProcessor(size={"height": 64, "width": 64})).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (IJepaModel, IJepaConfig(**{**TINY, "image_size": 64})),
        (SiglipVisionModel, SiglipVisionConfig(**{**TINY, "image_size": 64}, vision_use_head=False)),
    ],
)
def test_without_cls_and_pooler_the_vector_is_the_mean_of_all_patches(model_class, config, tmp_path):
    model, encoder = saved(model_class(config), tmp_path), VisionEncoder(str(tmp_path))
    expected = model(pixel_values=encoder.example).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder.reference(encoder.example), expected)


def test_of_a_feature_map_without_pooler_the_vector_is_the_mean_of_its_places(tmp_path):
    model, encoder = saved(PvtV2Model(PvtV2Config(**MAPS)), tmp_path), VisionEncoder(str(tmp_path))
    expected = model(pixel_values=encoder.example).last_hidden_state
    assert expected.shape == (1, 16, 2, 2)
    torch.testing.assert_close(encoder.reference(encoder.example), expected.mean((2, 3)))


@pytest.mark.parametrize("pool", ["cls", "mean", "grid"])
def test_a_masked_autoencoder_sees_the_whole_image(pool, tmp_path):
    saved(ViTMAEModel(ViTMAEConfig(**{**TINY, "image_size": 64})), tmp_path)
    encoder, ours = VisionEncoder(str(tmp_path), pool), load_vision_tower(tmp_path)
    found = ours(encoder.example)
    expected = {"cls": found.cls[:, 0], "mean": found.grid.mean(1), "grid": found.grid}
    torch.testing.assert_close(encoder.reference(encoder.example), expected[pool])


def test_a_classifier_on_one_tower_of_two_is_that_tower(tmp_path):
    config = CLIPConfig(vision_config=TINY, num_labels=3)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model, encoder = saved(CLIPForImageClassification(config), tmp_path, processor), VisionEncoder(str(tmp_path))
    expected = model.vision_model(encoder.example).pooler_output
    torch.testing.assert_close(encoder.reference(encoder.example), expected)


def test_a_model_that_needs_more_than_images_is_refused_by_name(tmp_path):
    model = Siglip2VisionModel(Siglip2VisionConfig(**WIDTHS, patch_size=8, num_patches=16))
    saved(model, tmp_path, Siglip2ImageProcessor(patch_size=8, max_num_patches=16))
    with pytest.raises(ValueError, match="needs pixel_attention_mask, spatial_shapes beside pixel_values"):
        VisionEncoder(str(tmp_path))


def test_a_checkpoint_of_ours_is_opened_at_its_revision(tiny_model, tmp_path, monkeypatch):
    saved(tiny_model, tmp_path)
    asked = []
    monkeypatch.setattr(vision_encoder, "local_folder", lambda name, revision: asked.append(revision) or name)
    VisionEncoder(str(tmp_path), revision="v2")
    assert asked == ["v2"]
