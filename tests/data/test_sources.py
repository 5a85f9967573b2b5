import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as PilImage

from modeling_omni_vision.data import hold_out
from modeling_omni_vision.data.image_dataset import ImageDataset
from modeling_omni_vision.data.label_lists import label_array
from modeling_omni_vision.data.sources import load_images, load_unlabelled
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


def image(value, size=4):
    return PilImage.fromarray(np.full((size, size, 3), value, np.uint8))


def rows(count=24, classes=3, first=0):
    return {
        "image": [image((first + index) % 256) for index in range(count)],
        "label": [index % classes for index in range(count)],
    }


NAMES = ["ant", "bee", "cat"]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=NAMES)})


def value_of(example):
    """The grey value that names one of the test images."""
    import io

    source = example["image"]
    opened = PilImage.open(source["path"] if source["bytes"] is None else io.BytesIO(source["bytes"]))
    return int(np.asarray(opened)[0, 0, 0])


def values(split):
    return sorted(value_of(example) for example in split)


def save_folder(folder, per_class=8, classes=("ant", "bee"), first=0):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            image(first + number * per_class + index).save(folder / name / f"{index}.png")


def test_digits_are_there_without_a_network_with_every_class_everywhere():
    data = load_images("digits")
    assert {name: len(split) for name, split in data.items()} == {"train": 1293, "validation": 144, "test": 360}
    for split in data.values():
        assert set(split["label"]) == set(range(10))
        assert split.column_names == ["image", "label"]


def test_shapes_can_be_asked_for_by_keyword(monkeypatch):
    monkeypatch.setattr("modeling_omni_vision.data.synthetic.shapes.SPLIT_SIZES", {"train": 60, "test": 20})
    data = load_images("shapes:circle")
    assert data["train"].features["label"].names == ["circle", "not circle"]
    assert set(data) == {"train", "validation", "test"}


def save_splits(tmp_path, **splits):
    parts = {name: Dataset.from_dict(part, features=FEATURES) for name, part in splits.items()}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_no_image_is_in_two_splits_and_none_is_lost(tmp_path):
    Dataset.from_dict(rows(60), features=FEATURES).save_to_disk(tmp_path / "saved")
    data = load_images(str(tmp_path / "saved"), validation_fraction=0.2)
    assert set(data) == {"train", "validation"}
    assert sorted(values(data["train"]) + values(data["validation"])) == list(range(60))
    assert len(data["validation"]) == 12


def test_validation_is_stratified_and_decided_by_its_own_seed(tmp_path):
    Dataset.from_dict(rows(60), features=FEATURES).save_to_disk(tmp_path / "saved")
    first, again, other = (load_images(str(tmp_path / "saved"), seed=seed) for seed in (0, 0, 1))
    assert np.bincount(first["validation"]["label"]).tolist() == [2, 2, 2]
    assert values(first["validation"]) == values(again["validation"]) != values(other["validation"])


def test_the_images_held_out_are_the_same_in_every_release(tmp_path):
    # Runs record the share, not the rows: with other rows, a run would find images again that it trained on.
    Dataset.from_dict(rows(60), features=FEATURES).save_to_disk(tmp_path / "saved")
    held_out = load_images(str(tmp_path / "saved"), validation_fraction=6)["validation"]
    assert values(held_out) == [19, 22, 36, 44, 45, 59]


def test_a_share_of_one_or_more_is_a_number_of_images(tmp_path):
    Dataset.from_dict(rows(60), features=FEATURES).save_to_disk(tmp_path / "saved")
    assert len(load_images(str(tmp_path / "saved"), validation_fraction=9)["validation"]) == 9


def test_an_existing_validation_split_is_respected(tmp_path):
    parts = {"train": rows(24), "val": rows(6, first=100), "test": rows(6, first=200)}
    data = load_images(save_splits(tmp_path, **parts))
    assert values(data["train"]) == list(range(24))
    assert values(data["validation"]) == list(range(100, 106))
    assert values(data["test"]) == list(range(200, 206))


def test_a_folder_of_classes_is_read(tmp_path):
    save_folder(tmp_path / "images")
    data = load_images(str(tmp_path / "images"), validation_fraction=0.25)
    assert data["train"].features["label"].names == ["ant", "bee"]
    assert len(data["train"]) == 12
    for split in data.values():
        for example in split:
            assert example["label"] == value_of(example) // 8


