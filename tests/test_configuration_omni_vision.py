import copy
import json
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_omni_vision import OmniVisionBackbone, OmniVisionConfig, OmniVisionModel


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


def older(config):
    """What versions saved that named all stages, and the last one also where nobody chose it."""
    indices = [config.stage_names.index(name) for name in config.out_features]
    stages = {"stage_names": config.stage_names, "out_features": config.out_features, "out_indices": indices}
    return {**config.to_dict(), **stages}


@pytest.mark.parametrize("layers", [2, 6])
@pytest.mark.parametrize("write", [OmniVisionConfig.to_dict, older])
def test_the_default_feature_map_is_the_last_one_of_any_number_of_layers(layers, write):
    saved = write(OmniVisionConfig())
    ways = [OmniVisionConfig.from_dict({**saved, "num_hidden_layers": layers})]
    ways.append(OmniVisionConfig.from_dict(dict(saved), num_hidden_layers=layers))
    ways.append(OmniVisionConfig.from_dict(saved))
    ways[-1].num_hidden_layers = layers
    for config in [*ways, *map(copy.deepcopy, ways), *(pickle.loads(pickle.dumps(way)) for way in ways)]:
        assert (config.out_features, config.out_indices) == ([f"stage{layers}"], [layers])
        assert len(config.stage_names) == layers + 1
        assert not {"out_features", "out_indices", "stage_names"} & {*config.to_dict(), *config.to_diff_dict()}


@pytest.mark.parametrize("write", [OmniVisionConfig.to_dict, older])
def test_chosen_feature_maps_are_saved_and_refused_once_their_layer_is_gone(write, tmp_path):
    config = OmniVisionConfig(out_features=["stage1", "stage3"])
    saved = write(config)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    for layers in (3, 4, 6):
        again = OmniVisionConfig.from_pretrained(tmp_path, num_hidden_layers=layers)
        assert (again.out_features, again.out_indices) == (["stage1", "stage3"], [1, 3])
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        OmniVisionConfig.from_dict({**saved, "num_hidden_layers": 2})
    again.num_hidden_layers = 2
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        OmniVisionBackbone(again)
    # A choice replaces the default of an older file, by name or by number.
    for choice in ({"out_features": ["stage1"]}, {"out_indices": [1]}):
        assert OmniVisionConfig.from_dict({**write(OmniVisionConfig()), **choice}).out_features == ["stage1"]
    assert OmniVisionConfig.from_pretrained(tmp_path, num_hidden_layers=2, out_indices=[1]).out_features == ["stage1"]


def test_a_model_saved_with_fewer_layers_opens(tiny_config, tmp_path):
    OmniVisionModel(tiny_config).save_pretrained(tmp_path / "two")
    AutoModel.from_pretrained(tmp_path / "two", num_hidden_layers=1).save_pretrained(tmp_path / "fewer")
    cut = OmniVisionModel.from_pretrained(tmp_path / "two").eval()
    cut.layers, cut.config.num_hidden_layers = cut.layers[:1], 1
    cut.save_pretrained(tmp_path / "cut")
    pixels = torch.randn(1, 3, 32, 32)
    for name in ("fewer", "cut"):
        model = OmniVisionModel.from_pretrained(tmp_path / name).eval()
        assert torch.equal(model(pixels).last_hidden_state, cut(pixels).last_hidden_state)
        backbone = OmniVisionBackbone.from_pretrained(tmp_path / name).eval()
        (features,) = backbone(pixels).feature_maps
        assert torch.equal(features.flatten(2).transpose(1, 2), model(pixels).grid)
        assert backbone.channels == [32]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"final_norm": "rmsnorm"}, "`final_norm` must be one of"),
        ({"pooling": "avg"}, "`pooling` must be one of"),
        ({"hidden_act": "gleu"}, "`hidden_act` must be one of"),
        ({"patch_size": 5}, "`patch_size` must divide `image_size`"),
        ({"num_attention_heads": 3}, "`hidden_size` must be a multiple"),
        ({"hidden_size": "wide"}, "value of the wrong type"),
        ({"use_cls_token": False}, "`pooling` must be 'mean' or 'attention'"),
    ],
)
def test_fields_given_to_from_pretrained_are_checked_as_those_of_a_file(tmp_path, fields, said):
    OmniVisionConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    for opened in (OmniVisionConfig, AutoConfig):
        with pytest.raises(ValueError, match=said):
            opened.from_pretrained(tmp_path, **fields)


def test_fields_given_to_from_pretrained_act_and_the_rest_stays(tmp_path):
    OmniVisionConfig(num_hidden_layers=3, hidden_size=64).save_pretrained(tmp_path)
    given = {"pooling": "mean", "num_hidden_layers": 2, "num_labels": 7, "unknown": 1, "return_unused_kwargs": True}
    config, unused = OmniVisionConfig.from_pretrained(tmp_path, **given)
    assert (config.pooling, config.num_hidden_layers, config.hidden_size, config.num_labels) == ("mean", 2, 64, 7)
    assert config.stage_names == ["stem", "stage1", "stage2"]
    assert unused == {"unknown": 1}


def test_fields_given_for_a_part_of_a_composite_are_checked_and_what_follows_from_them_is_made_anew(tmp_path):
    pytest.importorskip("transformers", minversion="5.23", reason="retrieval models need transformers 5.23")
    from modeling_omni_vision import OmniVisionRetrievalConfig

    OmniVisionRetrievalConfig().save_pretrained(tmp_path)
    assert OmniVisionRetrievalConfig.from_pretrained(tmp_path, embedding_dim=32).projection_dim == 32
    with pytest.raises(ValueError, match="`text_pooling` must be one of"):
        OmniVisionRetrievalConfig.from_pretrained(tmp_path, text_pooling="max")
    with pytest.raises(ValueError, match="`patch_size` must divide"):
        OmniVisionRetrievalConfig.from_pretrained(tmp_path, vision_config={"patch_size": 5})
    config = OmniVisionRetrievalConfig.from_pretrained(tmp_path, vision_config={"image_size": 64})
    assert (config.vision_config.image_size, config.vision_config.patch_size, config.image_seq_length) == (64, 16, 16)
