"""Tokenizers with one token for each word of some texts, for text models that start without any training."""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .conversations import IMAGE


TEXT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
LONGEST_TEXT = 64
CHAT_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
ROLE_TOKENS = {role: f"<{role}>" for role in ("system", "user", "assistant")}
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<' + message['role'] + '>' + message['content'] -}}
{%- if message['role'] == 'assistant' -%}{{- '</s>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
"""


def new_text_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make the lower-case tokenizer of a new text encoder: `[CLS]`, one token for each word, `[SEP]`.

    Raises:
        ValueError: if the texts have no words.
    """
    words = _word_level(texts, [*TEXT_TOKENS.values()], TEXT_TOKENS["unk_token"])
    first, last = TEXT_TOKENS["cls_token"], TEXT_TOKENS["sep_token"]
    words.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(name, words.token_to_id(name)) for name in (first, last)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_input_names=inputs, model_max_length=LONGEST_TEXT, **TEXT_TOKENS
    )


def new_chat_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make the lower-case tokenizer of a new language model: one token for each word, image and role, a chat template.

    Raises:
        ValueError: if the texts have no words.
    """
    extra = [*ROLE_TOKENS.values(), IMAGE]
    words = _word_level(texts, [*CHAT_TOKENS.values(), *extra], CHAT_TOKENS["unk_token"])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens=extra,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=True,
        **CHAT_TOKENS,
    )


def _word_level(texts: Iterable[str], special: list[str], unknown: str) -> Tokenizer:
    splitter = pre_tokenizers.BertPreTokenizer()
    found = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    if not found:
        raise ValueError("A new text model takes its words from the training data, got no words. Check the data.")
    vocabulary = {word: number for number, word in enumerate([*special, *found])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), splitter
    return words


__all__ = ["LONGEST_TEXT", "new_chat_tokenizer", "new_text_tokenizer"]
