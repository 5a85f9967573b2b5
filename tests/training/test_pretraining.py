"""Masked-image pre-training: images without labels, masks, the run and what starts from it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import record_of
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedImageModeling

from modeling_omni_vision import OmniVisionConfig, OmniVisionForMaskedImageModeling, OmniVisionModel
from modeling_omni_vision.cli.main import main as command
from modeling_omni_vision.data.sources import load_unlabelled
from modeling_omni_vision.evaluation.evaluate import load_classifier
from modeling_omni_vision.hub import publish, verify
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.classification import build_model, train
from modeling_omni_vision.training.masks import PatchMasks
from modeling_omni_vision.training.pretrain_arguments import PretrainArguments, PretrainTrainingArguments
from modeling_omni_vision.training.pretraining import PretrainRun, errors, pretrain


BODY = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
QUICK = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "disable_tqdm": True, "logging_steps": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 striped images beside each other, in a folder, and in one within it; two to test on lie elsewhere."""
    folder, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(24):
        place = folder / ("", "a", "a/b")[number % 3]
        place.mkdir(exist_ok=True)
        stripes = np.kron(draws.integers(0, 256, (1, 4, 3)), np.ones((20, 5, 1))).astype(np.uint8)
        Image.fromarray(stripes).save(place / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("pretrained") / "run", epochs=8, learning_rate=3e-3)


def run(images, output, recipe=None, epochs=2, config=(), **arguments):
    options = {"dataset": str(images), "config": json.dumps({**BODY, **dict(config)}), **(recipe or {})}
    arguments = {**QUICK, "num_train_epochs": epochs, **arguments}
    return pretrain(PretrainArguments(**options), PretrainTrainingArguments(output_dir=str(output), **arguments))


def test_a_folder_without_classes_trains_an_encoder_that_opens_for_masks_and_without(pretrained, images):
    model, encoder = AutoModelForMaskedImageModeling.from_pretrained(pretrained), AutoModel.from_pretrained(pretrained)
    assert (type(model), type(encoder)) == (OmniVisionForMaskedImageModeling, OmniVisionModel)
    weights = model.omni_vision.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in encoder.state_dict().items())
    record = record_of(pretrained)
    assert record["training"]["dataset"] == {"name": images.name, "train": 21, "validation": 3}
    losses = [one["loss"] for one in record["training"]["evaluations"]]
    found = record["reconstruction"]
    assert losses[-1] < losses[0]
    assert found["images"] == 3
    assert found["loss"] == pytest.approx(record["training"]["validation_loss"], abs=1e-5)
    assert found["levels"] < 255
    assert record["training"]["masked_patches"] == 10
    assert json.loads((pretrained / "splits.json").read_text()).keys() == {"validation"}
    with Image.open(pretrained / "reconstructions.png") as sheet:
        assert sheet.width > 300
    assert model.config.hidden_dropout_prob == 0
    assert model.residual_mean() < 1e-5


def test_labels_are_not_read_and_a_test_split_stays_closed(tmp_path, images):
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        place = tmp_path / split / ("one", "two")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / "00.png", place / f"{number}.png")
    (tmp_path / "test" / "three").mkdir()
    shutil.copy(images / "00.png", tmp_path / "test" / "three")  # of which there is nothing to train on
    found = load_unlabelled(str(tmp_path))
    assert {name: (len(rows), rows.column_names) for name, rows in found.items()} == {
        "train": (3, ["image"]),
        "validation": (1, ["image"]),
        "test": (2, ["image"]),
    }
    config = json.dumps(BODY)
    args = PretrainTrainingArguments(output_dir=str(tmp_path / "run"), dry_run=True)
    run = PretrainRun(PretrainArguments(dataset=str(tmp_path), config=config), args)
    run.build()
    assert {*run.data} == {"train", "validation"}


