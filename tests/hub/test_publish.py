import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionModel
from modeling_omni_vision.hub import OpeningError, publish, verify
from modeling_omni_vision.hub.card_context import IMAGES
from modeling_omni_vision.hub.clean_process import outputs_of_folder
from modeling_omni_vision.hub.proof import open_in_clean_process
from modeling_omni_vision.hub.publish import MAX_IMAGE_BYTES, copy_images
from modeling_omni_vision.interop import convert_to_native, convert_to_vit


module = sys.modules[publish.__module__]  # `hub.publish` is the function
PARTS = ("common", "configuration", "features", "image_processing", "masked", "modeling")
CODE = {f"{part}_omni_vision.py" for part in PARTS}
SHOWN = {f"plots/{name}.png" for name in IMAGES}
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the checkpoint to break."""
    return shutil.copytree(checkpoint, tmp_path / "runs" / "animals")


@pytest.fixture
def opened_here(monkeypatch):
    """Open in this process instead of a clean one, for tests about something else: five seconds each."""
    monkeypatch.setattr(module, "open_in_clean_process", lambda folder, trust: outputs_of_folder(folder, False))


class Calls(list):
    """Names of what was asked, and the options of each."""

    def __init__(self):
        super().__init__()
        self.asked = {}


@pytest.fixture
def api(monkeypatch):
    """A Hub client that writes down what it is asked."""
    calls = Calls()

    class Api:
        def __getattr__(self, name):
            def call(*arguments, **options):
                calls.append(name)
                calls.asked[name] = options
                if name == "list_repo_files":
                    return ["README.md", "plots/training.png", "plots/old.png", "training_args.bin", ".gitattributes"]
                return type("Commit", (), {"oid": "0" * 40, "commit_url": "http://hub/commit"})

            return call

    monkeypatch.setattr(module, "HfApi", Api)
    return calls


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_in(path):
    return sorted(entry.name for entry in path.iterdir()) if path.exists() else []


def test_the_folder_holds_what_is_needed_without_this_package_and_nothing_else(published):
    names = set(content(published.folder))
    assert names == CODE | MODEL | SHOWN | {"README.md", "REMOTE_CODE.md", "metrics.json", "proof.json"}
    assert left_in(published.folder.parent) == ["a-b"]


def test_the_clean_process_repeats_our_outputs(published):
    # The same code on the same machine: 0.0 was measured.
    assert published.difference <= 1e-6


def test_remote_code_is_listed_with_hashes_that_sha256sum_accepts(published):
    done = subprocess.run(
        ["sha256sum", "--check", "REMOTE_CODE.md"], cwd=published.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{name}: OK" for name in sorted(CODE)]


def test_code_that_imports_our_package_does_not_open_in_the_clean_process(copy):
    code = copy / "configuration_omni_vision.py"
    code.write_text(code.read_text().replace("import functools\n", "import functools\nimport modeling_omni_vision\n"))
    with pytest.raises(OpeningError, match="modeling_omni_vision"):
        open_in_clean_process(copy, trust_remote_code=True)


@pytest.mark.slow
def test_code_that_uses_the_network_does_not_open_in_the_clean_process(copy):
    code = copy / "configuration_omni_vision.py"
    call = "import functools\nimport socket\nsocket.create_connection(('127.0.0.1', 9))\n"
    code.write_text(code.read_text().replace("import functools\n", call))
    with pytest.raises(OpeningError, match="network is not to be used"):
        open_in_clean_process(copy, trust_remote_code=True)


def test_nothing_appears_or_goes_up_when_the_clean_process_computes_something_else(
    checkpoint, tmp_path, monkeypatch, api
):
    def wrong(folder, trust):
        outputs = outputs_of_folder(folder, False)
        return outputs | {"logits": outputs["logits"] + 1e-3}

    monkeypatch.setattr(module, "open_in_clean_process", wrong)
    with pytest.raises(OpeningError, match="logits"):
        publish(checkpoint, tmp_path / "out" / "animals", repo_id="me/animals", push=True)
    assert left_in(tmp_path / "out") == []
    assert api == []


def test_an_output_that_is_missing_or_not_finite_is_a_difference(checkpoint, tmp_path, monkeypatch):
    for wrong in ({}, {"last_hidden_state": torch.full((2, 17, 32), float("nan"))}):
        monkeypatch.setattr(module, "open_in_clean_process", lambda folder, trust, wrong=wrong: wrong)
        with pytest.raises(OpeningError, match="last_hidden_state"):
            publish(checkpoint, tmp_path / "animals")


def test_without_push_the_hub_is_not_asked_anything(checkpoint, tmp_path, opened_here, api):
    assert publish(checkpoint, tmp_path / "animals", repo_id="me/animals").url is None
    assert api == []


def test_push_names_files_on_the_hub_that_no_proof_covers(checkpoint, tmp_path, opened_here, api, caplog):
    with caplog.at_level(logging.WARNING):
        done = publish(checkpoint, tmp_path / "animals", repo_id="me/animals", push=True)
    assert done.url == "http://hub/commit"
    assert api == ["create_repo", "upload_folder", "create_tag", "list_repo_files"]
    assert api.asked["create_repo"] == {"exist_ok": True, "private": False}
    assert "['plots/old.png', 'training_args.bin']" in caplog.text


def test_push_needs_a_repository(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="repo_id"):
        publish(checkpoint, tmp_path / "animals", push=True)


def test_publishing_twice_replaces_the_folder_with_the_same_bytes(checkpoint, tmp_path, opened_here):
    target = tmp_path / "animals"
    first = publish(checkpoint, target)
    before = content(target)
    second = publish(checkpoint, target)
    assert first == second
    assert before == content(target)
    assert left_in(tmp_path) == ["animals"]


def test_a_published_folder_can_be_published_onto_itself_and_keeps_its_images(copy, opened_here):
    before = content(copy)
    publish(copy, copy, repo_id="me/animals")
    # The proof names the folder it was made from.
    assert {name for name, body in content(copy).items() if before.pop(name) != body} == {"proof.json"}
    assert before == {}


def test_the_images_are_proven_like_every_file(checkpoint, copy):
    assert all((copy / name).read_bytes() == (checkpoint / name).read_bytes() for name in SHOWN)
    (copy / "plots" / "training.png").write_bytes((copy / "plots" / "confusion.png").read_bytes())
    assert any("plots/training.png" in failure for failure in verify(copy).failures)


def test_the_report_of_a_run_stays_at_home_with_the_images_of_its_data(folder, tmp_path, opened_here):
    (folder / "report.html").write_text("<img src='data:image/png;base64,'>")
    done = publish(folder, tmp_path / "out", repo_id="me/animals")
    assert not list(done.folder.rglob("*.html"))
    assert "report.html" not in (done.folder / "README.md").read_text()


def test_a_release_is_the_same_with_other_images(folder, tmp_path, opened_here, published):
    shutil.rmtree(folder / "plots")
    done = publish(folder, tmp_path / "out" / "animals")
    assert done.release == published.release
    assert "plots/" not in (done.folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["training", "mistakes"])
def test_an_image_that_is_too_large_for_a_card_is_made_smaller_and_named(tmp_path, caplog, name):
    noise = np.random.default_rng(0).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    image = tmp_path / "plots" / f"{name}.png"
    image.parent.mkdir()
    Image.fromarray(noise).save(image)
    before = image.read_bytes()
    copy_images(tmp_path, tmp_path / "out")
    copied = tmp_path / "out" / "plots" / image.name
    assert 0.2 * MAX_IMAGE_BYTES < copied.stat().st_size <= MAX_IMAGE_BYTES
    with Image.open(copied) as smaller:
        assert smaller.height / smaller.width == pytest.approx(1.4, rel=0.02)
    assert str(image) in caplog.text
    assert image.read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_a_folder_that_somebody_wrote_into_is_not_replaced(copy, checkpoint, name):
    (copy / name).write_text("mine")
    with pytest.raises(ValueError, match=name):
        publish(checkpoint, copy)
    assert (copy / name).read_text() == "mine"


def test_a_folder_or_file_of_somebody_else_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("thesis", "file"):
        with pytest.raises(ValueError, match="empty"):
            publish(checkpoint, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.md").read_text() == "mine"
    assert left_in(tmp_path) == ["file", "thesis"]


def test_a_failure_keeps_the_folder_that_was_there(copy, checkpoint, tmp_path, monkeypatch):
    before = content(copy)
    monkeypatch.setattr(module, "open_in_clean_process", lambda folder, trust: {})
    with pytest.raises(OpeningError):
        publish(checkpoint, copy)
    assert before == content(copy)
    assert left_in(tmp_path) == ["copy"]


def break_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BREAKAGES = {
    "weights that are not finite": (
        lambda folder: break_weights(folder, lambda weights: weights["classifier.bias"].fill_(float("nan"))),
        r"finite.*classifier\.bias",
    ),
    "missing weights": (
        lambda folder: break_weights(folder, lambda weights: weights.pop("omni_vision.norm.weight")),
        r"exactly those.*norm\.weight",
    ),
    "weights of something else beside ours": (
        lambda folder: break_weights(folder, lambda weights: weights.update(extra=torch.ones(1))),
        r"exactly those.*extra",
    ),
    "another kind of model": (
        lambda folder: BertConfig(architectures=["BertModel"]).save_pretrained(folder),
        "BertModel",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
    "no image processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "image processor"),
    "no numbers": (lambda folder: (folder / "metrics.json").unlink(), "omni-vision evaluate"),
    "numbers of another checkpoint": (
        lambda folder: (folder / "metrics.json").write_text('{"evaluation": {"per_class": {"lorry": {}}}}'),
        "lorry",
    ),
    "no folder": (shutil.rmtree, "save_pretrained"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_checkpoint_that_is_not_whole_is_refused(folder, tmp_path, opened_here, name):
    damage, message = BREAKAGES[name]
    damage(folder)
    with pytest.raises(ValueError, match=message):
        publish(folder, tmp_path / "out" / "animals")
    assert left_in(tmp_path / "out") == []


def test_local_folders_are_not_published(folder, tmp_path, opened_here):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"]["dataset"] = metrics["evaluation"]["dataset"] = "/home/jo/photos"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    done = publish(folder, tmp_path / "out" / "animals")
    texts = [path.read_text() for path in done.folder.iterdir() if path.suffix in (".json", ".md")]
    assert not any("/home" in text or str(tmp_path) in text for text in texts)
    published = json.loads((done.folder / "metrics.json").read_text())
    assert published["evaluation"] == metrics["evaluation"] | {"dataset": "photos"}


def test_an_access_token_is_not_published(folder, tmp_path, opened_here):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"]["command"] += " --hub_token hf_" + "a" * 34
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match="token"):
        publish(folder, tmp_path / "out" / "animals")


def test_an_encoder_needs_no_numbers(checkpoint, folder, tmp_path, opened_here):
    OmniVisionModel.from_pretrained(checkpoint).save_pretrained(folder)
    (folder / "metrics.json").unlink()
    done = publish(folder, tmp_path / "out" / "encoder")
    assert "metrics.json" not in left_in(done.folder)


def test_weights_are_published_in_the_precision_they_have(folder, tmp_path, opened_here):
    OmniVisionModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    done = publish(folder, tmp_path / "out" / "encoder")
    before, after = (load_file(path / "model.safetensors") for path in (folder, done.folder))
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert all(torch.equal(before[name], after[name]) for name in {**before, **after})


def test_the_native_twin_is_published_without_python_and_verifies(checkpoint, metrics, tmp_path):
    twin = tmp_path / "twin"
    convert_to_vit(checkpoint, twin)
    (twin / "metrics.json").write_text(json.dumps(metrics))
    done = publish(twin, tmp_path / "published", repo_id="me/animals-vit")
    written = MODEL | {"README.md", "metrics.json", "preprocess.mjs", "proof.json"}
    assert {path.name for path in done.folder.iterdir()} == written
    card = (done.folder / "README.md").read_text()
    assert "trust_remote_code=True" not in card
    assert ModelCard(card).data.tags == ["vision", "vit"]
    found = verify(done.folder)
    assert found.failures == ()
    assert found.difference <= 1e-6


def test_the_graphs_of_a_twin_are_published_with_it_and_those_of_other_weights_are_refused(
    checkpoint, metrics, tmp_path, opened_here
):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    from modeling_omni_vision.interop.export import export_model

    twin, other = tmp_path / "twin", tmp_path / "other"
    convert_to_vit(checkpoint, twin)
    (twin / "metrics.json").write_text(json.dumps(metrics))
    convert_to_native(pooled_checkpoint(checkpoint, tmp_path / "ours", 0), other)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        Image.new("RGB", (40 + number, 40), (60 * number, 9, 99)).save(images / f"{number}.png")
    for one in (twin, other):
        export_model(one, tmp_path / f"{one.name}-onnx", images=[str(images)])
    done = publish(twin, tmp_path / "published", repo_id="me/animals", export=tmp_path / "twin-onnx")
    assert (done.folder / "onnx" / "model.onnx").read_bytes() == (tmp_path / "twin-onnx/onnx/model.onnx").read_bytes()
    card = ModelCard((done.folder / "README.md").read_text())
    assert {"onnx", "transformers.js"} <= set(card.data.tags)
    assert 'dtype: "fp32"' in card.text
    for name in ("preprocess.mjs", "onnx/model.onnx"):
        (done.folder / name).rename(tmp_path / "away")
        assert name in str(verify(done.folder).failures)
        (tmp_path / "away").rename(done.folder / name)
    with pytest.raises(ValueError, match="got other weights"):
        publish(twin, tmp_path / "wrong", export=tmp_path / "other-onnx")
    with pytest.raises(ValueError, match="that `omni-vision export` wrote"):
        publish(twin, tmp_path / "wrong", export=twin)
    record = json.loads((tmp_path / "twin-onnx/export.json").read_text()) | {"outputs": "vector"}
    (tmp_path / "twin-onnx/export.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"got no tokens \(--outputs vector\)"):
        publish(twin, tmp_path / "wrong", export=tmp_path / "twin-onnx")
    assert not (tmp_path / "wrong").exists()


def pooled_checkpoint(checkpoint, folder, registers):
    """Save a classifier over the mean of the patches beside the processor of the checkpoint."""
    shutil.copytree(checkpoint, folder)
    config = OmniVisionConfig.from_pretrained(folder, pooling="mean", num_register_tokens=registers)
    torch.manual_seed(0)
    OmniVisionForImageClassification(config).save_pretrained(folder)
    return folder


def test_the_twin_of_a_checkpoint_with_registers_opens_without_our_package_and_verifies(checkpoint, metrics, tmp_path):
    twin = tmp_path / "twin"
    report = convert_to_native(pooled_checkpoint(checkpoint, tmp_path / "ours", 2), twin)
    (twin / "metrics.json").write_text(json.dumps(metrics))
    done = publish(twin, tmp_path / "published", repo_id="me/animals-native")
    written = MODEL | {"README.md", "metrics.json", "preprocess.mjs", "proof.json"}
    assert {path.name for path in done.folder.iterdir()} == written
    card = (done.folder / "README.md").read_text()
    assert report.architecture == "Dinov2WithRegistersForImageClassification"
    assert report.architecture in card
    assert "trust_remote_code=True" not in card
    assert "width 32, 2 layers, 2 heads, MLP 64" in card
    assert ModelCard(card).data.tags == ["vision", "dinov2_with_registers"]
    found = verify(done.folder)
    assert found.failures == ()
    assert found.difference <= 1e-6
    before, after = (load_file(path / "model.safetensors") for path in (twin, done.folder))
    assert all(torch.equal(before[name], after[name]) for name in {**before, **after})


def test_twins_that_are_a_dinov2_or_an_encoder_are_published_too(checkpoint, metrics, tmp_path, opened_here):
    convert_to_native(pooled_checkpoint(checkpoint, tmp_path / "ours", 0), tmp_path / "classifier")
    (tmp_path / "classifier" / "metrics.json").write_text(json.dumps(metrics))
    OmniVisionForImageClassification.from_pretrained(
        pooled_checkpoint(checkpoint, tmp_path / "encoder", 1)
    ).omni_vision.save_pretrained(tmp_path / "encoder")
    convert_to_native(tmp_path / "encoder", tmp_path / "encoder-twin")
    tags = []
    for name in ("classifier", "encoder-twin"):
        card = (publish(tmp_path / name, tmp_path / "out" / name).folder / "README.md").read_text()
        tags.append(ModelCard(card).data.tags[1])
    assert tags == ["dinov2", "dinov2_with_registers"]


@pytest.mark.slow
def test_a_publish_that_is_killed_leaves_no_folder_and_can_be_repeated(checkpoint, tmp_path):
    target = tmp_path / "out" / "animals"
    code = "import sys; from modeling_omni_vision.hub import publish; publish(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, checkpoint, target], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not any((tmp_path / "out").glob(".*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    assert left_in(tmp_path / "out")  # it was in the middle
    assert publish(checkpoint, target).folder == target
