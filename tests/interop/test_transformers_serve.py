"""`transformers serve` and our vision-language models: a test that fails when it begins to know them."""

import pytest


pytest.importorskip("transformers", minversion="5.23", reason="vision-language models need transformers 5.23")

from modeling_omni_vision.modeling_omni_vision_language import OmniVisionForConditionalGeneration


serving = pytest.importorskip(
    "transformers.cli.serving.model_manager", reason="this version of transformers serves nothing"
)


def test_serve_knows_modalities_by_a_table_of_class_names_without_ours():
    model = OmniVisionForConditionalGeneration.__new__(OmniVisionForConditionalGeneration)
    # Where this no longer raises, docs/serving.md is wrong: say how to serve, and test an answer with an image.
    with pytest.raises(ValueError, match="Unknown modality for: OmniVisionForConditionalGeneration"):
        serving.ModelManager.get_model_modality(model)
