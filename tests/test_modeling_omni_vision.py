import ast
import copy
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim

import modeling_omni_vision
from modeling_omni_vision import (
    OmniVisionBackbone,
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionForMaskedImageModeling,
    OmniVisionModel,
    common_omni_vision,
)
from modeling_omni_vision.common_omni_vision import HEAD


class ReferenceViTTiny(nn.Module):
    """The specification's code (spec/vision_encoder.md, "Complete Layer-by-Layer Breakdown"), once more."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.proj = nn.Conv2d(config.num_channels, width, config.patch_size, config.patch_size)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.num_attention_heads,
                config.intermediate_size,
                dropout=0.0,
                batch_first=True,
                norm_first=True,
                activation="gelu",
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm_weight = nn.Parameter(torch.ones(width))

    def forward(self, image):
        x = self.proj(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.pos
        states = [x]
        for block in self.blocks:
            x = block(x)
            states.append(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.norm_weight
        return x[:, :1], x[:, 1:], states


def reference_of(model):
    """A reference with the same weights as `model`, and the pairs of parameters that hold the same thing."""
    reference = ReferenceViTTiny(model.config)
    ours = dict(model.named_parameters())
    pairs = {
        "proj.weight": "embeddings.patch_embeddings.projection.weight",
        "proj.bias": "embeddings.patch_embeddings.projection.bias",
        "cls": "embeddings.cls_token",
        "pos": "embeddings.position_embeddings",
        "norm_weight": "norm.weight",
    }
    for n in range(model.config.num_hidden_layers):
        for theirs, mine in {
            "self_attn.out_proj": "attention.o_proj",
            "linear1": "mlp.fc1",
            "linear2": "mlp.fc2",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
        }.items():
            for kind in ("weight", "bias"):
                pairs[f"blocks.{n}.{theirs}.{kind}"] = f"layers.{n}.{mine}.{kind}"
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name in pairs:
                parameter.copy_(ours[pairs[name]])
        for n, block in enumerate(reference.blocks):
            for kind, fused in (("weight", block.self_attn.in_proj_weight), ("bias", block.self_attn.in_proj_bias)):
                thirds = [ours[f"layers.{n}.attention.{part}_proj.{kind}"] for part in "qkv"]
                fused.copy_(torch.cat(thirds))
    return reference, pairs


@pytest.fixture
def spec_model():
    """ViTTiny at full size, with norms and biases away from their initial ones and zeros."""
    model = OmniVisionModel(OmniVisionConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


# 1e-5 is the bound; measured: 1.4e-6 for the outputs, 2e-6 for the hidden states (float32, one thread).
def test_the_encoder_equals_torchs_own_layers_in_outputs_and_every_hidden_state(spec_model):
    reference, _ = reference_of(spec_model)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        cls, grid, states = reference.train()(pixels)  # train mode: torch's own fast path off, dropout is 0
        output = spec_model(pixels, output_hidden_states=True)
    torch.testing.assert_close(output.cls, cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.grid, grid, atol=1e-5, rtol=0)
    assert len(output.hidden_states) == len(states) == 5
    for ours, theirs in zip(output.hidden_states, states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_gradients_equal_those_of_torchs_own_layers(spec_model):
    reference, pairs = reference_of(spec_model)
    pixels = torch.randn(2, 3, 224, 224)
    cls, grid, _ = reference(pixels)
    (cls.square().mean() + grid.mean()).backward()
    output = spec_model(pixels)
    (output.cls.square().mean() + output.grid.mean()).backward()
    ours, theirs = dict(spec_model.named_parameters()), dict(reference.named_parameters())
    for name, mine in pairs.items():
        torch.testing.assert_close(ours[mine].grad, theirs[name].grad, atol=1e-5, rtol=1e-4)
    for n, block in enumerate(reference.blocks):
        fused = torch.cat([ours[f"layers.{n}.attention.{part}_proj.weight"].grad for part in "qkv"])
        torch.testing.assert_close(fused, block.self_attn.in_proj_weight.grad, atol=1e-5, rtol=1e-4)


def test_patch_embedding_is_unfold_and_linear(tiny_model):
    """The worked example of spec/tokens_in_vit.md."""
    pixels, patch = torch.randn(2, 3, 32, 32), 8
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 16, -1)
    convolution = tiny_model.embeddings.patch_embeddings.projection
    expected = nn.functional.linear(patches, convolution.weight.flatten(1), convolution.bias)
    ours = tiny_model.embeddings.patch_embeddings(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)  # measured 1e-7: another order of summation


def test_the_output_has_the_documented_shapes_and_fields(tiny_config):
    tiny_config.num_register_tokens = 3
    model = OmniVisionModel(tiny_config).eval()
    output = model(torch.randn(2, 3, 32, 32))
    assert output.last_hidden_state.shape == (2, 1 + 3 + 16, 32)
    assert torch.equal(output.cls, output.last_hidden_state[:, :1])
    assert torch.equal(output.grid, output.last_hidden_state[:, 4:])
    assert torch.equal(output.pooler_output, output.cls[:, 0])


def test_the_image_may_have_any_size_that_is_a_multiple_of_the_patch(tiny_model):
    assert tiny_model(torch.randn(1, 3, 16, 56)).grid.shape == (1, 2 * 7, 32)


def test_the_config_may_be_oblong_and_of_any_number_of_channels():
    config = OmniVisionConfig(
        image_size=(24, 48), patch_size=(8, 12), num_channels=5, hidden_size=32, num_hidden_layers=1
    )
    model = OmniVisionModel(config).eval()
    assert model(torch.randn(2, 5, 24, 48)).grid.shape == (2, 3 * 4, 32)
    assert model.attention_maps(torch.randn(2, 5, 24, 48)).shape == (2, 1, 2, 3, 4)
    # An input of as many patches in another shape must not get the native positions.
    native, turned = model.embeddings.positions(3, 4), model.embeddings.positions(4, 3)
    assert not torch.allclose(native, turned)


def test_positions_are_the_learned_ones_at_the_native_size_and_interpolated_in_2d_elsewhere(tiny_model):
    embeddings = tiny_model.embeddings
    assert torch.equal(embeddings.positions(4, 4), embeddings.position_embeddings)
    with torch.no_grad():  # channel 0 counts rows, channel 1 counts columns
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        embeddings.position_embeddings[0, 1:, 0] = rows.flatten()
        embeddings.position_embeddings[0, 1:, 1] = columns.flatten()
    positions = embeddings.positions(8, 4)
    assert torch.equal(positions[:, :1], embeddings.position_embeddings[:, :1])
    doubled = positions[:, 1:].unflatten(1, (8, 4))[0]
    assert (doubled[1:, :, 0] > doubled[:-1, :, 0]).all()
    torch.testing.assert_close(doubled[:, :, 1], columns[:1].expand(8, -1), atol=1e-5, rtol=0)


def test_positions_are_interpolated_in_float32_for_a_bfloat16_model(tiny_model):
    exact = tiny_model.embeddings.positions(6, 6)[:, 1:]
    half = copy.deepcopy(tiny_model).bfloat16().embeddings
    rounded_once = nn.functional.interpolate(
        half.position_embeddings[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2).float(), (6, 6), mode="bicubic"
    )
    positions = half.positions(6, 6)[:, 1:]
    assert positions.dtype == torch.bfloat16
    expected = rounded_once.flatten(2).transpose(1, 2).bfloat16()
    assert torch.equal(positions, expected)
    torch.testing.assert_close(positions.float(), exact, atol=1e-3, rtol=0.02)  # bf16 has 8 bits


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.zeros(1, 3, 33, 32), ["multiples of the patch size", "(33, 32)", "(32, 32)"]),
        (torch.zeros(1, 3, 0, 32), ["multiples of the patch size", "(0, 32)"]),
        (torch.zeros(1, 1, 32, 32), ["(batch, 3, height, width)", "(1, 1, 32, 32)"]),
        (torch.zeros(3, 32, 32), ["(batch, 3, height, width)", "(3, 32, 32)"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["floating point", "torch.uint8", "image processor"]),
    ],
)
def test_pixels_that_do_not_fit_are_refused(tiny_model, pixels, words):
    with pytest.raises(ValueError, match="pixel_values") as refusal:
        tiny_model(pixels)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_masked_patches_change_nothing(tiny_model):
    pixels = torch.randn(1, 3, 32, 32)
    mask = torch.ones(1, 17)
    mask[:, 9:] = 0  # the lower two rows of patches
    other = pixels.clone()
    other[:, :, 16:] = 7.0
    first, second = (tiny_model(image, attention_mask=mask).pooler_output for image in (pixels, other))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    assert not torch.allclose(first, tiny_model(pixels).pooler_output, atol=1e-3)


def test_a_mask_that_leaves_out_cls_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"\(1, 17\), got \(1, 16\)"):
        tiny_model(torch.randn(1, 3, 32, 32), attention_mask=torch.ones(1, 16))


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("registers", [0, 2])
def test_attention_maps_are_the_attention_of_cls_on_every_backend(tiny_config, implementation, registers):
    tiny_config.num_register_tokens = registers
    model = OmniVisionModel(tiny_config).eval()
    pixels = torch.randn(2, 3, 16, 32)
    model.set_attn_implementation("eager")
    weights = torch.stack(model(pixels, output_attentions=True).attentions, dim=1)
    expected = weights[:, :, :, 0, 1 + registers :].unflatten(-1, (2, 4))
    model.set_attn_implementation(implementation)
    torch.testing.assert_close(model.attention_maps(pixels, layers=[0, 1]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.attention_maps(pixels), expected[:, -1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.attention_maps(pixels, [-1, 0]), expected[:, [1, 0]], atol=1e-6, rtol=0)


def test_attention_maps_of_a_model_in_training_are_those_of_evaluation_and_leave_its_mode(tiny_config):
    tiny_config.hidden_dropout_prob = tiny_config.attention_probs_dropout_prob = tiny_config.drop_path_rate = 0.5
    model = OmniVisionForImageClassification(tiny_config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.attention_maps(pixels, [0, 1])
    model.train().omni_vision.layers[0].eval()
    modes = [module.training for module in model.modules()]
    for _ in range(2):
        assert torch.equal(model.attention_maps(pixels, [0, 1]), expected)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("model_class", [OmniVisionModel, OmniVisionForImageClassification])
@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("output_hidden_state", "output_hidden_states"),
        ("output_attention", "output_attentions"),
        ("return_dct", "return_dict"),
        ("label", "labels"),
        ("attn_mask", "attention_mask"),
        ("head_mask", None),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_with_the_nearest_name(tiny_config, model_class, wrong, near):
    model = model_class(tiny_config).eval()
    with pytest.raises(ValueError, match=f"got '{wrong}', which it does not take.*{near or 'Leave it out'}"):
        model(torch.zeros(1, 3, 32, 32), **{wrong: torch.ones(1)})
    model(torch.zeros(1, 3, 32, 32), **{wrong: None})


@pytest.mark.parametrize("model_class", [OmniVisionModel, OmniVisionForImageClassification])
def test_the_options_of_transformers_own_vit_are_taken_as_it_takes_them(tiny_config, model_class):
    model, pixels, large = model_class(tiny_config).eval(), torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64)
    plain = model(pixels)
    as_tuple = model(pixels, return_dict=False, output_hidden_states=True)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], plain[0])
    assert len(model(pixel_values=pixels, output_hidden_states=True).hidden_states) == 3
    for option in (None, True):
        assert torch.equal(model(large, interpolate_pos_encoding=option)[0], model(large)[0])
    assert torch.equal(model(pixels, interpolate_pos_encoding=False)[0], plain[0])
    with pytest.raises(ValueError, match=r"size \(32, 32\) without `interpolate_pos_encoding`, got \(64, 64\)"):
        model(large, interpolate_pos_encoding=False)
    with pytest.raises(ValueError, match="`pixel_values` must hold images, got None"):
        model(pixel_values=None)
    with pytest.raises(ValueError, match="`pixel_values` must hold images, got None"):
        model.attention_maps(None)


@pytest.mark.parametrize("images", [np.zeros((1, 3, 32, 32)), [torch.zeros(3, 32, 32)], {"pixel_values": 1}, "a.png"])
def test_what_is_no_tensor_is_refused_by_its_type(tiny_classifier, images):
    with pytest.raises(ValueError, match=f"must hold images, got {type(images).__name__}. .*image processor"):
        tiny_classifier(images)
    with pytest.raises(
        ValueError, match=f"must be a tensor of class numbers or probabilities, got {type(images).__name__}"
    ):
        tiny_classifier(torch.zeros(1, 3, 32, 32), labels=images)


def test_attention_maps_run_no_layer_after_the_last_requested_one(tiny_model):
    tiny_model.layers[1].forward = None  # calling it would fail
    assert tiny_model.attention_maps(torch.randn(1, 3, 32, 32), layers=[0]).shape == (1, 1, 2, 4, 4)
    assert tiny_model.attention_maps(torch.randn(1, 3, 32, 32), layers=[1]).shape == (1, 1, 2, 4, 4)


@pytest.mark.parametrize("layers", [[2], [-3], []])
def test_attention_maps_of_no_such_layer_are_refused(tiny_model, layers):
    with pytest.raises(ValueError, match="from -2 to 1"):
        tiny_model.attention_maps(torch.randn(1, 3, 32, 32), layers=layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()  # flex attention has no backward pass on CPU
def test_flex_attention_gives_what_sdpa_gives(tiny_model, dtype):
    model, pixels = tiny_model.to(dtype), torch.randn(2, 3, 32, 32)
    expected = model(pixels).last_hidden_state
    model.set_attn_implementation("flex_attention")
    # Measured 4e-7 in float32; in bfloat16 one rounding step of values up to 4 is 0.016.
    torch.testing.assert_close(
        model(pixels).last_hidden_state, expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0
    )


def test_a_new_model_has_a_zero_mean_residual_stream(tiny_config):
    tiny_config.num_register_tokens = 2
    model = OmniVisionForImageClassification(tiny_config)
    assert model.residual_mean() < 1e-8  # rounding of float32 weights of size 0.02
    states = model.omni_vision(torch.randn(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert max(state.mean(-1).abs().max() for state in states) < 1e-6


def test_centering_covers_everything_that_writes_into_the_residual_stream(tiny_config):
    tiny_config.num_register_tokens = 2
    model = OmniVisionModel(tiny_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    pixels = torch.randn(1, 3, 32, 32)
    assert model.residual_mean() == pytest.approx(0.1, abs=1e-6)
    assert max(s.mean(-1).abs().max() for s in model(pixels, output_hidden_states=True).hidden_states) > 0.1
    assert model.center_residual_() is model
    assert model.residual_mean() < 1e-7
    assert max(s.mean(-1).abs().max() for s in model(pixels, output_hidden_states=True).hidden_states) < 1e-6


def test_layer_norm_and_rms_norm_blocks_are_the_same_function_on_centred_weights(tiny_config):
    layer_norm = OmniVisionModel(tiny_config).eval()
    rms_config = copy.deepcopy(tiny_config)
    rms_config.block_norm = "rms_norm"
    rms_norm = OmniVisionModel(rms_config).eval()
    rms_norm.load_state_dict(
        {name: value for name, value in layer_norm.state_dict().items() if name in rms_norm.state_dict()}
    )
    pixels = torch.randn(2, 3, 32, 32)
    # Norm biases are zero at the start. Measured 5e-7.
    torch.testing.assert_close(
        rms_norm(pixels).last_hidden_state, layer_norm(pixels).last_hidden_state, atol=1e-5, rtol=0
    )


def test_loading_leaves_weights_that_are_not_centred_as_they_are(tiny_classifier, tmp_path):
    with torch.no_grad():
        tiny_classifier.omni_vision.layers[0].mlp.fc2.bias.add_(1.0)
    tiny_classifier.save_pretrained(tmp_path)
    loaded = OmniVisionForImageClassification.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(tiny_classifier.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert loaded.residual_mean() > 0.9


def test_a_head_of_another_size_is_an_error_unless_the_caller_allows_it(tiny_classifier, tmp_path):
    tiny_classifier.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        OmniVisionForImageClassification.from_pretrained(tmp_path, num_labels=5)
    wider = OmniVisionForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert wider.classifier.weight.shape == (5, 32)
    assert wider.classifier.weight.std() > 0.01
    kept = wider.omni_vision.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in tiny_classifier.omni_vision.state_dict().items())


@pytest.mark.parametrize("model_class", [OmniVisionModel, OmniVisionBackbone])
def test_a_classifier_opens_as_an_encoder_with_a_report_of_all_weights_but_its_head(
    tiny_config, model_class, tmp_path, caplog
):
    tiny_config.pooled_norm = True
    model = OmniVisionForImageClassification(tiny_config)
    model.save_pretrained(tmp_path)
    caplog.clear()
    assert (
        set(model.state_dict()) - {f"omni_vision.{name}" for name in OmniVisionModel(tiny_config).state_dict()} == HEAD
    )
    _, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert caplog.text == ""
    assert not any(report.values())
    # What is foreign or missing is named still, with its report.
    weights = {**model.state_dict(), "neck.weight": torch.ones(1), "classifier.extra.weight": torch.ones(1)}
    weights.pop("omni_vision.embeddings.cls_token")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert report["unexpected_keys"] == {"neck.weight", "classifier.extra.weight"}
    assert [name.rpartition(".")[2] for name in report["missing_keys"]] == ["cls_token"]
    assert "neck.weight" in caplog.text


def test_a_classifier_names_parts_of_a_head_that_its_configuration_does_not_have(tiny_config, tmp_path):
    tiny_config.pooled_norm = True
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path)
    _, report = OmniVisionForImageClassification.from_pretrained(tmp_path, pooled_norm=False, output_loading_info=True)
    assert report["unexpected_keys"] == {"pooled_norm.weight", "pooled_norm.bias"}


def test_label_names_are_kept(tiny_config, tmp_path):
    tiny_config.id2label, tiny_config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path)
    assert OmniVisionForImageClassification.from_pretrained(tmp_path).config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
def test_the_head_reads_the_pooling_of_the_configuration(tiny_config, pooling):
    tiny_config.pooling, tiny_config.num_register_tokens = pooling, 2
    model, pixels = OmniVisionForImageClassification(tiny_config).eval(), torch.randn(2, 3, 32, 32)
    tokens = model.omni_vision(pixels).last_hidden_state
    pooled = {
        "cls": [tokens[:, 0]],
        "mean": [tokens[:, 3:].mean(1)],
        "cls_mean": [tokens[:, 0], tokens[:, 3:].mean(1)],
    }
    expected = model.classifier(torch.cat(pooled[pooling], dim=-1))
    torch.testing.assert_close(model(pixels).logits, expected, atol=1e-6, rtol=0)


def test_class_indices_and_one_hot_soft_labels_have_the_same_loss(tiny_classifier):
    pixels, classes = torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 1])
    hard = tiny_classifier(pixels, labels=classes).loss
    tiny_classifier.config.problem_type = "single_label_classification"
    soft = tiny_classifier(pixels, labels=nn.functional.one_hot(classes, 3).float()).loss
    torch.testing.assert_close(soft, hard)
    expected = nn.functional.cross_entropy(tiny_classifier(pixels).logits, classes)
    torch.testing.assert_close(hard, expected)


def test_mixed_labels_are_the_mixture_of_the_losses(tiny_classifier):
    tiny_classifier.config.problem_type = "single_label_classification"
    pixels, classes = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    one_hot = nn.functional.one_hot(classes, 3).float()
    mixed = tiny_classifier(pixels, labels=0.7 * one_hot + 0.3 * one_hot.flip(0)).loss
    parts = [tiny_classifier(pixels, labels=labels).loss for labels in (classes, classes.flip(0))]
    torch.testing.assert_close(mixed, 0.7 * parts[0] + 0.3 * parts[1])


def test_multi_label_and_regression_losses(tiny_classifier):
    pixels = torch.randn(2, 3, 32, 32)
    logits = tiny_classifier(pixels).logits
    flags = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, flags)
    torch.testing.assert_close(tiny_classifier(pixels, labels=flags).loss, expected)
    assert tiny_classifier.config.problem_type is None  # a forward pass must not rewrite the configuration
    tiny_classifier.config.problem_type = "regression"
    torch.testing.assert_close(tiny_classifier(pixels, labels=flags).loss, nn.functional.mse_loss(logits, flags))


def test_one_label_is_a_regression(tiny_config):
    tiny_config.num_labels = 1
    model, pixels = OmniVisionForImageClassification(tiny_config).eval(), torch.randn(3, 3, 32, 32)
    values = torch.tensor([0.5, -1.0, 2.0])
    expected = nn.functional.mse_loss(model(pixels).logits[:, 0], values)
    torch.testing.assert_close(model(pixels, labels=values).loss, expected)


@pytest.mark.parametrize("labels", [torch.zeros(2, dtype=torch.long), torch.zeros(3, 2), torch.zeros(3, 3).long()])
def test_labels_of_the_wrong_shape_are_refused(tiny_classifier, labels):
    with pytest.raises(ValueError, match="Labels for"):
        tiny_classifier(torch.randn(3, 3, 32, 32), labels=labels)


def test_drop_path_skips_whole_layers_in_training_only(tiny_config):
    tiny_config.drop_path_rate = 0.5
    model = OmniVisionModel(tiny_config)
    assert [layer.drop_path_rate for layer in model.layers] == [0.0, 0.5]
    tokens = torch.randn(400, 17, 32)
    layer = model.layers[1].train()
    changed = (layer(tokens) != tokens).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(0.75, abs=0.1)  # both branches dropped for a quarter; 4.6 deviations of 400 draws
    expected = layer.eval()(tokens)
    one_branch = tokens + layer.attention(layer.layernorm_before(tokens))[0]
    assert not torch.equal(expected, one_branch)
    assert torch.equal(layer(tokens), expected)


def test_dropped_patches_are_a_random_fraction_of_each_image_and_never_cls_or_registers(tiny_config):
    config = copy.copy(tiny_config)
    config.patch_drop_rate, config.num_register_tokens = 0.5, 2
    model = OmniVisionModel(config).train()
    layer_inputs = []
    model.layers[0].register_forward_hook(lambda module, inputs, output: layer_inputs.append(inputs[0]))
    pixels = torch.randn(1, 3, 32, 32).expand(6, -1, -1, -1)
    model(pixels)
    all_tokens = model.embeddings(pixels[:1])[0]
    (tokens,) = layer_inputs
    assert tokens.shape[1] == 3 + config.num_patches // 2
    assert torch.equal(tokens[:, :3], all_tokens[:3].expand(6, -1, -1))
    chosen = [{int((all_tokens == token).all(-1).nonzero()) for token in image[3:]} for image in tokens]
    assert all(len(patches) == config.num_patches // 2 for patches in chosen)
    assert len(set(map(frozenset, chosen))) > 1


def test_evaluation_and_masks_keep_every_patch_whatever_the_drop_rate(tiny_config):
    config = copy.copy(tiny_config)
    config.patch_drop_rate = 0.9
    model, pixels = OmniVisionModel(config), torch.randn(2, 3, 32, 32)
    assert model.eval()(pixels).grid.shape[1] == config.num_patches
    mask = torch.ones(2, 1 + config.num_patches)
    assert model.train()(pixels, attention_mask=mask).grid.shape[1] == config.num_patches


def test_computing_the_last_layer_for_cls_alone_changes_neither_cls_nor_a_gradient(tiny_config):
    model, pixels = OmniVisionModel(tiny_config).train(), torch.randn(3, 3, 32, 32)

    def cls_and_gradients(cls_only):
        model.zero_grad()
        output = model(pixels, cls_only=cls_only)
        output.cls.square().sum().backward()
        return output, [parameter.grad.clone() for parameter in model.parameters()]

    (full, expected), (short, gradients) = cls_and_gradients(False), cls_and_gradients(True)
    assert (short.last_hidden_state.shape[1], short.grid.shape[1]) == (1, 0)
    # Other shapes of the same products are summed in another order; measured 2e-7 and 1e-6 of the largest.
    torch.testing.assert_close(short.cls, full.cls, atol=2e-6, rtol=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=1e-4)


def test_a_classifier_in_training_skips_unused_tokens_and_returns_requested_ones(tiny_config):
    model, pixels = OmniVisionForImageClassification(tiny_config).train(), torch.randn(2, 3, 32, 32)
    lengths = []
    model.omni_vision.layers[-1].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    model(pixels)
    states = model(pixels, output_hidden_states=True).hidden_states
    model.eval()(pixels)
    model.train().config.pooling = "mean"
    model(pixels)
    tokens = 1 + tiny_config.num_patches
    assert lengths == [1, tokens, tokens, tokens]
    assert states[-1].shape[1] == tokens


def test_cls_alone_cannot_be_requested_with_a_mask(tiny_model):
    with pytest.raises(ValueError, match="cls_only"):
        tiny_model(torch.randn(1, 3, 32, 32), attention_mask=torch.ones(1, 17), cls_only=True)


def test_dropout_is_where_torchs_layer_has_it(tiny_config):
    tiny_config.hidden_dropout_prob, tiny_config.attention_probs_dropout_prob = 0.25, 0.125
    layer = OmniVisionModel(tiny_config).layers[0]
    assert layer.dropout.p == layer.mlp.dropout.p == 0.25
    layer.train()
    tokens = torch.randn(1, 17, 32)
    assert not torch.equal(layer(tokens), layer(tokens))
    assert torch.equal(layer.eval()(tokens), layer(tokens))


def test_bfloat16_stays_close_to_float32(tiny_model):
    pixels = torch.randn(2, 3, 32, 32)
    exact, half = tiny_model(pixels).last_hidden_state, copy.deepcopy(tiny_model).bfloat16()(pixels).last_hidden_state
    assert half.dtype == torch.bfloat16
    similarity = nn.functional.cosine_similarity(exact.flatten(), half.float().flatten(), dim=0)
    assert similarity > 0.999  # measured 0.99998


def test_a_big_activation_in_float16_stays_finite(tiny_model):
    with torch.no_grad():
        tiny_model.embeddings.cls_token.mul_(0).add_(torch.linspace(-300, 300, 32))  # 300 squared overflows float16
    assert torch.isfinite(tiny_model.half()(torch.zeros(1, 3, 32, 32)).last_hidden_state).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_large_batch_goes_through_the_layers_in_parts_with_equal_results(tiny_config, monkeypatch, fused, attention):
    model, pixels, batches = OmniVisionModel(tiny_config).eval(), torch.randn(7, 3, 32, 32), []
    model.set_attn_implementation(attention)
    original = OmniVisionModel._run_layers

    def counted(self, tokens, **kwargs):
        batches.append(len(tokens))
        return original(self, tokens, **kwargs)

    monkeypatch.setattr(OmniVisionModel, "_run_layers", counted)
    if fused:
        model.fuse_qkv_projections()
    with torch.no_grad():
        whole = [model(pixels), model(pixels, cls_only=True)]
        # Two images are 34 tokens of 64 float32 numbers.
        monkeypatch.setattr(common_omni_vision, "PART_BYTES", 34 * 64 * 4)
        parts = [model(pixels), model(pixels, cls_only=True)]
    assert batches == [7, 7, *2 * [2, 2, 2, 1]]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.last_hidden_state, other.last_hidden_state, atol=1e-6, rtol=0)


def test_gradients_masks_hooks_and_recorded_outputs_get_the_whole_batch(tiny_model, monkeypatch):
    monkeypatch.setattr(common_omni_vision, "PART_BYTES", 1)
    pixels, seen = torch.randn(3, 3, 32, 32), []
    with torch.no_grad():
        expected = tiny_model(pixels)
        handle = tiny_model.layers[1].mlp.register_forward_hook(lambda _, given, found: seen.append(len(found)))
        found = [tiny_model(pixels)]
        handle.remove()
        mask = torch.tensor([[1] * 17, [1] * 9 + [0] * 8, [1] * 17])
        masked, alone = (tiny_model(pixels[rows], attention_mask=mask[rows]) for rows in (slice(0, 3), slice(1, 2)))
        torch.testing.assert_close(masked.cls[1:2], alone.cls, atol=1e-5, rtol=0)
        found.append(tiny_model(pixels, output_hidden_states=True))
    assert [len(states) for states in found[-1].hidden_states] == [3, 3, 3]
    found.append(tiny_model(pixels))
    assert seen == [3]
    for one in found:
        torch.testing.assert_close(one.last_hidden_state, expected.last_hidden_state, atol=1e-6, rtol=0)


def test_the_model_compiles_to_one_graph(tiny_model):
    compiled = torch.compile(tiny_model, fullgraph=True, backend="aot_eager")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        compiled(pixels).last_hidden_state, tiny_model(pixels).last_hidden_state, atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_the_classifier_compiles_and_trains_with_inductor(tiny_classifier):
    compiled = torch.compile(tiny_classifier.train(), fullgraph=True)
    pixels, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    compiled(pixels, labels=labels).loss.backward()
    compiled_gradient = tiny_classifier.classifier.weight.grad.clone()
    tiny_classifier.zero_grad()
    tiny_classifier(pixels, labels=labels).loss.backward()
    torch.testing.assert_close(compiled_gradient, tiny_classifier.classifier.weight.grad, atol=1e-5, rtol=1e-4)


def test_the_model_exports_with_a_dynamic_batch(tiny_model):
    pixels = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(
        tiny_model, (), {"pixel_values": pixels}, dynamic_shapes={"pixel_values": {0: Dim("batch")}}
    ).module()
    other = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(exported(pixel_values=other).grid, tiny_model(other).grid, atol=1e-6, rtol=0)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("side", [32, 48])
def test_the_model_exports_for_any_size_whatever_that_of_the_example(tiny_config, side, antialias):
    # As transformers' own exporters call it.
    tiny_config.position_antialias = antialias
    model = OmniVisionModel(tiny_config).eval()
    example, axes = torch.randn(2, 3, side, side), dict.fromkeys((0, 2, 3), Dim.AUTO)
    exported = torch.export.export(
        model, (), {"pixel_values": example}, dynamic_shapes={"pixel_values": axes}, strict=False
    ).module()
    for shape in ((2, 3, side, side), (1, 3, 32, 32), (3, 3, 16, 40), (1, 3, 64, 48)):
        other = torch.randn(*shape)
        torch.testing.assert_close(exported(pixel_values=other).grid, model(other).grid, atol=1e-5, rtol=0)
    # ExecuTorch takes what is not contiguous for something else (findings/executorch_bicubic_mixes_axes.sh).
    nodes = [node for node in exported.graph.nodes if "upsample_bicubic2d" in str(node.target)]
    assert [node.args[0].meta["val"].is_contiguous() for node in nodes] == [True]


def test_a_trace_at_the_native_size_interpolates_nothing(tiny_config):
    # Converters of traces have no operation for it.
    tiny_config.position_antialias = True
    model = OmniVisionModel(tiny_config).eval()
    traced = torch.jit.trace(model, torch.randn(1, 3, 32, 32), strict=False)
    assert "upsample" not in str(traced.inlined_graph)


def test_gradient_checkpointing_changes_no_gradient(tiny_classifier):
    pixels, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(tiny_classifier).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(pixels, labels=labels).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


def test_every_parameter_receives_a_gradient(tiny_config):
    tiny_config.num_register_tokens = 2
    model = OmniVisionForImageClassification(tiny_config).train()
    model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A key bias shifts all scores of a query alike, which softmax ignores.
    assert [name for name in without if not name.endswith("k_proj.bias")] == []


def test_a_classifier_checkpoint_loads_as_the_bare_model_and_back(tiny_classifier, tmp_path):
    tiny_classifier.save_pretrained(tmp_path / "classifier")
    encoder = OmniVisionModel.from_pretrained(tmp_path / "classifier")
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(pixels).cls, tiny_classifier.omni_vision(pixels).cls)
    encoder.save_pretrained(tmp_path / "encoder")
    again, report = OmniVisionForImageClassification.from_pretrained(
        tmp_path / "encoder", num_labels=3, output_loading_info=True
    )
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(again.omni_vision(pixels).cls, encoder(pixels).cls)


def test_weights_are_stored_as_safetensors_only_and_nothing_is_left_out(tiny_classifier, tmp_path):
    tiny_classifier.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    names = dict(tiny_classifier.named_parameters())
    assert not any("gamma" in name or "beta" in name for name in names)
    assert not list(tiny_classifier.buffers())


def test_the_same_seed_gives_the_same_weights():
    weights = []
    for _ in range(2):
        torch.manual_seed(7)
        weights.append(OmniVisionModel(OmniVisionConfig(num_hidden_layers=1)).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_published_files_import_only_dependencies_of_transformers():
    package = Path(modeling_omni_vision.__file__).parent
    allowed = {
        "torch",
        "transformers",
        "huggingface_hub",
        "numpy",
        "PIL",
        "torchvision",
    } | sys.stdlib_module_names
    for file in package.glob("*_omni_vision*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= allowed, file.name
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed - {"__future__"}, file.name
            if isinstance(node, ast.ImportFrom) and node.level:
                # The only relative form that transformers copies to the Hub and finds again.
                assert node.level == 1, file.name
                assert (package / f"{node.module}.py").exists(), f"{file.name}: {node.module}"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fused_projections_give_equal_outputs_and_are_seen_by_nobody_else(tiny_classifier, tmp_path, attention):
    model = tiny_classifier
    model.set_attn_implementation(attention)
    pixels, names = torch.randn(2, 3, 32, 32), list(model.state_dict())
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True)
        assert model.fuse_qkv_projections() is model
        fused = model(pixels)
        recorded = model(pixels, output_hidden_states=True)
    # One product of another width: sums of 32 float32 numbers in another order.
    assert torch.allclose(fused.logits, expected.logits, atol=1e-5)
    assert len(recorded.hidden_states) == 3
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = OmniVisionForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.allclose(again(pixels).logits, model.unfuse_qkv_projections()(pixels).logits, atol=1e-5)


def test_fused_projections_leave_gradients_and_new_weights_to_the_projections(tiny_classifier):
    model, pixels = tiny_classifier.fuse_qkv_projections(), torch.randn(2, 3, 32, 32)
    attention = model.omni_vision.layers[0].attention
    model(pixels).logits.sum().backward()
    assert attention.q_proj.weight.grad is not None
    changed = {name: weight + 0.1 * torch.randn_like(weight) for name, weight in model.state_dict().items()}
    model.load_state_dict(changed)
    with torch.no_grad():
        after = model(pixels).logits
        assert torch.allclose(model.fuse_qkv_projections()(pixels).logits, after, atol=1e-4)
        attention.q_proj = torch.nn.Sequential(attention.q_proj)  # as an adapter stands in its place
        assert not attention.is_fused
        attention.q_proj[0].weight.zero_()
        assert not torch.allclose(model(pixels).logits, after, atol=1e-4)
    model.train()
    assert attention.qkv_weight is None


PARTS = {
    "all projections": (["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"], None),
    "queries and values": (["q_proj", "v_proj"], None),
    "outputs": (["o_proj"], None),
    "first of the MLP": (["fc1"], None),
    "second of the MLP": (["fc2"], None),
    "queries of a later layer": (["q_proj"], [1]),
    "outputs of a later layer": (["o_proj"], [1]),
    "MLP of a later layer": (["fc1", "fc2"], [1]),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("first", ["fused", "adapted"])
@pytest.mark.parametrize("parts", PARTS)
def test_lora_on_any_part_of_any_layer_is_used_whether_it_comes_before_or_after_fusing(
    tiny_classifier, parts, first, attention
):
    peft = pytest.importorskip("peft")
    targets, layers = PARTS[parts]
    pattern = {"layers_to_transform": layers, "layers_pattern": "layers"} if layers else {}
    lora = peft.LoraConfig(target_modules=targets, init_lora_weights=False, r=4, **pattern)
    model, pixels = tiny_classifier, torch.randn(2, 3, 32, 32)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        plain = model(pixels).logits
        if first == "fused":
            model.fuse_qkv_projections()(pixels)
        adapted = peft.get_peft_model(model, lora).eval()
        if first == "adapted":
            model.fuse_qkv_projections()
        found = adapted(pixels).logits
        expected = copy.deepcopy(model).unfuse_qkv_projections()(pixels).logits
        assert not torch.allclose(expected, plain, atol=1e-3)
        # Three products instead of one in some layers: sums in another order.
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        with adapted.disable_adapter():
            torch.testing.assert_close(adapted(pixels).logits, plain, atol=1e-5, rtol=0)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(pixels).logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(merged.fuse_qkv_projections()(pixels).logits, expected, atol=1e-5, rtol=0)


def seen_forward(seen, name, forward, *args, **kwargs):
    seen.append(name)
    return forward(*args, **kwargs)


LAYER_PARTS = [
    *("", "layernorm_before", "attention", "layernorm_after", "mlp", "dropout", "mlp.activation", "mlp.dropout"),
    *(f"attention.{one}_proj" for one in "qkvo"),
    *("mlp.fc1", "mlp.fc2"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["forward hook", "forward hook before", "forward replaced"])
def test_hooks_on_any_part_of_a_layer_are_called_after_fusing(tiny_model, kind, attention):
    model, pixels, seen = tiny_model.fuse_qkv_projections(), torch.randn(2, 3, 32, 32), []
    model.set_attn_implementation(attention)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        for name in LAYER_PARTS:
            part = model.layers[1].get_submodule(name)
            if kind == "forward replaced":  # as accelerate does for offloaded weights
                part.forward = partial(seen_forward, seen, name, part.forward)
            else:
                add = part.register_forward_hook if kind == "forward hook" else part.register_forward_pre_hook
                hook = add(lambda *_, name=name: seen.append(name))
            torch.testing.assert_close(model(pixels).last_hidden_state, expected, atol=1e-5, rtol=0)
            if kind == "forward replaced":
                del part.forward
            else:
                hook.remove()
    called = [name for name in LAYER_PARTS for _ in range(2 if name == "dropout" else 1)]
    assert seen == called  # the dropout of a layer is called for both branches


def runs_layers_whole(model, pixels):
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(pixels)
    return any(event.name.endswith("_transformer_encoder_layer_fwd") for event in profile.events())


def test_whole_layers_are_computed_until_a_part_is_replaced_or_hooked_and_after_recording(tiny_model):
    model, pixels = tiny_model, torch.randn(2, 3, 32, 32)
    assert not runs_layers_whole(model, pixels)
    assert runs_layers_whole(model.fuse_qkv_projections(), pixels)
    with torch.no_grad():
        model(pixels, output_hidden_states=True)  # transformers leaves its hooks on the layers
    assert model.layers[0]._forward_hooks
    assert runs_layers_whole(model, pixels)
    for name in LAYER_PARTS[1:]:
        replaced = copy.deepcopy(model)
        parent, _, last = f"layers.1.{name}".rpartition(".")
        part = replaced.get_submodule(f"layers.1.{name}")
        part.__class__ = type("Adapted", (type(part),), {})
        assert not runs_layers_whole(replaced, pixels), name
        setattr(replaced.get_submodule(parent), last, part)
        assert not runs_layers_whole(replaced, pixels), name


def test_a_fused_model_with_hooks_and_recorded_outputs_compiles_to_one_graph(tiny_model):
    torch._dynamo.reset()
    model, pixels = tiny_model.fuse_qkv_projections(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).last_hidden_state
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(pixels).last_hidden_state, expected, atol=1e-5, rtol=0)
        model.layers[1].attention.q_proj.register_forward_hook(lambda module, given, found: found + 1)
        torch._dynamo.reset()
        hooked = model(pixels).last_hidden_state
        assert not torch.allclose(hooked, expected, atol=1e-3)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(pixels).last_hidden_state, hooked, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"pooling": "attention"}, {"use_cls_token": False, "pooling": "mean"}, {"num_register_tokens": 2}],
    ids=str,
)
def test_an_empty_batch_gives_empty_outputs(tiny_config, fields, attention):
    fields = {**tiny_config.to_dict(), **fields, "patch_drop_rate": 0.5, "drop_path_rate": 0.5}
    config, pixels = OmniVisionConfig.from_dict(fields), torch.zeros(0, 3, 32, 48)
    kinds = OmniVisionModel, OmniVisionForImageClassification, OmniVisionBackbone, OmniVisionForMaskedImageModeling
    for kind in kinds:
        model = kind(config).eval()
        model.set_attn_implementation(attention)
        with torch.no_grad():
            shapes = [one.shape for one in model(pixels, return_dict=False) if isinstance(one, torch.Tensor)]
            full = model(torch.zeros(2, 3, 32, 48), return_dict=False)
        assert shapes == [(0, *one.shape[1:]) for one in full if isinstance(one, torch.Tensor)]
        with torch.no_grad():
            fused = model.fuse_qkv_projections()(pixels, return_dict=False)
        assert [one.shape for one in fused if isinstance(one, torch.Tensor)] == shapes
        model.train()(pixels)
    encoder = OmniVisionModel(config).eval()
    encoder.set_attn_implementation(attention)
    tokens = config.num_prefix_tokens + 24
    assert encoder(pixels, attention_mask=torch.ones(0, tokens)).last_hidden_state.shape == (0, tokens, 32)
    assert [one.shape for one in encoder.forward_intermediates(pixels)[1]] == [(0, 32, 4, 6)] * 2
    if config.use_cls_token:
        assert encoder.attention_maps(pixels).shape == (0, 1, 2, 4, 6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_variational_autoencoder_draws_and_reconstructs_no_images(tiny_config, attention):
    pytest.importorskip("transformers", minversion="5.23", reason="autoencoders need transformers 5.23")
    from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig

    model = OmniVisionVAE(OmniVisionVAEConfig(vision_config=tiny_config, latent_size=4)).eval()
    model.set_attn_implementation(attention)
    pixels = torch.zeros(0, 3, 32, 32)
    for _ in range(2):
        assert model.sample(0).shape == model(pixels).reconstruction.shape == (0, 3, 32, 32)
        assert model.elbo(pixels, 3).shape == (0,)
        model.fuse_qkv_projections()


@pytest.mark.parametrize(
    "model_class",
    [OmniVisionModel, OmniVisionForImageClassification, OmniVisionBackbone, OmniVisionForMaskedImageModeling],
)
def test_a_configuration_may_ask_for_tuples(tiny_config, model_class):
    pixels = torch.randn(1, 3, *tiny_config.image_size_hw)
    model = model_class(tiny_config).eval()
    expected = model(pixels).to_tuple()
    model.config.return_dict = False
    found = model(pixels)
    assert isinstance(found, tuple)
    assert len(found) == len(expected)
    first, second = (one[0] if isinstance(one[0], torch.Tensor) else one[0][-1] for one in (found, expected))
    assert torch.equal(first, second)
