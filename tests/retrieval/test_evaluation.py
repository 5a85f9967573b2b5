import io

import pytest
import torch
from datasets import Dataset
from PIL import Image


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from sentence_transformers import MultiVectorEncoder

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.retrieval.build import as_sentence_transformer, build_retrieval
from modeling_omni_vision.retrieval.evaluation import evaluators, filled, retrieval_metrics, zero_shot_predictions
from modeling_omni_vision.retrieval.losses import unwrap_retrieval_model


COLOURS = ["red", "green", "blue", "black"]
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}


def row(colour, text, concept):
    content = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(content, format="PNG")
    return {"image": {"bytes": content.getvalue(), "path": None}, "texts": [text], "concept": concept}


@pytest.fixture(scope="module", params=[True, False], ids=["late", "single"])
def oracle(request):
    """A model whose images of a colour and words of that colour are one vector by construction."""
    torch.manual_seed(0)
    config = OmniVisionConfig(**VISION)
    model, processor = build_retrieval(config, "new", COLOURS, embedding_dim=16)
    processor.image_processor.do_normalize = False
    encoder = as_sentence_transformer(model, processor, request.param)
    core = unwrap_retrieval_model(encoder)

    def encode_pixels(pixel_values, **kwargs):
        mean = pixel_values.mean((2, 3))
        code = torch.zeros(len(mean), 32)
        code[torch.arange(len(mean)), torch.where(mean.amax(1) > 0.5, mean.argmax(1), 3)] = 1
        output = type(core.vision_model).forward(core.vision_model, pixel_values)
        output.last_hidden_state = code[:, None].expand(-1, 17, -1)
        output.pooler_output = code
        return output

    def encode_tokens(input_ids, **kwargs):
        names = processor.tokenizer.convert_ids_to_tokens(input_ids.flatten().tolist())
        code = torch.zeros(len(names), core.config.text_config.hidden_size)
        for index, name in enumerate(names):
            if name in COLOURS:
                code[index, COLOURS.index(name)] = 1
        return type("Output", (), {"last_hidden_state": code.view(*input_ids.shape, -1)})()

    core.vision_model.forward = encode_pixels
    core.text_model.forward = encode_tokens
    with torch.no_grad():
        core.visual_projection.weight.copy_(torch.eye(16, 32))
        core.text_projection.weight.copy_(torch.eye(16, core.config.text_config.hidden_size))
    return encoder


def test_a_perfect_model_finds_everything_first_in_both_directions(oracle):
    split = Dataset.from_list([row(colour, colour, colour) for colour in COLOURS])
    for found in retrieval_metrics(oracle, split).values():
        assert found["recall@1"] == found["ndcg@10"] == found["mrr@10"] == 1
        assert found["candidates"] == 4


def test_a_model_that_finds_wrong_images_has_a_recall_of_zero(oracle):
    shifted = [*COLOURS[1:], COLOURS[0]]
    split = Dataset.from_list([row(colour, text, text) for colour, text in zip(COLOURS, shifted, strict=True)])
    for found in retrieval_metrics(oracle, split).values():
        assert found["recall@1"] == 0
        assert found["recall@5"] == 1


def test_every_image_of_a_concept_is_relevant_to_its_text(oracle):
    split = Dataset.from_list([row(colour, colour, colour) for colour in [*COLOURS, *COLOURS]])
    found = retrieval_metrics(oracle, split)
    assert found["text_to_image"]["candidates"] == 8
    assert found["image_to_text"]["candidates"] == 4
    assert found["text_to_image"]["ndcg@10"] == found["image_to_text"]["ndcg@10"] == 1


def test_a_text_that_several_images_share_is_asked_once_and_all_of_them_are_right(oracle):
    rows = [row(colour, colour, colour) for colour in COLOURS]
    # Another red image, described by other words first; a third by the same first text and a text of its own.
    rows += [row("red", "black", "x"), row("red", "red", "y")]
    rows[-2]["texts"], rows[-1]["texts"] = ["black", "red"], ["red", "blue"]
    asked = evaluators(Dataset.from_list(rows), isinstance(oracle, MultiVectorEncoder))
    forth, back = asked["text_to_image"], asked["image_to_text"]
    assert sorted(forth.queries) == sorted(COLOURS)
    right = {text: set(forth.relevant_docs[name]) for name, text in zip(forth.queries_ids, forth.queries, strict=True)}
    assert right == {"red": {"0", "4", "5"}, "green": {"1"}, "blue": {"2", "5"}, "black": {"3", "4"}}
    assert [len(back.relevant_docs[name]) for name in back.queries_ids] == [1, 1, 1, 1, 2, 2]


def test_zero_shot_predicts_the_right_name(oracle):
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS]
    assert zero_shot_predictions(oracle, images, COLOURS).tolist() == [0, 1, 2, 3]
    assert zero_shot_predictions(oracle, images, COLOURS[::-1], ["{}"]).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    "template", ["a {} {x}", "{} {", "} {}", "{0} {}", "{{}}", "{} {!r}", "{} or {}", "{:>9} {}", "100 % {}"]
)
def test_any_text_with_a_place_for_the_name_is_a_template(oracle, template):
    assert zero_shot_predictions(oracle, [Image.new("RGB", (16, 16), "blue")], COLOURS, [template]).tolist() == [2]
    assert filled(template, "{x} {}") == "{x} {}".join(template.split("{}"))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [(COLOURS, ["an image"], "templates"), (COLOURS, [], "templates"), (["red"], ["a {}"], "at least two names")],
)
def test_zero_shot_refuses_templates_without_a_place_and_a_single_name(oracle, names, templates, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_predictions(oracle, [Image.new("RGB", (16, 16))], names, templates)
