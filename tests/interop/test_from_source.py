"""Foreign encoders and classifiers compute the same as ours, at every size, with every weight off its default."""

import contextlib
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    SiglipConfig,
    SiglipVisionConfig,
    ViTConfig,
    ViTMAEConfig,
    ViTModel,
    ViTMSNConfig,
)

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from modeling_omni_vision.interop.clean_comparison import original_outputs, our_outputs
from modeling_omni_vision.interop.source import read_source
from modeling_omni_vision.interop.weights_file import read_state


# Rounding alone: folded LayerScale and stacked projections; measured 3e-15.
EXACT = 1e-10
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WIDE = {**TINY, "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 1536}
SHAPES = {"tiny": TINY, "wide": WIDE}
SIZES = [(32, 32), (16, 16), (64, 64), (16, 32), (64, 32)]
FIVE = {"num_labels": 5}
DINO = {"mlp_ratio": 2}
TEXT = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
# Class and configuration of a stock model, with what is special about the configuration.
STOCK = {
    "vit": ("ViTModel", ViTConfig, {}),
    "vit-tanh": ("ViTModel", ViTConfig, {"hidden_act": "gelu_pytorch_tanh", "qkv_bias": False}),
    "vit-head": ("ViTForImageClassification", ViTConfig, FIVE),
    "mae": ("ViTMAEModel", ViTMAEConfig, {}),
    "mae-decoder": ("ViTMAEForPreTraining", ViTMAEConfig, {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 32}),
    "msn": ("ViTMSNModel", ViTMSNConfig, {}),
    "msn-head": ("ViTMSNForImageClassification", ViTMSNConfig, FIVE),
    "deit": ("DeiTModel", DeiTConfig, {}),
    "deit-head": ("DeiTForImageClassification", DeiTConfig, FIVE),
    "dinov2": ("Dinov2Model", Dinov2Config, DINO),
    "dinov2-head": ("Dinov2ForImageClassification", Dinov2Config, {**DINO, **FIVE}),
    "dinov2-registers": ("Dinov2WithRegistersModel", Dinov2WithRegistersConfig, {**DINO, "num_register_tokens": 3}),
    "clip": ("CLIPVisionModel", CLIPVisionConfig, {}),
    "siglip": ("SiglipVisionModel", SiglipVisionConfig, {}),
    "siglip-no-head": ("SiglipVisionModel", SiglipVisionConfig, {"vision_use_head": False}),
}
COMPOSITES = {
    "clip-head": ("CLIPForImageClassification", CLIPConfig),
    "siglip-head": ("SiglipForImageClassification", SiglipConfig),
}
TIMM = {
    "plain": ("vit_base_patch16_224", {"num_classes": 5}),
    "no-embed-class": ("vit_base_patch16_224", {"num_classes": 5, "no_embed_class": True, "init_values": 0.1}),
    "no-qkv-bias": ("vit_base_patch16_224", {"num_classes": 5, "qkv_bias": False}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "registers-with-positions": ("vit_base_patch16_224", {"num_classes": 0, "reg_tokens": 2}),
    "clip": ("vit_base_patch16_clip_224", {"num_classes": 5}),
    "quick-gelu": ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 5}),
    "average": ("vit_base_patch16_224", {"num_classes": 5, "global_pool": "avg"}),
    "average-before-norm": ("vit_base_patch16_224", {"num_classes": 5, "global_pool": "avg", "fc_norm": False}),
    "no-cls": ("vit_wee_patch16_reg1_gap_256", {"num_classes": 5, "mlp_ratio": 4}),
    "attention-pool": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "attention-pool-registers": ("vit_so150m_patch16_reg4_map_256", {"num_classes": 5}),
}


def both_shapes(names):
    """Every family in both shapes; the wide ones take a second each, so only some of them run every time."""
    often = ("vit-head", "dinov2-registers", "plain")
    slow = [name for name in names if name not in often]
    wide = [pytest.param(name, "wide", marks=[pytest.mark.slow] * (name in slow)) for name in names]
    return [*((name, "tiny") for name in names), *wide]


@contextlib.contextmanager
def double_interpolation():
    """Interpolate positions in float64, in which ours does: timm and DINOv2 turn them into float32 first."""
    interpolate = torch.nn.functional.interpolate
    torch.nn.functional.interpolate = lambda tensor, *args, **kwargs: interpolate(tensor.double(), *args, **kwargs)
    try:
        yield
    finally:
        torch.nn.functional.interpolate = interpolate


