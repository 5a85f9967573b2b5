from pathlib import Path

import pytest
import torch
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from modeling_omni_vision import (
    OmniVisionBackbone,
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionModel,
)


@pytest.fixture
def tower(tiny_config):
    config = OmniVisionConfig.from_dict({**tiny_config.to_dict(), "num_register_tokens": 2})
    return OmniVisionModel(config).eval()


def test_intermediate_maps_are_the_patches_of_the_hidden_states(tower):
    pixels = torch.randn(2, 3, 32, 48)
    output = tower(pixels, output_hidden_states=True)
    final, maps = tower.forward_intermediates(pixels)
    assert torch.equal(final, output.last_hidden_state)
    assert [one.shape for one in maps] == [(2, 32, 4, 6)] * 2
    for one, hidden in zip(maps, output.hidden_states[1:], strict=True):
        assert torch.equal(one.flatten(2).transpose(1, 2), hidden[:, 3:])
    (last,) = tower.forward_intermediates(pixels, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(last, output.grid)
    (first,) = tower.forward_intermediates(pixels, indices=[-2], intermediates_only=True)
    assert torch.equal(first, maps[0])


@pytest.mark.parametrize("wrong", [{"indices": [2]}, {"indices": [-3]}, {"output_fmt": "NHWC"}], ids=str)
def test_layers_and_formats_that_do_not_exist_are_refused(tower, wrong):
    with pytest.raises(ValueError, match="`indices` must be layers from -2 to 1 and `output_fmt`"):
        tower.forward_intermediates(torch.zeros(1, 3, 32, 32), **wrong)


def test_intermediate_maps_are_those_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    from modeling_omni_vision.interop.source import read_source

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=0, reg_tokens=2).eval()
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours, pixels = read_source(tmp_path).model(), torch.randn(1, 3, 32, 32)
    options = {"indices": [0, 2], "norm": True}
    with torch.inference_mode():
        expected, found = (
            theirs.forward_intermediates(pixels, **options),
            ours.forward_intermediates(pixels, **options),
        )
    for one, other in zip(expected[1], found[1], strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-5
    assert (expected[0] - found[0]).abs().max() < 1e-5


def test_the_backbone_gives_maps_of_the_chosen_stages_after_the_final_norm(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    config = OmniVisionConfig.from_pretrained(tmp_path, out_features=["stem", "stage2"])
    assert config.out_indices == [0, 2]
    made = AutoBackbone.from_config(config)
    assert type(made) is OmniVisionBackbone
    backbone = OmniVisionBackbone.from_pretrained(tmp_path, config=config).eval()
    assert backbone.channels == [32, 32]
    pixels = torch.randn(1, 3, 32, 48)
    output, grid = backbone(pixels), tower(pixels).grid
    assert [one.shape for one in output.feature_maps] == [(1, 32, 4, 6)] * 2
    assert torch.equal(output.feature_maps[1].flatten(2).transpose(1, 2), grid)
    assert output.hidden_states is None
    assert len(backbone(pixels, output_hidden_states=True).hidden_states) == 3
    assert len(backbone(pixels, return_dict=False)[0]) == 2


def test_a_classifier_gives_its_encoder_to_the_backbone(tiny_classifier, tmp_path):
    tiny_classifier.save_pretrained(tmp_path)
    backbone, report = OmniVisionBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    weights = tiny_classifier.omni_vision.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in backbone.omni_vision.state_dict().items())


def test_stages_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        OmniVisionConfig(out_features=["stage5"])


def test_a_segmentation_head_of_transformers_trains_a_step_on_the_backbone():
    config = OmniVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=4,
        intermediate_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = {"hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 32, "pool_scales": [1, 2]}
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, num_labels=3, **sizes)).train()
    assert isinstance(model.backbone, OmniVisionBackbone)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.backbone.omni_vision.layers[0].mlp.fc1.weight.clone()
    pixels, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    loss = model(pixel_values=pixels, labels=labels).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert not torch.equal(before, model.backbone.omni_vision.layers[0].mlp.fc1.weight)


