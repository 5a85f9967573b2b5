import json

import datasets
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from modeling_omni_vision.data.pairs import load_pairs
from modeling_omni_vision.data.synthetic.scenes import (
    HELD_OUT_COMBINATIONS,
    draw_scenes,
    parse_objects,
    seen_combinations,
)
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES


SIZES = {"train": 60, "validation": 20, "test": 20}


@pytest.fixture
def folder(tmp_path):
    """Four images with a metadata.jsonl beside them."""
    rows = []
    for number, colour in enumerate(["red", "green", "blue", "white"]):
        PilImage.new("RGB", (9, 7), colour).save(tmp_path / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"a {colour} image"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def names_of(split):
    return [set(concept.split(", ")) for concept in split["concept"]]


def test_several_processes_draw_the_scenes_that_one_does(monkeypatch, tmp_path):
    one = draw_scenes((1, 2), sizes={"train": 6})["train"]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("modeling_omni_vision.data.synthetic.scenes.ROWS_PER_PROCESS", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    two = draw_scenes((1, 2), sizes={"train": 6})["train"]
    assert two[:] == one[:]


@pytest.mark.parametrize("column", ["split", "Partition"])
def test_a_column_that_names_splits_divides_pairs_too(folder, column):
    rows = [{"file_name": f"{n}.png", "caption": f"a {n}", column: "dev" if n > 1 else "training"} for n in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_pairs(str(folder))
    assert {name: split["texts"][:] for name, split in data.items()} == {
        "train": [["a 0"], ["a 1"]],
        "validation": [["a 2"], ["a 3"]],
    }


def test_training_never_shows_a_held_out_combination_and_every_test_scene_does():
    data = draw_scenes((1, 2), sizes=SIZES)
    held_out = {" ".join(pair) for pair in HELD_OUT_COMBINATIONS}
    for split in ("train", "validation"):
        assert not any(names & held_out for names in names_of(data[split]))
    assert all(names & held_out for names in names_of(data["test"]))
    assert {len(names) for names in names_of(data["train"])} == {1, 2}
    assert {len(names) for names in names_of(data["test"])} == {2}


def test_every_colour_and_every_shape_is_seen_in_training():
    colours, shapes = zip(*seen_combinations(), strict=True)
    assert set(colours) == set(COLOURS)
    assert set(shapes) == set(SHAPES)
    assert len(seen_combinations()) + len(HELD_OUT_COMBINATIONS) == len(COLOURS) * len(SHAPES)


def test_candidates_of_validation_and_test_differ_in_more_than_the_order_of_objects():
    data = draw_scenes((2, 2), sizes=SIZES)
    for split in ("validation", "test"):
        assert len(set(data[split]["concept"])) == len(data[split]) == 20


def test_a_caption_names_what_its_concept_names():
    for row in draw_scenes((1, 2), sizes=SIZES)["train"]:
        assert all(name in row["texts"][0] for name in row["concept"].split(", "))


def test_a_scene_of_several_objects_has_a_text_for_each_of_them_alone_too():
    for row in draw_scenes((1, 2), sizes=SIZES)["train"]:
        names = row["concept"].split(", ")
        alone = [f"This is {'an' if name[0] == 'o' else 'a'} {name}" for name in names]
        assert sorted(row["texts"][1:]) == (sorted(alone) if len(names) == 2 else [])
        assert len(names) == 2 or row["texts"] == alone


def test_scenes_follow_from_the_seed():
    first, again, other = (draw_scenes((1, 1), seed=seed, sizes={"train": 3})["train"] for seed in (0, 0, 1))
    assert first["image"] == again["image"] != other["image"]


@pytest.mark.parametrize(("text", "wanted"), [("2", (2, 2)), ("1-3", (1, 3))])
def test_numbers_of_objects_are_read(text, wanted):
    assert parse_objects(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "3-1", "x", "1-9", "1-"[:1] + "-x"])
def test_numbers_of_objects_that_make_no_scene_are_refused(text):
    with pytest.raises(ValueError, match="number of objects from 1 to 4"):
        parse_objects(text)


def test_a_folder_with_metadata_is_pairs_and_some_are_held_out(folder):
    data = load_pairs(str(folder), validation_fraction=2)
    assert {name: len(split) for name, split in data.items()} == {"train": 2, "validation": 2}
    rows = [row for split in data.values() for row in split]
    assert sorted(row["texts"][0] for row in rows) == [f"a {name} image" for name in ("blue", "green", "red", "white")]
    assert all(row["concept"] == row["texts"][0] for row in rows)


def test_a_folder_with_metadata_may_have_one_text_or_several_for_each_image(folder):
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        row["text"] = [row["text"], "an image"] if row["file_name"] != "0.png" else [row["text"]]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_pairs(str(folder), validation_fraction=2)
    texts = sorted(row["texts"] for split in data.values() for row in split)
    assert texts == [[f"a {name} image", "an image"] for name in ("blue", "green")] + [
        ["a red image"],
        ["a white image", "an image"],
    ]


def test_parquet_may_hold_several_texts_for_an_image_in_columns_of_any_name(folder, tmp_path):
    features = Features({"photo": Image(), "words": datasets.List(Value("string")), "id": Value("int64")})
    rows = {
        "photo": [str(folder / f"{number}.png") for number in range(4)],
        "words": [["one", " "], ["two", "deux"], ["three"], ["four"]],
        "id": [1, 2, 3, 4],
    }
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pairs.parquet")
    data = load_pairs(str(tmp_path / "pairs.parquet"), validation_fraction=2)
    texts = sorted(row["texts"] for split in data.values() for row in split)
    assert texts == [["four"], ["one"], ["three"], ["two", "deux"]]


def test_an_image_without_a_text_is_named(folder):
    rows = [{"file_name": f"{number}.png", "text": "" if number == 2 else "x"} for number in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"1 images of the train split .* have no text, the first in row 2"):
        load_pairs(str(folder))


def test_a_folder_of_images_without_texts_is_refused(folder):
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metadata\.jsonl"):
        load_pairs(str(folder))


def test_too_few_pairs_to_hold_any_out_are_refused(folder):
    with pytest.raises(ValueError, match="validation_fraction"):
        load_pairs(str(folder), validation_fraction=4)
    with pytest.raises(ValueError, match="at least two pairs in the validation split"):
        load_pairs(str(folder), validation_fraction=1)


def captions_by_row(folder, rows):
    """Write a metadata.jsonl of (file, text) rows and load it."""
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return load_pairs(str(folder), validation_fraction=2)


def test_rows_of_one_image_are_joined_so_that_none_is_held_out_from_itself(folder, caplog):
    # By its path, and as a copy of another name.
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    rows = [(f"{number}.png", f"text {number} {caption}") for caption in range(3) for number in range(4)]
    data = captions_by_row(folder, [*rows, ("copy.png", "a copy"), ("1.png", "text 1 0")])
    joined = [row for split in data.values() for row in split]
    assert {name: len(split) for name, split in data.items()} == {"train": 2, "validation": 2}
    assert sorted(len(row["texts"]) for row in joined) == [3, 3, 3, 4]
    assert all(row["concept"] == " / ".join(sorted(row["texts"])) for row in joined)
    assert "13 rows of the train split of" in caplog.text
    assert "show 4 images" in caplog.text
    assert "1 in a row that repeats another (1.png)" in caplog.text


def test_images_that_are_in_two_splits_are_counted(folder, caplog):
    features = Features({"image": Image(), "text": Value("string")})
    for name, numbers in (("train", (0, 1, 2)), ("validation", (2, 3))):
        images = [{"bytes": (folder / f"{number}.png").read_bytes(), "path": None} for number in numbers]
        rows = {"image": images, "text": [str(number) for number in numbers]}
        (folder / "parquet").mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(folder / "parquet" / f"{name}.parquet")
    data = load_pairs(str(folder / "parquet"))
    assert {name: len(split) for name, split in data.items()} == {"train": 3, "validation": 2}
    assert "1 images of the validation split" in caplog.text
