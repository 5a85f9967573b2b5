"""A variational autoencoder is published and verified as other models are; what other commands make of its folder."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import __version__ as transformers_version

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.hub import publish, render_card, verify
from modeling_omni_vision.hub.card import check_card
from modeling_omni_vision.hub.proof import canonical, digest_of, file_hashes, read_proof, release_name


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig
from modeling_omni_vision.cli.compose import main as compose
from modeling_omni_vision.cli.demo import TABS
from modeling_omni_vision.cli.embed import main as embed
from modeling_omni_vision.cli.export import main as export
from modeling_omni_vision.cli.main import COMMANDS, main
from modeling_omni_vision.cli.model_kind import TAKEN_BY, VAE, check_kind
from modeling_omni_vision.cli.visualize import main as visualize


VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
PARTS = ("common", "configuration", "features", "image_processing", "masked", "modeling")
CODE = {f"{part}_omni_vision.py" for part in PARTS}
CODE |= {f"{part}_omni_vision_vae.py" for part in ("configuration", "modeling")}
FILES = CODE | {"config.json", "model.safetensors", "preprocessor_config.json", "metrics.json", "plots"}
FILES |= {"README.md", "REMOTE_CODE.md", "proof.json"}
BOUND = {"images": 1234, "elbo": -1987.654, "elbo_interval": [-1999.5, -1975.5], "bits_per_dimension": 3.6543}
BOUND |= {"reconstruction": 1970.25, "kl": 17.404, "importance_weighted": {"samples": 16, "elbo": -1980.125}}
METRICS = {"training": {"dataset": {"name": "zoo/animals"}, "minutes": 12.5}, "generation": {"test": BOUND}}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder as training leaves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "vae"
    OmniVisionVAE(OmniVisionVAEConfig(vision_config=VISION, decoder_config=VISION, latent_size=6)).save_pretrained(
        folder
    )
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "plots").mkdir()
    for name in ("reconstructions", "samples", "interpolation"):
        Image.new("L", (8, 8)).save(folder / "plots" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def published(run_folder, tmp_path_factory):
    return publish(run_folder, tmp_path_factory.mktemp("published") / "x.y" / "a-b", repo_id="me/vae")


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published.folder, tmp_path / "copy")


def test_the_folder_holds_what_is_needed_without_this_package_and_verifies(published):
    assert {path.name for path in published.folder.iterdir()} == FILES
    assert published.difference <= 1e-6
    found = verify(published.folder)
    assert found.failures == ()
    assert found.difference <= 1e-6


def test_the_proof_holds_both_halves_and_is_small(published):
    proof = json.loads((published.folder / "proof.json").read_text())
    halves = {
        "latent_mean",
        "latent_log_variance",
        "reconstruction_loss",
        "kl_divergence",
        "reconstruction",
        "decoded",
    }
    assert set(proof["outputs"]) == halves | {"pixel_values_pil", "pixel_values_torchvision"}
    assert "latent vectors" in proof["inputs"]
    assert len(canonical(proof)) < 100_000


@pytest.mark.parametrize("name", ["decoder.projection.weight", "log_variance_head.weight", "log_scale"])
def test_other_weights_of_any_part_fail_even_with_a_new_proof(copy, published, name):
    weights = load_file(copy / "model.safetensors")
    weights[name].add_(torch.randn_like(weights[name]) * 0.1)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    card = copy / "README.md"
    card.write_text(card.read_text().replace(published.release, release_name(file_hashes(copy))))
    proof = read_proof(copy)
    proof["files"] = file_hashes(copy)
    proof["digest"] = digest_of(proof)
    (copy / "proof.json").write_text(canonical(proof))
    assert verify(copy).failures


def test_the_card_states_the_bounds_and_a_better_number_in_it_is_found(copy):
    text = (copy / "README.md").read_text()
    assert "| test | 1,234 | -1987.65 | -1999.5 to -1975.5 | 3.6543 | 1970.25 | 17.404 | -1980.12 (16) |" in text
    assert ModelCard(text).data.pipeline_tag == "unconditional-image-generation"
    assert "plots/samples.png" in text
    assert check_card(copy) == []
    (copy / "README.md").write_text(text.replace("3.6543", "2.6543"))
    assert check_card(copy)


def test_numbers_that_are_none_are_refused(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "vae")
    (folder / "metrics.json").write_text(json.dumps({"generation": {"test": {"elbo": "good"}}}))
    with pytest.raises(ValueError, match=r"generation\.test must hold numbers for elbo"):
        render_card(folder, "me/vae")


def test_the_code_of_the_card_runs(run_folder, tmp_path):
    code = render_card(run_folder, str(run_folder)).split("```python\n")[1].split("```")[0]
    exec(code.replace(", revision=revision", ""), {"print": lambda *values: None})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        Image.new("RGB", (40, 40), (90 * number, 30, 200)).save(folder / f"{number}.png")
    return folder


def test_commands_that_need_an_encoder_take_that_of_the_autoencoder(run_folder, images, tmp_path):
    pytest.importorskip("pyarrow")
    embed(
        [
            "--model",
            str(run_folder),
            "--images",
            str(images),
            "--output",
            str(tmp_path / "vectors"),
            "--engine",
            "torch",
        ]
    )
    assert list((tmp_path / "vectors").glob("*.parquet"))
    visualize(["--model", str(run_folder), "--images", str(images), "--output", str(tmp_path / "maps")])
    assert (tmp_path / "maps" / "attention.png").is_file()
    arguments = ["--format", "torch", "--images", str(images), "--output", str(tmp_path / "exported")]
    export(["--model", str(run_folder), *arguments])
    assert (tmp_path / "exported" / "export.json").is_file()
    assert TABS[VAE] == ("attention", "compare")


@pytest.mark.parametrize("command", ["predict", "evaluate", "zero-shot", "ask"])
def test_commands_that_cannot_use_it_say_what_it_is_for(run_folder, images, command):
    words = {
        "predict": ["--images", str(images)],
        "evaluate": ["--dataset", "digits"],
        "zero-shot": ["--dataset", "digits"],
        "ask": ["What is it?", "--image", str(images / "0.png")],
    }
    with pytest.raises(ValueError, match="got a variational autoencoder, which is for omni-vision train-vae --model"):
        main([command, "--model", str(run_folder), *words[command]])


def test_every_command_that_the_kind_names_exists(run_folder):
    assert check_kind(str(run_folder), VAE) == VAE
    named = {word for word in TAKEN_BY[VAE].replace(",", "").split() if word in COMMANDS}
    assert named == {"train-vae", "embed", "visualize", "demo", "export", "train", "compose"}


def test_a_language_model_gets_its_encoder_as_eyes(run_folder, tiny_llama_folder, tmp_path):
    compose(["--vision", str(run_folder), "--text", str(tiny_llama_folder), "--output", str(tmp_path / "vlm")])
    ours = load_file(run_folder / "model.safetensors")["vision_model.layers.1.mlp.fc1.weight"]
    assert torch.equal(load_file(tmp_path / "vlm" / "model.safetensors")["vision_tower.layers.1.mlp.fc1.weight"], ours)
