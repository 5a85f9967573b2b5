import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.cli.predict import SOME_UNREADABLE, main, predict
from modeling_omni_vision.data.image_files import find_images, path_of
from modeling_omni_vision.interop import convert_to_native


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_native_twin_predicts_what_ours_does_from_files_of_grey_and_colour_images(
    tiny_config, tmp_path, num_channels, registers
):
    config = type(tiny_config).from_dict(
        {**tiny_config.to_dict(), "pooling": "mean", "num_register_tokens": registers, "num_channels": num_channels}
    )
    model = OmniVisionForImageClassification(config).eval()
    with torch.no_grad():
        # Far from the initialisation the answers depend on the image, so that equal ones mean something.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.center_residual_().save_pretrained(tmp_path / "ours")
    processor = OmniVisionImageProcessor(size={"height": 32, "width": 32}, num_channels=num_channels)
    processor.save_pretrained(tmp_path / "ours")
    convert_to_native(tmp_path / "ours", tmp_path / "twin")
    draw = np.random.default_rng(0)
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for index, file in enumerate(files):
        Image.fromarray(draw.integers(0, 256, ((40, 30), (30, 50, 3))[index % 2], dtype=np.uint8)).save(file)
    with torch.inference_mode():
        logits = model(**processor(list(map(str, files)), return_tensors="pt")).logits
    best = logits.softmax(-1).max(-1)
    found = predict(str(tmp_path / "twin"), find_images(files)[0], batch_size=3)
    assert [one.label for one in found] == [config.id2label[index] for index in best.indices.tolist()]
    # The twin of a grey model does not round the grey of colours.
    assert [one.probability for one in found] == pytest.approx(
        best.values.tolist(), abs=1e-5 if num_channels == 3 else 0.02
    )


def test_the_command_compares_labels_with_folders_and_draws_a_sheet(tiny_config, tmp_path, capsys):
    tiny_config.id2label = {0: "dark", 1: "light"}
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    for folder, level in (("dark", 10), ("light", 250)):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("L", (9, 9), level).save(tmp_path / "images" / folder / "a.png")
    words = ["--model", str(tmp_path / "model"), "--images", str(tmp_path / "images")]
    main([*words, "--sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["truth", "dark", "light"]
    assert said[3].endswith("of 2 images have the class that their folder names")
    assert said[4] == f"Sheet: {tmp_path / 'sheet.png'}"
    assert Image.open(tmp_path / "sheet.png").width > 100
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["truth"] for one in found] == ["dark", "light"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="--images"):
        main([*words[:3], str(tmp_path / "empty")])


def test_files_and_folders_are_mixed_and_what_cannot_be_read_is_listed_without_a_truth(tiny_config, tmp_path, capsys):
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    (tmp_path / "holidays" / "deep").mkdir(parents=True)
    for name in ("one.png", "holidays/a.png", "holidays/deep/b.jpg"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    (tmp_path / "holidays" / "broken.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    words = ["--model", str(tmp_path / "model"), "--images", str(tmp_path / "one.png"), str(tmp_path / "holidays")]
    table = tmp_path / "found.csv"
    with pytest.raises(SystemExit) as stop:
        main(
            [*words, "--top_k", "2", "--csv", str(table), "--json", str(tmp_path / "found.json"), "--batch_size", "2"]
        )
    assert stop.value.code == SOME_UNREADABLE
    said = capsys.readouterr()
    assert "truth" not in said.out
    assert "broken.png" in said.err
    assert said.err.splitlines()[-1] == "1 of 4 files cannot be read"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert list(rows[0]) == ["image", "truth", "label", "probability", "label_2", "probability_2", "error"]
    by_name = {Path(row["image"]).name: row for row in rows}
    assert set(by_name) == {"one.png", "a.png", "b.jpg", "broken.png"}
    assert by_name["broken.png"]["error"]
    assert not by_name["broken.png"]["label"]
    assert float(by_name["a.png"]["probability"]) >= float(by_name["a.png"]["probability_2"])
    found = {Path(one["image"]).name: one for one in json.loads((tmp_path / "found.json").read_text())}
    assert (found["broken.png"]["label"], len(found["a.png"]["top"])) == (None, 2)


@pytest.fixture
def classifier(tiny_config, tmp_path):
    """A classifier of dark and light images."""
    tiny_config.id2label = {0: "dark", 1: "light"}
    OmniVisionForImageClassification(tiny_config).save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def draw(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(file, format="PNG")


def test_files_that_are_no_images_are_left_out_and_the_unreadable_are_listed(classifier, tmp_path, capsys, caplog):
    images = tmp_path / "images"
    names = ["a.png", "[b]*.png", "-r.png", "c::d.png", os.fsdecode(b"caf\xe9.png"), "deep/e.jpg"]
    draw(*(images / name for name in names))
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "notes.txt", "broken.png"):
        (images / name).write_text("no image")
    (images / "link").symlink_to(images / "deep")
    words = ["--model", classifier, "--images", str(images)]
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit):
        main([*words, "--json", str(tmp_path / "out" / "found.json")])
    said, listed = capsys.readouterr()
    assert "broken.png" in listed
    assert "caf\\xe9.png" in said
    assert "their folder names" not in said
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert {path_of(one["image"]).name for one in found} == {*map(os.path.basename, names), "broken.png"}
    assert {one["truth"] for one in found} == {None}
    (skipped,) = map(json.loads, (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert skipped["image"] == str(images / "broken.png")
    assert "1 .txt (notes.txt)" in caplog.text
    with pytest.raises(ValueError, match=r"1 of 8 images cannot be read: .*broken\.png"):
        main([*words, "--on_error", "stop"])
    with pytest.raises(ValueError, match="Expected readable images"):
        main([*words[:3], str(images / "broken.png")])


@pytest.mark.parametrize(
    ("place", "right"), [("images", "of 3"), ("images/dark", "of 2"), ("images/dark/2023", "of 0")]
)
def test_a_prediction_is_compared_where_a_folder_is_called_like_a_class(classifier, tmp_path, capsys, place, right):
    draw(*(tmp_path / "images" / name for name in ("dark/2023/a.png", "dark/b.png", "light/c.png", "other/d.png")))
    main(["--model", classifier, "--images", str(tmp_path / place)])
    said = capsys.readouterr().out
    assert (f"{right} images have the class" in said) == (right != "of 0")
    assert ("truth" in said) == (right != "of 0")
