import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict
from packaging.version import Version
from transformers import AutoConfig
from transformers import __version__ as transformers_version


pytest.importorskip("peft")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import (
    OmniVisionForConditionalGeneration,
    OmniVisionLanguageConfig,
    OmniVisionProcessor,
)
from modeling_omni_vision.data.conversations import FEATURES
from modeling_omni_vision.data.stored_images import store
from modeling_omni_vision.data.synthetic.scene_questions import draw_questions
from modeling_omni_vision.data.word_tokenizer import new_chat_tokenizer
from modeling_omni_vision.evaluation.answers import AnswerResult, answer_metrics, text_only_prior
from modeling_omni_vision.processing_omni_vision_language import image_chat_template, unknown_token
from modeling_omni_vision.training import language, skeleton
from modeling_omni_vision.training.language import (
    LanguageTrainer,
    exact_answers,
    freeze_parameters,
    measure,
    train_language,
)
from modeling_omni_vision.training.language_arguments import LanguageArguments, LanguageTrainingArguments
from modeling_omni_vision.training.language_data import (
    IGNORED,
    AnswerCollator,
    Conversations,
    LengthGroups,
    encode_question,
    other_images,
    pack_questions,
    replace_images,
)
from modeling_omni_vision.training.lora import merge_lora


VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {"train": 24, "validation": 4, "test": 4, "held_out": 4}


@pytest.fixture(scope="module")
def scenes():
    return draw_questions(size=32, sizes=SIZES)


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch, scenes):
    monkeypatch.setattr(language, "load_questions", lambda *options: scenes)


def recipe(**changes):
    options = {"dataset": "scenes", "vision_feature_select_strategy": "grid"}
    if "model" not in changes:
        options |= {"config": json.dumps(VISION), "text_config": json.dumps(TEXT)}
    return LanguageArguments(**options | changes)


def arguments(folder, **changes):
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 6, "disable_tqdm": True, "seed": 3}
    quick = {"do_predict": False, "eval_strategy": "no", "save_strategy": "no"}
    return LanguageTrainingArguments(output_dir=str(folder), **options | quick | changes)


