import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling
from without_package import run_without_package

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionForMaskedImageModeling,
    OmniVisionModel,
)
from modeling_omni_vision.masked_omni_vision import OmniVisionPixelShuffle


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OPEN = """
import json
import torch
from transformers import AutoModel, AutoModelForMaskedImageModeling
import sys

folder = sys.argv[1]
model, report = AutoModelForMaskedImageModeling.from_pretrained(
    folder, trust_remote_code=True, output_loading_info=True
)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
mask = torch.arange(16).remainder(3).eq(0)[None]
with torch.no_grad():
    output = model(pixels, bool_masked_pos=mask)
    grid = encoder(pixels).grid
print(json.dumps([type(model).__name__, type(encoder).__name__, output.loss.item(), grid.sum().item(),
                  sorted(map(str, report["missing_keys"]))]))
"""


def make(**fields):
    """A model whose weights, biases and norms included, are all drawn."""
    options = {"image_size": 32, "patch_size": 8, **SIZES, **NO_DROPOUT, **fields}
    model = OmniVisionForMaskedImageModeling(OmniVisionConfig(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def draw_masks(batch, patches, ratio=0.5):
    return torch.rand(batch, patches).argsort().lt(round(ratio * patches))


def vit_with_the_weights_of(model):
    pytest.importorskip("transformers", minversion="5.23", reason="transformers 5.5 has other names for ViT's weights")
    config = model.config
    vit = ViTForMaskedImageModeling(
        ViTConfig(
            image_size=32,
            patch_size=8,
            num_channels=config.num_channels,
            layer_norm_eps=config.layer_norm_eps,
            encoder_stride=8,
            **SIZES,
        )
    ).eval()
    state = {
        name.replace("omni_vision.", "vit.").replace("vit.norm.", "vit.layernorm."): weight
        for name, weight in model.state_dict().items()
    }
    vit.load_state_dict(state)
    return vit


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_weights_give_the_loss_gradients_and_reconstruction_of_transformers_vit(channels):
    ours = make(num_channels=channels, final_norm="layer_norm")
    theirs = vit_with_the_weights_of(ours)
    pixels, masks = torch.randn(4, channels, 32, 32), draw_masks(4, 16)
    masks[0] = False  # an image of which nothing is masked
    for kind in (masks, masks.long()):
        expected, found = theirs(pixels, bool_masked_pos=kind), ours(pixels, bool_masked_pos=kind)
        assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
        assert (found.reconstruction - expected.reconstruction).abs().max() < 1e-5
    expected.loss.backward()
    found.loss.backward()
    tokens = ours.omni_vision.embeddings.mask_token.grad, theirs.vit.embeddings.mask_token.grad
    assert (tokens[0] - tokens[1]).abs().max() < 1e-6
    without = theirs(pixels), ours(pixels)
    assert without[0].loss is without[1].loss is None
    assert (without[0].reconstruction - without[1].reconstruction).abs().max() < 1e-5
    nothing = torch.zeros_like(masks)
    assert ours(pixels, bool_masked_pos=nothing).loss.item() == theirs(pixels, bool_masked_pos=nothing).loss.item()


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": [16, 24], "patch_size": [4, 8]},
        {"num_channels": 1},
        {"num_channels": 5},
        {"num_register_tokens": 3},
        {"use_cls_token": False, "pooling": "mean"},
        {"pooling": "attention"},
        {"encoder_stride": 8},
    ],
    ids=str,
)
def test_masks_work_for_every_kind_of_configuration(fields):
    model = make(**fields)
    (height, width), patch = model.config.image_size_hw, model.config.patch_size_hw
    for rows, columns in ((height, width), (2 * height, width)):
        patches = rows // patch[0] * (columns // patch[1])
        pixels, masks = torch.randn(2, model.config.num_channels, rows, columns), draw_masks(2, patches)
        output = model(pixels, bool_masked_pos=masks)
        assert output.reconstruction.shape == pixels.shape
        grid = masks.reshape(2, 1, rows // patch[0], columns // patch[1])
        pixel_mask = torch.nn.functional.interpolate(grid.float(), size=(rows, columns)).expand_as(pixels).bool()
        difference = (pixels - output.reconstruction).abs()[pixel_mask]
        assert output.loss.item() == pytest.approx(difference.mean().item(), abs=1e-5)


def test_what_is_masked_is_not_seen():
    model = make()
    pixels, masks = torch.randn(2, 3, 32, 32), draw_masks(2, 16)
    grid = masks.reshape(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    others = torch.where(grid, torch.randn_like(pixels), pixels)
    before, after = (model(one, bool_masked_pos=masks).reconstruction for one in (pixels, others))
    assert torch.equal(before, after)
    assert not torch.equal(before, model(pixels).reconstruction)
    encoder = model.omni_vision
    assert torch.equal(encoder(pixels, bool_masked_pos=masks).grid, encoder(others, bool_masked_pos=masks).grid)


def test_the_shuffle_of_square_patches_is_that_of_torch():
    maps = torch.randn(2, 3 * 16, 5, 3)
    assert torch.equal(OmniVisionPixelShuffle(4, 4)(maps), torch.nn.functional.pixel_shuffle(maps, 4))


def test_only_a_model_that_is_asked_for_it_has_a_mask_token():
    config = OmniVisionConfig()
    assert OmniVisionModel(config).num_parameters() == 916_992
    assert OmniVisionModel(config, use_mask_token=True).num_parameters() == 916_992 + 128
    assert not any("mask_token" in name for name in OmniVisionForImageClassification(config).state_dict())
    model = OmniVisionForMaskedImageModeling(config)
    assert model.residual_mean() < 1e-6
    assert model.omni_vision.embeddings.mask_token.std() > 0


def test_patches_are_not_dropped_where_some_are_masked():
    model = make(patch_drop_rate=0.5).train()
    output = model(torch.randn(2, 3, 32, 32), bool_masked_pos=draw_masks(2, 16))
    assert output.reconstruction.shape == (2, 3, 32, 32)


def test_patches_are_not_dropped_where_none_is_masked():
    model, pixels = make(patch_drop_rate=0.5).train(), torch.randn(2, 3, 32, 48)
    trained = model(pixels).reconstruction
    assert trained.shape == (2, 3, 32, 48)
    assert torch.equal(trained, model.eval()(pixels).reconstruction)


def test_no_images_are_masked_and_reconstructed():
    model, pixels = make(), torch.zeros(0, 3, 32, 48)
    output = model(pixels, bool_masked_pos=torch.zeros(0, 24))
    assert output.reconstruction.shape == (0, 3, 32, 48)
    assert output.loss.item() == 0.0
    assert OmniVisionPixelShuffle(4, 2)(torch.zeros(0, 24, 5, 3)).shape == (0, 3, 20, 6)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.zeros(2, 4, 4), r"\(2, 16\), got Tensor of shape \(2, 4, 4\)"),
        (torch.zeros(1, 16), r"\(2, 16\), got Tensor of shape \(1, 16\)"),
        (torch.zeros(2, 17), r"got Tensor of shape \(2, 17\)"),
        ([[True] * 16] * 2, r"got list of shape \(\)"),
    ],
)
def test_masks_of_another_shape_are_refused_by_a_sentence(masks, words):
    with pytest.raises(ValueError, match=f"`bool_masked_pos` must be .*{words}"):
        make()(torch.randn(2, 3, 32, 32), bool_masked_pos=masks)


