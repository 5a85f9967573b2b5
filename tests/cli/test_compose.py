import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TextStreamer,
)


pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionForRetrieval, OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.cli.ask import main as ask_main
from modeling_omni_vision.cli.compose import main


@pytest.fixture
def vision(tiny_classifier, tmp_path):
    """A classifier of grey images whose training dropped patches, and what prepares its images."""
    config = tiny_classifier.config
    config.num_channels, config.patch_drop_rate = 1, 0.5
    folder = tmp_path / "vision"
    type(tiny_classifier)(config).save_pretrained(folder)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}, num_channels=1).save_pretrained(folder)
    return folder


def compose(vision, llama, output, *options):
    main(["--vision", str(vision), "--text", str(llama), "--output", str(output), *options])
    return AutoModelForImageTextToText.from_pretrained(output), AutoProcessor.from_pretrained(output)


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_one_command_makes_a_model_that_answers_and_says_what_is_new(
    vision, tiny_llama_folder, tmp_path, capsys, fusion
):
    output = tmp_path / "composite"
    options = (
        "--fusion",
        fusion,
        "--vision_feature_select_strategy",
        "cls+grid",
        "--projector",
        "mlp",
        "--cross_attention_interval",
        "2",
    )
    model, processor = compose(vision, tiny_llama_folder, output, *options)
    early = fusion == "early"
    printed = capsys.readouterr().out
    assert f"OK: {output} holds {model.num_parameters():,} parameters" in printed
    new = [model.multi_modal_projector, *getattr(model, "cross_attention", [])]
    count = sum(weight.numel() for part in new for weight in part.parameters())
    assert f"{count:,} of them new" in printed
    assert ("17 image tokens for an image" if early else "1 image token for an image") in printed
    assert len(getattr(model, "cross_attention", [])) == (0 if early else 1)
    batch = processor(
        text=["<image> what is it", "what is it"],
        images=[Image.new("RGB", (9, 9), "red")],
        padding=True,
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (1, 1, 32, 32)
    # In training too every patch arrives: dropping them is over.
    assert model.train()(**batch, labels=batch["input_ids"]).loss.isfinite()
    assert (
        model.eval().generate(**batch, max_new_tokens=3, min_new_tokens=3).shape[1] == batch["input_ids"].shape[1] + 3
    )


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_both_checkpoints_are_in_it_to_the_bit_and_the_vocabulary_has_one_word_more(
    vision, tiny_llama_folder, tmp_path, fusion
):
    model, processor = compose(
        vision, tiny_llama_folder, tmp_path / "composite", "--fusion", fusion, "--cross_attention_interval", "1"
    )
    tower, bare = OmniVisionModel.from_pretrained(vision), AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    for name, weight in tower.state_dict().items():
        assert torch.equal(model.vision_tower.state_dict()[name], weight), name
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    known = len(tokenizer)
    assert (len(processor.tokenizer), model.config.image_token_id) == (known + 1, known)
    assert model.get_input_embeddings().num_embeddings == known + 1
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    plain = processor(text="what is it", return_tensors="pt")
    assert torch.equal(plain["input_ids"], tokenizer("what is it", return_tensors="pt")["input_ids"])
    # One column more, and matrices of another width are multiplied in another order.
    assert torch.allclose(model(**plain).logits[..., :known], bare(**plain).logits, atol=1e-6)
    assert processor.tokenizer.pad_token == "</s>"
    assert model.generation_config.pad_token_id == 2
    assert processor.tokenizer.padding_side == "left"


def test_a_vocabulary_with_room_is_not_resized_and_a_known_image_token_is_used(
    vision, tiny_llama_config, word_tokenizer, tmp_path
):
    tiny_llama_config.vocab_size = 64
    word_tokenizer.add_tokens("<image>", special_tokens=True)
    AutoModelForCausalLM.from_config(tiny_llama_config).save_pretrained(tmp_path / "roomy")
    word_tokenizer.save_pretrained(tmp_path / "roomy")
    model, processor = compose(vision, tmp_path / "roomy", tmp_path / "composite")
    assert model.config.text_config.vocab_size == 64
    assert model.config.image_token_id == processor.image_token_id == len(word_tokenizer) - 1


def test_a_retrieval_model_gives_its_vision_tower(tiny_llama_folder, tmp_path):
    searching = "checkpoints/omni-vision-search-scenes"
    model, processor = compose(
        searching, tiny_llama_folder, tmp_path / "composite", "--vision_feature_select_strategy", "grid"
    )
    tower = OmniVisionForRetrieval.from_pretrained(searching).vision_model
    weights = model.vision_tower.state_dict()
    assert weights.keys() == tower.state_dict().keys()
    for name, weight in tower.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert processor.image_processor.size == {"height": 64, "width": 64}
    assert processor.image_seq_length == 64


def test_another_composite_gives_its_language_model_with_its_words(vision, tiny_llama_folder, tmp_path):
    first, processor = compose(vision, tiny_llama_folder, tmp_path / "first")
    second, again = compose(
        vision, tmp_path / "first", tmp_path / "second", "--vision_feature_select_strategy", "grid"
    )
    weights = second.language_model.state_dict()
    for name, weight in first.language_model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert len(again.tokenizer) == len(processor.tokenizer)
    assert (first.config.image_seq_length, second.config.image_seq_length) == (1, 16)
    batch = again(text="<image> what is it", images=[Image.new("RGB", (9, 9))], return_tensors="pt")
    assert second(**batch).logits.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_weights_are_kept_in_the_precision_that_is_asked_for(vision, tiny_llama_folder, tmp_path, dtype):
    for fusion in ("early", "late"):
        folder = tmp_path / fusion
        compose(
            vision, tiny_llama_folder, folder, "--dtype", dtype, "--fusion", fusion, "--cross_attention_interval", "1"
        )
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            kinds = {str(weights.get_tensor(name).dtype) for name in weights.keys()}  # noqa: SIM118
        assert kinds == {f"torch.{dtype}"}
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--scale_factor", "3", "--vision_feature_select_strategy", "grid"), "scale_factor"),
        (("--fusion", "late"), "at most the number of decoder layers, 2, got 4"),
    ],
)
def test_what_cannot_be_composed_is_refused_and_leaves_nothing(vision, tiny_llama_folder, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        compose(vision, tiny_llama_folder, tmp_path / "composite", *options)
    assert not (tmp_path / "composite").exists()


@pytest.mark.parametrize(("flag", "value"), [("--fusion", "middle"), ("--dtype", "float64")])
def test_a_value_that_no_flag_has_is_one_line(vision, tiny_llama_folder, tmp_path, capsys, flag, value):
    with pytest.raises(SystemExit) as ended:
        compose(vision, tiny_llama_folder, tmp_path / "composite", flag, value)
    assert ended.value.code == 2
    assert f"{flag} must be one of" in capsys.readouterr().err
    assert not (tmp_path / "composite").exists()


def test_another_encoder_and_a_checkpoint_without_a_head_are_refused(vision, tiny_llama_folder, tmp_path):
    with pytest.raises(ValueError, match=r"must be of one of these model types: .*vit.* got 'llama'"):
        compose(tiny_llama_folder, tiny_llama_folder, tmp_path / "composite")
    (tiny_llama_folder / "model.safetensors").unlink()
    config = LlamaConfig.from_pretrained(tiny_llama_folder)
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).model.save_pretrained(tiny_llama_folder)
    with pytest.raises(ValueError, match="lm_head"):
        compose(vision, tiny_llama_folder, tmp_path / "composite")
    assert not (tmp_path / "composite").exists()


def test_a_question_about_an_image_is_answered_word_by_word(vision, tiny_llama_folder, tmp_path, capsys, monkeypatch):
    model, processor = compose(vision, tiny_llama_folder, tmp_path / "composite")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    capsys.readouterr()
    pieces = []
    put = TextStreamer.on_finalized_text
    monkeypatch.setattr(
        TextStreamer, "on_finalized_text", lambda *args, **end: pieces.append(args[1]) or put(*args, **end)
    )
    command = ["what is it ?", "--model", "composite", "--max_new_tokens", "5", "--image"]
    monkeypatch.chdir(tmp_path)
    ask_main([*command, "red.png"])
    chat = [
        {"role": "user", "content": [{"type": "image", "path": "red.png"}, {"type": "text", "text": "what is it ?"}]}
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(chat, **options)
    said = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = processor.decode(said, skip_special_tokens=True)
    assert capsys.readouterr().out.strip() == expected.strip() == "".join(pieces).strip()
    assert len(pieces) > 1
    with pytest.raises(ValueError, match=r"blue\.png"):
        ask_main([*command, "blue.png"])
