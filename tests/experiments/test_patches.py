import json

import numpy as np
import pytest
import torch
from datasets import disable_progress_bars
from transformers import AutoImageProcessor, EvalPrediction

from experiments import patches
from experiments.patches import PatchScenes, PatchTeacher, main, mean_cross_entropy, patch_metrics
from experiments.scene_patches import draw_scene_patches
from modeling_omni_vision import OmniVisionConfig, OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.data.stored_images import open_stored


TINY = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES = {"train": 48, "validation": 16, "held_out": 16}


@pytest.fixture
def few_scenes(monkeypatch, tmp_path):
    disable_progress_bars()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(patches, "SCENE_SIZES", SIZES)


def run(output, *options):
    quick = (
        "--num_train_epochs",
        "2",
        "--scenes",
        str(SIZES["train"]),
        "--per_device_train_batch_size",
        "16",
        "--disable_tqdm",
        "true",
    )
    main(["--config", json.dumps(TINY), "--output_dir", str(output), *quick, *options])


def test_a_taught_tower_opens_as_any_other_and_says_how_often_its_patches_were_right(few_scenes, tmp_path, capsys):
    run(tmp_path / "taught", "--muon_learning_rate", "0.02", "--learning_rate", "2e-3")
    tower = OmniVisionModel.from_pretrained(tmp_path / "taught")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "taught", trust_remote_code=False)
    pixels = processor([np.zeros((64, 64, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"]
    assert tower(pixels).grid.shape == (1, 16, 32)
    record = json.loads((tmp_path / "taught" / "metrics.json").read_text())
    assert record["training"]["images"] == SIZES
    assert record["patches"].keys() == {"validation", "held_out"}
    printed = capsys.readouterr().out
    for split, scores in record["patches"].items():
        assert 0 <= scores["accuracy"] <= min(scores["colour"], scores["shape"]) <= 1
        assert f"{split:11} accuracy {scores['accuracy']:.3f}" in printed


def test_smoothed_labels_are_refused_before_a_scene_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "draw_scene_patches", None)
    with pytest.raises(ValueError, match=r"label_smoothing_factor.* the loss is that of several heads"):
        run(tmp_path / "taught", "--label_smoothing_factor", "0.1")
    assert not (tmp_path / "taught").exists()


def test_teaching_changes_every_weight_of_the_tower_and_the_same_seed_ends_in_the_same(few_scenes, tmp_path):
    for name in ("one", "two"):
        run(tmp_path / name, "--learning_rate", "1e-2")
    one, two = (OmniVisionModel.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    torch.manual_seed(42)
    start = OmniVisionModel(OmniVisionConfig(**TINY)).state_dict()
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
        assert not torch.equal(weight, start[name]), name


def test_the_loss_is_that_of_words_and_of_middles_and_numbers_where_there_is_an_object():
    teacher = PatchTeacher(OmniVisionModel(OmniVisionConfig(**TINY))).eval()
    with torch.no_grad():
        for head in (teacher.colour, teacher.shape, teacher.place, teacher.number):
            head.weight.zero_()
            head.bias.zero_()
    pixels = torch.zeros(2, 3, 64, 64)
    colours = torch.zeros(2, 16, dtype=torch.long)
    colours[0, 3] = 2
    places, numbers = torch.zeros(2, 16, 2), torch.zeros(2, 16, 3, dtype=torch.long)

    def loss():
        return teacher(pixels, colours, torch.zeros_like(colours), places, numbers)["loss"].item()

    # Eight colours or six shapes, or nothing; nothing to four objects.
    certain = np.log(9) + np.log(7) + np.log(5)
    assert loss() == pytest.approx(certain, abs=1e-5)
    places[0, 3] = 0.5
    places[1, 5] = 0.9  # no object there: nothing to miss
    assert loss() == pytest.approx(certain + 10 * (0.5 - 0.05 / 2), abs=1e-5)
    with torch.no_grad():
        teacher.number.bias[1::5] = 40.0  # sure of one, of each kind
    numbers[1, 5] = 2
    numbers[0, 3] = torch.tensor([1, 1, 2])
    missed = np.log(9) + np.log(7) + 40 / 3
    assert loss() == pytest.approx(missed + 10 * (0.5 - 0.05 / 2), abs=1e-4)


def test_only_patches_with_an_object_are_scored():
    colours, shapes = np.array([[0, 1, 2, 0]]), np.array([[0, 1, 1, 0]])
    places = np.array([[[0, 0], [0.5, 0.5], [0.1, 0.2], [0, 0]]])
    numbers = np.array([[[0, 0, 0], [2, 1, 2], [2, 1, 2], [0, 0, 0]]])
    found = np.array(
        [[[3, 3, 9, 9, 1, 1, 1], [1, 1, 0.5, 0.5, 2, 1, 2], [2, 2, 0.4, 0.6, 2, 2, 1], [0, 0, 9, 9, 1, 1, 1]]]
    )
    scores = patch_metrics(EvalPrediction(found, (colours, shapes, places, numbers)))
    expected = {"accuracy": 0.5, "colour": 1.0, "shape": 0.5, "numbers": 4 / 6, "distance": 0.25}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("fields", [{"num_channels": 1}, {"image_size": [64, 32]}, {"patch_size": [16, 8]}])
def test_a_tower_that_drawn_scenes_do_not_fit_is_refused_before_drawing(tmp_path, fields):
    with pytest.raises(ValueError, match=r"Drawn scenes are square and coloured.*Correct --config"):
        main(["--config", json.dumps({**TINY, **fields}), "--output_dir", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("config", "message"), [("{not json", "must be JSON"), ('{"size": 3}', "fields of OmniVisionConfig")]
)
def test_a_configuration_that_cannot_be_read_is_refused_by_its_name(few_scenes, tmp_path, config, message):
    with pytest.raises(ValueError, match=rf"`config` .*{message}"):
        # One step: where it is not refused, the test need not wait to find out.
        main(["--config", config, "--output_dir", str(tmp_path / "none"), "--max_steps", "1"])


def scenes_in_memory(count=24, **options):
    rows = draw_scene_patches(8, sizes={"train": count})["train"]
    processor = OmniVisionImageProcessor(size={"height": 64, "width": 64})
    return PatchScenes(rows, processor, **options), rows, processor


def test_scenes_in_memory_are_those_of_the_processor_and_of_the_labels(few_scenes):
    scenes, rows, processor = scenes_in_memory()
    batch = scenes.__getitems__([3, 0, 23])
    stored = [open_stored(rows[row]["image"]) for row in (3, 0, 23)]
    expected = processor(stored, return_tensors="pt")["pixel_values"]
    assert torch.allclose(batch.pop("pixel_values"), expected, atol=1e-5)
    for name, values in batch.items():
        assert torch.equal(values, torch.tensor([rows[row][name] for row in (3, 0, 23)])), name
    assert torch.equal(scenes[3]["places"], batch["places"][0])


def test_a_mirrored_scene_has_the_labels_of_what_is_drawn_there(few_scenes):
    (scenes, _, _), every = scenes_in_memory(), list(range(24))
    plain = scenes.__getitems__(every)
    scenes.flip = 1.0
    turned = scenes.__getitems__(every)
    assert torch.equal(turned["pixel_values"], plain["pixel_values"].flip(-1))
    on = plain["shapes"] > 0
    assert torch.equal(turned["shapes"].view(-1, 8, 8), plain["shapes"].view(-1, 8, 8).flip(-1))
    places = plain["places"].clone()
    places[..., 0] = torch.where(on, 1 - places[..., 0], 0.0)
    assert torch.allclose(turned["places"].view(-1, 8, 8, 2), places.view(-1, 8, 8, 2).flip(2))
    scenes.flip = 0.0
    assert torch.equal(scenes.__getitems__(every)["numbers"], plain["numbers"])  # nothing is changed for good


def test_a_grey_scene_teaches_shapes_and_no_colours(few_scenes):
    scenes, _, processor = scenes_in_memory(grey=1.0)
    batch = scenes.__getitems__([0, 1, 2])
    std, mean = (torch.tensor(values)[:, None, None] for values in (processor.image_std, processor.image_mean))
    shown = batch["pixel_values"] * std + mean
    assert torch.allclose(shown[:, :1].expand_as(shown), shown, atol=1e-5)
    on = batch["shapes"] > 0
    assert torch.equal(batch["colours"], torch.where(on, -100, 0))
    assert torch.equal(batch["numbers"][..., 1], batch["colours"])
    assert (batch["numbers"][..., 0] >= 0).all()
    teacher = PatchTeacher(OmniVisionModel(OmniVisionConfig(**{**TINY, "patch_size": 8})))
    loss = teacher(**batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert teacher.shape.weight.grad.any()
    named = [mean_cross_entropy(torch.zeros(3, 9), torch.tensor(labels)) for labels in ([-100, 4, -100], [-100] * 3)]
    assert torch.stack(named).tolist() == pytest.approx([np.log(9), 0])


@pytest.mark.parametrize("grey", ["-0.1", "1.5"])
def test_a_share_of_grey_images_that_is_none_is_refused(tmp_path, grey):
    with pytest.raises(ValueError, match="`grey` is a probability"):
        run(tmp_path / "none", "--grey", grey)
