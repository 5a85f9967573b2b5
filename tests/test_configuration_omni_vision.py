import json

import pytest
from transformers import AutoConfig

from modeling_omni_vision import OmniVisionConfig, OmniVisionModel


def test_the_default_config_is_the_specification():
    config = OmniVisionConfig()
    spec = {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 512,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "block_norm": "layer_norm",
        "num_register_tokens": 0,
        "pooling": "cls",
    }
    assert {name: getattr(config, name) for name in spec} == spec
    assert (config.grid_size, config.num_patches) == ((14, 14), 196)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 916_992), ({"block_norm": "rms_norm"}, 915_968), ({"num_register_tokens": 4}, 917_504)],
)
def test_the_number_of_parameters_is_the_documented_one(options, parameters):
    assert OmniVisionModel(OmniVisionConfig(**options)).num_parameters() == parameters


def test_sizes_may_be_pairs_of_height_and_width():
    config = OmniVisionConfig(image_size=(32, 64), patch_size=[16, 8])
    assert config.image_size_hw == (32, 64)
    assert config.patch_size_hw == (16, 8)
    assert config.grid_size == (2, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": "128"}, ["hidden_size", "int", "'128'"]),
        ({"hidden_size": 128.0}, ["hidden_size", "int", "128.0"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers", "bool"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "at least 1", "got 0"]),
        ({"num_channels": 0}, ["num_channels", "at least 1"]),
        ({"num_register_tokens": -1}, ["num_register_tokens", "at least 0", "got -1"]),
        ({"hidden_size": 10, "num_attention_heads": 4}, ["multiple", "10", "4"]),
        ({"image_size": 30}, ["patch_size", "divide", "30", "16"]),
        ({"image_size": (32, 40)}, ["width", "40"]),
        ({"image_size": (32, 32, 32)}, ["image_size", "tuple of length 2", "(32, 32, 32)"]),
        ({"image_size": [32]}, ["image_size", "pair", "[32]"]),
        ({"image_size": 224.0}, ["image_size", "224.0"]),
        ({"patch_size": 0}, ["patch_size", "positive"]),
        ({"patch_size": 32, "image_size": 16}, ["patch_size", "16", "32"]),
        ({"hidden_dropout_prob": 1.0}, ["hidden_dropout_prob", "below 1", "1.0"]),
        ({"drop_path_rate": -0.1}, ["drop_path_rate", "-0.1"]),
        ({"attention_probs_dropout_prob": float("nan")}, ["attention_probs_dropout_prob", "nan"]),
        ({"layer_norm_eps": 0.0}, ["layer_norm_eps", "positive"]),
        ({"initializer_range": -1.0}, ["initializer_range", "positive"]),
        ({"pooling": "max"}, ["pooling", "'cls'", "'mean'", "'cls_mean'", "'max'"]),
        ({"block_norm": "batch_norm"}, ["block_norm", "'rms_norm'", "'batch_norm'"]),
        ({"hidden_act": "gelu2"}, ["hidden_act", "'gelu'", "'gelu2'"]),
    ],
)
def test_an_invalid_value_is_refused_at_initialisation(options, words):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the words are checked below)
        OmniVisionConfig(**options)
    missing = [word for word in words if word not in str(refusal.value)]
    assert not missing, str(refusal.value)


def test_a_saved_config_names_every_published_class(tmp_path):
    OmniVisionConfig(image_size=(32, 64), num_labels=7).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "omni_vision"
    assert saved["auto_map"] == {
        "AutoBackbone": "modeling_omni_vision.OmniVisionBackbone",
        "AutoConfig": "configuration_omni_vision.OmniVisionConfig",
        "AutoModel": "modeling_omni_vision.OmniVisionModel",
        "AutoModelForImageClassification": "modeling_omni_vision.OmniVisionForImageClassification",
        "AutoModelForMaskedImageModeling": "modeling_omni_vision.OmniVisionForMaskedImageModeling",
    }


def test_a_config_comes_back_as_it_was_saved(tmp_path):
    config = OmniVisionConfig(image_size=(32, 64), id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is OmniVisionConfig
    assert again.image_size_hw == (32, 64)
    assert again.id2label == {0: "cat", 1: "dog"}
    ours, theirs = config.to_dict(), again.to_dict()
    for volatile in ("transformers_version", "image_size", "_name_or_path"):
        ours.pop(volatile, None), theirs.pop(volatile, None)
    assert ours == theirs


def test_an_invalid_config_file_is_refused_with_the_field_named(tmp_path):
    OmniVisionConfig().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"hidden_size": 128', '"hidden_size": 127'))
    with pytest.raises(ValueError, match="hidden_size"):
        OmniVisionConfig.from_pretrained(tmp_path)
