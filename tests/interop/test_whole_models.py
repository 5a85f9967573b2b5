"""Whole CLIP, SigLIP and open_clip models become a retrieval model that scores images and texts as they do."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    pipeline,
)


pytest.importorskip("transformers", minversion="5.23", reason="retrieval models need transformers 5.23")

from modeling_omni_vision import OmniVisionForRetrieval
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop.clean_comparison import TEXTS, original_outputs, our_outputs
from modeling_omni_vision.interop.from_source import processor_of
from modeling_omni_vision.interop.source import read_source


# Logits are similarities times a learned scale.
CLOSE = 1e-4
VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = {key: VISION[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
PIXELS = torch.Generator().manual_seed(1)


def perturbed(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
        model.logit_scale.fill_(math.log(20))
    return model.eval()


def letters(special):
    """A vocabulary of letters, alone and at the end of a word, with `special` tokens behind them."""
    alphabet = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    return {
        word: number for number, word in enumerate([*alphabet, *(f"{letter}</w>" for letter in alphabet), *special])
    }


def save_clip(folder, dtype=torch.float32):
    vocabulary = letters(["<|startoftext|>", "<|endoftext|>"])
    end = vocabulary["<|endoftext|>"]
    text = {
        **TEXT,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 77,
        "eos_token_id": end,
        "bos_token_id": end - 1,
    }
    torch.manual_seed(0)
    model = perturbed(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))).to(dtype)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def save_siglip(folder, word_tokenizer, dtype=torch.float32):
    text = {**TEXT, "vocab_size": len(word_tokenizer), "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = perturbed(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).to(dtype)
    model.save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = word_tokenizer
    tokenizer.add_special_tokens({"pad_token": "</s>"})
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.fixture
def save(word_tokenizer):
    return {"clip": save_clip, "siglip": lambda *args: save_siglip(args[0], word_tokenizer, *args[1:])}


def ours_of(folder, output):
    """Convert in this process, save, and open again as anybody does."""
    converted = read_source(folder)
    processor = processor_of(converted)
    converted.model().save_pretrained(output)
    processor.save_pretrained(output)
    return AutoModel.from_pretrained(output).eval(), processor


def their_ids(kind, folder):
    from transformers import AutoTokenizer

    options = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {"padding": True}
    return AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", **options)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_and_token_ids_are_those_of_the_original(kind, save, tmp_path):
    original = save[kind](tmp_path / "theirs")
    model, processor = ours_of(tmp_path / "theirs", tmp_path / "ours")
    assert type(model) is OmniVisionForRetrieval
    theirs, ours = their_ids(kind, tmp_path / "theirs"), processor(text=TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    pixels = torch.randn(3, 3, 32, 32, generator=PIXELS)
    with torch.inference_mode():
        expected = original(pixel_values=pixels, **theirs)
        found = model(pixel_values=pixels, **ours)
    assert (expected.logits_per_image - found.logits_per_image).abs().max() <= CLOSE
    assert (expected.image_embeds - found.image_embeds).abs().max() <= 1e-5
    assert (expected.text_embeds - found.text_embeds).abs().max() <= 1e-5
    assert expected.logits_per_image.std() > 0.1, "constant logits would be equal to anything"
    loss = model(pixel_values=pixels[:2], **ours, return_loss=True).loss
    assert torch.allclose(loss, original(pixel_values=pixels[:2], **theirs, return_loss=True).loss, atol=CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_half_precision_is_kept(kind, dtype, save, tmp_path):
    original = save[kind](tmp_path, dtype)
    model = read_source(tmp_path).model()
    assert model.dtype == dtype
    pixels, ids = torch.randn(2, 3, 32, 32, generator=PIXELS), their_ids(kind, tmp_path)["input_ids"]
    expected, found = original_outputs(original.float(), pixels, ids), our_outputs(model.float(), pixels, ids)
    assert (expected["logits_per_image"] - found["logits_per_image"]).abs().max() <= CLOSE


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_images_of_half_and_twice_the_size_score_the_same(kind, save, tmp_path):
    original = save[kind](tmp_path)
    model, ids = read_source(tmp_path).model(), their_ids(kind, tmp_path)["input_ids"]
    for size in [(16, 16), (64, 64), (16, 32)]:
        pixels = torch.randn(2, 3, *size, generator=PIXELS)
        expected, found = original_outputs(original, pixels, ids), our_outputs(model, pixels, ids)
        assert (expected["logits_per_image"] - found["logits_per_image"]).abs().max() <= CLOSE


def test_siglip_gives_the_same_vector_for_a_text_whatever_it_is_padded_to(save, tmp_path):
    save["siglip"](tmp_path / "theirs")
    model, processor = ours_of(tmp_path / "theirs", tmp_path / "ours")
    whole = processor(text="a red circle", return_tensors="pt")["input_ids"]
    assert whole.shape == (1, 64)
    short = processor.tokenizer("a red circle", return_tensors="pt")["input_ids"]
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    padded = torch.cat((short, torch.zeros(1, 2, dtype=torch.long)), dim=1)
    with torch.inference_mode():
        expected = model.get_text_features(whole).pooler_output
        assert torch.equal(model.get_text_features(short).pooler_output, expected)
        assert torch.equal(model.get_text_features(padded, attention_mask=mask).pooler_output, expected)
    with pytest.raises(ValueError, match=r"at most 64 tokens, .*got 65"):
        model.get_text_features(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_folder_opens_as_sentence_transformer_and_in_the_zero_shot_pipeline(kind, save, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    original = save[kind](tmp_path / "theirs")
    model, processor = ours_of(tmp_path / "theirs", tmp_path / "ours")
    image, labels = Image.new("RGB", (50, 40), (200, 30, 60)), ["red", "a blue circle"]
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), trust_remote_code=True, device="cpu")
    with torch.inference_mode():
        vectors = model(**processor(images=[image], text=labels, padding=True, return_tensors="pt"))
    assert torch.allclose(
        torch.tensor(encoder.encode(labels, normalize_embeddings=True)), vectors.text_embeds, atol=1e-5
    )
    assert torch.allclose(
        torch.tensor(encoder.encode([image], normalize_embeddings=True)), vectors.image_embeds, atol=1e-5
    )
    ours = pipeline(
        "zero-shot-image-classification", model=str(tmp_path / "ours"), device="cpu", trust_remote_code=True
    )
    theirs = pipeline(
        "zero-shot-image-classification",
        model=original,
        tokenizer=str(tmp_path / "theirs"),
        image_processor=str(tmp_path / "theirs"),
        device="cpu",
    )
    found = {answer["label"]: answer["score"] for answer in ours(image, candidate_labels=labels)}
    expected = {answer["label"]: answer["score"] for answer in theirs(image, candidate_labels=labels)}
    if kind == "clip":
        assert found == pytest.approx(expected, abs=1e-4)
    else:  # the pipeline takes the sigmoid for models whose type names SigLIP only
        assert max(found, key=found.get) == max(expected, key=expected.get)
        inputs = processor(
            images=[image], text=[f"This is a photo of {label}." for label in labels], return_tensors="pt"
        )
        with torch.inference_mode():
            scores = model(**inputs).logits_per_image[0].sigmoid().tolist()
        assert dict(zip(labels, scores, strict=True)) == pytest.approx(expected, abs=1e-4)


def test_without_a_tokenizer_or_image_settings_only_the_vision_tower_is_converted(save, tmp_path):
    save["clip"](tmp_path)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"settings of its images.*--encoder_only true"):
        processor_of(read_source(tmp_path))
    for path in (*tmp_path.glob("*tokenizer*"), *tmp_path.glob("vocab*"), *tmp_path.glob("merges*")):
        path.unlink()
    save_file_of_images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    save_file_of_images.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"needs its tokenizer.*--encoder_only true"):
        processor_of(read_source(tmp_path))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_way_back_is_the_original(kind, save, tmp_path):
    from modeling_omni_vision.interop import convert_to_native

    original = save[kind](tmp_path / "theirs")
    ours_of(tmp_path / "theirs", tmp_path / "ours")
    report = convert_to_native(tmp_path / "ours", tmp_path / "back")
    assert (report.architecture, report.difference < CLOSE) == (type(original).__name__, True)
    back = type(original).from_pretrained(tmp_path / "back")
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in original.state_dict().items())
    assert torch.equal(
        their_ids(kind, tmp_path / "back")["input_ids"], their_ids(kind, tmp_path / "theirs")["input_ids"]
    )
    image = Image.effect_noise((50, 41), 90).convert("RGB")
    first, second = (
        AutoImageProcessor.from_pretrained(tmp_path / name)(image, return_tensors="pt") for name in ("theirs", "back")
    )
    assert torch.equal(first["pixel_values"], second["pixel_values"])


def test_a_retrieval_model_of_ours_has_no_stock_class(tmp_path):
    from modeling_omni_vision import OmniVisionRetrievalConfig
    from modeling_omni_vision.interop import convert_to_native

    text = {**TEXT, "model_type": "bert", "vocab_size": 9}
    config = OmniVisionRetrievalConfig(vision_config={**VISION, "model_type": "omni_vision"}, text_config=text)
    OmniVisionForRetrieval(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"text tower of its own kind.*'bert'"):
        convert_to_native(tmp_path / "ours", tmp_path / "back")


# --- open_clip ---

NATIVE = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 2.0}
WORDS = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2}
TANH = {"approximate": "tanh"}
OPEN_CLIP = {
    "plain": {"embed_dim": 24, "vision_cfg": NATIVE, "text_cfg": WORDS},
    "quick-gelu": {"embed_dim": 24, "vision_cfg": NATIVE, "text_cfg": WORDS, "quick_gelu": True},
    "text-apart": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": NATIVE,
        "text_cfg": {**WORDS, "pool_type": "eos", "eos_id": 7, "proj_bias": False},
    },
    "layer-scale": {
        "embed_dim": 24,
        "vision_cfg": {**NATIVE, "ls_init_value": 0.1, "no_ln_pre": True, "pool_type": "avg", "act_kwargs": TANH},
        "text_cfg": {**WORDS, "ls_init_value": 0.1, "norm_kwargs": {"eps": 1e-6}},
    },
    "siglip": {
        "embed_dim": 768,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            **WORDS,
            "width": 768,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "act_kwargs": TANH,
        },
    },
    "timm-tower": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
        "text_cfg": WORDS,
    },
}


def open_clip_model(config, **sizes):
    open_clip = pytest.importorskip("open_clip")
    options = {key: value for key, value in config.items() if key != "custom_text"}
    options["vision_cfg"] = {**options["vision_cfg"], **sizes}
    torch.manual_seed(0)
    return perturbed((open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**options))


def save_open_clip(config, folder, **preprocess):
    model = open_clip_model(config)
    folder.mkdir(exist_ok=True)
    written = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return model


# The smallest SigLIP of timm that pools as transformers' does has 86 M parameters.
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one == "siglip")) for one in OPEN_CLIP]
)
def test_native_files_of_open_clip_give_its_logits(name, tmp_path):
    original = save_open_clip(OPEN_CLIP[name], tmp_path)
    model = read_source(tmp_path).model()
    size = model.config.vision_config.image_size_hw
    ids = torch.randint(2, 60, (3, 12))
    ids[:, -1] = 7
    pixels = torch.randn(2, 3, *size, generator=PIXELS)
    expected, found = original_outputs(original, pixels, ids), our_outputs(model, pixels, ids)
    assert (expected["logits_per_image"] - found["logits_per_image"]).abs().max() <= CLOSE
    assert expected["logits_per_image"].std() > 0.1
    assert (model.config.contrastive_loss == "sigmoid") == (name == "siglip")


@pytest.mark.parametrize("size", [16, 64])
def test_open_clips_image_tower_gives_the_same_vectors_at_half_and_twice_its_size(size, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    config = OPEN_CLIP["quick-gelu"]
    original = save_open_clip(config, tmp_path)
    model, other = read_source(tmp_path).model(), open_clip_model(config, image_size=size)
    weights = {name: value.clone() for name, value in original.state_dict().items()}
    open_clip.model.resize_pos_embed(weights, other)
    other.load_state_dict(weights)
    pixels = torch.randn(2, 3, size, size, generator=PIXELS)
    with torch.inference_mode():
        expected, found = other.encode_image(pixels), model.get_image_features(pixels).pooler_output
    assert (expected - found).abs().max() <= 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("vision_cfg", {"attentional_pool": True}, "vision attentional_pool True"),
        ("vision_cfg", {"qk_norm": True}, "vision_cfg qk_norm"),
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "ResNet"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "'roberta-base'"),
        ("text_cfg", {"embed_cls": True}, "embed_cls"),
        ("text_cfg", {"pool_type": "first"}, "pool_type 'first'"),
        ("text_cfg", {"no_causal_mask": True}, "text pooling"),
        ("text_cfg", {"act_kwargs": {"negative_slope": 1}}, "act_kwargs"),
    ],
)
def test_options_of_open_clip_that_have_no_place_are_named(part, changes, named):
    from modeling_omni_vision.interop.from_open_clip import read_open_clip

    config = {**OPEN_CLIP["plain"], part: {**OPEN_CLIP["plain"][part], **changes}}
    with pytest.raises(ValueError, match=named):
        read_open_clip(config, {}, "somewhere")


def test_open_clips_own_tokenizer_comes_along_with_the_same_ids(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    from modeling_omni_vision.interop.source_processor import open_clip_tokenizer

    texts = ["a photo of a cat", "Zwölf  BOXKÄMPFER, don't!", "x" * 40, "1234 + €5"]
    expected, found = open_clip.get_tokenizer("ViT-B-32")(texts), open_clip_tokenizer()(texts)["input_ids"]
    for row, ids in zip(expected.tolist(), found, strict=True):
        assert row[: len(ids)] == ids
        assert not any(row[len(ids) :])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_command_converts_a_whole_model_and_compares_it_in_a_clean_process(kind, save, tmp_path, capsys):
    save[kind](tmp_path / "theirs")
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    printed = capsys.readouterr().out
    assert "is an OmniVisionForRetrieval" in printed
    assert "0.00 of 255 levels" in printed


@pytest.mark.slow
def test_the_command_converts_open_clips_files_and_compares_tokenizer_and_pixels(tmp_path, capsys):
    config = {**OPEN_CLIP["quick-gelu"], "text_cfg": {**WORDS, "context_length": 77, "vocab_size": 49408}}
    save_open_clip(config, tmp_path / "theirs", interpolation="bicubic", resize_mode="shortest")
    main(["--source", "auto", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")])
    assert "Largest difference to open_clip by image size: 32x32" in capsys.readouterr().out
