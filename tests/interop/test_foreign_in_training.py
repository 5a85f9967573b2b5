"""The commands that train take foreign checkpoints by the same loader as `convert`: never a random tower."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTForImageClassification, ViTImageProcessor


SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def vit(tmp_path):
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    model = ViTForImageClassification(ViTConfig(**SIZES, **labels)).eval()
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 40, "width": 40}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "vit")
    return model, str(tmp_path / "vit")


def test_a_classifier_of_the_same_classes_keeps_its_head_and_one_of_others_its_encoder(vit):
    from modeling_omni_vision.training.arguments import RecipeArguments
    from modeling_omni_vision.training.classification import build_model

    original, path = vit
    pixels = torch.randn(1, 3, 32, 32)
    model, processor = build_model(RecipeArguments(dataset="none", model=path), NAMES)
    assert (model.eval()(pixels).logits - original(pixels).logits).abs().max() < 1e-5
    assert (processor.size["height"], list(processor.image_mean)) == (32, [0.1, 0.2, 0.3])
    other, _ = build_model(RecipeArguments(dataset="none", model=path), ["a", "b"])
    found, expected = other.eval().omni_vision(pixels).last_hidden_state, original.vit(pixels).last_hidden_state
    assert (found - expected).abs().max() < 1e-5
    assert other.classifier.out_features == 2


def test_a_retrieval_model_is_built_around_a_foreign_tower(vit, tmp_path):
    pytest.importorskip("transformers", minversion="5.23", reason="retrieval models need transformers 5.23")
    pytest.importorskip("sentence_transformers")
    from modeling_omni_vision.retrieval.build import build_retrieval

    CLIPVisionModel(CLIPVisionConfig(**SIZES)).save_pretrained(tmp_path / "clip")
    pixels = torch.randn(1, 3, 32, 32)
    for path in (vit[1], str(tmp_path / "clip")):
        model, _ = build_retrieval(path, "new", ["a red circle"])
        assert model.eval()(pixel_values=pixels).embeddings.shape == (1, 16, 64)
    expected = CLIPVisionModel.from_pretrained(tmp_path / "clip").eval()(pixels).pooler_output
    assert (model.vision_model(pixels).pooler_output - expected).abs().max() < 1e-5


def test_a_language_model_is_composed_with_a_foreign_tower(vit, tmp_path, word_tokenizer, tiny_llama_config):
    pytest.importorskip("transformers", minversion="5.23", reason="vision-language models need transformers 5.23")
    from transformers import LlamaForCausalLM

    from modeling_omni_vision import OmniVisionForConditionalGeneration
    from modeling_omni_vision.interop import compose_language_model

    LlamaForCausalLM(tiny_llama_config).save_pretrained(tmp_path / "words")
    word_tokenizer.save_pretrained(tmp_path / "words")
    compose_language_model(vit[1], str(tmp_path / "words"), tmp_path / "both")
    tower = OmniVisionForConditionalGeneration.from_pretrained(tmp_path / "both").vision_tower.eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert (tower(pixels).last_hidden_state - vit[0].vit(pixels).last_hidden_state).abs().max() < 1e-5
