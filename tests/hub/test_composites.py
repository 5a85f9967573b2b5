"""Retrieval and vision-language models are published and verified as encoders are."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.hub import OpeningError, publish, render_card, verify
from modeling_omni_vision.hub.card import check_card
from modeling_omni_vision.hub.clean_process import outputs_of_folder
from modeling_omni_vision.hub.proof import canonical, digest_of, file_hashes, open_in_clean_process, read_proof


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import (
    OmniVisionForConditionalGeneration,
    OmniVisionForRetrieval,
    OmniVisionLanguageConfig,
    OmniVisionProcessor,
    OmniVisionRetrievalConfig,
    OmniVisionRetrievalProcessor,
)


module = sys.modules[publish.__module__]
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
WORDS = [
    "what",
    "is",
    "it",
    "this",
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangle",
    "and",
    "user",
    "assistant",
    ":",
    "?",
]
COMMON = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
COMMON |= {"README.md", "REMOTE_CODE.md", "metrics.json", "proof.json"}
PARTS = ("common", "configuration", "features", "image_processing", "masked", "modeling")
CODE = {f"{part}_omni_vision.py" for part in PARTS}
FILES = {
    "retrieval": COMMON
    | CODE
    | {f"{part}_omni_vision_retrieval.py" for part in ("configuration", "modeling", "processing")},
    "language": COMMON
    | CODE
    | {f"{part}_omni_vision_language.py" for part in ("configuration", "modeling", "processing")}
    | {"generation_config.json", "chat_template.jinja"},
}
MEASURED = {"recall@1": 0.8125, "recall@5": 0.9375, "recall@10": 1.0, "ndcg@10": 0.87654, "mrr@10": 0.9}
RETRIEVAL_METRICS = {
    "training": {
        "task": "late interaction",
        "recipe": {"dataset": "scenes", "text": "new", "embedding_dim": 16},
        "arguments": {"batch": 128, "learning_rate": 0.001, "epochs": 4.0},
        "minutes": 26.91,
        "pairs": {"train": 20000, "validation": 200, "test": 200},
        "history": [{"step": 1, "loss": 4.8}],
    },
    "retrieval": {
        vectors: {
            split: {direction: MEASURED | {"candidates": 200} for direction in ("text_to_image", "image_to_text")}
            for split in ("validation", "test")
        }
        for vectors in ("multi_vector", "single_vector")
    },
}
LANGUAGE_METRICS = {
    "training": {"dataset": "scenes", "minutes": 12.5},
    "answers": {
        "test": {
            "colour": {"accuracy": 0.8765, "accuracy_interval": [0.84, 0.91], "num_examples": 321},
            "count": {"accuracy": 0.5432},
            # As `answer_metrics` writes it.
            "shape": {"accuracy": 0.6543, "interval": [0.6, 0.7], "questions": 99},
        },
        "test_without_image": {"colour": {"accuracy": 0.1234, "accuracy_interval": [0.1, 0.15]}},
    },
}
METRICS = {"retrieval": RETRIEVAL_METRICS, "language": LANGUAGE_METRICS}


def word_tokenizer(words, names, **options):
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options)


def save_retrieval(folder):
    text = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    config = OmniVisionRetrievalConfig(
        vision_config=VISION, text_config=text.to_dict(), embedding_dim=16, skiplist_token_ids=[0, 2, 3]
    )
    OmniVisionForRetrieval(config).save_pretrained(folder)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    words = word_tokenizer([*SPECIAL.values(), *WORDS], SPECIAL, model_input_names=inputs, model_max_length=32)
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    OmniVisionRetrievalProcessor(images, words, image_seq_length=config.image_seq_length).save_pretrained(folder)


def save_language(folder):
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    words = word_tokenizer([*SPECIAL.values(), *WORDS], names, model_input_names=["input_ids", "attention_mask"])
    words.add_tokens("<image>", special_tokens=True)
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        tie_word_embeddings=True,
    )
    config = OmniVisionLanguageConfig(
        vision_config=VISION, text_config=text, vision_feature_select_strategy="grid", scale_factor=2
    )
    OmniVisionForConditionalGeneration(config).save_pretrained(folder)
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    OmniVisionProcessor(images, words, image_seq_length=config.image_seq_length).save_pretrained(folder)


SAVE = {"retrieval": save_retrieval, "language": save_language}


@pytest.fixture(scope="module", params=["retrieval", "language"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run_folder(kind, tmp_path_factory):
    """A folder as training leaves it, with a checkpoint of the Trainer and images of somebody's own."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / kind
    SAVE[kind](folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS[kind]))
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"large")
    return folder


@pytest.fixture(scope="module")
def published_model(run_folder, tmp_path_factory):
    """What `publish` made of it, opened in a clean process; do not change it, copy it."""
    return publish(run_folder, tmp_path_factory.mktemp("published") / "x.y" / "a-b", repo_id="me/model")


@pytest.fixture
def folder(run_folder, tmp_path):
    """A copy of the run to break."""
    return Path(shutil.copytree(run_folder, tmp_path / "runs" / "model"))