@pytest.fixture(scope="module")
def composite(tmp_path_factory, scenes):
    """A folder with an untrained composite, early fusion of the grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "load_questions", lambda *options: scenes)
        folder = tmp_path_factory.mktemp("start") / "run"
        return train_language(recipe(), arguments(folder, max_steps=1, learning_rate=1e-9))


def opened(folder):
    return OmniVisionForConditionalGeneration.from_pretrained(folder).eval(), OmniVisionProcessor.from_pretrained(
        folder
    )


def weights(folder):
    return OmniVisionForConditionalGeneration.from_pretrained(folder).state_dict()


def test_loss_is_on_the_tokens_of_the_answer_and_the_one_that_ends_it_alone(composite, scenes):
    _, processor = opened(composite)
    data = Conversations(scenes["train"], processor, max_questions_per_sequence=1)
    items = [data[number] for number in range(9)]
    labels = AnswerCollator(processor)(items)["labels"]
    questions = [question for asked in scenes["train"]["questions"] for question in asked]
    for row, question in zip(labels, questions[:9], strict=True):
        said = processor.tokenizer.convert_ids_to_tokens(row[row != IGNORED])
        assert said == [*question["answer"].replace(",", " ,").split(), "</s>"]
        # One run at the end, before the padding.
        places = (row != IGNORED).nonzero().flatten().tolist()
        assert places == list(range(places[0], places[-1] + 1))


def test_a_prompt_has_the_tokens_that_generate_gets(composite, scenes):
    _, processor = opened(composite)
    text = scenes["train"][0]["questions"][0]["messages"][0]["content"].removeprefix("<image>\n")
    asked, _ = encode_question(processor, scenes["train"][0]["questions"][0]["messages"], "red")
    chat = [{"role": "user", "content": [{"type": "image", "image": _image(scenes)}, {"type": "text", "text": text}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    assert processor.apply_chat_template(chat, **options)["input_ids"][0].tolist() == asked


def _image(scenes):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(scenes["train"][0]["images"][0]["bytes"]))


CHATML = (
    "{%- for m in messages -%}{{- '<user>' + m['role'] + '\\n' + m['content'] + '</s>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<user>assistant\\n' -}}{%- endif -%}"
)


@pytest.mark.parametrize("template", [None, CHATML], ids=["plain", "ChatML"])
def test_the_templates_of_other_language_models_give_the_same_answers(composite, template):
    _, processor = opened(composite)
    processor.chat_template = image_chat_template(template)
    messages = [{"role": "user", "content": "<image>\nwhat colour is the star?"}]
    asked, said = encode_question(processor, messages, "red")
    # What ends the answer is learnt once; the line break after it is the template's.
    assert processor.tokenizer.convert_ids_to_tokens(said) == ["red", "</s>"]
    assert asked.count(processor.tokenizer.convert_tokens_to_ids("<image>")) == processor.image_seq_length


def test_a_template_that_writes_an_answered_prompt_in_another_way_is_refused(composite):
    _, processor = opened(composite)
    processor.chat_template = "{{- messages | length -}}"
    with pytest.raises(ValueError, match="answered prompt begins with the prompt '1'"):
        encode_question(processor, [{"role": "user", "content": "?"}], "red")


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_packed_questions_have_the_loss_and_the_gradients_of_the_questions_one_by_one(tmp_path, scenes, fusion):
    late = {"fusion": "late", "cross_attention_interval": 1}
    folder = train_language(recipe(**late if fusion == "late" else {}), arguments(tmp_path / "run", max_steps=2))
    model, processor = opened(folder)
    for block in getattr(model, "cross_attention", []):
        block.gate.data.fill_(0.7)
    found = []
    for max_questions_per_sequence in (1, 20):
        data = Conversations(scenes["validation"], processor, max_questions_per_sequence=max_questions_per_sequence)
        batch = AnswerCollator(processor)([data[number] for number in range(len(data))])
        assert (batch["attention_mask"].ndim, len(data) == 4) == (
            (4, True) if max_questions_per_sequence > 1 else (2, False)
        )
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        found.append((loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    (one, one_by_one), (packed, together) = found
    # Sums in another order: a few units in the last place of float32.
    assert torch.allclose(one, packed, atol=1e-5)
    assert torch.allclose(one_by_one, together, atol=1e-5)
    assert one_by_one.abs().max() > 1e-3


def test_the_last_token_of_a_prompt_is_its_questions_own():
    packed = pack_questions([[1, 2, 3], [1, 2, 3]], [[7, 0], [8, 9, 0]], ["a", "b"], [])
    assert [*packed.tokens] == [1, 2, 3, 7, 0, 3, 8, 9, 0]
    assert [*packed.labels] == [IGNORED] * 3 + [7, 0] + [IGNORED] + [8, 9, 0]
    assert [*packed.positions] == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert [*packed.segments] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    second = packed.only(2)
    assert [*second.tokens] == [1, 2, 3, 8, 9, 0]
    assert ([*second.positions], [*second.segments]) == ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 1])


def test_an_answer_is_exact_if_and_only_if_generate_gives_it(tmp_path, scenes):
    # Trained for a moment, so that some answers are right.
    folder = train_language(recipe(), arguments(tmp_path / "run", num_train_epochs=12, learning_rate=5e-3))
    model, processor = opened(folder)
    singly = Conversations(scenes["test"], processor, max_questions_per_sequence=1)
    wanted = []
    for number in range(len(singly)):
        batch = AnswerCollator(processor)([singly[number]])
        answer = [token for token in singly[number].labels if token != IGNORED]
        prompt = batch["input_ids"][:, : -len(answer)]
        said = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=batch["pixel_values"],
            do_sample=False,
            max_new_tokens=len(answer),
        )
        wanted.append(said[0, prompt.shape[1] :].tolist() == answer)
    for max_questions_per_sequence in (1, 20):
        data = Conversations(scenes["test"], processor, max_questions_per_sequence=max_questions_per_sequence)
        assert [answer.right for answer in exact_answers(model, AnswerCollator(processor), data, 3)] == wanted
    assert True in wanted
    assert False in wanted


def test_tokens_without_a_label_get_no_logits_and_the_loss_is_the_same(composite, scenes, tmp_path):
    model, processor = opened(composite)
    collator, data = AnswerCollator(processor), Conversations(scenes["train"], processor, max_questions_per_sequence=1)
    trainer = LanguageTrainer(
        model, {}, recipe(model=str(composite)), args=arguments(tmp_path), data_collator=collator, train_dataset=data
    )
    for first, spared in ((0, True), (1, False)):
        batch = collator([data[first], data[first + 40]])
        if not spared:
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        said = int((batch["labels"][:, 1:] != IGNORED).any(0).sum())
        loss, output = trainer.compute_loss(model, {**batch}, return_outputs=True)
        assert loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)
        assert output.logits.shape[1] == (said if spared else batch["input_ids"].shape[1] - 1)
        assert (said < batch["input_ids"].shape[1] // 2) is spared


def test_a_run_leaves_a_folder_that_opens_and_its_numbers_beside_those_of_the_controls(tmp_path):
    changes = {"do_predict": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    folder = train_language(recipe(), arguments(tmp_path / "run", **changes))
    record = json.loads((folder / "metrics.json").read_text())
    assert record["training"]["steps"] == 8
    assert len(record["training"]["evaluations"]) == 2
    assert record["training"]["conversations"] == SIZES
    assert list(record["answers"]) == ["validation", "test", "held_out"]
    for controls in record["answers"].values():
        assert list(controls) == ["prior", "images", "shuffled", "nothing"]
        assert len({found["questions"] for found in controls.values()}) == 1
        for found in controls.values():
            assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert {path.name for path in folder.glob("*.py")} >= {"modeling_omni_vision_language.py"}
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="finished run"):
        train_language(recipe(), arguments(tmp_path / "run"))


def test_a_control_without_images_trains_the_language_model_alone(tmp_path):
    folder = train_language(
        recipe(image_input="nothing"), arguments(tmp_path / "run", do_predict=True, num_train_epochs=1)
    )
    record = json.loads((folder / "metrics.json").read_text())
    assert {name: part["unchanged"] for name, part in record["training"]["parts"].items()} == {
        "vision": True,
        "text": False,
        "projector": True,
    }
    assert list(record["answers"]["test"]) == ["prior", "nothing"]


def test_controls_replace_what_they_name(composite, scenes):
    _, processor = opened(composite)
    messages = scenes["test"][0]["questions"][0]["messages"]
    text = messages[0]["content"].removeprefix("<image>\n")
    assert replace_images(messages)[0]["content"] == text
    assert replace_images(messages, "red square 1 2")[0]["content"] == f"red square 1 2\n{text}"
    question = scenes["test"][0]["questions"][0]
    for image_input, wanted in (("images", f"<image>\n{text}"), ("shuffled", f"<image>\n{text}"), ("nothing", text)):
        assert Conversations(scenes["test"], processor, image_input).messages_of(question, 0)[0]["content"] == wanted
    seen, shuffled = (Conversations(scenes["test"], processor, image_input) for image_input in ("images", "shuffled"))
    assert all(seen[row].tokens == shuffled[row].tokens for row in range(len(seen)))
    assert all(seen[row].images != shuffled[row].images for row in range(len(seen)))


def test_the_prior_is_the_most_frequent_answer_of_the_same_text_in_training(scenes):
    same = text_only_prior(scenes["train"], scenes["train"])
    assert {answer.kind for answer in same} >= {"count", "caption"}
    asked = [(row, q) for row, questions in enumerate(scenes["train"]["questions"]) for q in questions]
    first = [
        (answer, q) for answer, (_, q) in zip(same, asked, strict=True) if "How many objects" in str(q["messages"])
    ]
    answers = [q["answer"] for _, q in first]
    assert sum(answer.right for answer, _ in first) == max(answers.count(number) for number in set(answers))


def test_intervals_are_those_of_conversations_drawn_again_not_of_questions():
    # Four conversations, all right or all wrong: a hundred questions each say no more than one.
    answers = [AnswerResult(row < 2, "a", row) for row in range(4) for _ in range(100)]
    found = answer_metrics(answers)
    assert (found["accuracy"], found["questions"]) == (0.5, 400)
    assert found["interval"] == [0.0, 1.0]
    assert answer_metrics([AnswerResult(True, "a", 0)])["kinds"]["a"]["interval"] == [1.0, 1.0]
    with pytest.raises(ValueError, match="got none"):
        answer_metrics([])


MOVED = {
    "projector": {"projector"},
    "lora": {"projector", "text"},
    "all": {"projector", "text", "vision"},
    "frozen tower": {"projector", "text"},
}


@pytest.mark.parametrize("stage", list(MOVED))
def test_frozen_parts_stay_bit_for_bit_and_trained_ones_move(composite, tmp_path, stage):
    changes = {"stage": "all", "vision_learning_rate": 0.0} if stage == "frozen tower" else {"stage": stage}
    folder = train_language(recipe(model=str(composite), **changes), arguments(tmp_path / "run", learning_rate=1e-2))
    before, after = weights(composite), weights(folder)
    assert set(before) == set(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {language.part_of(name) for name in moved} == MOVED[stage]
    parts = json.loads((folder / "metrics.json").read_text())["training"]["parts"]
    assert parts["vision"]["unchanged"] == ("vision" not in MOVED[stage])
    assert {part for part, found in parts.items() if not found["unchanged"]} == MOVED[stage]
    if stage == "lora":
        words = {name for name in moved if language.part_of(name) == "text"}
        assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in words)
        assert len(words) == 4


def test_merging_lora_changes_no_answer(composite, scenes):
    model, processor = opened(composite)
    freeze_parameters(model, "lora", {"vision": 0.0, "text": 1.0, "projector": 1.0}, lora_rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    data = Conversations(scenes["test"], processor)
    batch = AnswerCollator(processor)([data[0], data[1]])
    wanted = model.eval()(**batch).logits
    merge_lora(model)
    assert (model(**batch).logits - wanted).abs().max() < 1e-4
    plain, _ = opened(composite)
    assert (plain(**batch).logits - wanted).abs().max() > 1e-2
    assert set(model.state_dict()) == set(plain.state_dict())


DECODERS = {
    "gpt2": ({"n_embd": 32, "n_layer": 1, "n_head": 2}, {"c_attn"}),
    "gpt_neox": ({}, {"query_key_value"}),
    "phi3": ({}, {"qkv_proj"}),
    "qwen3": ({"head_dim": 16}, {"q_proj", "v_proj"}),
    "bloom": ({"n_layer": 1, "n_head": 2}, {"query_key_value"}),
}


def decoder(kind, fields):
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **fields})
    vision = {"vision_config": {**VISION, "num_hidden_layers": 1}, "image_token_index": 39}
    return OmniVisionForConditionalGeneration(OmniVisionLanguageConfig(text_config=config, **vision)).eval()


@pytest.mark.parametrize("kind", DECODERS)
def test_lora_has_the_targets_of_the_architecture_or_those_that_are_named(kind):
    fields, targets = DECODERS[kind]
    model = decoder(kind, fields)
    ids = torch.tensor([[3, 39, 4, 5]])
    batch = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    plain = model(**batch).logits
    freeze_parameters(model, "lora", {"vision": 0.0, "text": 1.0, "projector": 1.0}, lora_rank=2)
    assert {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name} == targets
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    wanted = model(**batch).logits
    merge_lora(model)
    assert torch.allclose(model(**batch).logits, wanted, atol=1e-4)
    assert not torch.allclose(plain, wanted, atol=1e-2)
    with pytest.raises(ValueError, match=r"got \['q'\]. Choose some of .*: --lora_targets"):
        language.lora_pattern(decoder(kind, fields), "q")
    assert language.lora_pattern(decoder(kind, fields), min(targets)).endswith(f"({min(targets)})")


def rows_of(*conversations, images=None):
    """Conversations as texts: a question and its answer, and so on; each with an image of its own."""
    from PIL import Image

    listed = []
    for number, texts in enumerate(conversations):
        turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        turns[0]["content"] = "<image>\n" + turns[0]["content"]
        questions = [
            {"messages": turns[:place], "answer": turns[place]["content"], "kind": "a"}
            for place in range(1, len(turns), 2)
        ]
        shown = store(Image.new("RGB", (32, 32), (images[number] if images else number, 0, 0)))
        row = {"images": [shown], "questions": questions, "symbols": "", "source": f"line {number + 1} of 'x'"}
        listed.append(row)
    return Dataset.from_list(listed, features=FEATURES)


def test_answers_with_words_that_the_model_lacks_are_refused_and_never_right(composite, tmp_path, monkeypatch, caplog):
    known, new = ("what colour is the star?", "red"), ("what colour is the dog?", "a brown hound")
    data = DatasetDict({"train": rows_of(known, new), "validation": rows_of(known)})
    monkeypatch.setattr(language, "load_questions", lambda *options: data)
    with pytest.raises(ValueError, match=r"1 answers of the split train have words .* such as 'a brown hound'"):
        train_language(recipe(model=str(composite)), arguments(tmp_path / "run"))
    data["train"], data["validation"] = rows_of(known), rows_of(known, new)
    folder = train_language(recipe(model=str(composite)), arguments(tmp_path / "run", max_steps=1))
    assert "1 answers of the split validation have words" in caplog.text
    assert "1 questions of the split validation have words" in caplog.text
    model, processor = opened(folder)
    # A model that says `<unk>` at every place.
    unknown = processor.tokenizer.unk_token_id
    said = torch.zeros(1, 1, len(processor.tokenizer)).index_fill(-1, torch.tensor(unknown), 1.0)
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, input_ids, logits_to_keep, **_: Said(said.expand(1, len(logits_to_keep), -1)),
    )
    data = Conversations(rows_of(("what?", "hound hound"), ("what?", "hound")), processor)
    assert not any(found.right for found in exact_answers(model, AnswerCollator(processor), data, 1))


class Said:
    def __init__(self, logits):
        self.logits = logits.clone()


def test_a_tokenizer_whose_unknown_token_is_the_end_of_text_has_no_unknown_words(composite):
    _, processor = opened(composite)
    assert unknown_token(processor.tokenizer) == processor.tokenizer.unk_token_id
    processor.tokenizer.unk_token = processor.tokenizer.eos_token
    assert unknown_token(processor.tokenizer) is None
    processor.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="token that ends an answer"):
        encode_question(processor, [{"role": "user", "content": "?"}], "red")


LONG = ("what shape is the red object?", "star", "how many stars are there?", "two", "what colour is the star?", "red")


def test_conversations_longer_than_the_positions_are_refused_skipped_or_cut(composite, caplog):
    _, processor = opened(composite)
    rows = rows_of(("what colour is the star?", "red"), LONG)
    whole = Conversations(rows, processor, "images")
    longest = max(max(sequence.positions) for sequence in whole.sequences) + 1
    assert len(Conversations(rows, processor, "images", 1, longest)) == 4
    with pytest.raises(ValueError, match=rf"{longest - 1} positions, got {longest} tokens in line 2 of 'x'"):
        Conversations(rows, processor, "images", 1, longest - 1)
    assert len(Conversations(rows, processor, "images", 1, longest - 1, "skip")) == 3
    assert "1 questions in 1 conversations have more than" in caplog.text
    cut = Conversations(rows, processor, "images", 1, longest - 1, "cut")
    text = processor.tokenizer.decode(cut.sequences[-1].tokens)
    # The turn with the image stays.
    assert "how many" not in text
    assert "what shape" in text
    assert text.endswith("red </s>")
    with pytest.raises(ValueError, match=r"after its first turns were cut\. Shorten it"):
        Conversations(rows, processor, "images", 1, processor.image_seq_length + 12, "cut")
    with pytest.raises(ValueError, match="line 1 of 'x'"):
        Conversations(rows, processor, "images", 1, 5)


def test_a_template_that_fails_is_named_with_the_line_and_one_without_system_role_is_read(composite):
    _, processor = opened(composite)
    plain = processor.tokenizer.chat_template
    alone = (
        "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
    )
    processor.chat_template = image_chat_template(alone + plain)
    system, user = {"role": "system", "content": "the red star"}, {"role": "user", "content": "what colour?"}
    asked, _ = encode_question(processor, [system, user], "red")
    assert "the red star what colour" in processor.tokenizer.decode(asked)
    assert "<system>" not in processor.tokenizer.decode(asked)
    processor.chat_template = image_chat_template("{{- raise_exception('Roles must alternate') -}}")
    with pytest.raises(ValueError, match="line 2 of 'x' cannot be learnt: Roles must alternate"):
        Conversations(rows_of(("what?", "red"), ("what?", "red")).select([1]), processor)


def test_shuffled_images_are_never_a_rows_own_by_content(composite):
    _, processor = opened(composite)
    asked = ("what colour is the star?", "red")
    # Half a circle of rows further on, an image was often the same one.
    rows = rows_of(*[asked] * 8, images=[0, 1, 2, 3, 0, 1, 2, 3])
    data = Conversations(rows, processor, "shuffled")
    assert all(data[row].images != rows[row]["images"] for row in range(8))
    for keys in ([["a"], ["a"]], [["a", "b"], ["a"]]):
        with pytest.raises(ValueError, match="row 1 has all"):
            other_images(keys)


@pytest.mark.parametrize(
    "keys", [[["a", "b"], ["c"], ["a"], []], [["a"], ["b", "c"], ["d", "a"]], [["a"], ["b"], ["a"]]]
)
def test_other_images_are_as_many_and_none_of_ones_own(keys):
    for own, found in zip(keys, other_images(keys), strict=True):
        assert len(found) == len(own)
        assert not set(own) & {keys[row][place] for row, place in found}


@pytest.mark.parametrize("answer", [lambda row: row // 60, lambda row: row % 2, lambda row: row // 15 % 2])
def test_other_images_have_other_answers_as_often_as_chance_whatever_the_order_of_the_rows(answer):
    others = other_images([[str(row)] for row in range(120)])
    # Each image is used once: twice and never make the control noisier.
    assert sorted(found[0][0] for found in others) == [*range(120)]
    equal = sum(answer(row) == answer(found[0][0]) for row, found in enumerate(others))
    assert 40 < equal < 80


def test_parts_have_their_own_learning_rates(composite):
    model, _ = opened(composite)
    given = recipe(model=str(composite), vision_learning_rate=1.0, text_learning_rate=2.0)
    rates = language.learning_rates(given, 3.0)
    groups = language.language_groups(model, rates, {"vision": 4.0, "text": 0.0}, 0.1)
    rate_of = {weight: (group["lr"], group.get("muon", False)) for group in groups for weight in group["params"]}
    assert len(rate_of) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        part = language.part_of(name)
        muon = part == "vision" and weight.ndim == 2 and ".layers." in f".{name}"
        assert rate_of[weight] == ((4.0, True) if muon else (rates[part], False)), name


def test_sequences_of_a_batch_are_about_equally_long_and_each_epoch_has_another_order(composite, scenes):
    _, processor = opened(composite)
    data = Conversations(scenes["train"], processor, max_questions_per_sequence=2)
    order = list(LengthGroups(data, 8, seed=1))
    assert sorted(order) == list(range(len(data)))
    assert list(LengthGroups(data, 8, seed=1)) == order
    data.set_epoch(1)
    assert list(LengthGroups(data, 8, seed=1)) != order


def test_a_tower_that_is_not_trained_is_used_without_dropout(composite, tmp_path, scenes):
    start = tmp_path / "start"
    shutil.copytree(composite, start)
    config = json.loads((start / "config.json").read_text())
    config["vision_config"]["hidden_dropout_prob"] = 0.5
    (start / "config.json").write_text(json.dumps(config))
    losses = []
    for seed in (1, 2):
        options = {"logging_steps": 1, "max_steps": 1, "data_seed": 5, "seed": seed}
        folder = train_language(
            recipe(model=str(start), stage="projector"), arguments(tmp_path / f"run{seed}", **options)
        )
        losses.append(json.loads((folder / "metrics.json").read_text())["training"]["history"][0]["loss"])
    assert losses[0] == losses[1]


def test_bf16_leaves_weights_in_float32_and_warns_where_it_is_imitated(composite, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(skeleton, "has_bf16_instructions", lambda: False)
    folder = train_language(recipe(model=str(composite)), arguments(tmp_path / "run", bf16=True, max_steps=1))
    assert all(value.dtype == torch.float32 for value in weights(folder).values())
    assert "no bfloat16 instructions" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "some"}, "must be one of projector, lora, all"),
        ({"image_input": "words"}, "must be one of images, shuffled, nothing, got"),
        ({"model": "somewhere", "config": "{}"}, "`model` has all of its parts"),
        ({"vision": "somewhere"}, "`config` is for a new vision tower"),
        ({"text": "somewhere"}, "`text_config` is for a new language model"),
        ({"config": "{"}, "must be JSON"),
        ({"text_config": '{"width": 3}'}, "fields of LlamaConfig"),
        ({"max_questions_per_sequence": 0}, "`max_questions_per_sequence` must be at least 1"),
        ({"text_learning_rate": -1.0}, "must be at least 0"),
        ({"image_input": "nothing", "stage": "projector"}, "needs `stage` 'all'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{"config": "{}", **changes})


def test_what_cannot_be_trained_or_opened_is_refused(composite, tmp_path):
    with pytest.raises(ValueError, match="folder or Hub name of a composite"):
        train_language(recipe(model=str(tmp_path / "nowhere")), arguments(tmp_path / "run"))
    with pytest.raises(ValueError, match="Raise one above 0"):
        train_language(recipe(model=str(composite), stage="projector"), arguments(tmp_path / "run", learning_rate=0.0))
    with pytest.raises(ValueError, match="got no words"):
        new_chat_tokenizer([])


def test_measuring_leaves_out_training(composite, scenes):
    model, processor = opened(composite)
    assert list(measure(model, processor, scenes, "images", 12)) == ["validation", "test", "held_out"]


@pytest.mark.slow
def test_two_processes_train_as_the_script_says(composite, tmp_path):
    from PIL import Image

    talk = [{"role": "user", "content": "what colour?"}, {"role": "assistant", "content": "red"}]
    for number in range(16):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = (json.dumps({"image": f"{number}.png", "messages": talk}) for number in range(16))
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["scripts/train_language.py", "--dataset", str(tmp_path), "--config", json.dumps(VISION)]
    options = ["--text_config", json.dumps(TEXT), "--max_steps", "2", "--per_device_train_batch_size", "2"]
    quick = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    subprocess.run(
        [*torchrun, *command, *options, *quick, "--output_dir", str(tmp_path / "run")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=280,
    )
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["training"]["processes"] == 2
    assert record["training"]["arguments"]["batch"] == 4
    assert record["answers"]["validation"]["images"]["questions"] > 0