def test_classification_starts_from_it_without_a_word_about_the_decoder(pretrained, tiny_source, tmp_path, caplog):
    recipe = RecipeArguments(dataset=str(tiny_source), model=str(pretrained))
    model, _ = build_model(recipe, ["dark", "grey", "light"])
    expected = AutoModel.from_pretrained(pretrained)
    assert all(torch.equal(model.omni_vision.state_dict()[name], one) for name, one in expected.state_dict().items())
    assert not caplog.records
    options = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "do_predict": False}
    folder = train(recipe, OmniVisionTrainingArguments(str(tmp_path / "classifier"), disable_tqdm=True, **options))
    assert not any("mask_token" in name or "decoder" in name for name in load_file(folder / "model.safetensors"))
    assert load_classifier(folder)[0].config.num_labels == 3


def test_pretraining_goes_on_from_itself_and_from_an_encoder(pretrained, images, tmp_path):
    once = {"max_steps": 1, "learning_rate": 1e-9, "eval_strategy": "no", "save_strategy": "no", "do_predict": False}
    recipe = {"model": str(pretrained), "config": None}
    again = load_file(run(images, tmp_path / "again", recipe, **once) / "model.safetensors")
    before = load_file(pretrained / "model.safetensors")
    assert all((again[name] - before[name]).abs().max() < 1e-6 for name in before)
    AutoModel.from_pretrained(pretrained).save_pretrained(tmp_path / "encoder")
    shutil.copy(pretrained / "preprocessor_config.json", tmp_path / "encoder")
    recipe = {"model": str(tmp_path / "encoder"), "config": None}
    other = load_file(run(images, tmp_path / "other", recipe, **once) / "model.safetensors")
    same = {name: (other[name] - before[name]).abs().max() < 1e-6 for name in before}
    assert {name for name in same if not same[name]} >= {"decoder.0.weight", "omni_vision.embeddings.mask_token"}
    assert all(is_same for name, is_same in same.items() if "layers" in name)
    with pytest.raises(ValueError, match="are made for patch_size 4, got 8"):
        run(images, tmp_path / "larger", {"model": str(pretrained), "config": '{"patch_size": 8}'}, **once)


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(images, tmp_path, step):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_steps": 2, "eval_strategy": "steps"}
    options |= {"save_total_limit": None, "do_predict": False, "epochs": 2, "load_best_model_at_end": False}
    recipe = {"ema_decay": 0.9, "muon_learning_rate": 0.01, "flip": True, "max_translate": 1, "min_crop_scale": 0.5}
    whole = run(images, tmp_path / "whole", recipe, **options)
    part = tmp_path / "part"
    shutil.copytree(whole / f"checkpoint-{step}", part / f"checkpoint-{step}")
    resumed = run(images, part, recipe, resume_from_checkpoint="true", dataloader_num_workers=2, **options)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_masks_are_of_seed_epoch_and_row_alone():
    config = OmniVisionConfig(image_size=[16, 32], patch_size=4)
    masks = PatchMasks(config, 0.6, None, seed=1)
    some = masks(range(8), 0)
    assert some.shape == (8, 32)
    assert some.sum(1).tolist() == [20] * 8
    assert torch.equal(masks([5, 2], 0), some[[5, 2]])
    assert not torch.equal(masks(range(8), 1), some)
    assert not torch.equal(PatchMasks(config, 0.6, None, seed=2)(range(8), 0), some)
    assert not torch.equal(masks(range(8), None), some)
    assert torch.equal(masks(range(8), None), masks(np.arange(8), None))


def test_masks_are_blocks_of_their_size_and_leave_something():
    config = OmniVisionConfig(image_size=[16, 32], patch_size=[4, 2])
    grid = PatchMasks(config, 0.6, 8, seed=0)(range(20), 0).reshape(20, 4, 16)
    blocks = grid.unflatten(1, (2, 2)).unflatten(3, (4, 4)).transpose(2, 3).flatten(3)
    assert torch.equal(blocks.any(-1), blocks.all(-1))
    assert (grid.flatten(1).sum(1) == 5 * 8).all()
    small = PatchMasks(OmniVisionConfig(image_size=16, patch_size=8), 0.99, None, seed=0)
    assert (small(range(9), 0).sum(1) == 3).all()


