import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PilImage

from experiments import duplicates
from experiments.duplicates import audit, main, nearest, plot_pairs
from modeling_omni_vision.data.sources import load_images


SIDE = 12
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})


def noise(count, seed, side=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side)).astype(np.uint8)


def save(folder, **splits):
    """Save splits of (images, labels) as a dataset."""
    parts = {
        name: Dataset.from_dict({"image": list(images), "label": list(labels)}, features=FEATURES)
        for name, (images, labels) in splits.items()
    }
    DatasetDict(parts).save_to_disk(folder)
    return str(folder)


def with_tests(folder, images, labels):
    """30 training images of noise, labels 0, 1, 2 in turn, and the given test images."""
    splits = {"train": (noise(30, 0), np.arange(30) % 3), "validation": (noise(6, 1), np.arange(6) % 3)}
    return save(folder, **splits, test=(images, labels))


def at(report, threshold):
    return next(row for row in report["near"]["thresholds"] if row["at_least"] == threshold)


def test_nothing_is_reported_where_there_is_nothing(tmp_path):
    report = audit(with_tests(tmp_path / "data", noise(9, 2), [0, 1, 2] * 3), tmp_path / "audit.json")
    empty = {"repeated": 0, "copies": 0, "repeated_with_different_labels": 0}
    assert report["exact"] == {
        "train": empty,
        "test": empty,
        "train_and_test": {"test_images": 0, "with_different_labels": 0},
    }
    assert [row["test_images"] for row in report["near"]["thresholds"]] == [0] * 5
    assert [row["share_with_different_labels"] for row in report["near"]["thresholds"]] == [None] * 5
    assert sum(report["near"]["histogram"]["test_images"]) == 9
    assert max(one["similarity"] for one in report["pairs"]) < 0.6


