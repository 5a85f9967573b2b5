import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from modeling_omni_vision.data.image_folder import load_image_folder, split_of
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
