import os

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from modeling_omni_vision.data.hold_out import read_splits, save_splits
from modeling_omni_vision.data.image_folder import load_image_folder, resolve_images, split_files, split_of
from modeling_omni_vision.data.sources import load_images


def draw(root, *files):
    """Make a small image at each of these paths."""
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        PilImage.new("RGB", (4, 4), (number, 0, 0)).save(path, format="PNG")
    return root


def rows_of(folder):
    """Return the file, relative to its folder, and the class of every row, by split."""
    return {
        split: [
            (row["image"]["path"].removeprefix(f"{folder}/"), rows.features["label"].int2str(row["label"]))
            for row in rows
        ]
        for split, rows in load_image_folder(folder).items()
    }


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "Train", "TRAINING", "trainset", "train_set", "Training Set", "train-00001-of-00004"), "train"),
        (("val", "Valid", "validation", "dev", "val_set", "EVAL", "valid-split"), "validation"),
        (("test", "Testing", "testset", "Test-Set", "hold_out", "holdout", "test_3"), "test"),
        (("freight train", "dev-board", "val thorens", "test tube", "trains", "contest", "set", "1", "cat", ""), None),
    ],
)
def test_only_whole_names_stand_for_splits(names, split):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


@pytest.mark.parametrize(
    "spelled", [("train", "val", "test"), ("Train", "Valid", "TEST"), ("trainset", "dev_set", "Holdout")]
)
def test_split_folders_are_splits_whatever_their_case_and_spelling(tmp_path, spelled):
    draw(tmp_path, *(f"{folder}/{kind}/{folder}_0.png" for folder in spelled for kind in ("cat", "dog")))
    found = rows_of(tmp_path)
    for folder, split in zip(spelled, ("train", "validation", "test"), strict=True):
        assert found[split] == [(f"{folder}/{kind}/{folder}_0.png", kind) for kind in ("cat", "dog")]


def test_names_that_only_contain_such_words_are_classes_and_files_like_any_other(tmp_path):
    files = ["freight train/train.png", "dev-board/val_1.png", "test tube/test_0.png", "cat/validation.png"]
    draw(tmp_path, *files)
    assert rows_of(tmp_path) == {"train": [(file, file.split("/")[0]) for file in sorted(files)]}


