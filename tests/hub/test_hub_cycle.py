"""The real cycle over HTTP: push in every way, then load without this package and with an empty cache."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_omni_vision import OmniVisionForImageClassification


MASKED = "ModelForMaskedImageModeling"
PARTS = ("common", "configuration", "features", "image_processing", "masked", "modeling")
CODE = [f"{part}_omni_vision.py" for part in PARTS]
REPOS = ["me/classifier", "me/encoder", "me/published", "me/trained"]
# A process that loads the same weights with the same code repeats float32 results exactly; 1e-6 allows for
# memory alignment.
SAME = {"rtol": 0, "atol": 1e-6}
SPY = "\nimport os, socket\nopen(os.devnull).close()\nsocket.socket().close()\n"


@pytest.fixture(scope="module")
def client(hub, pushed, published, run_client, tmp_path_factory):
    """One process that opens every repository, a local folder and a folder whose code does more than it should."""
    work = tmp_path_factory.mktemp("client")
    shutil.copytree(published.folder, work / "x.y" / "a-b")
    spying = shutil.copytree(published.folder, work / "spying")
    with (spying / "modeling_omni_vision.py").open("a") as file:
        file.write(SPY)
    run_client(
        "client_open.py",
        work / "answer.json",
        *REPOS,
        "x.y/a-b",
        "spying",
        env=hub.environment(work / "home"),
        cwd=work,
    )
    seen = json.loads((work / "answer.json").read_text())
    assert not seen["ours"]
    return seen["answers"] | {"work": work}


@pytest.fixture(scope="module")
def reference(checkpoint):
    return expected_of(checkpoint)


@torch.no_grad()
def expected_of(folder):
    model = OmniVisionForImageClassification.from_pretrained(folder).eval()
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    return {"cls": model.omni_vision(pixels).cls[:, 0], "logits": model(pixels).logits}


def close(found, expected):
    torch.testing.assert_close(torch.tensor(found), expected, **SAME)


@pytest.mark.parametrize("name", [*REPOS, "x.y/a-b"])
def test_it_opens_without_this_package_through_every_auto_class_and_pipeline(client, name):
    found = client[name]
    assert "error" not in found, found["error"]
    assert found["config"] == [
        "OmniVisionConfig",
        "omni_vision",
        [f"Auto{kind}" for kind in ("Backbone", "Config", "Model", "ModelForImageClassification", MASKED)],
    ]
    assert found["classes"] == [
        "OmniVisionModel",
        "OmniVisionForImageClassification",
        "OmniVisionImageProcessor",
        "OmniVisionImageProcessorPil",
    ]
    assert all(module.startswith("transformers_modules.") for module in found["modules"])
    assert found["pixels"] == [[1, 3, 32, 32]] * 2
    assert found["features"] == [17, 32]
    assert found["labels"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize("name", ["me/classifier", "me/published", "x.y/a-b"])
def test_without_this_package_the_numbers_are_those_of_the_author(client, reference, name):
    close(client[name]["cls"], reference["cls"])
    close(client[name]["hidden_in_classifier"], reference["cls"])
    close(client[name]["logits"], reference["logits"])


def test_an_encoder_repository_gives_its_weights_to_a_classifier_too(client, reference):
    close(client["me/encoder"]["cls"], reference["cls"])
    close(client["me/encoder"]["hidden_in_classifier"], reference["cls"])


def test_a_trainer_pushes_what_it_trained(client, reference, pushed):
    expected = expected_of(pushed / "trained")
    assert not torch.equal(expected["logits"], reference["logits"])
    close(client["me/trained"]["logits"], expected["logits"])


@pytest.mark.parametrize("name", [*REPOS, "x.y/a-b"])
def test_importing_remote_code_opens_no_file_starts_no_process_and_touches_no_socket(client, name):
    assert client[name]["seen"] == []


def test_the_watch_over_remote_code_sees_a_file_and_a_socket(client):
    assert {event for _, event, _ in client["spying"]["seen"]} >= {"open", "socket.__new__"}


@pytest.mark.parametrize("name", REPOS)
def test_every_push_carries_the_code_and_no_other_python(hub, pushed, name):
    _, files = hub.files(name)
    assert sorted(path for path in files if path.endswith(".py")) == CODE
    auto_map = json.loads(files["preprocessor_config.json"])["auto_map"]["AutoImageProcessor"]
    assert [entry.rpartition(".")[2] for entry in auto_map] == [
        "OmniVisionImageProcessorPil",
        "OmniVisionImageProcessor",
    ]


def test_publish_pushes_exactly_the_folder_it_checked_under_the_tag_of_its_card(hub, pushed):
    folder = pushed / "published"
    (tag,) = hub.tags["me/published"]
    _, files = hub.files("me/published", tag)
    local = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert "plots/training.png" in local
    assert files == {name: path.read_bytes() for name, path in local.items()} | {".gitattributes": b""}
    card = files["README.md"].decode()
    assert f'"me/published", "{tag}"' in card


def test_the_hub_was_asked_nothing_that_this_server_does_not_know(hub, pushed, client):
    assert hub.unknown == []


@pytest.mark.slow
def test_what_was_opened_once_opens_offline_from_the_cache(hub, client, run_client):
    work = client["work"]
    requests = len(hub.requests)
    env = hub.environment(work / "home", HF_HUB_OFFLINE="1")
    run_client("client_open.py", work / "offline.json", *REPOS, env=env, cwd=work)
    answers = json.loads((work / "offline.json").read_text())["answers"]
    expected = {name: client[name] for name in REPOS}
    expected["me/encoder"] = expected["me/encoder"] | {"logits": answers["me/encoder"]["logits"]}  # of a random head
    assert answers == expected
    assert len(hub.requests) == requests


@pytest.mark.slow
def test_eight_processes_open_it_at_once_with_one_empty_cache(hub, pushed, reference, tmp_path):
    script = Path(__file__).with_name("client_open.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", script, tmp_path / f"{index}.json", "me/classifier"],
            env=hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for index in range(8)
    ]
    assert [process.wait(timeout=280) for process in processes] == [0] * 8
    for index in range(8):
        found = json.loads((tmp_path / f"{index}.json").read_text())["answers"]["me/classifier"]
        assert "error" not in found, found["error"]
        close(found["logits"], reference["logits"])