@pytest.fixture
def broken(published_model, tmp_path):
    """A copy of the published folder to break."""
    return Path(shutil.copytree(published_model.folder, tmp_path / "copy"))


@pytest.fixture
def opened_here(monkeypatch):
    """Open in this process instead of a clean one, for tests about something else."""
    monkeypatch.setattr(module, "open_in_clean_process", lambda folder, trust: outputs_of_folder(folder, False))


def forge(folder):
    """Rewrite the proof for the files as they are now, as whoever can write every file can."""
    proof = read_proof(folder)
    proof["files"] = file_hashes(folder)
    proof["digest"] = digest_of(proof)
    (folder / "proof.json").write_text(canonical(proof))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_folder_holds_what_is_needed_without_this_package_and_verifies(kind, published_model):
    assert {path.name for path in published_model.folder.iterdir()} == FILES[kind]
    # The same code on the same machine: 0.0 was measured.
    assert published_model.difference <= 1e-6
    found = verify(published_model.folder)
    assert found.failures == ()
    assert found.digest == published_model.digest
    assert found.difference <= 1e-6


def test_the_proof_holds_images_words_and_both_together(kind, published_model):
    proof = json.loads((published_model.folder / "proof.json").read_text())
    pixels = {"pixel_values_pil", "pixel_values_torchvision"}
    of_retrieval = {"patch_embeds", "word_embeds", "image_embeds", "text_embeds", "logits_per_image", "input_ids"}
    of_language = {"logits_with_image", "logits_text_only", "input_ids_with_image", "input_ids_text_only"}
    assert set(proof["outputs"]) == pixels | (of_retrieval if kind == "retrieval" else of_language)
    assert ("red circle" if kind == "retrieval" else "chat template") in proof["inputs"]
    assert len(canonical(proof)) < 200_000


def test_the_images_of_the_proof_differ_and_so_do_answers_with_and_without_them(kind, run_folder):
    outputs = outputs_of_folder(run_folder, trust_remote_code=False)
    first, second = outputs["logits_per_image" if kind == "retrieval" else "logits_with_image"][:2]
    assert not torch.allclose(first, second)
    if kind == "language":
        assert outputs["input_ids_with_image"].shape[1] == outputs["input_ids_text_only"].shape[1] + 4
        token = OmniVisionLanguageConfig.from_pretrained(run_folder).image_token_id
        assert (outputs["input_ids_with_image"] == token).sum(1).tolist() == [4, 4]


def test_publishing_again_and_onto_itself_changes_no_number_and_no_code(run_folder, published_model, broken):
    before = {path.name: path.read_bytes() for path in broken.iterdir()}
    module_open = open_in_clean_process  # the real one: the folder as published is what is opened again
    assert module_open is module.open_in_clean_process
    again = publish(run_folder, broken, repo_id="me/model")
    assert again.release == published_model.release
    publish(broken, broken, repo_id="me/model")
    after = {path.name: path.read_bytes() for path in broken.iterdir()}
    # The proof names the folder it was made from.
    assert {name for name in before if before[name] != after[name]} <= {"proof.json"}
    assert set(before) == set(after)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "processor_config.json", "metrics.json", "config.json"]
)
def test_one_flipped_bit_or_a_missing_file_is_found(broken, name):
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / name).write_bytes(content)
    assert any(name in failure for failure in verify(broken).failures)
    (broken / name).unlink()
    assert verify(broken).failures == (f"{name}: missing",)


def test_other_weights_or_words_fail_even_with_a_new_proof(kind, broken, published_model):
    def restate():
        card = broken / "README.md"
        card.write_text(card.read_text().replace(published_model.release, module.release_name(file_hashes(broken))))
        forge(broken)

    name = "text_projection.weight" if kind == "retrieval" else "multi_modal_projector.linear_1.weight"
    change_weights(broken, lambda weights: weights[name].add_(torch.randn_like(weights[name])))
    restate()
    failures = verify(broken).failures
    assert any(("text_embeds" if kind == "retrieval" else "logits_with_image") in failure for failure in failures)
    assert not any("pixel_values" in failure for failure in failures)


def test_a_tokenizer_with_exchanged_words_fails_even_with_a_new_proof(broken, published_model):
    path = broken / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["is"], words["a"] = words["a"], words["is"]
    path.write_text(json.dumps(tokenizer))
    card = broken / "README.md"
    card.write_text(card.read_text().replace(published_model.release, module.release_name(file_hashes(broken))))
    forge(broken)
    assert any("input_ids" in failure for failure in verify(broken).failures)


def test_a_better_number_in_the_card_fails_even_with_a_new_proof(kind, broken, published_model):
    text = (published_model.folder / "README.md").read_text()
    changes = [("81.25%", "91.25%"), ("0.8765", "0.9765"), ("value: 0.8125", "value: 0.9125")]
    if kind == "language":
        changes = [("87.65%", "97.65%"), ("84.00% to 91.00%", "94.00% to 99.00%"), ("| 321 |", "| 3,210 |")]
    assert check_card(broken) == []
    for before, after in changes:
        assert before in text
        (broken / "README.md").write_text(text.replace(before, after))
        assert check_card(broken)


