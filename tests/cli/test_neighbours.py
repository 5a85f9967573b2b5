import io
import json
import os
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_omni_vision.cli import neighbours
from modeling_omni_vision.cli.program import SOME_UNREADABLE
from modeling_omni_vision.embedding import sheets
from modeling_omni_vision.embedding.embed import embed
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def vectors(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for colour in COLOURS:
        (tmp_path / "images" / f"{colour}.png").write_bytes(png(colour))
    embed(str(tmp_path / "model"), [str(tmp_path / "images")], tmp_path / "vectors", engine="torch", workers=1)
    return str(tmp_path / "vectors")


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


def write_tar(file, members):
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def made(kind, folder):
    images = [png(colour) for colour in COLOURS]
    if kind == "parquet":
        pq.write_table(pa.table({"image": [images[0], b"broken", *images[1:]]}), folder / "q.parquet")
        return ["q.parquet"]
    if kind in ("tar", "list of a tar"):
        # A member that was appended again lies beside the older one.
        names = ["a.png", "broken.png", "b.png", "a.png"]
        write_tar(folder / "m.tar", zip(names, [images[0], b"broken", *images[1:]], strict=True))
        (folder / "l.jsonl").write_text(json.dumps({"image": "m.tar"}))
        return ["m.tar"] if kind == "tar" else ["l.jsonl"]
    if kind == "dataset":
        rows = [{"bytes": one, "path": None} for one in [b"broken", *images]]
        rows = datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image())
        rows.save_to_disk(folder / "saved")
        return ["saved"]
    names = ["broken.png", os.fsdecode(b"caf\xe9.png"), "b.png", "c.png"]
    for name, content in zip(names, [b"broken", *images], strict=True):
        (folder / name).write_bytes(content)
    return names


@pytest.mark.parametrize("kind", ["parquet", "tar", "list of a tar", "dataset", "files"])
def test_the_sheet_shows_each_query_that_can_be_read_wherever_it_lies(vectors, tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "queries").mkdir()
    queries = made(kind, tmp_path / "queries")
    monkeypatch.chdir(tmp_path / "queries")
    drawn = []
    monkeypatch.setattr(sheets, "draw_sheet", lambda images, above, *rest: drawn.append((images, above)))
    with pytest.raises(SystemExit) as stop:
        neighbours.main(["--embeddings", vectors, "--images", *queries, "--limit", "2", "--sheet", "nb.png"])
    assert stop.value.code == SOME_UNREADABLE
    assert len(capsys.readouterr().out.splitlines()) == 6
    ((images, above),) = drawn
    colours = [tuple(image[0, 0].tolist()) for image in images]
    asked = [colour for colour, line in zip(colours, above, strict=True) if line == "asked for"]
    assert sorted(asked) == sorted(COLOURS.values())
    # The nearest of each is the same picture.
    assert asked == [colour for colour, line in zip(colours, above, strict=True) if line == "1. cosine 1.000"]


def test_a_query_that_is_gone_before_the_sheet_is_drawn_is_grey_and_costs_no_result(
    vectors, tmp_path, monkeypatch, capsys
):
    (tmp_path / "a.png").write_bytes(png("red"))
    monkeypatch.setattr(neighbours, "query_images", gone_before(neighbours.query_images, tmp_path / "a.png"))
    words = ["--embeddings", vectors, "--images", str(tmp_path / "a.png"), "--sheet", str(tmp_path / "nb.png")]
    neighbours.main([*words, "--limit", "1"])
    assert capsys.readouterr().out.startswith("  1  1.0000")
    assert np.asarray(Image.open(tmp_path / "nb.png")).size


def gone_before(call, file):
    def called(*given):
        file.unlink()
        return call(*given)

    return called