@pytest.mark.parametrize(("side", "words"), [(6, "multiple of the patch"), (0, "got 0"), (16, "at least two masks")])
def test_masks_that_do_not_fit_are_refused(side, words):
    with pytest.raises(ValueError, match=words):
        PatchMasks(OmniVisionConfig(image_size=16, patch_size=4), 0.6, side, seed=0)


def test_errors_are_means_over_masked_pixels_and_the_mean_colour_is_that_of_visible_ones():
    pixels = torch.arange(16.0).reshape(1, 1, 4, 4)
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[..., 2:, :] = True
    off, by_mean = errors(pixels, pixels + 1, masks, scale=2.0)
    assert off.item() == 2
    assert by_mean.item() == 2 * (pixels[..., 2:, :] - pixels[..., :2, :].mean()).abs().mean().item()


def test_grey_images_and_other_shapes_train_and_are_drawn(images, tmp_path):
    once = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    config = {"image_size": [16, 24], "patch_size": [4, 8], "num_channels": 1, "use_cls_token": False}
    config |= {"pooling": "mean", "num_register_tokens": 2}
    folder = run(images, tmp_path / "grey", {"mimetic_init": True}, config=config, **once)
    assert (folder / "reconstructions.png").is_file()
    assert record_of(folder)["training"]["masked_patches"] == 8


def test_a_dry_run_draws_the_images_and_trains_nothing(images, tmp_path, capsys):
    folder = run(images, tmp_path / "run", dry_run=True)
    assert not folder.exists()
    assert (tmp_path / "run-dataset.png").is_file()
    assert "train: 21 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask_ratio": 1.0}, "`mask_ratio` must be above 0 and below 1, got 1.0"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"mimetic_init": True, "model": "x"}, "`mimetic_init` is for new models"),
        ({"config": '{"patch": 4}'}, "`config` must hold fields"),
    ],
)
def test_arguments_out_of_range_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        PretrainArguments(dataset="digits", **given)


def test_label_smoothing_is_refused_since_there_are_no_labels(tmp_path):
    with pytest.raises(ValueError, match="there are no labels"):
        PretrainTrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)


@pytest.mark.slow
def test_it_embeds_and_is_published_and_verified_with_its_reconstructions(pretrained, images, tmp_path):
    places = ["--images", str(images / "a"), "--output", str(tmp_path / "vectors")]
    command(["embed", "--model", str(pretrained), *places])
    assert any(tmp_path.glob("vectors/*.parquet"))
    folder = publish(pretrained, tmp_path / "published").folder
    assert verify(folder).failures == ()
    assert "reconstruction" in json.loads((folder / "proof.json").read_text())["outputs"]
    card = (folder / "README.md").read_text()
    assert "paint what masks hide" in card
    assert "levels_of_mean_colour" in card


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_commands_for_classifiers_say_what_it_is(pretrained, name, images):
    more = ["--dataset", "digits"] if name == "evaluate" else ["--images", str(images)]
    with pytest.raises(ValueError, match=r"Expected a classifier.*got an encoder"):
        command([name, "--model", str(pretrained), *more])


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(images, tmp_path):
    command = ["scripts/pretrain.py", "--dataset", str(images), "--config", json.dumps(BODY), "--max_steps", "2"]
    command += ["--optim", "sgd", "--learning_rate", "0.1", "--lr_scheduler_type", "constant", "--save_strategy", "no"]
    command += ["--max_grad_norm", "0", "--eval_strategy", "steps", "--eval_steps", "2"]
    command += ["--load_best_model_at_end", "false"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = {}
    for name, program, batch in (("one", [sys.executable], 8), ("two", torchrun, 4)):
        words = ["--per_device_train_batch_size", str(batch), "--output_dir", str(tmp_path / name)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([*program, *command, *words], env=environment, check=True, timeout=280)
        found[name] = load_file(tmp_path / name / "model.safetensors")
    assert record_of(tmp_path / "two")["training"]["processes"] == 2
    one, two = (record_of(tmp_path / name)["training"]["validation_loss"] for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-6)
    assert all((found["one"][name] - found["two"][name]).abs().max() < 1e-6 for name in found["one"])
