"""One table of the flags of all commands. One word means one thing everywhere: adding one means editing this table."""

import typing
from dataclasses import MISSING, fields
from importlib import import_module

import pytest
from packaging.version import Version
from transformers import __version__ as transformers_version

from modeling_omni_vision.cli.main import COMMANDS


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

FLAGS = {
    "evaluate": "model dataset split output image_column label_column text_column validation_fraction batch_size "
    "robustness",
    "predict": "model images revision batch_size top_k sheet csv on_error json",
    "inspect": "folder dataset image_column label_column check sheet export split count json",
    "visualize": "model output images image text dataset split on_error count revision",
    "zero-shot": "model dataset split labels templates",
    "embed": "model images output pool normalize engine decode batch_size shard_rows workers on_error limit shard "
    "cluster npy "
    "dry_run revision trust_remote_code",
    "neighbours": "embeddings images limit sheet csv on_error json revision trust_remote_code",
    "duplicates": "embeddings threshold hash_bits csv sheet json revision trust_remote_code",
    "map": "embeddings output limit",
    "index": "index model images embeddings id_prefix revision pool_factor on_error remove_missing delete queries "
    "measure",
    "search": "model index text image where limit exact json sheet maps force revision trust_remote_code",
    "compose": "vision text output fusion vision_feature_select_strategy projector scale_factor "
    "cross_attention_interval dtype",
    "ask": "question model image max_new_tokens force revision",
    "export": "model output format outputs quantize dataset split images count precision batch_size dynamic_size "
    "uint8 max_drop server vendor",
    "convert": "model output source target num_heads architecture hidden_act encoder_only revision trust_remote_code "
    "spec_config",
    "demo": "model index export_space host port revision",
    "publish": "model output repo_id push private template export",
    "verify": "folder trust_remote_code",
    "benchmark": "model batch_sizes dtype threads rounds compiled fused json",
}
# Beside these, all arguments of transformers' Trainer, or of that of sentence-transformers.
TRAINING_FLAGS = {
    "train": "dataset image_column label_column validation_fraction test_fraction model config min_crop_scale "
    "max_translate flip rand_augment random_erasing mixup cutmix class_balance teachers teacher_weight "
    "teacher_temperature ema_decay layer_decay muon_learning_rate mimetic_init center_residual images_on_device "
    "cuda_graphs",
    "train-retrieval": "dataset image_column text_column validation_fraction text_sampling model vision config text "
    "embedding_dim vectors single_vector_weight vision_feature_select_strategy contrastive_loss train lora_rank "
    "mini_batch_size image_pair_weight augment muon_learning_rate",
    "pretrain": "dataset image_column validation_fraction model config mask_ratio mask_patch_size min_crop_scale "
    "max_translate flip ema_decay layer_decay muon_learning_rate mimetic_init center_residual images_on_device "
    "cuda_graphs",
    "train-vae": "dataset image_column validation_fraction test_fraction model vision config decoder_config "
    "latent_size beta max_translate flip ema_decay muon_learning_rate samples",
    "distill": "teacher images teacher_kind trust_remote_code model config held_out held_out_fraction label_file "
    "vector_weight neighbour_weight neighbour_bank relation_weight token_weight logit_weight temperature "
    "logit_temperature views min_crop_scale flip low_resolution low_resolution_fraction ema_decay "
    "muon_learning_rate mimetic_init cache learning_curve scratch images_on_device cuda_graphs",
    "train-language": "dataset validation_fraction model vision config text text_config fusion "
    "vision_feature_select_strategy projector scale_factor cross_attention_interval attn_implementation stage "
    "lora_rank lora_targets vision_learning_rate text_learning_rate muon_learning_rate text_muon_learning_rate "
    "max_questions_per_sequence long_conversations image_input",
}
POSITIONAL = {"ask": "question", "inspect": "folder", "verify": "folder"}
NOT_WORDS_OF_OURS = ("checkpoint", "picture", "pictures", "out", "output_folder", "destination", "text_file")


def arguments_of(command):
    module, name = command.replace("-", "_"), command.title().replace("-", "")
    if command == "train":
        return import_module("modeling_omni_vision.training.arguments").RecipeArguments
    if command in TRAINING_FLAGS:
        kind = name.removeprefix("Train")
        return getattr(import_module(f"modeling_omni_vision.training.{kind.lower()}_arguments"), f"{kind}Arguments")
    return getattr(import_module(f"modeling_omni_vision.cli.{module}"), f"{name}Arguments")


def hints_of(command):
    """Types by flag, without None."""
    return {
        name: typing.get_args(hint)[0] if typing.get_args(hint) and typing.get_origin(hint) is not list else hint
        for name, hint in typing.get_type_hints(arguments_of(command)).items()
    }


def test_the_table_names_every_command():
    assert {*FLAGS, *TRAINING_FLAGS} == set(COMMANDS)


@pytest.mark.parametrize("command", [*FLAGS, *TRAINING_FLAGS])
def test_a_command_has_the_flags_of_the_table(command):
    found = [item.name for item in fields(arguments_of(command))]
    assert sorted(found) == sorted({**FLAGS, **TRAINING_FLAGS}[command].split())
    assert not set(found) & set(NOT_WORDS_OF_OURS)


def test_one_word_has_one_type_everywhere():
    found = {}
    for command in COMMANDS:
        for name, kind in hints_of(command).items():
            found.setdefault(name, {})[command] = kind
    assert {name: kinds for name, kinds in found.items() if len(set(kinds.values())) > 1} == {}
    assert found["images"]["predict"] == list[str]
    assert found["image"]["search"] is str
    assert set(found["model"]) == set(COMMANDS) - {"inspect", "compose", "verify", "neighbours", "duplicates", "map"}


@pytest.mark.parametrize("word", ["revision", "json", "image_column", "label_column", "dtype"])
def test_one_word_has_one_help_everywhere(word):
    commands = [command for command in FLAGS if word in FLAGS[command].split()]
    helps = {item.metadata["help"] for name in commands for item in fields(arguments_of(name)) if item.name == word}
    assert len(commands) > 1
    assert len(helps) == 1


def test_words_without_a_flag_are_three():
    found = {
        command: item.name
        for command in FLAGS
        for item in fields(arguments_of(command))
        if item.metadata.get("positional")
    }
    assert found == POSITIONAL
    for command, name in POSITIONAL.items():
        (first, *_) = fields(arguments_of(command))
        assert first.name == name
        # `inspect` takes its folder as --dataset, too.
        assert (first.default is MISSING) == (command != "inspect")
