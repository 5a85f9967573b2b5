"""The comparison of autoencoders: equal sizes, paired differences, and a study that goes on where it was stopped."""

import json

import numpy as np
import pytest
import torch
from packaging.version import Version
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from experiments import vae_study
from experiments.vae_study import CONVOLUTIONAL, DECODER, MODELS, VISION, VIT, ConvolutionalVAE, difference
from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig
from modeling_omni_vision.evaluation.bounds import Bounds, mean_interval


def test_both_models_have_the_same_number_of_parameters_and_the_same_interface():
    decoder = {name: VISION[name] for name in ("hidden_size", "intermediate_size")} | DECODER
    config = OmniVisionVAEConfig(vision_config=VISION, decoder_config=decoder, latent_size=16)
    ours, other = OmniVisionVAE(config), ConvolutionalVAE(config)
    sizes = [sum(one.numel() for one in model.parameters()) for model in (ours, other)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.03
    pixel_values = torch.randn(2, 1, 28, 28)
    for model in (ours, other):
        output = model.train()(pixel_values)
        output.loss.backward()
        assert output.reconstruction.shape == pixel_values.shape
        assert model.elbo(pixel_values, 2).shape == (2,)


def test_differences_are_paired():
    shared = np.random.default_rng(0).normal(0, 100, 500)
    bounds = [Bounds(shared + shift, shared, shared, 8, 1.0) for shift in (3.0, 1.0)]
    found = difference(*bounds, "elbo")
    assert found["mean"] == pytest.approx(2)
    assert found["interval"] == pytest.approx([2, 2])
    assert mean_interval(np.array([1.0, 3.0])) == pytest.approx([2 - 1.96, 2 + 1.96], abs=1e-3)


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_opens_the_test_split_once_for_each_model(tmp_path, write_study_data, monkeypatch):
    monkeypatch.setattr(vae_study, "VALIDATION_IMAGES", 20)
    words = [
        "--dataset",
        str(write_study_data),
        "--runs",
        str(tmp_path / "runs"),
        "--steps",
        "4",
        "--trial_steps",
        "2",
    ]
    words += ["--batch_size", "8", "--output", str(tmp_path / "vae.json"), "--sheets", str(tmp_path / "sheets")]
    vae_study.main(words)
    first = json.loads((tmp_path / "vae.json").read_text())
    assert {*first["models"]} == {*MODELS}
    assert first["models"][VIT]["test"]["images"] == first["images"]["test"] == 12
    assert (tmp_path / "runs" / CONVOLUTIONAL / "test_opened.json").is_file()
    assert (tmp_path / "sheets" / "samples.png").is_file()
    vae_study.main(words)
    assert json.loads((tmp_path / "vae.json").read_text()) == first


@pytest.fixture
def write_study_data(tmp_path):
    """Two IDX splits of 28 pixels, 60 and 12 images."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 12)):
        for kind, shape in (("images", (count, 28, 28)), ("labels", (count,))):
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            values = draws.integers(0, 256 if kind == "images" else 2, shape, dtype=np.uint8)
            (tmp_path / f"{split}-{kind}-idx{len(shape)}-ubyte").write_bytes(header + values.tobytes())
    return tmp_path