def test_a_folder_of_splits_is_read(tmp_path):
    save_folder(tmp_path / "images" / "train")
    save_folder(tmp_path / "images" / "validation", per_class=2, first=50)
    save_folder(tmp_path / "images" / "test", per_class=2, first=100)
    data = load_images(str(tmp_path / "images"))
    assert {name: len(split) for name, split in data.items()} == {"train": 16, "validation": 4, "test": 4}


def test_parquet_is_read_from_a_file_and_from_a_folder(tmp_path):
    dataset = Dataset.from_dict(rows(30), features=FEATURES)
    (tmp_path / "folder").mkdir()
    dataset.to_parquet(tmp_path / "folder" / "train-0.parquet")
    for source in (tmp_path / "folder", tmp_path / "folder" / "train-0.parquet"):
        data = load_images(str(source))
        assert data["train"].features["label"].names == NAMES
        assert sorted(values(data["train"]) + values(data["validation"])) == list(range(30))


def test_parquet_by_other_tools_holds_bytes_and_words(tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = []
    for index in range(20):
        stream = io.BytesIO()
        image(index).save(stream, format="PNG")
        contents.append(stream.getvalue())
    table = pa.table({"photo": pa.array(contents, pa.binary()), "species": ["bee", "ant"] * 10})
    pq.write_table(table, tmp_path / "other.parquet")
    data = load_images(str(tmp_path / "other.parquet"), label_column="species")
    assert data["train"].features["label"].names == ["ant", "bee"]
    for example in data["train"]:
        assert example["label"] == 1 - value_of(example) % 2


def test_idx_folders_are_found_by_their_file_names(tmp_path, write_idx):
    write_idx(tmp_path / "fashion")
    data = load_images(str(tmp_path / "fashion"), validation_fraction=4)
    assert {name: len(split) for name, split in data.items()} == {"train": 16, "validation": 4, "test": 20}


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["b", "a", "b", "a"], ["a", "b"], [1, 0, 1, 0]),
        ([7, 3, 7, 3], ["3", "7"], [1, 0, 1, 0]),
        ([True, False, True, False], ["False", "True"], [1, 0, 1, 0]),
    ],
)
def test_names_numbers_and_flags_become_classes(tmp_path, labels, names, numbers):
    Dataset.from_dict(
        {"image": [image(index) for index in range(20)], "label": labels * 5}, features=None
    ).cast_column("image", Image()).save_to_disk(tmp_path / "saved")
    data = load_images(str(tmp_path / "saved"))
    assert data["train"].features["label"].names == names
    for example in data["train"]:
        assert example["label"] == numbers[value_of(example) % 4]


def save(tmp_path, columns, features=None):
    dataset = Dataset.from_dict(columns, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_columns_of_other_names_are_found_or_named(tmp_path):
    columns = {"photo": rows()["image"], "kind": rows()["label"], "id": list(range(24))}
    features = Features({"photo": Image(), "kind": ClassLabel(names=NAMES), "id": Value("int64")})
    source = save(tmp_path, columns, features)
    assert load_images(source)["train"].column_names == ["image", "label"]
    assert load_images(source, image_column="photo", label_column="kind")["train"].features["label"].names == NAMES
    with pytest.raises(ValueError, match=r"`label_column`.*'kind'.*got 'klass'"):
        load_images(source, label_column="klass")
    with pytest.raises(ValueError, match="Expected images in the column 'id'"):
        load_images(source, image_column="id")


def test_two_possible_columns_are_not_guessed_between(tmp_path):
    columns = {"left": rows()["image"], "right": rows()["image"], "label": rows()["label"]}
    features = Features({"left": Image(), "right": Image(), "label": ClassLabel(names=NAMES)})
    with pytest.raises(ValueError, match="--image_column"):
        load_images(save(tmp_path, columns, features))


def test_images_without_labels_are_refused_with_a_way_out(tmp_path):
    for index in range(4):
        image(index).save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match="each class into a sub-folder"):
        load_images(str(tmp_path))


def test_missing_labels_are_counted(tmp_path):
    columns = rows() | {"label": [0, 1, None] * 8}
    with pytest.raises(ValueError, match="8 of 24 images of the train split"):
        load_images(save(tmp_path, columns, FEATURES))


def test_a_test_split_without_labels_is_left_out(tmp_path, caplog):
    source = save_splits(tmp_path, train=rows(), test=rows(6) | {"label": [-1] * 6})
    assert set(load_images(source)) == {"train", "validation"}
    assert "has no labels" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (rows(24, classes=1), "at least two classes"),
        (rows() | {"label": [0.5] * 24}, "names or integers"),
        ({"image": rows(5)["image"], "label": [0, 0, 0, 0, 1]}, "at least two images of each class"),
    ],
)
def test_sets_that_teach_nothing_are_refused(tmp_path, columns, message):
    features = None if columns["label"][:1] == [0.5] else FEATURES
    with pytest.raises(ValueError, match=message):
        load_images(save(tmp_path, columns, features))


