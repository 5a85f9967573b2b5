import importlib.util
import inspect
import json
from typing import get_type_hints

import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from without_package import run_without_package

from modeling_omni_vision import OmniVisionImageProcessor


if Version(transformers_version) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import OmniVisionForRetrieval, OmniVisionRetrievalConfig, OmniVisionRetrievalProcessor
from modeling_omni_vision.modeling_omni_vision_retrieval import contrastive_loss


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "a", "red", "blue", "green", "circle", "square", "ring", "and"]
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}


def word_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, model_input_names=inputs, **names)


def config(**changes):
    text = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    options = {
        "vision_config": VISION,
        "text_config": text.to_dict(),
        "embedding_dim": 16,
        "skiplist_token_ids": [0, 2, 3],
    }
    return OmniVisionRetrievalConfig(**options | changes)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OmniVisionForRetrieval(config()).eval()


@pytest.fixture
def processor():
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    return OmniVisionRetrievalProcessor(images, word_tokenizer(), image_seq_length=config().image_seq_length)


@pytest.fixture
def images():
    return [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]


TEXTS = ["a red circle", "a blue square and a ring"]


def test_multi_vector_embeddings_have_one_vector_for_each_patch_and_each_text_token(model, processor, images):
    batch = processor(images=images, return_tensors="pt")
    assert batch["attention_mask"].shape == (3, 16)
    patches = model(**batch).embeddings
    assert patches.shape == (3, 16, 16)
    assert torch.allclose(patches.norm(dim=-1), torch.ones(3, 16))
    text = processor(text=TEXTS, padding=True, return_tensors="pt")
    lengths = (model(**text).embeddings.norm(dim=-1) > 0.5).sum(1)
    assert lengths.tolist() == [3, 6]


def test_late_interaction_omits_registers_and_by_default_cls(images, processor):
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    for select, expected in (("grid", 16), ("cls+grid", 17)):
        options = config(vision_feature_select_strategy=select, vision_config={**VISION, "num_register_tokens": 3})
        assert options.image_seq_length == expected
        model = OmniVisionForRetrieval(options).eval()
        embeddings = model(pixel_values=pixels).embeddings
        assert embeddings.shape[1] == expected
        output = model.vision_model(pixels)
        tokens = output.grid if select == "grid" else torch.cat((output.cls, output.grid), 1)
        wanted = torch.nn.functional.normalize(model.visual_projection(tokens), dim=-1)
        assert torch.allclose(embeddings, wanted, atol=1e-6)


def test_the_single_vector_of_an_image_follows_the_towers_pooling(images, processor):
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    embeds = {}
    for pooling in ("cls", "mean"):
        torch.manual_seed(0)
        model = OmniVisionForRetrieval(config(vision_config=VISION | {"pooling": pooling})).eval()
        output = model.vision_model(pixels)
        token = output.pooler_output if pooling == "cls" else output.grid.mean(1)
        embeds[pooling] = model(pixel_values=pixels).image_embeds
        expected = torch.nn.functional.normalize(model.visual_projection(token), dim=-1)
        assert torch.equal(embeds[pooling], expected)
    assert not torch.allclose(embeds["cls"], embeds["mean"], atol=1e-2)


def test_padding_changes_neither_embedding_of_a_text(model, processor):
    alone, padded = (processor(text=TEXTS[:n], padding=True, return_tensors="pt") for n in (1, 2))
    one, both = model(**alone), model(**padded)
    assert torch.allclose(one.text_embeds[0], both.text_embeds[0], atol=1e-6)
    assert torch.allclose(one.embeddings[0], both.embeddings[0, :5], atol=1e-6)
    assert both.embeddings[0, 5:].abs().max() == 0


def test_the_loss_is_clips_both_ways_and_siglips_over_all_pairs():
    logits = torch.tensor([[2.0, 0.5], [-1.0, 1.0]])
    rows = -(logits.log_softmax(1).diagonal().mean())
    columns = -(logits.log_softmax(0).diagonal().mean())
    assert torch.isclose(contrastive_loss(logits), (rows + columns) / 2)
    pairs = -(torch.sigmoid(torch.tensor([2.0, -0.5, 1.0, 1.0])).log().sum()) / 2
    assert torch.isclose(contrastive_loss(logits, "sigmoid"), pairs)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_a_loss_without_other_pairs_is_refused(shape):
    with pytest.raises(ValueError, match="at least two pairs"):
        contrastive_loss(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_every_weight_that_the_loss_depends_on_gets_a_gradient(processor, images, kind):
    model = OmniVisionForRetrieval(config(contrastive_loss=kind)).train()
    model(
        **processor(images=images[:2], text=TEXTS, padding=True, return_tensors="pt"), return_loss=True
    ).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert all(name.startswith("text_model.pooler") for name in without)


def test_neither_images_nor_texts_and_a_loss_of_one_side_are_refused(model, processor, images):
    with pytest.raises(ValueError, match="got neither"):
        model()
    with pytest.raises(ValueError, match="got only one"):
        model(**processor(images=images, return_tensors="pt"), return_loss=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vision_feature_select_strategy": "cls"},
        {"contrastive_loss": "triplet"},
        {"embedding_dim": 0},
        {"embedding_dim": "x"},
    ],
)
def test_an_invalid_configuration_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


