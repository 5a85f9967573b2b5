import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from modeling_omni_vision.cli.inspect import main
from modeling_omni_vision.data.integrity import leave_out_unreadable
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.data.summary import SplitSummary, counted, dataset_hints, export_images, summarize_dataset
from modeling_omni_vision.interpretability.dataset_sheet import wrapped


@pytest.fixture
def folder(tmp_path):
    """Images of two sizes and modes in two classes, and one file that cannot be read."""
    for name, mode, side in (("cat", "RGB", 8), ("dog", "L", 6)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new(mode, (side, side + 1), number).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "dog" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def test_every_split_and_class_is_counted_with_sizes_and_modes(folder, capsys):
    main(["--dataset", str(folder), "--sheet", "", "--json"])
    described = json.loads(capsys.readouterr().out)
    train, validation = described["splits"]
    assert [Path(one["image"]).name for one in described["unreadable"]] == ["broken.png"]
    assert described["left_out"] == {}
    assert (train["split"], validation["split"]) == ("train", "validation")
    assert train["num_images"] + validation["num_images"] == 21
    assert {name: train["classes"][name] + validation["classes"][name] for name in train["classes"]} == {
        "cat": 10,
        "dog": 11,
    }
    assert set(train["sizes"]) == {"8 x 9", "6 x 7"}
    modes = [train["modes"].get(mode, 0) + validation["modes"].get(mode, 0) for mode in ("RGB", "L", "unreadable")]
    assert modes == [10, 10, 1]
    main(["--dataset", str(folder), "--sheet", ""])
    said = capsys.readouterr().out
    assert f"train: {train['num_images']} images, 2 classes" in said
    assert f"(of {train['num_images']} read)" in said


def test_images_are_exported_into_a_folder_for_each_label(tmp_path, capsys):
    words = ["--dataset", "digits", "--sheet", ""]
    main([*words, "--export", str(tmp_path / "images"), "--count", "20", "--split", "test"])
    assert capsys.readouterr().out.endswith(f"\n20 images in {tmp_path / 'images'}\n")
    files = sorted((tmp_path / "images").rglob("*.png"))
    assert len(files) == 20
    assert {file.parent.name for file in files} <= set("0123456789")
    assert Image.open(files[0]).size == (8, 8)
    for wrong in (["--split", "holdout"], ["--count", "0"]):
        with pytest.raises(ValueError, match=r"Expected a split of|at least 1 as --count"):
            main([*words, "--export", str(tmp_path / "none"), *wrong])
    assert not (tmp_path / "none").exists()


def test_labels_that_are_paths_are_one_folder_each_below_the_one_that_was_named(tmp_path):
    names = ["../../escaped", "a/b", "a%2Fb", "..", "", "plain. name"]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    pictures = [Image.new("RGB", (4, 4))] * len(names)
    rows = Dataset.from_dict({"image": pictures, "label": [*range(len(names))]}, features=features)
    written = export_images(DatasetDict(train=rows), "train", len(names), tmp_path / "deep" / "er" / "out")
    folders = [file.relative_to(tmp_path / "deep" / "er" / "out").parts[0] for file in written]
    assert folders == ["..%2F..%2Fescaped", "a%2Fb", "a%252Fb", "%2E%2E", "%", "plain. name"]
    assert sorted(tmp_path.rglob("*.png")) == sorted(written)


def test_sizes_of_a_large_split_are_read_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_omni_vision.data.summary.SAMPLE", 5)

    rows = {"image": [np.zeros((4, 4), dtype=np.uint8)] * 40, "label": [0, 1] * 20}
    (tmp_path / "saved").mkdir()
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    DatasetDict({"train": Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "saved")
    train, _ = summarize_dataset(load_images(str(tmp_path / "saved")))
    assert (train.num_images, train.num_sampled) == (36, 5)
    assert train.sizes == {"4 x 4": 5}


def test_many_classes_are_cut():
    assert counted({str(number): number for number in range(20)}, 2) == "0: 0, 1: 1 and 18 more"


def test_without_a_test_split_images_of_validation_are_exported(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "data" / kind / f"{number}.png")
    main(["--dataset", str(tmp_path / "data"), "--sheet", "", "--export", str(tmp_path / "out"), "--count", "2"])
    assert {file.name.split("_")[0] for file in (tmp_path / "out").rglob("*.png")} == {"validation"}


@pytest.mark.parametrize("labels", [None, ["a", "b"]])
def test_images_without_one_label_each_are_not_exported(tmp_path, labels):
    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for number in range(20):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(data / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "label": labels}))
    if labels:
        (data / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"Expected images with one label each to export, got the columns \["):
        main(["--dataset", str(data), "--sheet", "", "--export", str(tmp_path / "out"), "--split", "train"])
    assert not (tmp_path / "out").exists()