def test_no_patches_are_dropped_where_maps_are_made_in_training(tower):
    pixels, fields = torch.randn(2, 3, 32, 48), {**tower.config.to_dict(), "patch_drop_rate": 0.5}
    stages = ["stem", "stage1", "stage2"]
    backbone = OmniVisionBackbone(OmniVisionConfig.from_dict({**fields, "out_features": stages})).train()
    maps = backbone(pixels).feature_maps
    assert [one.shape for one in maps] == [(2, 32, 4, 6)] * 3
    _, expected = backbone.omni_vision.forward_intermediates(pixels, norm=True)
    assert all(torch.equal(one, other) for one, other in zip(maps[1:], expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(maps, backbone.eval()(pixels).feature_maps, strict=True))
    encoder = backbone.omni_vision.train()
    assert encoder(pixels, keep_patches=True).grid.shape == (2, 24, 32)
    dropped = encoder(pixels).last_hidden_state
    assert dropped.shape == (2, 3 + 12, 32)
    with pytest.raises(RuntimeError, match="unflatten"):
        encoder.feature_map(dropped, pixels)  # rather than a narrower map of other places


def test_a_segmentation_head_of_transformers_gets_maps_in_order_whatever_the_drop_rate():
    sizes = {"image_size": 64, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "patch_drop_rate": 0.5}
    config = OmniVisionConfig(**sizes, **dropout, out_features=[f"stage{number}" for number in range(1, 5)])
    head = {"hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 32}
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, num_labels=3, **head)).train()
    pixels = torch.randn(2, 3, 64, 64)
    trained, evaluated = (model.train(mode).backbone(pixels).feature_maps for mode in (True, False))
    assert [one.shape for one in trained] == [(2, 32, 8, 8)] * 4
    assert all(torch.equal(one, other) for one, other in zip(trained, evaluated, strict=True))
    assert torch.isfinite(model.train()(pixels, labels=torch.randint(0, 3, (2, 64, 64))).loss)


def test_the_bundled_classifier_becomes_a_backbone_that_trains():
    folder = Path(__file__).parent.parent / "checkpoints" / "omni-vision-fashion-mnist"
    backbone = OmniVisionBackbone.from_pretrained(folder).train()
    assert backbone.config.patch_drop_rate > 0
    assert [one.shape for one in backbone(torch.randn(2, 1, 28, 28)).feature_maps] == [(2, 128, 7, 7)]


def test_attention_pooling_is_the_pooled_output_and_the_input_of_the_head():
    options = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = OmniVisionConfig(**options, pooling="attention", use_cls_token=False, num_labels=3)
    model = OmniVisionForImageClassification(config).eval()
    output = model.omni_vision(torch.randn(2, 3, 32, 32))
    assert output.cls is None
    assert output.pooler_output.shape == (2, 32)
    assert torch.equal(model.omni_vision.pooler(output.grid), output.pooler_output)
    with pytest.raises(ValueError, match="`cls_only` needs a model whose pooled output is CLS"):
        model.omni_vision(torch.zeros(1, 3, 32, 32), cls_only=True)
    with pytest.raises(ValueError, match="Attention maps are those of CLS"):
        model.attention_maps(torch.zeros(1, 3, 32, 32))
    before = model.omni_vision.pooler.mlp.fc2.weight.clone()
    model.center_residual_()
    assert torch.equal(before, model.omni_vision.pooler.mlp.fc2.weight), "it does not write into the residual stream"


def test_a_model_without_cls_pools_patches(tiny_config):
    with pytest.raises(ValueError, match="'mean' or 'attention' in a model without CLS"):
        OmniVisionConfig(use_cls_token=False)
    config = OmniVisionConfig.from_dict({**tiny_config.to_dict(), "use_cls_token": False, "pooling": "mean"})
    output = OmniVisionModel(config).eval()(torch.randn(1, 3, 32, 32))
    assert output.last_hidden_state.shape == (1, 16, 32)
    assert torch.equal(output.pooler_output, output.grid.mean(dim=1))


def test_default_options_add_no_weights_and_change_no_name(tiny_classifier):
    names = {name for name in tiny_classifier.state_dict() if "layers" not in name}
    assert names == {
        "omni_vision.embeddings.cls_token",
        "omni_vision.embeddings.position_embeddings",
        "omni_vision.embeddings.patch_embeddings.projection.weight",
        "omni_vision.embeddings.patch_embeddings.projection.bias",
        "omni_vision.norm.weight",
        "classifier.weight",
        "classifier.bias",
    }