def perturbed(model, seed=0):
    """Move every parameter off its default: zero biases, unit norms and a unit LayerScale hide a wrong mapping."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def stock_model(name, shape="tiny", **changes):
    torch.manual_seed(0)
    if name in COMPOSITES:
        model_class, config_class = COMPOSITES[name]
        config = config_class(text_config=TEXT, vision_config=SHAPES[shape], **FIVE)
    else:
        model_class, config_class, special = STOCK[name]
        options = {**SHAPES[shape], **special, **changes}
        config = config_class(
            **{
                key: value
                for key, value in options.items()
                if not (key == "intermediate_size" and "mlp_ratio" in options)
            }
        )
    return perturbed(getattr(transformers, model_class)(config))


def timm_model(name, shape="tiny", **changes):
    timm = pytest.importorskip("timm")
    architecture, special = TIMM[name]
    size = SHAPES[shape]
    options = {
        "img_size": size["image_size"],
        "patch_size": size["patch_size"],
        "embed_dim": size["hidden_size"],
        "depth": size["num_hidden_layers"],
        "num_heads": size["num_attention_heads"],
        "dynamic_img_size": True,
    }
    torch.manual_seed(0)
    return perturbed(timm.create_model(architecture, **{**options, **special, **changes}))


def save_timm(model, folder):
    from timm.models import save_for_hf

    save_for_hf(model, folder, safe_serialization=True)


def largest(theirs, ours):
    """Largest difference of any output of the original, and the largest of its values."""
    differences = [(ours[name] - expected).abs().max().item() for name, expected in theirs.items()]
    return max(differences), max(expected.abs().max().item() for expected in theirs.values())


def check_all_sizes(original, converted, whole=True, sizes=SIZES):
    """Compare in float64 and in float32 at the native size, half and twice, square and not."""
    exact, model = converted.model().double(), original.double()
    pixels = [torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes]
    with double_interpolation():
        for one in pixels:
            found, _ = largest(original_outputs(model, one, None, whole), our_outputs(exact, one, None))
            assert found <= EXACT, (one.shape, found)
    exact, model = exact.float(), original.float()
    for one in pixels:
        found, scale = largest(
            original_outputs(model, one.float(), None, whole), our_outputs(exact, one.float(), None)
        )
        assert found <= 1e-5 * max(1, scale), (one.shape, found)


@pytest.mark.parametrize(("name", "shape"), both_shapes([*STOCK, *COMPOSITES]))
def test_every_family_of_transformers_computes_the_same_as_ours_at_every_size(name, shape, tmp_path):
    original = stock_model(name, shape).double()
    original.save_pretrained(tmp_path)
    converted = read_source(tmp_path)
    is_classifier = hasattr(original, "classifier")
    assert converted.model_class is (OmniVisionForImageClassification if is_classifier else OmniVisionModel)
    check_all_sizes(original, converted)


@pytest.mark.parametrize(("name", "shape"), both_shapes(TIMM))
def test_every_variant_of_timms_vision_transformer_computes_the_same_as_ours_at_every_size(name, shape, tmp_path):
    original = timm_model(name, shape).double()
    save_timm(original, tmp_path)
    check_all_sizes(original, read_source(tmp_path))


def test_the_tag_of_timms_weights_says_quick_gelu_where_the_name_of_the_architecture_does_not(tmp_path):
    original = timm_model("quick-gelu").double()
    save_timm(original, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] = "vit_base_patch16_clip_224"
    config["pretrained_cfg"]["tag"] = "openai"
    (tmp_path / "config.json").write_text(json.dumps(config))
    converted = read_source(tmp_path)
    assert converted.config.hidden_act == "quick_gelu"
    assert "'openai'" in converted.notes[0]
    check_all_sizes(original, converted)
    assert read_source(tmp_path, hidden_act="gelu").config.hidden_act == "gelu"


def test_the_tags_of_quick_gelu_are_those_of_timms_architectures_of_that_name():
    timm = pytest.importorskip("timm")
    from modeling_omni_vision.interop.from_timm import QUICK_GELU_TAGS

    assert {name.partition(".")[2] for name in timm.list_pretrained("*quickgelu*")} == set(QUICK_GELU_TAGS)


def test_a_state_dict_of_timm_needs_the_name_of_its_architecture(tmp_path):
    timm = pytest.importorskip("timm")
    original = perturbed(timm.create_model("test_vit", num_classes=3, dynamic_img_size=True)).double()
    torch.save({"state_dict": original.state_dict()}, tmp_path / "model.pth")
    check_all_sizes(original, read_source(tmp_path / "model.pth", architecture="test_vit"), sizes=[(160, 160)])
    with pytest.raises(ValueError, match="--architecture"):
        read_source(tmp_path / "model.pth")
    with pytest.raises(ValueError, match="must know the architecture, got 'vit_of_mine'"):
        read_source(tmp_path / "model.pth", architecture="vit_of_mine")


@pytest.mark.parametrize("name", ["vit-head", "dinov2-head", "clip-head", "siglip-head", "deit-head"])
def test_the_encoder_alone_is_that_of_the_classifier(name, tmp_path):
    original = stock_model(name).double()
    original.save_pretrained(tmp_path)
    converted = read_source(tmp_path, encoder_only=True)
    assert converted.model_class is OmniVisionModel
    check_all_sizes(original, converted, whole=False)


def test_the_average_of_two_heads_is_refused_and_its_encoder_is_exact(tmp_path):
    original = perturbed(transformers.DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, **FIVE))).double()
    original.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"average of two heads.*--encoder_only true"):
        read_source(tmp_path)
    check_all_sizes(original, read_source(tmp_path, encoder_only=True), whole=False)


# --- files ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin"])
def test_weights_are_read_from_every_form_of_file_in_every_precision(form, dtype, tmp_path):
    original = stock_model("vit-head").to(dtype)
    original.save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "1GB")
    if form == "bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    assert (form == "sharded") == (len(list(tmp_path.glob("*.safetensors"))) > 1)
    model = read_source(tmp_path).model()
    assert model.dtype == dtype
    pixels = torch.randn(1, 3, 32, 32)
    theirs, ours = original_outputs(original.float(), pixels, None), our_outputs(model.float(), pixels, None)
    assert largest(theirs, ours)[0] <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_is_folded_is_kept_in_float32_so_that_half_precision_stays_exact(dtype, tmp_path):
    original = stock_model("dinov2").to(dtype)
    original.save_pretrained(tmp_path)
    model = read_source(tmp_path).model()
    assert model.dtype == torch.float32
    pixels = torch.randn(1, 3, 32, 32)
    found, scale = largest(original_outputs(original.float(), pixels, None), our_outputs(model, pixels, None))
    assert found <= 1e-5 * max(1, scale)


@pytest.fixture
def saved(tmp_path):
    stock_model("vit-head").save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def written(folder, config):
    pytest.importorskip("timm")
    (folder / "config.json").write_text(json.dumps(config))


BROKEN = {
    "a missing key": (
        lambda folder: rewrite(folder, lambda weights: weights.pop("vit.layernorm.bias")),
        r"missing: layernorm\.bias",
    ),
    "an unknown key": (
        lambda folder: rewrite(folder, lambda weights: weights.update({"vit.extra.weight": torch.ones(3)})),
        r"unknown: extra\.weight",
    ),
    "another shape": (
        lambda folder: rewrite(folder, lambda weights: weights.update({"classifier.bias": torch.ones(4)})),
        r"classifier\.bias of shape \(4,\) instead of \(5,\)",
    ),
    "a missing layer": (
        lambda folder: rewrite(folder, lambda weights: [weights.pop(n) for n in list(weights) if "layer.1." in n]),
        r"missing: encoder\.layer\.1\.\S+.* and \d+ more",
    ),
    "a configuration of another width": (lambda folder: reconfigure(folder, hidden_size=48), r"of another shape"),
    "a configuration of more layers": (
        lambda folder: reconfigure(folder, num_hidden_layers=3),
        r"missing: encoder\.layer\.2",
    ),
    "a configuration of fewer layers": (
        lambda folder: reconfigure(folder, num_hidden_layers=1),
        r"unknown: encoder\.layer\.1",
    ),
    "a configuration of another size": (
        lambda folder: reconfigure(folder, image_size=64),
        r"position_embeddings of shape",
    ),
    "another type of value": (
        lambda folder: reconfigure(folder, hidden_size="many"),
        r"configuration of .* must be valid",
    ),
    "a broken configuration": (lambda folder: (folder / "config.json").write_text("{"), "must be JSON"),
    "quantised weights": (
        lambda folder: reconfigure(folder, quantization_config={"quant_method": "bitsandbytes"}),
        "is quantised",
    ),
    "integers for weights": (
        lambda folder: rewrite(folder, lambda w: w.update({"classifier.weight": torch.ones(5, 32, dtype=torch.int8)})),
        r"float16, got others .*classifier\.weight",
    ),
    "half a file": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        "must be readable, got SafetensorError",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "Expected one of model.safetensors"),
    "a type that is a list": (
        lambda folder: reconfigure(folder, model_type=["vit"]),
        "must describe a model, got TypeError",
    ),
    "a billion layers": (lambda folder: reconfigure(folder, num_hidden_layers=10**9), "weights for 1000000000 layers"),
    "a width without end": (lambda folder: reconfigure(folder, hidden_size=4 * 10**9), "must describe a model, got"),
    "an image without end": (lambda folder: reconfigure(folder, image_size=8 * 10**7), "position_embeddings of shape"),
    "labels of another number": (
        lambda folder: reconfigure(folder, id2label={"0": "a"}, label2id={"a": 0}),
        r"classifier\.weight of shape \(5, 32\) instead of \(1, 32\)",
    ),
    "arguments of timm that are a list": (
        lambda folder: written(folder, {"architecture": "vit_tiny_patch16_224", "model_args": [1]}),
        "must describe a model, got TypeError",
    ),
    "a repository for an architecture of timm": (
        lambda folder: written(folder, {"architecture": "hf-hub:somebody/model", "num_classes": 5}),
        "no such architecture",
    ),
    "an architecture of timm that is a number": (lambda folder: written(folder, {"architecture": 5}), "got 5 with"),
    "a folder for a configuration": (
        lambda folder: [(folder / "config.json").unlink(), (folder / "config.json").mkdir()],
        "must describe a model, got IsADirectoryError",
    ),
    "another activation": (lambda folder: reconfigure(folder, hidden_act="snake"), "hidden_act"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_broken_is_named_in_one_sentence(saved, fault):
    spoil, named = BROKEN[fault]
    spoil(saved)
    with pytest.raises(ValueError, match=named):
        read_source(saved)


def test_another_kind_of_model_an_empty_folder_and_no_folder_are_refused(tmp_path):
    BertModel(BertConfig(**{**TEXT, "vocab_size": 9})).save_pretrained(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"one of these model types: vit, .*; got 'bert'"):
        read_source(tmp_path / "bert")
    with pytest.raises(ValueError, match="got neither"):
        read_source(tmp_path / "empty")
    with pytest.raises(ValueError, match="folder, file or Hub name"):
        read_source(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"Hub name of a checkpoint, got 'nobody/nothing'"):
        read_source("nobody/nothing")


@pytest.mark.parametrize("text", ["{", "{}", '{"model_cfg": {"embed_dim": 4}}', '{"model_cfg": 3}'])
def test_a_broken_configuration_of_open_clip_is_one_sentence(text, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(text)
    torch.save({"visual.proj": torch.ones(2)}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="must describe a model, got"):
        read_source(tmp_path)


def test_code_in_a_pickle_is_not_run(saved):
    (saved / "model.safetensors").unlink()
    torch.save({"a": Opened(saved / "run")}, saved / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"must be readable, got a pickle with more than tensors \(.*open\), .* none was run"
    ):
        read_source(saved)
    assert not (saved / "run").exists()
    (saved / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"got a file that torch did not write, .*Download"):
        read_source(saved)


def test_weights_in_the_format_of_torch_before_1_6_are_read(saved):
    expected = load_file(saved / "model.safetensors")
    torch.save(expected, saved / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (saved / "model.safetensors").unlink()
    found = read_state(saved)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


class Opened:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_gated_mlp_is_refused(tmp_path):
    stock_model("dinov2", use_swiglu_ffn=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_swiglu_ffn"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "options", "named"),
    [
        ("vit_base_patch16_224", {"qk_norm": True}, "LayerNorm instead of Identity"),
        ("vit_base_patch16_224", {"global_pool": "max"}, "global_pool 'max'"),
        ("vit_base_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}, "pool_include_prefix"),
        ("vit_base_patch16_224", {"pos_embed": "none"}, "no position embeddings"),
        ("vit_giant_patch14_dinov2", {}, "GluMlp instead of Mlp"),
        ("vit_small_patch16_18x2_224", {}, "ParallelThingsBlock instead of Block"),
        ("deit_tiny_distilled_patch16_224", {}, "VisionTransformerDistilled instead of VisionTransformer"),
        ("resnet18", {"embed_dim": None}, "ResNet"),
    ],
)
def test_parts_of_timms_models_that_have_no_place_are_named(architecture, options, named):
    pytest.importorskip("timm")
    from modeling_omni_vision.interop.from_timm import read_timm

    small = (
        {}
        if architecture == "resnet18"
        else {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    )
    arguments = {**small, **options}
    if architecture == "resnet18":
        arguments = {}
    config = {"architecture": architecture, "pretrained_cfg": {}, "model_args": {"num_classes": 0, **arguments}}
    with pytest.raises(ValueError, match=named):
        read_timm(config, {}, "somewhere")


# --- what opens towers takes foreign ones too ---


def test_a_vision_tower_of_a_stock_folder_is_the_converted_one(tmp_path):
    from modeling_omni_vision.interop import load_image_processor, load_vision_tower

    original = stock_model("vit-head")
    original.save_pretrained(tmp_path)
    tower = load_vision_tower(tmp_path, hidden_dropout_prob=0.3)
    assert (type(tower), tower.config.hidden_dropout_prob, tower.training) == (OmniVisionModel, 0.3, False)
    pixels = torch.randn(1, 3, 32, 32)
    assert largest(original_outputs(original, pixels, None, False), our_outputs(tower, pixels, None))[0] <= 1e-5
    with pytest.raises(ValueError, match="are made for num_attention_heads 4, got 2"):
        load_vision_tower(tmp_path, num_attention_heads=2)
    assert load_image_processor(tmp_path).size["height"] == 32


def test_a_plain_vit_without_a_head_is_no_classifier(tmp_path):
    ViTModel(ViTConfig(**TINY)).save_pretrained(tmp_path)
    assert read_source(tmp_path).model_class is OmniVisionModel


# --- and back ---

# What a stock model comes back as: another class where it holds the same weights.
BACK = {
    "vit": "ViTModel",
    "vit-tanh": "ViTModel",
    "vit-head": "ViTForImageClassification",
    "mae": "ViTModel",
    "msn-head": "ViTForImageClassification",
    "deit": "Dinov2WithRegistersModel",
    "deit-head": "Dinov2WithRegistersForImageClassification",
    "dinov2": "ViTModel",
    "dinov2-head": "Dinov2ForImageClassification",
    "dinov2-registers": "Dinov2WithRegistersModel",
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip-no-head": "SiglipVisionModel",
    "clip-head": "CLIPForImageClassification",
    "siglip-head": "SiglipForImageClassification",
}


@pytest.mark.parametrize("name", BACK)
def test_the_way_back_is_exact(name, tmp_path):
    from modeling_omni_vision.interop import convert_to_native

    original = stock_model(name)
    original.save_pretrained(tmp_path / "theirs")
    read_source(tmp_path / "theirs").model().save_pretrained(tmp_path / "ours")
    report = convert_to_native(tmp_path / "ours", tmp_path / "back")
    assert report.architecture == BACK[name]
    back = getattr(transformers, BACK[name]).from_pretrained(tmp_path / "back").eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected, found = original_outputs(original, pixels, None), original_outputs(back, pixels, None)
    for output in expected:
        assert (expected[output] - found[output]).abs().max() <= 1e-5 * max(1, expected[output].abs().max())
    if name in ("clip", "siglip"):
        assert all(torch.equal(value, back.state_dict()[key]) for key, value in original.state_dict().items())


@pytest.mark.parametrize("name", ["average", "quick-gelu", "attention-pool-registers"])
def test_what_no_stock_class_has_is_refused_on_the_way_back(name, tmp_path):
    from modeling_omni_vision.interop import convert_to_native

    if name in COMPOSITES:
        stock_model(name).save_pretrained(tmp_path / "theirs")
    else:
        save_timm(timm_model(name), tmp_path / "theirs")
    read_source(tmp_path / "theirs").model().save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"has (no|a) place for"):
        convert_to_native(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()
