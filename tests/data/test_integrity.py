import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List
from datasets import Image as ImageFeature
from PIL import Image

from modeling_omni_vision.data import integrity
from modeling_omni_vision.data.integrity import (
    BROKEN,
    KEPT,
    READABLE,
    UNSEEN,
    find_unreadable,
    leave_out_unreadable,
    read_each,
    unreadable_rows,
    without_skipped,
    write_skipped,
)
from modeling_omni_vision.image_processing_omni_vision import ImageReadError, read_image


UNDECODED = ImageFeature(decode=False)


@pytest.fixture
def files(tmp_path):
    """Six files: one of text, one cut off in the middle, one that is empty, the others whole."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for number in range(6):
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_text("no image")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:2000])
    (tmp_path / "4.jpg").write_bytes(b"")
    return sorted(tmp_path.glob("*.jpg"))


def rows(files, **columns):
    images = {"image": [{"path": str(file), "bytes": None} for file in files]}
    return Dataset.from_dict(images, features=Features({"image": UNDECODED}))


@pytest.mark.parametrize(("check", "broken"), [("full", [1, 2, 4]), (None, [1, 2, 4]), ("headers", [1, 4])])
def test_every_broken_file_is_found_in_one_pass(files, check, broken):
    found = find_unreadable(files, check)
    assert [one.number for one in found] == broken
    assert all(one.name == str(files[one.number]) and one.reason for one in found)
    if check != "headers":
        assert "truncated" in found[1].reason
    assert "replace or remove" not in "".join(one.reason for one in found)


def test_many_images_are_checked_by_their_headers(files, monkeypatch):
    monkeypatch.setattr(integrity, "FULL_BELOW", 6)
    assert [one.number for one in find_unreadable(files)] == [1, 4]
    with pytest.raises(ValueError, match="headers, full, got 'all'"):
        find_unreadable(files, "all")


def test_what_was_read_is_remembered_by_size_and_time(files, tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "DATABASE", tmp_path / "cache" / "files.sqlite")
    monkeypatch.setattr(integrity, "REMEMBERED_AFTER", -1)
    opened = []
    reason = integrity._reason

    def watch(source, check):
        opened.append(source["path"][-5:])
        return reason(source, check)

    monkeypatch.setattr(integrity, "_reason", watch)
    find_unreadable(files)
    find_unreadable(files, "headers")
    assert sorted(opened[6:]) == ["1.jpg", "2.jpg", "4.jpg"]  # what is broken is looked at again
    opened.clear()
    files[0].write_bytes(files[0].read_bytes()[:900])
    assert [one.number for one in find_unreadable(files)] == [0, 1, 2, 4]
    assert "0.jpg" in opened


def test_a_cache_that_cannot_be_written_changes_nothing(files, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(integrity, "DATABASE", tmp_path / "file" / "files.sqlite")
    monkeypatch.setattr(integrity, "REMEMBERED_AFTER", -1)
    assert len(find_unreadable(files)) == 3


def test_broken_images_stop_in_one_message_or_are_skipped(files, tmp_path, caplog):
    splits = DatasetDict({"train": rows(files[:3]), "validation": rows(files[3:])})
    with pytest.raises(
        ValueError, match=r"3 of 6 images cannot be read: .*1\.jpg \(.*2\.jpg .*4\.jpg .*on_error skip"
    ):
        leave_out_unreadable(splits)
    kept, skipped = leave_out_unreadable(splits, on_error="skip")
    assert {name: len(split) for name, split in kept.items()} == {"train": 1, "validation": 2}
    assert [(one["split"], one["row"]) for one in skipped] == [("train", 1), ("train", 2), ("validation", 1)]
    assert "left out" in caplog.text
    file = write_skipped(tmp_path / "run", skipped)
    assert [json.loads(line)["image"] for line in file.read_text().splitlines()] == [one["image"] for one in skipped]
    assert [len(split) for split in without_skipped(splits, tmp_path / "run").values()] == [1, 2]
    with pytest.raises(ValueError, match="one of stop, skip, got 'warn'"):
        leave_out_unreadable(splits, on_error="warn")


def test_what_was_decoded_is_not_opened_again_and_what_could_not_be_says_why(files, monkeypatch):
    opened, reason = [], integrity._reason
    monkeypatch.setattr(
        integrity, "_reason", lambda source, check: opened.append((source["path"][-5], check)) or reason(source, check)
    )
    # 2.jpg is cut off, which its header does not show.
    states = np.array([KEPT, UNSEEN, BROKEN, READABLE, UNSEEN, UNSEEN])
    splits = DatasetDict({"train": rows(files), "validation": rows(files[:1])})
    found = unreadable_rows(splits, "headers", states={"train": states})
    assert [(one["row"], one["image"]) for one in found] == [(row, str(files[row])) for row in (1, 2, 4)]
    assert "truncated" in found[1]["reason"]
    assert sorted(opened) == [
        ("0", "headers"),
        ("1", "headers"),
        ("2", "full"),
        ("4", "headers"),
        ("5", "headers"),
    ]


def test_a_split_without_a_readable_image_is_refused(files):
    splits = DatasetDict({"train": rows(files[:1]), "validation": rows(files[1:3])})
    with pytest.raises(ValueError, match="readable images in the split validation"):
        leave_out_unreadable(splits, on_error="skip")


@pytest.mark.parametrize("lists", [False, True])
def test_a_class_without_a_readable_image_to_train_on_is_refused(files, lists):
    kind = ClassLabel(names=["left", "lost"])
    labels = [[0], [0, 1]] if lists else [0, 1]
    train = rows(files[:2]).add_column("label", labels, feature=List(kind) if lists else kind)
    with pytest.raises(ValueError, match=r"of each class in train, got none of \['lost'\]"):
        leave_out_unreadable(DatasetDict(train=train), on_error="skip")


def test_a_message_names_ten_files_of_many(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.png").touch()
    with pytest.raises(ValueError, match=r"^12 of 12 .*09\.png \([^;]*\) and 2 more\. Repair"):
        leave_out_unreadable(DatasetDict(train=rows(sorted(tmp_path.iterdir()))))


def test_images_as_bytes_and_rows_of_several_images_are_checked_too(files):
    whole, broken = files[0].read_bytes(), files[2].read_bytes()
    images = [[{"bytes": whole, "path": None}], [{"bytes": whole, "path": None}, {"bytes": broken, "path": None}], []]
    split = Dataset.from_dict({"images": images}, features=Features({"images": List(UNDECODED)}))
    kept, skipped = leave_out_unreadable(DatasetDict(train=split), on_error="skip")
    assert (len(kept["train"]), [one["row"] for one in skipped]) == (2, [1])
    assert skipped[0]["image"] == "row 1 of train"


def test_a_broken_file_costs_only_itself_in_its_batch(files):
    batches = []

    def read(batch):
        batches.append(len(batch))
        return [Image.open(file).size for file in batch]

    found, failed = read_each(files, read)
    assert [size for _, size in found] == [(64, 64)] * 4
    assert [file.name for file, _ in failed] == ["1.jpg", "4.jpg"]
    assert batches == [6] + [1] * 6


@pytest.mark.parametrize("name", ["broken.png", "./sub/../broken.png", "a folder/broken (1).png"])
def test_a_reason_names_no_file_however_its_path_was_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("sub", "a folder"):
        (tmp_path / folder).mkdir()
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ImageReadError) as raised:
        read_image(name)
    reason = integrity.read_failure(raised.value, name)
    assert reason == "UnidentifiedImageError: cannot identify image file"
    assert str(tmp_path) not in integrity.read_failure(ImageReadError(f"{tmp_path / name}: cut off"), name)
