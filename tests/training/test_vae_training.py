"""Training of the variational autoencoder: its noise, its data without labels, what a run leaves."""

import json

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import AutoModel
from transformers import __version__ as transformers_version

from modeling_omni_vision import OmniVisionConfig, OmniVisionModel
from modeling_omni_vision.data.image_dataset import ImageDataset
from modeling_omni_vision.data.sources import load_unlabelled
from modeling_omni_vision.evaluation.test_split import SplitRefusedError, open_test_split
from modeling_omni_vision.training.initialization import new_image_processor


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision.cli.train_vae import main
from modeling_omni_vision.training.vae import VaeCollator, build_vae, latent_noise
from modeling_omni_vision.training.vae_arguments import VaeArguments, VaeTrainingArguments


VISION = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 40 images in one colour each, without classes."""
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(40):
        colour = draws.integers(0, 256, 3).tolist()
        Image.new("RGB", (20, 20), tuple(colour)).save(folder / f"{number:02}.png")
    return folder


def test_images_without_labels_are_split_as_files_alone(images):
    data = load_unlabelled(str(images), validation_fraction=8, test_fraction=5)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 27, "validation": 8, "test": 5}
    assert data["train"].column_names == ["image"]
    paths = [row["path"] for rows in data.values() for row in rows["image"]]
    assert len({*paths}) == 40
    with pytest.raises(ValueError, match="`test_fraction` must be 0 where there is a test split"):
        load_unlabelled("digits", test_fraction=5)


def test_labels_are_not_read_even_where_they_are_no_classes():
    data = load_unlabelled("digits")
    assert {*data} == {"train", "validation", "test"}
    assert data["test"].column_names == ["image"]


def test_noise_depends_on_seed_epoch_and_row_whatever_the_batch(images):
    config = OmniVisionConfig(**VISION)
    processor = new_image_processor(config)
    augmented = ImageDataset(load_unlabelled(str(images))["train"], processor, augmentation_of_nothing())
    collate = VaeCollator(processor, 6, seed=1)
    batch = collate(augmented.__getitems__([3, 1, 2]))
    assert batch.keys() == {"pixel_values", "rows", "latent_noise"}
    again = collate([augmented[2], augmented[3]])
    assert torch.equal(again["latent_noise"], batch["latent_noise"][[2, 0]])
    augmented.set_epoch(1)
    assert not torch.equal(collate([augmented[3]])["latent_noise"][0], batch["latent_noise"][0])
    assert not torch.equal(
        VaeCollator(processor, 6, seed=2)([augmented[3]])["latent_noise"], again["latent_noise"][1:]
    )
    # In evaluation that of every epoch, and another than in training.
    plain = ImageDataset(augmented.dataset, processor)
    first = collate([plain[3]])["latent_noise"]
    plain.set_epoch(5)
    assert torch.equal(collate([plain[3]])["latent_noise"], first)
    assert not torch.equal(first[0], batch["latent_noise"][0])


def augmentation_of_nothing():
    from modeling_omni_vision.data.augmentation import Augmentation

    return Augmentation(36, (16, 16))


def test_noise_is_standard_normal():
    noise = latent_noise(0, 0, 0, range(500), 20)
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_a_run_leaves_a_model_its_bounds_and_its_sheets(images, tmp_path, capsys):
    words = ["--dataset", str(images), "--test_fraction", "6", "--config", json.dumps(VISION), "--latent_size", "4"]
    words += ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--beta", "2", "--disable_tqdm", "true"]
    main([*words, "--samples", "3", "--output_dir", str(tmp_path / "run")])
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "test: bound" in capsys.readouterr().out
    for split, count in (("validation", 4), ("test", 6)):
        found = record["generation"][split]
        assert found["images"] == count
        assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"], rel=1e-6)
        assert found["bits_per_dimension"] == pytest.approx(-found["elbo"] / (16 * 16 * 3 * np.log(2)))
        assert found["importance_weighted"]["samples"] == 3
    assert record["test_opened"]["images"] == 6
    best = record["training"]["best"]
    assert best["loss"] == pytest.approx(best["reconstruction"] + 2 * best["kl"], rel=1e-6)
    assert {path.stem for path in (tmp_path / "run" / "plots").iterdir()} == {
        *("reconstructions", "samples", "interpolation")
    }
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert model.config.image_means == pytest.approx([0.485, 0.456, 0.406])
    assert model.config.vision_config.hidden_dropout_prob == 0
    assert len(json.loads((tmp_path / "run" / "splits.json").read_text())["test"]) == 6
    # The same images, other weights.
    data = load_unlabelled(str(images), test_fraction=6)
    model.log_scale.data.add_(1)
    with pytest.raises(SplitRefusedError, match="by other weights"):
        open_test_split(tmp_path / "run", model, data["test"], str(images))
    with pytest.raises(SplitRefusedError, match="other labels"):
        open_test_split(tmp_path / "run", AutoModel.from_pretrained(tmp_path / "run"), data["train"], str(images))


def test_a_dry_run_draws_the_data_and_leaves_nothing(images, tmp_path):
    words = ["--dataset", str(images), "--config", json.dumps(VISION), "--dry_run"]
    main([*words, "--output_dir", str(tmp_path / "run")])
    assert [path.name for path in tmp_path.iterdir()] == ["run-dataset.png"]


def test_an_encoder_is_where_a_new_autoencoder_starts_and_an_autoencoder_where_training_goes_on(tmp_path):
    tower = OmniVisionModel(OmniVisionConfig(**VISION, num_channels=1))
    tower.save_pretrained(tmp_path / "encoder")
    new_image_processor(tower.config).save_pretrained(tmp_path / "encoder")
    model, processor = build_vae(VaeArguments(dataset="digits", vision=str(tmp_path / "encoder"), latent_size=3))
    assert all(torch.equal(model.vision_model.state_dict()[name], one) for name, one in tower.state_dict().items())
    assert model.config.decoder_config.num_hidden_layers == 1
    model.save_pretrained(tmp_path / "vae")
    processor.save_pretrained(tmp_path / "vae")
    again, _ = build_vae(VaeArguments(dataset="digits", model=str(tmp_path / "vae"), beta=0.5))
    assert all(torch.equal(again.state_dict()[name], one) for name, one in model.state_dict().items())
    assert again.config.beta == 0.5
    with pytest.raises(ValueError, match="`model` has encoder and decoder, got `vision` too"):
        VaeArguments(dataset="digits", model="x", vision="y")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"beta": -1.0}, "`beta` must be at least 0"),
        ({"samples": 0}, "`samples` must be at least 1"),
        (
            {"decoder_config": '{"depth": 2}'},
            r"`decoder_config` must hold fields of OmniVisionConfig, got \['depth'\]",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        VaeArguments(dataset="digits", **given)


def test_there_are_no_labels_to_smooth(tmp_path):
    with pytest.raises(ValueError, match="`label_smoothing_factor` cannot act here"):
        VaeTrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)