BREAKAGES = {
    "missing weights": (
        lambda folder: change_weights(
            folder, lambda weights: [weights.pop(name) for name in list(weights) if ".layers.1." in name]
        ),
        r"exactly those.*layers\.1",
    ),
    "weights of something else": (
        lambda folder: change_weights(folder, lambda weights: weights.update(extra=torch.ones(1))),
        r"exactly those.*extra",
    ),
    "weights that are not finite": (
        lambda folder: change_weights(folder, lambda weights: next(iter(weights.values())).fill_(float("nan"))),
        "finite",
    ),
    "no numbers": (lambda folder: (folder / "metrics.json").unlink(), r"published with its numbers.*metrics\.json"),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "processor and tokenizer"),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "processor and tokenizer",
    ),
    "numbers of another model": (
        lambda folder: (folder / "metrics.json").write_text('{"training": {"parameters": 3}}'),
        "of this checkpoint",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_not_whole_is_refused_and_nothing_appears(folder, tmp_path, name, opened_here):
    break_it, message = BREAKAGES[name]
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        publish(folder, tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_code_that_imports_our_package_does_not_open_in_the_clean_process(kind, broken):
    code = broken / f"modeling_omni_vision_{kind}.py"
    code.write_text(code.read_text().replace("import torch\n", "import modeling_omni_vision\nimport torch\n", 1))
    with pytest.raises(OpeningError, match="modeling_omni_vision"):
        open_in_clean_process(broken, trust_remote_code=True)


def test_no_local_folder_and_no_origin_is_published(folder, tmp_path, opened_here):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["_name_or_path"] = "/home/jo/models/words"
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"name_or_path": "/home/jo/models/words"}))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"]["recipe"] = {"vision": "/home/jo/runs/tower", "dataset": "emoji:/home/jo/emoji"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    done = publish(folder, tmp_path / "out" / "model")
    texts = [path.read_text() for path in done.folder.iterdir() if path.suffix in (".json", ".md", ".jinja")]
    assert not any("/home" in text or str(tmp_path) in text for text in texts)
    written = json.loads((done.folder / "metrics.json").read_text())["training"]["recipe"]
    assert written == {"vision": "tower", "dataset": "emoji:emoji"}


def test_an_access_token_is_not_published(folder, tmp_path, opened_here):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"]["note"] = "hf_" + "a" * 34
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match="token"):
        publish(folder, tmp_path / "out" / "model")


def test_the_card_shows_results_recipe_words_and_limits(kind, published_model):
    card = (published_model.folder / "README.md").read_text()
    data = ModelCard(card).data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    if kind == "retrieval":
        assert data.pipeline_tag == "zero-shot-image-classification"
        assert data.tags[:2] == ["vision", "omni_vision_retrieval"]
        assert len(data.eval_results) == 16
        rows = [
            "| patches and words | test | text to image | 81.25% | 93.75% | 0.8765 | 200 |",
            "| one vector each | validation | image to text | 81.25% | 93.75% | 0.8765 | 200 |",
            "| recipe: dataset | scenes |",
            "| arguments: learning_rate | 0.001 |",
            "| pairs: train | 20,000 |",
            "| minutes | 26.91 |",
        ]
    else:
        assert data.pipeline_tag == "image-text-to-text"
        assert data.tags[:2] == ["vision", "omni_vision_language"]
        rows = [
            "| test: colour | 87.65% | 84.00% to 91.00% | 321 |",
            "| test: count | 54.32% | - | - |",
            "| test: shape | 65.43% | 60.00% to 70.00% | 99 |",
            "| test without image: colour | 12.34% | 10.00% to 15.00% | - |",
        ]
    for row in rows:
        assert f"\n{row}\n" in card
    assert "drawn shapes" in card
    assert "vocabulary is these words and no others: " in card
    assert "[PAD]" not in card
    for word in ("None", "{{", "{%", "\n\n\n"):
        assert word not in card


def test_every_code_block_of_the_card_runs(kind, published_model, tmp_path, monkeypatch, capsys):
    if kind == "retrieval":
        pytest.importorskip("sentence_transformers")
    shutil.copytree(published_model.folder, tmp_path / "me" / "model")
    monkeypatch.chdir(tmp_path)
    card = (published_model.folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        exec(compile(block, "model card", "exec"), {})
    assert len(blocks) == (3 if kind == "retrieval" else 2)
    assert card.count(f'"{published_model.release}"') == len(blocks)
    if kind == "retrieval":
        assert "'label': 'red circle'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"retrieval": {"test": {"text_to_image": MEASURED}}},
        {"retrieval": {"multi_vector": {"test": {"text_to_image": MEASURED}}}},
        {"retrieval": {"multi_vector": {"test": {"text_to_image": MEASURED | {"candidates": 9, "recall@1": 81}}}}},
        {"retrieval": [1]},
        {"answers": {"test": {"colour": {"accuracy": 87.65}}}},
        {"answers": {"test": {"accuracy": 0.5, "accuracy_interval": 0.4}}},
    ],
)
def test_what_cannot_have_been_measured_is_refused(published_model, broken, wrong):
    (broken / "metrics.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"metrics\.json"):
        render_card(broken, "me/model")
