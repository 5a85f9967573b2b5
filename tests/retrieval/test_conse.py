import pytest
import torch
from torch.nn.functional import normalize


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.retrieval.build import as_sentence_transformer, build_retrieval
from modeling_omni_vision.retrieval.conse import TextEncoderOnly, conse_scores


# Embeddings of drawings of cats and cars, and of their texts by an encoder that knows many more words.
KNOWN_IMAGES = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), dim=-1)
ANIMAL, VEHICLE = [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]
KNOWN_TEXTS = normalize(torch.tensor([ANIMAL, ANIMAL, VEHICLE, VEHICLE]), dim=-1)


def test_texts_like_those_of_the_nearest_known_images_score_highest():
    tiger, lorry = torch.tensor([0.95, 0.3]), torch.tensor([0.2, 0.97])
    texts = normalize(torch.tensor([[0.0, 0.9, 1.0], [0.8, 0.1, 1.0]]), dim=-1)
    scores = conse_scores(
        normalize(torch.stack((tiger, lorry)), dim=-1), KNOWN_IMAGES, KNOWN_TEXTS, texts, num_neighbours=2
    )
    assert scores.argmax(1).tolist() == [1, 0]
    # Around the mean of the known texts both lie opposite each other: what all share is taken off.
    assert torch.allclose(scores, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]), atol=0.05)


def test_the_nearest_count_more_the_lower_the_temperature_and_all_of_few_count():
    # An animal is nearest, but two vehicles are near as well.
    between, known, texts = normalize(torch.tensor([[1.0, 0.9]]), dim=-1), KNOWN_IMAGES[1:], KNOWN_TEXTS[1:]
    scores = {
        (neighbours, temperature): conse_scores(
            between, known, texts, KNOWN_TEXTS[[0, 2]], num_neighbours=neighbours, temperature=temperature
        )[0]
        for neighbours, temperature in ((20, 0.001), (20, 10.0), (1, 10.0))
    }
    assert {how: int(found.argmax()) for how, found in scores.items()} == {(20, 0.001): 0, (20, 10.0): 1, (1, 10.0): 0}


def test_known_images_without_texts_are_refused():
    for known, texts in ((KNOWN_IMAGES, KNOWN_TEXTS[:3]), (KNOWN_IMAGES[:0], KNOWN_TEXTS[:0])):
        with pytest.raises(ValueError, match=f"got {len(texts)} for {len(known)}"):
            conse_scores(KNOWN_IMAGES, known, texts, KNOWN_TEXTS)


def test_the_text_encoder_alone_returns_means_of_tokens_before_the_projection_for_any_batch():
    torch.manual_seed(0)
    vision = OmniVisionConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    model, processor = build_retrieval(vision, "new", ["red lime blue thing"], embedding_dim=16)
    encoder = as_sentence_transformer(model.eval(), processor, late_interaction=False)
    texts = ["red", "a blue thing", "lime", "red red lime"]
    features = TextEncoderOnly(encoder).encode_query(texts, batch_size=3)
    assert features.shape == (4, model.text_model.config.hidden_size)
    assert torch.allclose(features.norm(dim=-1), torch.ones(4))
    projected = normalize(model.text_projection(features), dim=-1)
    assert torch.allclose(
        projected, encoder.encode_query(texts, convert_to_tensor=True, normalize_embeddings=True), atol=1e-5
    )