def test_a_pooling_that_is_too_wide_for_the_projection_of_the_tokens_is_refused():
    with pytest.raises(
        ValueError, match="`pooling` must be 'cls', 'mean' or 'attention' in a retrieval model, got 'cls_mean'"
    ):
        config(vision_config=VISION | {"pooling": "cls_mean"})


def test_the_model_has_what_sentence_transformers_reads(model, processor):
    hints = {
        name: get_type_hints(getattr(type(model), name))["return"]
        for name in ("get_image_features", "get_text_features")
    }
    assert set(hints.values()) == {BaseModelOutputWithPooling}
    output = get_type_hints(type(model).forward)["return"]
    assert issubclass(output, ModelOutput)
    assert "last_hidden_state" not in output.__dataclass_fields__
    assert "embeddings" in output.__dataclass_fields__
    assert {"pixel_values", "input_ids", "attention_mask", "token_type_ids"} <= set(
        inspect.signature(model.forward).parameters
    )
    assert type(model).__name__.endswith("ForRetrieval")
    assert model.config.projection_dim == model.config.embedding_dim
    assert set(model.config.auto_map) == {"AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification"}
    processor.image_seq_length = 17  # a property would raise
    assert set(processor.get_attributes()) == {"image_processor", "tokenizer"}
    assert processor.skiplist_token_ids == [0, 2, 3]


def test_missing_weights_are_an_error_and_not_a_random_tower(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("vision_model.layers.1")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"vision_model\.layers\.1"):
        AutoModel.from_pretrained(tmp_path)


def test_saving_and_loading_changes_no_bit_and_keeps_the_choices(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = OmniVisionForRetrieval.from_pretrained(tmp_path)
    for name in (
        "embedding_dim",
        "vision_feature_select_strategy",
        "contrastive_loss",
        "skiplist_token_ids",
        "auto_map",
    ):
        assert getattr(again.config, name) == getattr(model.config, name)
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)


