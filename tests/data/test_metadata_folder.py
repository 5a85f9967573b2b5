import json
import shutil

import pytest
from datasets import Dataset
from PIL import Image

from modeling_omni_vision.data.pairs import load_pairs
from modeling_omni_vision.data.sources import load_any, load_images


@pytest.fixture
def folder(tmp_path):
    """Images in a folder, some of them deeper."""
    for name in ("0.png", "1.png", "2.png", "train_3.png", "deep/test_4.png", "deep/5.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def describe(folder, *rows, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8-sig")
    return str(folder)


def test_every_row_is_an_image_and_words_in_file_names_are_no_splits(folder, caplog):
    names = ("0.png", "1.png", "train_3.png", "./deep/test_4.png")
    loaded = load_any(describe(folder, *({"file_name": name, "text": "a\u2028b"} for name in names)))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4}
    assert loaded["train"]["text"][:] == ["a\u2028b"] * 4
    assert [image["path"].removeprefix(f"{folder}/") for image in loaded["train"]["image"]] == [
        "0.png",
        "1.png",
        "train_3.png",
        "deep/test_4.png",
    ]
    assert "2 without a row in the metadata (2.png, 5.png)" in caplog.text


@pytest.mark.parametrize("is_current", [False, True])
@pytest.mark.parametrize("name", ["../out.png", "..\\out.png", "/etc/passwd", "deep/../../out.png", "", None, 3])
def test_a_file_outside_of_the_folder_is_refused_by_its_row(folder, name, is_current, monkeypatch):
    (folder.parent / "out.png").touch()
    describe(folder, {"file_name": "0.png"}, {"file_name": name})
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"Expected a file_name.* row 2 of .*metadata\.jsonl"):
        load_any("." if is_current else str(folder))


def test_a_file_that_is_not_there_and_a_line_that_is_no_json_are_named(folder):
    with pytest.raises(ValueError, match=r"row 1 of .*got '9\.png', which is not there"):
        load_any(describe(folder, {"file_name": "9.png"}))
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png"}\n\n{"file_name":\n')
    with pytest.raises(ValueError, match="Expected JSON in row 3"):
        load_any(str(folder))


@pytest.mark.parametrize("where", ["above", "within"])
def test_splits_are_the_folders_of_the_images(tmp_path, where):
    for split in ("Train", "val"):
        (tmp_path / split).mkdir()
        for number in range(2):
            Image.new("RGB", (4, 4), (number, len(split), 0)).save(tmp_path / split / f"test_{number}.png")
    for split in ("Train", "val"):
        if where == "within":
            describe(tmp_path / split, *({"file_name": f"test_{n}.png", "text": split} for n in range(2)))
    if where == "above":
        rows = [{"file_name": f"{split}/test_{n}.png", "text": split} for split in ("Train", "val") for n in range(2)]
        describe(tmp_path, *rows)
    data = load_pairs(str(tmp_path))
    assert {split: rows["texts"][:] for split, rows in data.items()} == {
        "train": [["Train"]] * 2,
        "validation": [["val"]] * 2,
    }


def test_one_text_or_a_list_of_them(folder):
    texts = ["a", ["b", "c"], "d"]
    data = load_any(describe(folder, *({"file_name": f"{n}.png", "text": text} for n, text in enumerate(texts))))
    assert data["train"]["text"][:] == [["a"], ["b", "c"], ["d"]]


def test_csv_and_parquet_describe_images_too(folder):
    (folder / "metadata.csv").write_text(
        "file_name,label,number\n0.png,NA,1\n1.png,None,10\n2.png,007,2\ntrain_3.png,NA,3\n"
    )
    loaded = load_any(str(folder))["train"]
    assert loaded["label"][:] == ["NA", "None", "007", "NA"]
    assert loaded["number"][:] == [1, 10, 2, 3]
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a, b\n")
    with pytest.raises(ValueError, match="row 1 of the CSV"):
        load_any(str(folder))
    (folder / "metadata.csv").unlink()
    Dataset.from_dict({"file_name": ["0.png", "deep/5.png"], "text": ["a", "b"]}).to_parquet(
        folder / "metadata.parquet"
    )
    assert load_any(str(folder))["train"]["text"][:] == ["a", "b"]


def test_labels_of_metadata_train_a_classifier(folder):
    names = ("0.png", "1.png", "2.png", "train_3.png", "deep/test_4.png", "deep/5.png")
    rows = [{"file_name": name, "label": label} for name, label in zip(names, "aabbab", strict=True)]
    data = load_images(describe(folder, *rows), validation_fraction=2)
    assert data["train"].features["label"].names == ["a", "b"]
    assert sum(map(len, data.values())) == 6


@pytest.mark.parametrize(
    ("file", "column", "delimiter"),
    [("labels.csv", "path", ","), ("all.CSV", "Filename", ";"), ("a.tsv", "image", "\t")],
)
def test_a_table_of_paths_is_a_dataset(folder, file, column, delimiter):
    names = ("0.png", "1.png", "2.png", "train_3.png", "deep/test_4.png", "deep/5.png")
    lines = [(column, "category"), *zip(names, "aabbab", strict=True)]
    (folder / file).write_text("\n".join(delimiter.join(line) for line in lines))
    data = load_images(str(folder / file), validation_fraction=2)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 4, "validation": 2}
    assert data["train"].features["label"].names == ["a", "b"]


def test_a_table_without_names_of_its_columns_is_refused(folder):
    (folder / "labels.csv").write_text("0.png,a\n1.png,b\n")
    with pytest.raises(ValueError, match=r"got \['0\.png', 'a'\]\. .*first line of a CSV names its columns"):
        load_images(str(folder / "labels.csv"))


@pytest.mark.parametrize("place", ["absolute", "relative", "from its own folder"])
def test_a_table_lists_images_anywhere_and_their_folders_are_splits(folder, tmp_path, monkeypatch, place):
    names = ("0.png", "1.png", "2.png", "train_3.png", "deep/test_4.png", "deep/5.png")
    for number, name in enumerate(names):
        split = tmp_path / "pictures" / ("train" if number < 4 else "test")
        split.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, split / f"{number}.png")
    root = str(tmp_path / "pictures") if place == "absolute" else "../pictures"
    (tmp_path / "lists").mkdir()
    lines = ["path,label", *(f"{root}/train/{n}.png,{label}" for n, label in enumerate("aabb"))]
    (tmp_path / "lists" / "all.csv").write_text("\n".join([*lines, f"{root}/test/4.png,a", f"{root}/test/5.png,b"]))
    monkeypatch.chdir(tmp_path / "lists" if place == "from its own folder" else "/")
    table = "all.csv" if place == "from its own folder" else str(tmp_path / "lists" / "all.csv")
    data = load_images(table, validation_fraction=2)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 2, "validation": 2, "test": 2}
    assert [data["test"].features["label"].names[one] for one in data["test"]["label"][:]] == ["a", "b"]