def test_a_folder_is_described_with_what_cannot_be_read_and_drawn(folder, tmp_path, capsys):
    main([str(folder), "--sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "1 image cannot be read:" in said
    assert f"{folder}/dog/broken.png  UnidentifiedImageError: cannot identify image file\n" in said
    assert Image.open(tmp_path / "sheet.png").width > 1000
    for words in ([], [str(folder), "--dataset", "digits"]):
        with pytest.raises(ValueError, match="Expected one dataset"):
            main(words)


def test_a_folder_without_classes_is_described_too(tmp_path, capsys):
    for number in range(15):
        Image.new("RGB", (4 + number, 4)).save(tmp_path / f"{number}.png")
    main([str(tmp_path), "--sheet", str(tmp_path / "out" / "sheet.png")])
    said = capsys.readouterr().out
    assert "train: 15 images\n" in said
    assert "longer side 4 to 18 pixels, half at most 11" in said
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_what_cannot_be_trained_on_is_described_with_the_reason(tmp_path, capsys):
    for number in range(3):
        (tmp_path / "images" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / "images" / "cat" / f"{number}.png")
    main([str(tmp_path / "images"), "--sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "train: 3 images, 1 class\n  classes  cat: 3\n" in said
    assert "Training would end here: Expected images of at least two classes in" in said
    assert (tmp_path / "sheet.png").is_file()
    main([str(tmp_path / "images"), "--sheet", "", "--json"])
    assert json.loads(capsys.readouterr().out)["cannot_be_trained_on"].endswith("got 'cat' alone. Add a class.")


def test_an_image_in_parquet_files_is_named_by_its_row_and_file(tmp_path, capsys):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    whole = [{"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}] * 12
    tables = {"train-0": whole, "train-1": [*whole[:7], {"bytes": b"x", "path": "x.png"}, None, *whole[:3]]}
    for name, images in tables.items():
        pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 6}), tmp_path / f"{name}.parquet")
    main([str(tmp_path), "--sheet", "", "--json"])
    found = {one["image"] for one in json.loads(capsys.readouterr().out)["unreadable"]}
    assert found == {f"row {row} of {tmp_path / 'train-1.parquet'}" for row in (7, 8)}
    with pytest.raises(ValueError, match=rf"2 of 24 images .*row \d of {tmp_path}/train-1\.parquet \("):
        leave_out_unreadable(load_images(str(tmp_path)), dataset=str(tmp_path))


def test_small_classes_and_one_that_outweighs_all_are_hinted_at():
    train = SplitSummary("train", 100, {"cat": 95, "dog": 5}, 100, {"20 x 10": 60, "300 x 300": 40}, {"L": 100})
    small, few, most = dataset_hints([train], image_size=224)
    assert "at most 20 pixels long and are enlarged to 224" in small
    assert few.endswith("fewer than 10 images to train on: dog: 5.")
    assert "95% of train are cat" in most
    same = SplitSummary("train", 60, {"Hot_Dog": 20, "hot dog": 20, "masks": 20}, 0, {}, {})
    assert dataset_hints([same]) == [
        "Hint: Classes whose names are easily taken for each other: 'Hot_Dog' and 'hot dog'. Are they one?"
    ]
    assert len(dataset_hints([train], image_size=32)) == 2


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("dog", "dog"),
        ("golden retriever dog", "golden retriever dog"),
        ("white_breasted_nuthatch_bird", "white_breasted_\nnuthatch_bird"),
        ("counterrevolutionaries", "counterrevolution..."),
        ("$peso", r"\$peso"),
    ],
)
def test_names_in_the_sheet_are_never_broken_within_a_word(name, lines):
    assert wrapped(name) == lines
