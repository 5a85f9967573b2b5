"""The vision-language model and its processor in the common test suites of transformers, as LLaVA is there.

Needs `python tests/fetch_transformers_suite.py` once (`make test` does it). The source archive has no suite of
generation.
"""

import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import transformers
from fetch_transformers_suite import PACKAGE, suite_folder
from packaging.version import Version
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast


if not (suite_folder() / PACKAGE / "complete").exists():
    pytest.skip("no suite: run `python tests/fetch_transformers_suite.py`", allow_module_level=True)
if Version(transformers.__version__) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)

sys.path.insert(0, str(suite_folder()))
from transformers_suite.test_configuration_common import ConfigTester
from transformers_suite.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from modeling_omni_vision import (
    OmniVisionForConditionalGeneration,
    OmniVisionImageProcessor,
    OmniVisionLanguageConfig,
    OmniVisionProcessor,
)
from modeling_omni_vision.data.word_tokenizer import CHAT_TEMPLATE


# The suite imports this neighbour, which its archive leaves out, to find images on the Hub; we draw ours.
stand_in = types.ModuleType("fetch_hub_objects_for_ci")
stand_in.url_to_local_path = lambda url: url
sys.modules.setdefault("fetch_hub_objects_for_ci", stand_in)
processing = pytest.importorskip("transformers_suite.test_processing_common")


class LanguageTester:
    """What the suite asks a tester for: a tiny configuration and a batch, as its LLaVA tester has them."""

    is_training = True
    batch_size, seq_length = 3, 22
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    # Above the tokens that the suite makes up itself, and below those that its smaller vocabularies lack.
    vocab_size, image_token, pad_token_id = 99, 7, 1
    with_images = True

    def __init__(self, fusion):
        self.fusion = fusion
        self.text_config = {"vocab_size": self.vocab_size, "pad_token_id": self.pad_token_id}

    def get_config(self):
        sizes = {"hidden_size": self.hidden_size, "num_hidden_layers": self.num_hidden_layers}
        sizes |= {"num_attention_heads": self.num_attention_heads, "intermediate_size": 37}
        text = LlamaConfig(**sizes, **self.text_config, max_position_embeddings=128)
        options = {"vision_feature_select_strategy": "grid", "cross_attention_interval": 1, "fusion": self.fusion}
        return OmniVisionLanguageConfig(
            vision_config={**sizes, "image_size": 8, "patch_size": 4},
            text_config=text,
            image_token_index=self.image_token,
            **options,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 8) + 8
        if not self.with_images:
            return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ids[:, : config.image_seq_length] = self.image_token
        pixels = floats_tensor([self.batch_size, 3, 8, 8])
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class LanguageSuite(ModelTesterMixin):
    all_model_classes = (OmniVisionForConditionalGeneration,)
    all_generative_model_classes = ()
    _is_composite = True

    def setUp(self):
        self.model_tester = LanguageTester(self.fusion)
        self.config_tester = ConfigTester(self, config_class=OmniVisionLanguageConfig, has_text_modality=False)
        # These keep the tokens alone of a batch, whose images LLaVA does not miss; ours refuses that.
        self.model_tester.with_images = "eager_matches_sdpa" not in self.id()

    def test_config(self):
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs

    # A checkpoint without weights is an error here; with that switched off, they are initialised as the suite asks.
    @patch("modeling_omni_vision.common_omni_vision.refuse_missing_weights", lambda *_: None)
    def test_can_init_all_missing_weights(self):
        super().test_can_init_all_missing_weights()

    @patch("modeling_omni_vision.common_omni_vision.refuse_missing_weights", lambda *_: None)
    def test_model_weights_reload_no_missing_tied_weights(self):
        super().test_model_weights_reload_no_missing_tied_weights()


@pytest.mark.slow
class TestEarlyFusionInTransformersSuite(LanguageSuite, unittest.TestCase):
    fusion = "early"


@pytest.mark.slow
class TestLateFusionInTransformersSuite(LanguageSuite, unittest.TestCase):
    fusion = "late"


class TestProcessorInTransformersSuite(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = OmniVisionProcessor

    @classmethod
    def setUpClass(cls):
        # A class of transformers' own has no code to save, which would be named in `auto_map`.
        cls.enterClassContext(patch.object(OmniVisionProcessor, "_auto_class", None))
        drawn = Path(cls.enterClassContext(tempfile.TemporaryDirectory()), "drawn.png")
        Image.radial_gradient("L").convert("RGB").save(drawn)
        # The suite's own lie on the Hub.
        cls.enterClassContext(patch.dict(processing.MODALITY_INPUT_DATA, images=[str(drawn), str(drawn)]))
        cls.enterClassContext(patch.object(processing, "url_to_local_path", lambda url: str(drawn)))
        super().setUpClass()

    @classmethod
    def _setup_image_processor(cls):
        return OmniVisionImageProcessor(size={"height": 8, "width": 8})

    @classmethod
    def _setup_tokenizer(cls):
        special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
        letters = [*special.values(), "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT_TEMPLATE, **special)
        tokenizer.add_tokens("<image>", special_tokens=True)
        return tokenizer

    @staticmethod
    def prepare_processor_dict():
        return {"image_seq_length": 2}
