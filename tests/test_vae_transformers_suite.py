"""The variational autoencoder in the common test suites of transformers.

Needs `python tests/fetch_transformers_suite.py` once (`make test` does it).
"""

import sys
import unittest

import pytest
import torch
import transformers
from fetch_transformers_suite import PACKAGE, suite_folder
from packaging.version import Version
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES


if Version(transformers.__version__) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)
if not (suite_folder() / PACKAGE / "complete").exists():
    pytest.skip("no suite: run `python tests/fetch_transformers_suite.py`", allow_module_level=True)

sys.path.insert(0, str(suite_folder()))
from transformers_suite.test_configuration_common import ConfigTester
from transformers_suite.test_modeling_common import ModelTesterMixin, floats_tensor

from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig


# From this the suite reads which class has no labels to train on.
MODEL_MAPPING_NAMES["omni_vision_vae"] = "OmniVisionVAE"

VISION = {"image_size": 30, "patch_size": 6, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"intermediate_size": 37}


class VAETester:
    batch_size = 13
    num_hidden_layers = 2
    is_training = True
    seq_length = 26

    def get_config(self):
        return OmniVisionVAEConfig(vision_config=VISION, decoder_config=VISION, latent_size=8)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": floats_tensor([self.batch_size, 3, 30, 30])}


class TestVAEInTransformersSuite(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (OmniVisionVAE,)
    test_resize_embeddings = False
    test_attention_outputs = False
    _is_composite = True

    def setUp(self):
        self.model_tester = VAETester()
        self.config_tester = ConfigTester(
            self, config_class=OmniVisionVAEConfig, has_text_modality=False, common_properties=["latent_size", "beta"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        # The suite's own version expects a text embedding table.
        model = OmniVisionVAE(self.model_tester.get_config())
        assert model.get_input_embeddings() is model.vision_model.embeddings.patch_embeddings
        model.set_input_embeddings(replacement := nn.Identity())
        assert model.get_input_embeddings() is replacement

    # As for other models of two parts, whose hidden states are those of the first.
    for name in ("test_hidden_states_output", "test_inputs_embeds", "test_retain_grad_hidden_states_attentions"):
        locals()[name] = unittest.skip("two stacks of layers")(lambda self: None)

    def test_training_reaches_every_parameter(self):
        model = OmniVisionVAE(self.model_tester.get_config()).train()
        model(floats_tensor([2, 3, 30, 30])).loss.backward()
        assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == [
            name
            for name, _ in model.named_parameters()
            if name.endswith("k_proj.bias") and torch.is_grad_enabled() is None
        ]
