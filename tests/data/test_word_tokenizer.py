import hashlib

import pytest

from modeling_omni_vision.data.word_tokenizer import new_chat_tokenizer, new_text_tokenizer


TEXTS = ["A red circle, and 2 stars!", "What colour is it?"]


def test_a_text_encoder_gets_its_words_in_lower_case_between_two_tokens():
    tokenizer = new_text_tokenizer(TEXTS)
    batch = tokenizer(["a RED star"], return_tensors="np")
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["[CLS]", "a", "red", "[UNK]", "[SEP]"]
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    assert tokenizer.model_max_length == 64


def test_a_language_model_gets_one_token_for_each_word_role_and_image():
    tokenizer = new_chat_tokenizer(iter(TEXTS))
    chat = [{"role": "user", "content": "<image>what is it?"}, {"role": "assistant", "content": "red"}]
    ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert " ".join(tokenizer.convert_ids_to_tokens(ids)) == "<user> <image> what is it ? <assistant> red </s>"
    assert set(tokenizer("red")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("make", [new_text_tokenizer, new_chat_tokenizer])
def test_texts_without_words_are_refused(make):
    with pytest.raises(ValueError, match="got no words"):
        make([])


@pytest.mark.parametrize(
    ("make", "digest"), [(new_text_tokenizer, "d77d7a272faf6866"), (new_chat_tokenizer, "55b38eb029c1ae2d")]
)
def test_the_file_is_the_same_in_every_release(make, digest, tmp_path):
    make(TEXTS).save_pretrained(tmp_path)
    assert hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()[:16] == digest