def test_an_empty_set_is_refused(tmp_path):
    Dataset.from_dict(rows(0), features=FEATURES).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet cannot be read"):
        load_images(str(tmp_path / "empty.parquet"))


@pytest.mark.parametrize("share", [0, -0.1, 24, 1000, float("nan")])
def test_a_validation_share_that_leaves_nothing_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match="validation_fraction"):
        load_images(save(tmp_path, rows(), FEATURES), validation_fraction=share)


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nowhere", "does not exist"), ("/no/such/folder", "does not exist"), ("x.parquet", "does not exist")],
)
def test_a_path_that_is_not_there_is_never_looked_up_on_the_hub(name, message):
    with pytest.raises(ValueError, match=message):
        load_images(name)


def test_a_hub_dataset_that_cannot_be_reached_is_a_clear_error():
    with pytest.raises(ValueError, match=r"dataset of the Hub that can be reached, got 'nobody/nothing'"):
        load_images("nobody/nothing")


def test_a_folder_without_images_and_a_file_of_another_kind_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="Expected images, Parquet or IDX files"):
        load_images(str(tmp_path))
    with pytest.raises(ValueError, match=r"\.parquet"):
        load_images(str(tmp_path / "notes.txt"))


def test_splits_with_other_classes_than_train_are_refused(tmp_path):
    other = Features({"image": Image(), "label": ClassLabel(names=NAMES[::-1])})
    DatasetDict(
        {"train": Dataset.from_dict(rows(), features=FEATURES), "test": Dataset.from_dict(rows(), features=other)}
    ).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"\['test'\].*other classes"):
        load_images(str(tmp_path / "saved"))


def test_a_broken_image_in_a_folder_is_named(tmp_path):
    save_folder(tmp_path / "images")
    broken = tmp_path / "images" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    data = load_images(str(tmp_path / "images"), validation_fraction=0.25)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match=r"(?s)row \d+ .*bee/3\.png"):
        [ImageDataset(split, processor) for split in data.values()]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "1"], ["1", "10", "2"]),
        ([10, 2, 1], ["1", "2", "10"]),
        ([True, False, True], ["False", "True"]),
        ([3.0, 1.0, 2.0], ["1", "2", "3"]),
        (["b", "None", "nan"], ["None", "b", "nan"]),
    ],
)
def test_labels_become_classes_by_one_rule_for_each_type(tmp_path, labels, names):
    data = load_images(save(tmp_path, rows() | {"label": labels * 8}, None), label_column="label")
    assert data["train"].features["label"].names == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.5, 2.0, 1.0], r"names or integers in the column 'label' of the train split .*got 1\.5 in row 0"),
        ([1.0, 2.0, 2.5], r"got 2\.5 in row 2"),
        ([b"a", b"b", b"c"], r"column 'label' .*got b'a' in row 0"),
        ([{"a": 1}, {"a": 2}, {"a": 1}], r"column 'label' .*in row 0"),
        (["a", None, "b"], "8 of 24 .*have no label in the column 'label', the first in row 1"),
        (["a", "b", ""], "the first in row 2"),
        ([1.0, float("nan"), 2.0], "the first in row 1"),
        ([0, 1, -1], "the first in row 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused_by_column_and_row(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        load_images(save(tmp_path, rows() | {"label": labels * 8}, None), "image", "label")


def test_a_class_that_only_another_split_has_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"classes of train in the test split .*\['cat'\] too"):
        load_images(save_splits(tmp_path, train=rows(12, classes=2), test=rows(12, classes=3)))


def test_lists_with_a_class_of_their_own_are_left_in_train_or_refused_by_name(tmp_path):
    kinds = ClassLabel(names=["a", "b", *(f"rare {number}" for number in range(30))])
    features = Features({"image": Image(), "label": Sequence(kinds)})
    lists = [[0], [1]] * 15 + [[0, number] for number in range(2, 32)]
    images = [image(value) for value in range(60)]
    whole = save(tmp_path / "whole", {"image": images, "label": lists}, features)
    splits = load_images(whole, validation_fraction=20, test_fraction=0.2)
    assert label_array(splits["train"]).any(axis=0).all()
    assert sum(map(len, splits.values())) == 60
    assert 0 < len(splits["validation"]) < 20
    assert sorted(value for split in splits.values() for value in values(split)) == [*range(60)]
    assert [value_of(example) for example in splits["train"]] == values(splits["train"])
    part = Dataset.from_dict({"image": images[:20], "label": [[0], [1]] * 10}, features=features)
    other = Dataset.from_dict({"image": images[:2], "label": [[0], [1, 4]]}, features=features)
    DatasetDict({"train": part, "test": other}).save_to_disk(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"only elsewhere \{'test': \['rare 2'\]\}"):
        load_images(str(tmp_path / "parts"))
    alone = {"image": images[:30], "label": [[number] for number in range(2, 32)]}
    with pytest.raises(ValueError, match=r"train in the validation split of .*'rare"):
        load_images(save(tmp_path / "alone", alone, features))


