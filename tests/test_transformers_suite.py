"""OmniVision in the common test suites of transformers, as one of its own models.

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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionForMaskedImageModeling,
    OmniVisionModel,
)


if not (suite_folder() / PACKAGE / "complete").exists():
    pytest.skip("no suite: run `python tests/fetch_transformers_suite.py`", allow_module_level=True)

sys.path.insert(0, str(suite_folder()))
from transformers_suite.test_configuration_common import ConfigTester
from transformers_suite.test_modeling_common import ModelTesterMixin, floats_tensor


# The suites read from these which class is a bare model (no loss), and which needs class indices or masks.
MODEL_MAPPING_NAMES["omni_vision"] = "OmniVisionModel"
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["omni_vision"] = "OmniVisionForImageClassification"
MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES["omni_vision"] = "OmniVisionForMaskedImageModeling"


def masked_sdpa_tests():
    """Name the suite's tests that pass a mask as long as a text; before 5.23 they do so to image encoders, too."""
    if Version(transformers.__version__) >= Version("5.23"):
        return []
    names = [name for name in dir(ModelTesterMixin) if name.startswith("test_eager_matches_sdpa_inference")]
    return [name for name in names if "no_attn_mask" not in name]


class OmniVisionTester:
    batch_size = 13
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    seq_length, mask_length, num_masks = 26, 25, 13
    image_size, patch_size = 30, 6
    is_training = True

    def get_config(self):
        return OmniVisionConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
        )

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": floats_tensor([self.batch_size, 3, 30, 30])}


class TestOmniVisionInTransformersSuite(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (OmniVisionModel, OmniVisionForImageClassification, OmniVisionForMaskedImageModeling)
    test_resize_embeddings = False
    has_attentions = True

    def setUp(self):
        self.model_tester = OmniVisionTester()
        self.config_tester = ConfigTester(self, config_class=OmniVisionConfig, has_text_modality=False, hidden_size=32)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        # The suite's own version expects a text embedding table; transformers' ViT overrides it in this way, too.
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert model.get_input_embeddings() is model.base_model.embeddings.patch_embeddings
            model.set_input_embeddings(replacement := nn.Identity())
            assert model.get_input_embeddings() is replacement
            assert model.get_output_embeddings() is None

    for name in masked_sdpa_tests():
        locals()[name] = unittest.skip("this suite's mask does not fit tokens of an image")(lambda self: None)

    @pytest.mark.slow
    def test_torch_compile_for_training(self):
        super().test_torch_compile_for_training()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is OmniVisionForImageClassification:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs
