import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from modeling_omni_vision import (
    OmniVisionForImageClassification,
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    OmniVisionModel,
)
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop import convert_to_native


# Same operations in the same order but for the last norm and a head that is twice as wide: measured 1.2e-6 on
# outputs up to 4.
EXACT = 1e-5


def stock_class(pooling, registers):
    """Name of the stock classifier that can hold a checkpoint of ours."""
    if registers:
        return "Dinov2WithRegistersForImageClassification"
    return "ViTForImageClassification" if pooling == "cls" else "Dinov2ForImageClassification"


@pytest.fixture
def saved(tiny_config, tmp_path, redrawn):
    """A function that saves a model with other options, and returns it."""

    def save(model_class=OmniVisionForImageClassification, **change):
        config = type(tiny_config).from_dict({**tiny_config.to_dict(), **change})
        model = redrawn(model_class(config)).eval()
        model.save_pretrained(tmp_path / "ours")
        return model

    return save


@pytest.fixture
def convert(tmp_path):
    """A function that converts what was saved, opens the twin, and returns both it and the report."""

    def run(auto_class=AutoModelForImageClassification, **options):
        report = convert_to_native(tmp_path / "ours", tmp_path / "twin")
        twin, loaded = auto_class.from_pretrained(
            tmp_path / "twin", trust_remote_code=False, output_loading_info=True, **options
        )
        assert not any(loaded.values()), loaded
        assert type(twin).__name__ == report.architecture
        return twin.eval(), report

    return run


@pytest.mark.parametrize(
    ("pooling", "registers", "block_norm"),
    list(itertools.product(["cls", "mean", "cls_mean"], [0, 3], ["layer_norm", "rms_norm"])),
)
def test_the_stock_model_that_can_hold_a_checkpoint_gives_its_logits(saved, convert, pooling, registers, block_norm):
    model = saved(pooling=pooling, num_register_tokens=registers, block_norm=block_norm)
    twin, report = convert()
    assert report.architecture == stock_class(pooling, registers)
    pixels = torch.randn(16, 3, 32, 32)
    with torch.inference_mode():
        ours, theirs = model(pixels).logits, twin(pixels).logits
    assert report.difference <= EXACT
    assert (ours - theirs).abs().max() <= EXACT
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert ours.std(dim=0).min() > 0.01, "a constant model would be equal to anything"


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 48, "patch_size": 12, "num_channels": 1},
        {"image_size": 20, "patch_size": 4, "num_channels": 5, "num_attention_heads": 4},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3, "intermediate_size": 32},
        {"num_hidden_layers": 3, "drop_path_rate": 0.2, "hidden_dropout_prob": 0.1, "num_labels": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("registers", [0, 1])
def test_every_other_option_is_carried_over_exactly(saved, convert, change, registers):
    model = saved(pooling="cls_mean", num_register_tokens=registers, **change)
    twin, _ = convert()
    pixels = torch.randn(8, model.config.num_channels, *model.config.image_size_hw)
    with torch.inference_mode():
        theirs = twin(pixels.expand(-1, twin.config.num_channels, -1, -1)).logits
        assert (model(pixels).logits - theirs).abs().max() <= EXACT


def test_an_encoder_with_registers_keeps_its_tokens_and_its_cls_as_pooler_output(saved, convert):
    model = saved(OmniVisionModel, num_register_tokens=3)
    twin, report = convert(AutoModel)
    assert report.architecture == "Dinov2WithRegistersModel"
    pixels = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        ours, theirs = model(pixels), twin(pixels)
    assert (ours.last_hidden_state - theirs.last_hidden_state).abs().max() <= EXACT
    assert (ours.pooler_output - theirs.pooler_output).abs().max() <= EXACT


def test_an_encoder_without_registers_is_a_vit_whatever_a_head_would_read(saved, convert):
    saved(OmniVisionModel, pooling="mean")
    assert convert(AutoModel)[1].architecture == "ViTModel"


def test_auto_model_reads_the_body_of_a_twin_classifier(saved, convert, tmp_path):
    model = saved(pooling="mean", num_register_tokens=2)
    convert()
    body = AutoModel.from_pretrained(tmp_path / "twin").eval()
    pixels = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        ours, theirs = model.omni_vision(pixels).last_hidden_state, body(pixels).last_hidden_state
    assert (ours - theirs).abs().max() <= EXACT


@pytest.mark.parametrize("registers", [0, 2])
def test_names_on_disk_are_those_that_the_stock_model_itself_writes(saved, convert, tmp_path, registers):
    saved(pooling="mean", num_register_tokens=registers)
    twin, _ = convert()
    twin.save_pretrained(tmp_path / "again")
    ours, stock = (load_file(tmp_path / name / "model.safetensors") for name in ("twin", "again"))
    assert {name: weight.shape for name, weight in ours.items()} == {
        name: weight.shape for name, weight in stock.items()
    }
    # The names of releases in which a layer still had its own query, key and value inside `attention.attention`.
    assert f"{twin.config.model_type}.encoder.layer.0.attention.attention.query.weight" in ours


@pytest.mark.parametrize(("pooling", "unread"), [("cls", slice(32, 64)), ("mean", slice(0, 32))])
def test_a_head_that_reads_one_token_ignores_the_other(saved, convert, pooling, unread):
    model = saved(pooling=pooling, num_register_tokens=1)
    weight = convert()[0].classifier.weight
    assert weight.shape == (3, 64)
    assert (weight[:, unread] == 0).all()
    assert torch.equal(weight[weight != 0], model.classifier.weight.flatten())


@pytest.mark.parametrize("size", [(64, 64), (24, 48), (16, 16)])
def test_without_registers_images_of_other_sizes_give_our_logits_too(saved, convert, size):
    model = saved(pooling="cls_mean")
    twin, _ = convert()
    pixels = torch.randn(4, 3, *size)
    with torch.inference_mode():
        assert (model(pixels).logits - twin(pixels).logits).abs().max() <= EXACT


def test_with_registers_the_stock_code_interpolates_otherwise_as_the_documentation_says(saved, convert):
    model = saved(num_register_tokens=1)
    twin, _ = convert()
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        # Once this fails, README and the docstrings promise too little.
        assert (model(pixels).logits - twin(pixels).logits).abs().max() > 10 * EXACT


@pytest.mark.parametrize(
    ("backend", "ours", "stock"),
    [
        ("torchvision", OmniVisionImageProcessor, "ViTImageProcessor"),
        ("pil", OmniVisionImageProcessorPil, "ViTImageProcessorPil"),
    ],
)
@pytest.mark.parametrize(("num_channels", "pooling"), [(1, "cls"), (1, "mean"), (3, "mean")])
def test_the_stock_image_processor_gives_our_pixels(
    saved, convert, tmp_path, backend, ours, stock, num_channels, pooling
):
    saved(pooling=pooling, num_channels=num_channels)
    statistics = {"image_mean": [0.4, 0.5, 0.6][:num_channels], "image_std": [0.2, 0.3, 0.25][:num_channels]}
    processor = ours(size={"height": 32, "width": 32}, num_channels=num_channels, **statistics)
    processor.save_pretrained(tmp_path / "ours")
    assert convert()[1].has_processor
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "twin", backend=backend, trust_remote_code=False)
    assert type(theirs).__name__ == stock
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (41, 30), dtype=np.uint8))]
    if num_channels == 3:
        images.append(Image.fromarray(draw.integers(0, 256, (50, 70, 3), dtype=np.uint8)))
    expected, found = (made(images, return_tensors="pt")["pixel_values"] for made in (processor, theirs))
    assert found.shape == (len(images), 3, 32, 32)
    # The same resize on the same bytes; normalisation rounds alike or in the last bit.
    assert (expected - found).abs().max() < 1e-6


