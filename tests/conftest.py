import os


# Before torch and transformers are imported: nothing here may reach a network, and parallel test
# processes with several torch threads each are slower than one thread each.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", OMP_NUM_THREADS="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionModel


torch.set_num_threads(1)


def pytest_configure(config):
    # Marks inside transformers' own suites (tests/test_transformers_suite.py).
    kinds = "accelerate_tests torch_compile_test flash_attn_test flash_attn_3_test flash_attn_4_test torch_export_test"
    for kind in kinds.split():
        config.addinivalue_line("markers", f"{kind}: used by the suites of transformers")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
