import gc
import os
import sys


# Before torch and transformers are imported: nothing here may reach a network, and parallel test
# processes with several torch threads each are slower than one thread each.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", OMP_NUM_THREADS="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionModel


torch.set_num_threads(1)


def pytest_configure(config):
    # Marks inside transformers' own suites (tests/test_transformers_suite.py).
    kinds = "accelerate_tests torch_compile_test flash_attn_test flash_attn_3_test flash_attn_4_test torch_export_test"
    for kind in kinds.split():
        config.addinivalue_line("markers", f"{kind}: used by the suites of transformers")


def pytest_collection_finish(session):
    # Each training collects garbage: not among the modules of all libraries, which stay anyway.
    gc.collect()
    gc.freeze()
    # Nor do trainings draw their reports, which takes longer than most of them; tests of these ask for `reports`.
    skeleton = sys.modules.get("modeling_omni_vision.training.skeleton")
    if skeleton is not None:
        skeleton.TrainingRun.drawn_report = skeleton.TrainingRun.save_report
        skeleton.TrainingRun.save_report = lambda run: None


def pytest_sessionfinish(session):
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def reports(monkeypatch):
    """Trainings write `report.html`, as they do outside of tests."""
    from modeling_omni_vision.training.skeleton import TrainingRun

    monkeypatch.setattr(TrainingRun, "save_report", TrainingRun.drawn_report)


@pytest.fixture
def tiny_config():
    """A config of 32 px, 2 layers and width 32 without dropout; change it before use as a test needs."""
    return OmniVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )


@pytest.fixture
def tiny_model(tiny_config):
    return OmniVisionModel(tiny_config).eval()


@pytest.fixture
def tiny_classifier(tiny_config):
    return OmniVisionForImageClassification(tiny_config).eval()


SENTENCE = "what is it red blue green a circle square user assistant USER ASSISTANT : ? ."
WORDS = ["<unk>", "<s>", "</s>", *SENTENCE.split()]


@pytest.fixture
def word_tokenizer():
    """A tokenizer of whole words, as a language model's checkpoint has one: no padding token, no chat template."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=["input_ids", "attention_mask"], **names)


@pytest.fixture
def tiny_llama_config():
    """Options of a Llama of two layers, more heads than keys, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )


@pytest.fixture
def tiny_llama_folder(tiny_llama_config, word_tokenizer, tmp_path):
    """A checkpoint of that Llama with its tokenizer."""
    folder = tmp_path / "llama"
    LlamaForCausalLM(tiny_llama_config).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder
