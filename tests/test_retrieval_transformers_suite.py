"""The retrieval model and its processor in the common test suites of transformers, with CLIP as the control.

Needs `python tests/fetch_transformers_suite.py` once (`make test` does it).
"""

import sys
import types
import unittest

import pytest
import transformers
from fetch_transformers_suite import PACKAGE, suite_folder
from packaging.version import Version
from transformers import BertConfig, CLIPConfig, CLIPModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES


if Version(transformers.__version__) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)
if not (suite_folder() / PACKAGE / "complete").exists():
    pytest.skip("no suite: run `python tests/fetch_transformers_suite.py`", allow_module_level=True)

sys.path.insert(0, str(suite_folder()))
# A script of transformers' repository that is not in the archive; nothing here has an address.
if "fetch_hub_objects_for_ci" not in sys.modules:
    addresses = types.ModuleType("fetch_hub_objects_for_ci")
    addresses.url_to_local_path = lambda address: address
    sys.modules[addresses.__name__] = addresses
from test_retrieval_model import word_tokenizer
from transformers_suite.test_configuration_common import ConfigTester
from transformers_suite.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask
from transformers_suite.test_processing_common import ProcessorTesterMixin

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForRetrieval,
    OmniVisionImageProcessor,
    OmniVisionRetrievalConfig,
    OmniVisionRetrievalProcessor,
)


# From this the suite reads which class has no labels to train on.
MODEL_MAPPING_NAMES["omni_vision_retrieval"] = "OmniVisionForRetrieval"

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
VISION = {
    "image_size": 30,
    "patch_size": 6,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}


class RetrievalTester:
    batch_size = 12
    num_hidden_layers = 2
    is_training = True
    seq_length = 7

    def get_config(self):
        return OmniVisionRetrievalConfig(
            vision_config=OmniVisionConfig(**VISION).to_dict(), text_config=BertConfig(**TEXT).to_dict()
        )

    def prepare_config_and_inputs_for_common(self):
        size = [self.batch_size, self.seq_length]
        pixels = floats_tensor([self.batch_size, 3, 30, 30])
        inputs = {"input_ids": ids_tensor(size, 90) + 3, "attention_mask": random_attention_mask(size)}
        return self.get_config(), {**inputs, "pixel_values": pixels}


class CLIPTester(RetrievalTester):
    def get_config(self):
        ids = {"bos_token_id": 0, "eos_token_id": 98, "pad_token_id": 1}
        return CLIPConfig(text_config={**TEXT, **ids, "projection_dim": 64}, vision_config=VISION, projection_dim=64)


class Suite(ModelTesterMixin):
    test_resize_embeddings = False
    test_attention_outputs = False
    _is_composite = True

    # As in transformers' own tests of CLIP: there are two towers.
    for name in (
        "test_hidden_states_output",
        "test_inputs_embeds",
        "test_retain_grad_hidden_states_attentions",
        "test_model_get_set_embeddings",
    ):
        locals()[name] = unittest.skip("two towers")(lambda self: None)


class TestRetrievalInTransformersSuite(Suite, unittest.TestCase):
    all_model_classes = (OmniVisionForRetrieval,)
    additional_model_inputs = ["input_ids"]

    def setUp(self):
        self.model_tester = RetrievalTester()
        self.config_tester = ConfigTester(
            self,
            config_class=OmniVisionRetrievalConfig,
            has_text_modality=False,
            common_properties=["projection_dim", "logit_scale_init_value"],
        )

    def test_config(self):
        self.config_tester.run_common_tests()


@pytest.mark.slow
class TestCLIPInTransformersSuite(Suite, unittest.TestCase):
    all_model_classes = (CLIPModel,)
    additional_model_inputs = ["pixel_values"]

    def setUp(self):
        self.model_tester = CLIPTester()


class TestRetrievalProcessorInTransformersSuite(ProcessorTesterMixin, unittest.TestCase):
    processor_class = OmniVisionRetrievalProcessor

    @classmethod
    def setUpClass(cls):
        # Like transformers' own, which are part of no remote code.
        cls.patch = pytest.MonkeyPatch()
        cls.patch.setattr(OmniVisionRetrievalProcessor, "_auto_class", None)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.patch.undo()

    @classmethod
    def _setup_image_processor(cls):
        return OmniVisionImageProcessor()

    @classmethod
    def _setup_tokenizer(cls):
        # Special tokens and unknown words would stand in no mask but `text_attention_mask`.
        tokenizer = word_tokenizer()
        tokenizer.backend_tokenizer.post_processor = None
        tokenizer.add_tokens(["lower", "newer"])
        return tokenizer