def test_deeper_folders_belong_to_the_class_above_them(tmp_path):
    draw(tmp_path, "cat/2023/a.png", "cat/2024/test/b.png", "dog/c.png")
    assert rows_of(tmp_path)["train"] == [
        ("cat/2023/a.png", "cat"),
        ("cat/2024/test/b.png", "cat"),
        ("dog/c.png", "dog"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/cat/a.png", "test/dog/b.png"], r"something to train on.*got only \['test'\]"),
        (["val/cat/a.png", "Test/cat/b.png"], "Add a split train"),
        (["train/cat/a.png", "val/cat/b.png", "final/cat/c.png"], r"\['final'\] do not"),
        (["car/a.png", "bus/b.png", "train/c.png"], r"\['train'\] name splits, \['bus', 'car'\] do not"),
        (
            ["train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "valid/dog/d.png"],
            "one folder for the split validation",
        ),
        (
            ["train/cat/a.png", "train/dog/b.png", "test/emu/c.png"],
            r"\['emu'\] too",
        ),
        (["cat/train/a.png", "cat/val/b.png", "dog/train/c.png"], "splits within classes"),
        (["train/a.png", "train/b.png"], "each class into a sub-folder"),
        (["a.png", "b.png"], "each class into a sub-folder"),
    ],
)
def test_what_could_be_two_things_is_refused(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        load_images(str(draw(tmp_path, *files)))


def test_all_that_pillow_opens_is_an_image_and_the_rest_is_counted(tmp_path, caplog):
    draw(tmp_path, "cat/a.JPG", "cat/b.jfif", "cat/c.jp2", "cat/d.tga", "cat/e.webp", "dog/f.png", "stray.png")
    for name in (
        "cat/.DS_Store",
        "cat/._a.jpg",
        "dog/Thumbs.db",
        "cat/x.heic",
        "dog/notes.txt",
        "dog/more.txt",
        "cat/g.eps",
    ):
        (tmp_path / name).write_text("no image")
    assert len(rows_of(tmp_path)["train"]) == 6
    assert "5 files" in caplog.text
    for reason in ("2 .txt", "1 .heic, install pillow-heif (x.heic)", "1 .eps", "1 outside of all classes"):
        assert reason in caplog.text
    assert "DS_Store" not in caplog.text


def test_a_class_without_a_readable_image_is_counted_and_not_lost_in_silence(tmp_path, caplog):
    draw(tmp_path, "dog/a.png", "emu/b.png")
    (tmp_path / "cat").mkdir()
    for number in range(3):
        (tmp_path / "cat" / f"{number}.heic").write_text("no image")
    assert {kind for _, kind in rows_of(tmp_path)["train"]} == {"dog", "emu"}
    assert "3 .heic, install pillow-heif" in caplog.text


def test_an_image_called_metadata_is_an_image(tmp_path):
    draw(tmp_path, "test tube/metadata.png", "test tube/b.png", "cat/c.png", "cat/test_0.png")
    data = load_images(str(tmp_path), validation_fraction=2)
    assert data["train"].features["label"].names == ["cat", "test tube"]
    assert sum(map(len, data.values())) == 4


def test_links_are_followed_and_circles_end(tmp_path):
    draw(tmp_path, "elsewhere/one/a.png", "images/dog/b.png")
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "one" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "dog" / "c.png").symlink_to(tmp_path / "images" / "dog" / "b.png")
    found = rows_of(tmp_path / "images")["train"]
    assert found == [("cat/one/a.png", "cat"), ("dog/b.png", "dog"), ("dog/c.png", "dog")]


def test_two_classes_may_link_to_the_same_folder(tmp_path):
    draw(tmp_path, "elsewhere/a.png", "images/train/cat/b.png", "images/train/dog/c.png")
    for kind in ("cat", "dog"):
        (tmp_path / "images" / "train" / kind / "more").symlink_to(tmp_path / "elsewhere")
    assert [kind for _, kind in rows_of(tmp_path / "images")["train"]] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("name", ["a[1].png", "*.png", "x::y.png", "two words.png", "-r.png", "\u00fc.png", "#.png"])
def test_a_name_is_taken_as_it_is(tmp_path, name):
    draw(tmp_path, f"cat/{name}", "[dog]*/b.png")
    assert (f"cat/{name}", "cat") in rows_of(tmp_path)["train"]
    data = load_images(str(draw(tmp_path, "cat/b.png", "[dog]*/c.png")), validation_fraction=2)
    assert sorted([*data["train"]["label"], *data["validation"]["label"]]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["Train.parquet", "TEST.parquet"], {"train", "test", "validation"}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train", "validation"}),
        (["train/0.parquet", "val/0.parquet"], {"train", "validation"}),
        (["contest.parquet", "retrained.parquet"], {"train", "validation"}),
        (["test.parquet"], "something to train on"),
        (["train.parquet", "extra.parquet"], r"\['extra'\] do not"),
    ],
)
def test_parquet_files_are_splits_by_their_whole_names(tmp_path, files, splits):
    draw(tmp_path, "one.png")
    content = (tmp_path / "one.png").read_bytes()
    features = Features({"image": Image(), "label": Value("string")})
    for file in files:
        (tmp_path / "table" / file).parent.mkdir(parents=True, exist_ok=True)
        rows = {"image": [{"bytes": content, "path": None}] * 20, "label": ["a", "b"] * 10}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table" / file)
    if isinstance(splits, str):
        for source in (tmp_path / "table", tmp_path / "table" / files[0])[: 2 if len(files) == 1 else 1]:
            with pytest.raises(ValueError, match=splits):
                load_images(str(source))
    else:
        assert set(load_images(str(tmp_path / "table"))) == splits


def test_every_image_is_a_row_also_without_a_class_or_a_split(tmp_path):
    rows, _ = resolve_images(draw(tmp_path, "a.png", "train/b.png", "train/cat/c.png", "Val/cat/deep/d.png"))
    assert [(row.file.name, row.kind, row.split) for row in rows] == [
        ("a.png", None, None),
        ("d.png", "cat", "validation"),
        ("b.png", None, "train"),
        ("c.png", "cat", "train"),
    ]