CLIENT = """
import json, sys
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from transformers import AutoModel, AutoProcessor, pipeline

folder, texts = sys.argv[1], json.loads(sys.argv[2])
trust = {"trust_remote_code": True}
images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
model, processor = AutoModel.from_pretrained(folder, **trust), AutoProcessor.from_pretrained(folder, **trust)
batch = processor(images=images, text=texts, padding=True, return_tensors="pt")
found = {"cosine": (model(**batch).logits_per_image / model.logit_scale.exp()).tolist()}

zero_shot = pipeline("zero-shot-image-classification", model=folder, **trust)
found["labels"] = len(zero_shot(images[0], candidate_labels=texts, hypothesis_template="{}"))
clear = Image.new("RGBA", (40, 30), (255, 0, 0, 60))
clear.save("clear.png")
deep = Image.new("I;16", (40, 30), 30_000)
found["pipeline"] = []
for one in (clear, "clear.png", deep):
    batch = processor(images=[one], text=texts, padding=True, return_tensors="pt")
    wanted = dict(zip(texts, model(**batch).logits_per_image.softmax(-1)[0].tolist()))
    scores = zero_shot(one, candidate_labels=texts, hypothesis_template="{}")
    found["pipeline"].append(max(abs(one["score"] - wanted[one["label"]]) for one in scores))
try:
    zero_shot(images[0], candidate_labels=["red " * 40, "a ring"], hypothesis_template="{}")
except ValueError as error:
    found["too long"] = str(error)

pooled = SentenceTransformer(folder, **trust)
found["pooled"] = pooled.similarity(pooled.encode(images), pooled.encode(texts)).tolist()

late = MultiVectorEncoder(folder, **trust)
queries, documents = late.encode_query(texts), late.encode_document(images)
found["late"] = late.similarity(queries, documents).tolist()
queries, documents = list(map(torch.as_tensor, queries)), list(map(torch.as_tensor, documents))
found["by_hand"] = [[float((query @ document.T).amax(1).sum()) for document in documents] for query in queries]

for number, opened in enumerate((pooled, late)):
    opened.save(f"{folder}-again-{number}")
again = SentenceTransformer(f"{folder}-again-0", **trust)
found["drift"] = float(abs(again.encode(images) - pooled.encode(images)).max())
again = MultiVectorEncoder(f"{folder}-again-1", **trust).encode_document(images)
found["late_drift"] = max(float((torch.as_tensor(a) - b).abs().max()) for a, b in zip(again, documents))
print(json.dumps(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
def test_one_folder_loads_with_three_libraries_without_this_package_and_saves_again_without_drift(
    model, processor, images, tmp_path
):
    folder = tmp_path / "search.v1" / "images-and-words"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    found = run_without_package(CLIENT, folder, json.dumps(TEXTS), cwd=tmp_path)
    batch = processor(images=images, text=TEXTS, padding=True, return_tensors="pt")
    ours = model(**batch)
    cosine = ours.image_embeds @ ours.text_embeds.T
    # Another process, the same arithmetic: batches of another shape are summed in another order.
    for name in ("cosine", "pooled"):
        assert torch.allclose(torch.tensor(found[name]), cosine, atol=1e-5), name
    words = model(**processor(text=TEXTS, padding=True, return_tensors="pt")).embeddings
    patches = model(**processor(images=images, return_tensors="pt")).embeddings
    late = torch.einsum("qwd,psd->qpws", words, patches).amax(-1).sum(-1)
    for name in ("late", "by_hand"):
        assert torch.allclose(torch.tensor(found[name]), late, atol=1e-5), name
    assert (found["labels"], found["drift"], found["late_drift"]) == (2, 0.0, 0.0)
    # Images of which the stock pipeline loses transparency and depth.
    assert max(found["pipeline"]) < 1e-5
    assert "at most 32 tokens, which the text encoder has positions for, got 42" in found["too long"]


def test_the_batches_of_the_processor_go_into_each_method_as_in_clips_documentation(model, processor, images):
    pixels, words = (
        processor(images=images, return_tensors="pt"),
        processor(text=TEXTS, padding=True, return_tensors="pt"),
    )
    both = model(**processor(images=images, text=TEXTS, padding=True, return_tensors="pt"))
    image = model.get_image_features(**pixels).pooler_output
    text = model.get_text_features(**words).pooler_output
    assert torch.allclose(torch.nn.functional.normalize(image, dim=-1), both.image_embeds, atol=1e-6)
    assert torch.allclose(torch.nn.functional.normalize(text, dim=-1), both.text_embeds, atol=1e-6)


def test_a_tuple_has_the_loss_first_then_what_clip_has_where_clip_has_it(model, processor, images):
    batch = processor(images=images[:2], text=TEXTS, padding=True, return_tensors="pt")
    named = model(**batch, return_loss=True)
    names = ["loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    assert list(named)[:5] == names
    found = model(**batch, return_loss=True, return_dict=False)
    for value, name in zip(found, names, strict=False):
        assert torch.equal(value, named[name]), name
    assert [type(value) for value in found[5:]] == [tuple, tuple, torch.Tensor]
    named[0].backward()
    assert model.vision_model.layers[0].attention.q_proj.weight.grad.abs().sum() > 0
    assert torch.equal(model(**batch, return_dict=False)[0], named.logits_per_image)


def test_features_come_as_tuples_and_with_hidden_states_where_asked(model, processor, images):
    pixels, words = (
        processor(images=images, return_tensors="pt"),
        processor(text=TEXTS, padding=True, return_tensors="pt"),
    )
    for method, batch, layers in ((model.get_image_features, pixels, 2), (model.get_text_features, words, 2)):
        named = method(**batch)
        assert torch.equal(method(**batch, return_dict=False)[1], named.pooler_output)
        assert named.hidden_states is None
        assert len(method(**batch, output_hidden_states=True).hidden_states) == layers + 1
    batch = processor(images=images, text=TEXTS, padding=True, return_tensors="pt")
    model.set_attn_implementation("eager")
    found = model(**batch, output_hidden_states=True, output_attentions=True)
    for output in (found.text_model_output, found.vision_model_output):
        assert (len(output.hidden_states), len(output.attentions)) == (3, 2)


def test_positions_of_an_image_of_another_size_are_interpolated_unless_that_is_refused(model):
    larger = torch.zeros(1, 3, 48, 32)
    assert model.get_image_features(larger, interpolate_pos_encoding=True).last_hidden_state.shape[1] == 25
    assert model(pixel_values=larger).embeddings.shape[1] == 24
    for call in (model.get_image_features, model):
        with pytest.raises(ValueError, match=r"images of \(32, 32\) pixels, got \(48, 32\)"):
            call(pixel_values=larger, interpolate_pos_encoding=False)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "forward",
            {"pixels_value": None, "input_ids": 1},
            "'pixels_value', which it does not take. Did you mean 'pixel_values'",
        ),
        ("forward", {"input_ids": 1, "attention_masks": 1}, "Did you mean 'attention_mask'"),
        ("get_text_features", {"input_ids": 1, "output_hidden_state": True}, "Did you mean 'output_hidden_states'"),
        ("get_image_features", {"pixel_values": 1, "position_ids": 1}, "'position_ids', which it does not take"),
        (
            "get_image_features",
            {"pixel_values": 1, "input_ids": 1},
            "'input_ids', which it does not take",
        ),
        ("get_image_features", {"pixel_values": None}, "Expected `pixel_values`, got None"),
        ("get_text_features", {"input_ids": None}, "Expected `input_ids`, got None"),
    ],
)
def test_misspelt_and_missing_arguments_are_refused_by_a_sentence(model, method, given, message):
    values = {"input_ids": torch.tensor([[2, 4, 3]]), "pixel_values": torch.zeros(1, 3, 32, 32)}
    given = {name: values.get(name, value) if value == 1 else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(**given)


def test_options_of_the_text_encoder_reach_it(model):
    ids = torch.tensor([[2, 4, 5, 3]])
    moved = model(input_ids=ids, position_ids=torch.tensor([[4, 5, 6, 7]])).text_embeds
    assert not torch.allclose(moved, model(input_ids=ids).text_embeds, atol=1e-4)


@pytest.mark.parametrize(("kind", "most"), [("bert", 32), ("roberta", 30), ("distilbert", 32), ("t5_encoder", None)])
def test_a_text_longer_than_the_text_encoder_is_a_sentence_and_never_an_index_error(kind, most):
    sizes = {"vocab_size": 12, "max_position_embeddings": 32, "pad_token_id": 0 if kind != "roberta" else 1}
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    if kind == "distilbert":
        shape = {"dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    text = {"model_type": "bert" if most is None else kind, **sizes, **shape}
    model = OmniVisionForRetrieval(config(text_config=text)).eval()
    if most is None:  # an encoder that computes its positions
        model.max_text_length = None
        model._refuse_long_texts(10_000)
        return
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises(ValueError, match=rf"at most {most} tokens, .* got {most + 1}\. Cut them .* max_length={most}"):
        model(input_ids=torch.full((1, most + 1), 5))


def test_special_tokens_are_attended_to_and_have_no_vector(model, processor):
    batch = processor(text=TEXTS, padding=True, return_tensors="pt")
    assert batch["text_attention_mask"].sum(1).tolist() == [5, 8]
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]
    plain = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    for name in ("text_embeds", "embeddings"):
        assert torch.equal(getattr(model(**batch), name), getattr(model(**plain), name)), name
    for kind, listed in (("np", False), (None, True)):
        found = processor(text=TEXTS, padding=True, return_tensors=kind)["attention_mask"]
        assert (found if listed else found.tolist()) == batch["attention_mask"].tolist()


def test_unknown_words_are_named_once_and_weigh_nothing(model, processor, caplog):
    known = processor(text=["red circle"], return_tensors="pt")
    batch = processor(text=["red circle bird cat"], return_tensors="pt")
    again = processor(text="cat", return_tensors="pt")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "Words that the tokenizer does not know weigh nothing: 'bird', 'cat'."
    assert len(said) == 1
    assert batch["attention_mask"].sum() == known["attention_mask"].sum() == 2
    # A text of unknown words only: no vector, and nothing that is not finite.
    assert again["attention_mask"].sum() == 0
    assert torch.isfinite(model(**again).text_embeds).all()


@pytest.mark.parametrize("name", ["red.jfif", "/data/a red circle.TIF", "red.avif", "C:\\red.jp2", "red/circle.png"])
def test_a_text_that_names_an_image_file_is_said_once_to_be_a_text(processor, caplog, name):
    for texts in (["a red circle", "red. circle", "red .net"], ["red", name], ["blue.png"], name):
        processor(text=texts, padding=True, return_tensors="pt")
    said = [one for one in (record.getMessage() for record in caplog.records) if "image files" in one]
    assert len(said) == 1
    assert f"The text {name!r} is embedded as text" in said[0]


def test_a_tokenizer_whose_unknown_token_also_ends_texts_has_no_unknown_words(processor):
    processor.tokenizer.unk_token = "[SEP]"
    assert processor.unknown_words("a bird") == []


def test_truncation_is_said_once_with_both_lengths(processor, caplog):
    long = "red " * 40
    for text in (long, long + "blue", "a red circle"):
        processor(text=[text, "a"], padding=True, truncation=True, return_tensors="pt")
    assert [record.getMessage()[:37] for record in caplog.records] == ["A text of 42 tokens is cut to 32, as "]
    caplog.clear()
    processor(text=["a red circle"], padding=True, truncation=True, max_length=5, return_tensors="pt")
    assert not caplog.records