def test_masks_are_refused_without_a_mask_token_and_where_the_stride_is_another():
    masks = draw_masks(1, 16)
    encoder = OmniVisionModel(OmniVisionConfig(image_size=32, patch_size=8, **SIZES))
    for model in (encoder, OmniVisionForImageClassification(encoder.config)):
        with pytest.raises(ValueError, match="needs a model with a mask token"):
            model(torch.randn(1, 3, 32, 32), bool_masked_pos=masks)
    larger = make(encoder_stride=16)
    assert larger(torch.randn(1, 3, 32, 32)).reconstruction.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"`encoder_stride` of the patch size \(8, 8\).*got \(16, 16\)"):
        larger(torch.randn(1, 3, 32, 32), bool_masked_pos=masks)
    with pytest.raises(ValueError, match="`encoder_stride` must be a positive integer"):
        OmniVisionConfig(encoder_stride=0)


def test_a_folder_opens_as_encoder_and_for_masks_with_and_without_our_package(tmp_path, caplog):
    model = make()
    folder = tmp_path / "masked"
    model.save_pretrained(folder)
    caplog.clear()
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    masks = torch.arange(16).remainder(3).eq(0)[None]
    with torch.no_grad():
        encoder, again = AutoModel.from_pretrained(folder), AutoModelForMaskedImageModeling.from_pretrained(folder)
        expected = model(pixels, bool_masked_pos=masks)
        assert torch.equal(again(pixels, bool_masked_pos=masks).reconstruction, expected.reconstruction)
        assert torch.equal(encoder(pixels).grid, model.omni_vision(pixels).grid)
    assert type(encoder) is OmniVisionModel
    assert encoder.embeddings.mask_token is None
    assert "UNEXPECTED" not in caplog.text  # decoder and mask token are left out without a report
    names = run_without_package(OPEN, folder, cwd=tmp_path)
    assert names[:2] == ["OmniVisionForMaskedImageModeling", "OmniVisionModel"]
    assert names[2] == pytest.approx(expected.loss.item(), abs=1e-6)
    assert names[3] == pytest.approx(encoder(pixels).grid.sum().item(), abs=1e-3)
    assert names[4] == []


def test_an_encoder_gets_a_new_decoder_and_mask_token(tmp_path):
    encoder = OmniVisionModel(OmniVisionConfig(image_size=32, patch_size=8, **SIZES)).eval()
    encoder.save_pretrained(tmp_path)
    model, report = OmniVisionForMaskedImageModeling.from_pretrained(tmp_path, output_loading_info=True)
    assert {*report["missing_keys"]} == {
        *(f"decoder.0.{name}" for name in ("weight", "bias")),
        "omni_vision.embeddings.mask_token",
    }
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.omni_vision(pixels).grid, encoder(pixels).grid)
    assert torch.isfinite(model(pixels, bool_masked_pos=draw_masks(1, 16)).loss)
    assert 0 < model.omni_vision.embeddings.mask_token.std() < 0.1