def test_accents_that_a_file_system_takes_apart_name_the_same_class(tmp_path):
    draw(tmp_path, "train/cafe\u0301/a.png", "train/dog/b.png", "test/caf\u00e9/c.png")
    found = load_image_folder(tmp_path)
    assert found["train"].features["label"].names == ["caf\u00e9", "dog"]
    assert found["test"]["label"][:] == [0]


def test_a_class_whose_name_is_no_text_trains_and_is_displayed_escaped(tmp_path):
    draw(tmp_path, *(os.fsdecode(b"caf\xe9/") + f"{number}.png" for number in range(3)), "dog/a.png", "dog/b.png")
    data = load_images(str(tmp_path), validation_fraction=2)
    assert data["train"].features["label"].names == ["caf\\xe9", "dog"]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train.jsonl", "val.jsonl", "Test.JSONL"], {"train": 1, "validation": 1, "test": 1}),
        (["Train.jsonl", "dev.jsonl"], {"train": 1, "validation": 1}),
        (["a.jsonl", "test_questions.jsonl"], {"train": 2}),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], {"train": 2}),
        (["train.jsonl", "val.jsonl", "final.jsonl"], r"\['final'\] do not"),
        (["val.jsonl"], "Add a split train"),
    ],
)
def test_json_lines_are_splits_by_their_whole_names(tmp_path, files, splits):
    for file in [*files, "notes.txt", ".train.jsonl"]:
        (tmp_path / file).touch()
    if isinstance(splits, str):
        with pytest.raises(ValueError, match=splits):
            split_files(tmp_path, ".jsonl")
    else:
        assert {split: len(found) for split, found in split_files(tmp_path, ".jsonl").items()} == splits
        assert split_files(tmp_path / files[0], ".jsonl") == {"train": [tmp_path / files[0]]}


@pytest.mark.parametrize("name", ["a[1].parquet", "b*.parquet", "x::y.parquet", "-q?.PARQUET"])
def test_a_parquet_file_is_the_one_that_is_named(tmp_path, name):
    draw(tmp_path, "one.png")
    image = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    features = Features({"image": Image(), "label": Value("string")})
    for file, rows in ((name, 20), ("b2.parquet", 40), ("a1.parquet", 40)):
        columns = {"image": [image] * rows, "label": ["a", "b"] * (rows // 2)}
        Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "table")
        (tmp_path / "table").rename(tmp_path / file)  # `datasets` writes no such name
    assert sum(map(len, load_images(str(tmp_path / name)).values())) == 20


def test_images_and_parquet_files_side_by_side_are_refused(tmp_path):
    draw(tmp_path, "cat/a.png", "dog/b.png")
    Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "vectors.parquet")
    with pytest.raises(ValueError, match=r"got both: cat/a\.png and vectors\.parquet"):
        load_images(str(tmp_path))


def test_a_test_split_is_held_out_of_every_class_and_found_again_when_files_were_added(tmp_path):
    folder = draw(tmp_path / "data", *(f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(20)))
    before = load_images(str(folder), test_fraction=0.2)
    assert {name: len(split) for name, split in before.items()} == {"train": 28, "validation": 4, "test": 8}
    assert sorted(before["test"]["label"]) == [0] * 4 + [1] * 4
    save_splits(tmp_path / "run", before, str(folder))
    draw(folder, *(f"{kind}/0{number}.png" for kind in ("cat", "dog") for number in range(20)))
    held_out = read_splits(tmp_path / "run")
    after = load_images(str(folder), held_out=held_out)
    for split in ("validation", "test"):
        assert [image["path"] for image in after[split]["image"]] == [
            image["path"] for image in before[split]["image"]
        ]
    assert len(after["train"]) == 68
    (folder / held_out["test"][0]).unlink()
    with pytest.raises(ValueError, match="1 of them are gone"):
        load_images(str(folder), held_out=held_out)


def test_no_test_split_is_held_out_where_there_is_one(tmp_path):
    draw(
        tmp_path,
        *(f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in range(9)),
    )
    with pytest.raises(ValueError, match="`test_fraction` must be 0"):
        load_images(str(tmp_path), test_fraction=0.2)
