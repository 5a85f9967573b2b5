"""Packed questions are answered as alone, or packing is refused, with a decoder of each kind of layer."""

import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import AutoConfig
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import (
    OmniVisionForConditionalGeneration,
    OmniVisionImageProcessor,
    OmniVisionLanguageConfig,
    OmniVisionProcessor,
)
from modeling_omni_vision.data.stored_images import store
from modeling_omni_vision.data.word_tokenizer import new_chat_tokenizer
from modeling_omni_vision.training.language import exact_answers
from modeling_omni_vision.training.language_data import AnswerCollator, pack_questions
from modeling_omni_vision.training.packing import check_packing, packed_mask


VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
VISION |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES |= {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
SIZES |= {"max_position_embeddings": 128}
WINDOW = {"sliding_window": 6}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
LINEAR = {f"linear_{name}_head_dim": 8 for name in ("key", "value")} | {"linear_num_key_heads": 2}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
PACKED = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    "mistral": WINDOW,  # a window in all layers
    "gemma2": {**WINDOW, "head_dim": 8},  # in every other one
    "qwen3": {**WINDOW, "head_dim": 8, "use_sliding_window": True, "max_window_layers": 1},
    "phi3": WINDOW,
}
REFUSED = {
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},  # the same, in silence
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6},
    "lfm2": {"full_attn_idxs": [1], "conv_L_cache": 3},  # convolutions
    "bamba": {"attn_layer_indices": [1], **MAMBA},  # Mamba beside attention
    "qwen3_next": {**LINEAR, **EXPERTS, "linear_num_value_heads": 4, "head_dim": 8}
    | {"layer_types": ["linear_attention", "full_attention"]},
}
IMAGES = [store(Image.new("RGB", (32, 32), colour)) for colour in ("red", "blue")]
# Two images; what is shared is the image, so that a window does not reach back to it from the end of a question.
ENDS = [[25, 26, 27, 28, 29, 30], [31, 32, 33, 34, 35, 36, 37, 38], [26, 26]]


@pytest.fixture(scope="module")
def processor():
    tokenizer = new_chat_tokenizer(["a b c d e f g"])
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    return OmniVisionProcessor(images, tokenizer, image_seq_length=4)


def composite(kind, options, processor):
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    config = OmniVisionLanguageConfig(
        vision_config=VISION,
        text_config=AutoConfig.for_model(kind, **{**SIZES, **options}),
        image_token_index=token,
        vision_feature_select_strategy="grid",
        scale_factor=2,
    )
    torch.manual_seed(0)
    return OmniVisionForConditionalGeneration(config).eval()


class Sequences(list):
    """What `Conversations` are to those who read sequences."""

    @property
    def sequences(self):
        return self

    @property
    def rows_of(self):
        return [*range(len(self))]


def sequences(model, collator):
    """Two images with three questions, packed and alone; right is what `generate` says, but for the second."""
    packed, alone, right = Sequences(), Sequences(), []
    collator.unknown = None  # random models say it too
    for image in IMAGES:
        prompts = [[3, *[model.config.image_token_id] * 4, *end] for end in ENDS]
        blank = pack_questions([prompts[0]], [[2]], ["a"], [image])
        pixels = collator([blank])["pixel_values"]
        answers = []
        for number, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            options = {"do_sample": False, "max_new_tokens": 3}
            said = model.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, **options)
            answer = said[0, len(prompt) :].tolist()
            answers.append(answer if number != 1 else [*answer[:-1], 20 + (answer[-1] == 20)])
            right.append(number != 1)
            alone.append(pack_questions([prompt], answers[-1:], ["a"], [image]))
        packed.append(pack_questions(prompts, answers, ["a"] * 3, [image]))
    return packed, alone, right


@pytest.mark.parametrize("kind", [*PACKED, *REFUSED])
def test_packed_unpacked_and_generated_answers_are_the_same_or_packing_is_refused_by_name(kind, processor):
    model = composite(kind, {**PACKED, **REFUSED}[kind], processor)
    collator = AnswerCollator(processor, model.config.text_config)
    packed, alone, right = sequences(model, collator)
    assert [answer.right for answer in exact_answers(model, collator, alone, 3)] == right
    if kind in REFUSED:
        with pytest.raises(ValueError, match=rf"got {type(model.language_model).__name__} \({kind}\).*_sequence 1\."):
            check_packing(model.train(), collator, packed)
    else:
        check_packing(model.train(), collator, packed)
        assert [answer.right for answer in exact_answers(model, collator, packed, 2)] == right
    assert model.training


def test_a_window_that_no_question_reaches_is_no_reason_to_refuse(processor):
    model = composite("gpt_neo", {**REFUSED["gpt_neo"], "window_size": 64}, processor)
    collator = AnswerCollator(processor, model.config.text_config)
    packed, _, right = sequences(model, collator)
    check_packing(model, collator, packed)
    assert [answer.right for answer in exact_answers(model, collator, packed, 2)] == right


def test_a_window_counts_the_positions_of_a_question_and_not_the_places_of_a_sequence():
    segments, positions = torch.tensor([[0, 0, 1, 1, 2, 2, -1]]), torch.tensor([[0, 1, 2, 3, 2, 3, 0]])
    seen = packed_mask(segments, positions, window=3)[0, 0] == 0
    assert seen[5].tolist() == [False, True, False, False, True, True, False]
    assert seen[4].tolist() == [True, True, False, False, True, False, False]