def test_exact_mirrored_shifted_and_noisy_copies_are_found_with_their_labels(tmp_path):
    train, planted = noise(30, 0), noise(7, 2)
    planted[0] = train[4]
    planted[1] = train[5, :, ::-1]
    planted[2, 1:, :-1] = train[6, :-1, 1:]
    planted[3, :, 1:] = train[7, :, ::-1][:, :-1]
    planted[4] = (train[8] + np.random.default_rng(3).normal(0, 8, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    planted[5] = 0.5 * train[9] + 40
    # Right are rows 4 to 9, labels 1, 2, 0, 1, 2, 0: the first, third and last get another.
    report = audit(with_tests(tmp_path / "data", planted, [0, 2, 2, 1, 2, 1, 0]), tmp_path / "audit.json")
    assert report["exact"]["train_and_test"] == {"test_images": 1, "with_different_labels": 1}
    found = {one["test"]["row"]: one for one in report["pairs"]}
    # Columns and rows are those of the mirrored test image: what went right before it was mirrored went left.
    expected = {
        0: (4, False, [0, 0]),
        1: (5, True, [0, 0]),
        2: (6, False, [1, -1]),
        3: (7, True, [0, -1]),
        4: (8, False, [0, 0]),
        5: (9, False, [0, 0]),
    }
    assert {
        row: (found[row]["train"]["row"], found[row]["mirrored"], found[row]["shift"]) for row in expected
    } == expected
    assert {one["train"]["split"] for one in report["pairs"][:6]} == {"train"}
    # Noise of 8 pixel values against 74 of the image: a correlation of 1 / sqrt(1 + (8 / 74) ** 2) = 0.994.
    assert 0.99 < found[4]["similarity"] < 0.999
    assert [found[row]["similarity"] for row in range(4)] == pytest.approx([1] * 4, abs=1e-12)
    assert {name: at(report, 0.999)[name] for name in ("test_images", "mirrored", "shifted")} == {
        "test_images": 5,
        "mirrored": 2,
        "shifted": 2,
    }
    assert at(report, 0.999)["with_different_labels"] == 3
    assert at(report, 0.99)["test_images"] == 6
    assert at(report, 0.99)["share_with_different_labels"] == 0.5
    assert at(report, 0.99)["share_of_test"] == 6 / 7
    assert found[6]["similarity"] < 0.6


def test_repeated_images_within_a_split_are_counted_with_their_contradictions(tmp_path):
    train, test = noise(30, 0), noise(4, 2)
    train[[3, 6]] = train[0]
    train[10] = train[11]
    test[1] = test[2]
    splits = {"train": (train, np.arange(30) % 3), "validation": (noise(6, 1), np.arange(6) % 3)}
    report = audit(save(tmp_path / "data", **splits, test=(test, [0, 1, 2, 0])), tmp_path / "audit.json")
    # Rows 0, 3 and 6 are all of class 0, rows 10 and 11 are not of one.
    assert report["exact"]["train"] == {"repeated": 2, "copies": 3, "repeated_with_different_labels": 1}
    assert report["exact"]["test"] == {"repeated": 1, "copies": 1, "repeated_with_different_labels": 1}


def test_what_is_held_out_for_validation_counts_as_training_and_keeps_its_row(tmp_path):
    images = noise(60, 0)
    dataset = save(tmp_path / "data", train=(images, np.arange(60) % 3), test=(images[::10], np.arange(0, 60, 10) % 3))
    report = audit(dataset, tmp_path / "audit.json")
    assert report["images"] == {"train": 54, "validation": 6, "test": 6}
    assert report["exact"]["train_and_test"] == {"test_images": 6, "with_different_labels": 0}
    splits = load_images(dataset)
    for one in report["pairs"]:
        ours, theirs = splits["test"][one["test"]["row"]], splits[one["train"]["split"]][one["train"]["row"]]
        assert ours["image"]["bytes"] == theirs["image"]["bytes"]


def test_a_grey_image_equals_itself_in_colour_and_a_coloured_one_does_not(tmp_path):
    grey = noise(4, 2)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    colour[1, ..., 0] = 255 - colour[1, ..., 0]
    images = [PilImage.fromarray(image) for image in colour]
    train = [*map(PilImage.fromarray, noise(20, 0)), *map(PilImage.fromarray, grey)]
    splits = {"train": (train, np.arange(24) % 3), "validation": (noise(6, 1), np.arange(6) % 3)}
    report = audit(save(tmp_path / "data", **splits, test=(images, [0] * 4)), tmp_path / "audit.json")
    assert report["exact"]["train_and_test"]["test_images"] == 3
    assert report["near"]["size"] == [SIDE, SIDE, 3]
    assert at(report, 0.95)["test_images"] == 3


def test_large_images_of_any_shape_are_compared_in_small_and_exactly_as_they_are(tmp_path):
    big = [PilImage.fromarray(noise(1, seed, 40)[0]).resize((90 + seed, 60)) for seed in range(30)]
    copy = big[3].copy()
    almost = big[4].copy()
    almost.putpixel((0, 0), 255 - almost.getpixel((0, 0)))
    splits = {"train": (big, np.arange(30) % 3), "validation": (noise(6, 1), np.arange(6) % 3)}
    report = audit(save(tmp_path / "data", **splits, test=([copy, almost], [0, 1])), tmp_path / "audit.json", shift=0)
    assert report["near"]["size"] == [32, 32, 1]
    assert report["exact"]["train_and_test"]["test_images"] == 1
    assert at(report, 0.995)["test_images"] == 2


def test_the_result_does_not_depend_on_the_chunks_and_equals_a_plain_search(monkeypatch):
    test, train = noise(7, 0)[..., None], noise(23, 1)[..., None]
    whole = nearest(test, train, shift=0)
    monkeypatch.setattr(duplicates, "TEST_CHUNK", 3)
    monkeypatch.setattr(duplicates, "TRAIN_CHUNK", 4)
    parts = nearest(test, train, shift=0)
    by_hand = [
        max(np.corrcoef(view.ravel(), other.ravel())[0, 1] for other in train for view in (one, one[:, ::-1]))
        for one in test
    ]
    assert parts.similarity == pytest.approx(by_hand, abs=1e-12)
    assert whole.similarity.tolist() == parts.similarity.tolist()
    assert whole.row.tolist() == parts.row.tolist()


def test_an_image_of_one_colour_correlates_with_nothing():
    flat = np.full((2, 8, 8, 1), 77, dtype=np.uint8)
    assert nearest(flat, flat).similarity.tolist() == [0, 0]
    assert nearest(flat, noise(3, 0, 8)[..., None]).similarity.tolist() == [0, 0]


def test_a_symmetric_image_is_not_called_mirrored_or_shifted():
    half = noise(3, 0, 8)
    symmetric = np.maximum(half, half[:, :, ::-1])[..., None]
    found = nearest(symmetric, symmetric)
    assert found.row.tolist() == [0, 1, 2]
    assert found.views == [(False, 0, 0)] * 3


@pytest.mark.parametrize("shift", [-1, 8])
def test_a_shift_that_leaves_nothing_is_refused(shift):
    with pytest.raises(ValueError, match=f"below 8, the compared size, got {shift}"):
        nearest(noise(1, 0, 8)[..., None], noise(1, 0, 8)[..., None], shift)


def test_data_without_a_test_split_or_with_a_broken_image_are_refused(tmp_path):
    dataset = save(tmp_path / "data", train=(noise(30, 0), np.arange(30) % 3))
    with pytest.raises(ValueError, match=r"Expected a test split.*\['train', 'validation'\]"):
        audit(dataset, tmp_path / "audit.json")
    broken = [{"bytes": b"no image", "path": None}]
    with pytest.raises(ValueError, match="row 0 of the test split cannot be read"):
        audit(with_tests(tmp_path / "broken", broken, [0]), tmp_path / "audit.json")
    assert not list(tmp_path.glob("audit*"))


def test_the_command_writes_numbers_and_sheet_and_says_so(tmp_path, capsys):
    dataset = with_tests(tmp_path / "data", noise(30, 0)[:2], [0, 0])
    main(["--dataset", dataset, "--output", str(tmp_path / "new" / "audit.json"), "--shift", "0"])
    printed = capsys.readouterr().out
    assert "2 test images stand in train too, 1 with another label; 2 correlate" in printed
    written = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert written["command"] == "python -m experiments.duplicates --dataset data --output audit.json --shift 0"
    assert str(tmp_path) not in json.dumps(written)
    with PilImage.open(tmp_path / "new" / "audit.png") as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.filterwarnings("error")
def test_pairs_are_drawn_in_any_number_grey_and_coloured(tmp_path, count):
    images = [(np.zeros((8, 8, 1 + 2 * (count > 1)), dtype=np.uint8),) * 2] * count
    labels = {"test": {"label": "a class with a long name"}, "train": {"label": "$another"}}
    pair = {"similarity": 0.999, "mirrored": True, "shift": [0, 1], **labels}
    with PilImage.open(plot_pairs(images, [pair] * count, tmp_path / "p.png")) as sheet:
        assert np.asarray(sheet.convert("L")).std() > 5


def test_the_counts_go_into_the_numbers_of_a_model_without_being_counted_anew(tmp_path):
    report = {
        "exact": {"train_and_test": {"test_images": 3, "with_different_labels": 1}},
        "near": {"thresholds": [{"at_least": 0.99, "test_images": 5, "with_different_labels": 2}]},
    }
    (tmp_path / "audit.json").write_text(json.dumps({"dataset": "x", **report}))
    (tmp_path / "metrics.json").write_text('{"test": {"accuracy": 0.5}}')
    main(["--dataset", "digits", "--output", str(tmp_path / "audit.json"), "--model", str(tmp_path)])
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["test"] == {"accuracy": 0.5}
    assert written["data_audit"] == {
        "test images that stand in train": 3,
        "test images that correlate at 0.99 or more": 5,
        "of these, with another label (0.99)": 2,
    }