def test_what_the_model_knows_of_its_task_is_kept(saved, convert):
    names = {0: "cat", 1: "dog", 2: "a b, c"}
    labels = {name: index for index, name in names.items()}
    saved(pooling="mean", id2label=names, label2id=labels, problem_type="single_label_classification")
    config = convert()[0].config
    assert (config.id2label, config.label2id) == (names, labels)
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": (32, 16)}, r"`image_size` \(32, 16\)"),
        ({"patch_size": (8, 4)}, r"`patch_size` \(8, 4\)"),
        ({"intermediate_size": 80}, "`hidden_size` 32 divides, got 80"),
        ({"num_labels": 0}, "`num_labels` 0"),
    ],
)
@pytest.mark.parametrize("registers", [0, 1])
def test_what_a_stock_dinov2_cannot_hold_is_refused_by_name(saved, tmp_path, change, named, registers):
    saved(pooling="mean", num_register_tokens=registers, **change)
    with pytest.raises(ValueError, match=named):
        convert_to_native(tmp_path / "ours", tmp_path / "twin")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("registers", [0, 2])
def test_weights_that_are_not_centred_are_refused(saved, tmp_path, registers):
    model = saved(pooling="mean", num_register_tokens=registers)
    with torch.no_grad():
        model.omni_vision.layers[1].mlp.fc2.bias.add_(0.25)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"mean of up to 2\.5e-01.*center_residual_"):
        convert_to_native(tmp_path / "ours", tmp_path / "twin")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_registers_that_are_not_centred_are_refused(saved, tmp_path):
    model = saved(num_register_tokens=2)
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    weights["omni_vision.embeddings.register_tokens"] += 0.5
    save_file(weights, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"mean of up to 5\.0e-01"):
        convert_to_native(tmp_path / "ours", tmp_path / "twin")
    assert model.residual_mean() < 1e-6


@pytest.mark.parametrize("registers", [0, 1])
def test_the_twin_keeps_the_precision_of_the_checkpoint(saved, convert, tmp_path, registers):
    saved(num_register_tokens=registers).to(torch.float64).save_pretrained(tmp_path / "ours")
    twin, _ = convert(dtype="auto")
    assert {weight.dtype for weight in twin.state_dict().values()} == {torch.float64}
    assert {weight.dtype for weight in load_file(tmp_path / "twin" / "model.safetensors").values()} == {torch.float64}


@pytest.mark.parametrize(
    ("pooling", "registers", "architecture"), [("cls", 0, "ViTFor"), ("mean", 0, "Dinov2For"), ("cls", 1, "With")]
)
def test_the_script_says_which_stock_model_it_made(saved, tmp_path, capsys, pooling, registers, architecture):
    saved(pooling=pooling, num_register_tokens=registers)
    main(["--target", "native", "--model", str(tmp_path / "ours"), "--output", str(tmp_path / "twin")])
    printed = capsys.readouterr().out
    assert printed.startswith("OK")
    assert architecture in printed