@pytest.mark.parametrize("lists", [False, True])
def test_a_file_in_several_rows_of_a_table_is_one_image(tmp_path, caplog, lists):
    lines = []
    for number in range(40):
        image(number).save(tmp_path / f"{number}.png")
        for annotator in "xy":
            label = [f"kind {number % 2}"] if lists else f"kind {number % 2}"
            lines.append(json.dumps({"file_name": f"{number}.png", "label": label, "annotator": annotator}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    splits = load_images(str(tmp_path), validation_fraction=8)
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "validation": 8}
    assert "40 rows repeat the file of another" in caplog.text
    caplog.clear()
    alone = load_unlabelled(str(tmp_path), validation_fraction=8, test_fraction=4)
    assert {name: len(split) for name, split in alone.items()} == {"train": 28, "validation": 8, "test": 4}
    assert sorted(value for split in alone.values() for value in values(split)) == [*range(40)]
    assert "40 rows repeat the file of another" in caplog.text
    assert sorted(values(splits["train"]) + values(splits["validation"])) == [*range(40)]
    hold_out.save_splits(tmp_path / "run", splits, str(tmp_path))
    again = load_images(str(tmp_path), held_out=hold_out.read_splits(tmp_path / "run"))
    assert [values(split) for split in again.values()] == [values(split) for split in splits.values()]


def test_a_column_split_says_which_rows_are_in_which_split(tmp_path, caplog):
    names = ["train"] * 20 + ["val"] * 2 + ["test"] * 2
    whole = Dataset.from_dict({**rows(24), "split": names}, features=Features({**FEATURES, "split": Value("string")}))
    whole.save_to_disk(tmp_path / "one")
    assert {name: len(split) for name, split in load_images(str(tmp_path / "one")).items()} == {
        "train": 20,
        "validation": 2,
        "test": 2,
    }
    classes = whole.cast_column("split", ClassLabel(names=["test", "train", "val"]))
    classes.save_to_disk(tmp_path / "classes")
    assert len(load_images(str(tmp_path / "classes"))["test"]) == 2
    DatasetDict({"train": whole.select(range(22)), "test": whole.select([22, 23])}).save_to_disk(tmp_path / "many")
    load_images(str(tmp_path / "many"))
    assert "the split train has ['train', 'val'] in its column split, which is not used" in caplog.text
    assert "the split test has" not in caplog.text


@pytest.mark.parametrize("name", ["category", "Label", "CLASS", "target"])
def test_the_usual_names_of_labels_are_found_in_any_case(tmp_path, name):
    columns = {"image": rows()["image"], name: ["b", "a", "c"] * 8, "note": ["x"] * 24}
    Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    assert load_images(str(tmp_path / "saved"))["train"].features["label"].names == ["a", "b", "c"]


def test_a_dataset_that_was_saved_with_a_format_is_read_as_one_without(tmp_path):
    plain = Dataset.from_dict(rows(), features=Features({"image": Image(), "label": Value("int64")}))
    DatasetDict({"train": plain.with_format("torch")}).save_to_disk(tmp_path / "saved")
    assert load_images(str(tmp_path / "saved"))["train"].features["label"].names == ["0", "1", "2"]


def test_parquet_files_of_other_columns_are_named_with_them(tmp_path):
    whole = Dataset.from_dict(rows(), features=FEATURES)
    whole.to_parquet(tmp_path / "train.parquet")
    whole.rename_column("label", "kind").to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"\['image', 'kind'\] in test.parquet and \['image', 'label'\] in train"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("column", ["is_test", "is_valid", "is_sharp"])
def test_a_column_that_marks_one_split_is_said_not_to_be_used(tmp_path, column, caplog):
    Dataset.from_dict({**rows(), column: [False] * 24}).save_to_disk(tmp_path / "saved")
    load_images(str(tmp_path / "saved"))
    assert (f"the column {column} is not used" in caplog.text) == (column != "is_sharp")
