"""Images of hits are read wherever they lie, and captions name the score of the index."""

import io
import json
import os
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


pytest.importorskip("lancedb")
pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.cli import index as index_command
from modeling_omni_vision.cli import search as search_command
from modeling_omni_vision.data.image_files import LeftOut
from modeling_omni_vision.embedding.embed import embed
from modeling_omni_vision.embedding.sources import list_rows
from modeling_omni_vision.retrieval import contact_sheet as module
from modeling_omni_vision.retrieval.contact_sheet import short_path, thumbnails


COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


def write_parquet(file):
    with file.open("wb") as content:  # Arrow itself takes no name of other bytes
        pq.write_table(pa.table({"image": [png(colour) for colour in COLOURS]}), content)
    return file


def write_tar(file, names=("b/red.png", "b/lime.png", "b.tar/blue.png")):
    with tarfile.open(file, "w") as tar:
        for name, colour in zip(names, COLOURS, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(png(colour))
            tar.addfile(member, io.BytesIO(png(colour)))
            note = tarfile.TarInfo(name.replace(".png", ".json"))
            note.size = 2
            tar.addfile(note, io.BytesIO(b"{}"))
    return file


def write_files(folder):
    folder.mkdir(parents=True)
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(png(colour))
    return folder


def made(kind, folder):
    folder.mkdir()
    if kind == "parquet":
        return write_parquet(folder / "Rows.PARQUET")
    if kind == "parquet in a folder of other bytes":
        (folder / os.fsdecode(b"caf\xe9")).mkdir()
        return write_parquet(folder / os.fsdecode(b"caf\xe9") / "a#b%41.parquet").parent
    if kind == "tar":
        return write_tar(folder / "members.tar")
    if kind == "tar in a folder named like one, with members of odd names":
        (folder / "all.tar").mkdir()
        return write_tar(folder / "all.tar" / "x.tar", ("./red.png", "a#0:b#1.png", os.fsdecode(b"caf\xe9%41.png")))
    if kind == "list of a tar":
        write_tar(folder / "members.tar")
        (folder / "lists").mkdir()
        (folder / "lists" / "l.jsonl").write_text(json.dumps({"path": "../members.tar"}))
        return folder / "lists" / "l.jsonl"
    if kind == "dataset":
        rows = datasets.Dataset.from_dict({"image": [{"bytes": png(one), "path": None} for one in COLOURS]})
        rows.cast_column("image", datasets.Image()).save_to_disk(folder / "saved")
        return folder / "saved"
    if kind == "address":
        return f"local://{write_files(folder / 'files')}"
    if kind == "tar at an address":
        return f"local://{write_tar(folder / 'members.tar')}"
    files = write_files(folder / "a:b.parquet#0")
    for number, colour in enumerate(COLOURS):
        (files / f"{colour}.png").rename(files / f"c.parquet#{number}")
    (folder / "l.txt").write_text("".join(f"{files}/c.parquet#{number}\n" for number in range(3)))
    return folder / "l.txt"


@pytest.mark.parametrize(
    "kind",
    [
        "parquet",
        "parquet in a folder of other bytes",
        "tar",
        "tar in a folder named like one, with members of odd names",
        "list of a tar",
        "dataset",
        "address",
        "tar at an address",
        "files named like rows",
    ],
)
def test_the_image_of_every_address_of_embed_is_read(tmp_path, kind):
    rows = list(list_rows([str(made(kind, tmp_path / "made"))], [], LeftOut()))
    images = thumbnails([row.path for row in rows])
    assert sorted(image.getpixel((0, 0)) for image in images if image) == sorted(COLOURS.values())
    # In any order, and beside others: one image is not taken for another.
    again = thumbnails([*(row.path for row in rows[::-1]), str(tmp_path / "gone.png")])
    assert [image and image.getpixel((0, 0)) for image in again] == [
        *(image.getpixel((0, 0)) for image in images[::-1]),
        None,
    ]


@pytest.mark.parametrize("end", ["q.parquet#7", "none.parquet#0", "m.tar/none.png", "none.tar/a.png", "none:train#0"])
def test_what_is_gone_is_none(tmp_path, end):
    write_parquet(tmp_path / "q.parquet")
    write_tar(tmp_path / "m.tar")
    assert thumbnails([str(tmp_path / end)]) == [None]


def test_a_name_that_is_no_text_is_drawn_escaped(tmp_path):
    assert short_path((tmp_path / "lat" / os.fsdecode(b"latin\xe9.png")).as_uri()) == "lat\nlatin\\xe9.png"
    assert short_path("/a/m.tar/deep/100%25.png") == "deep\n100%25.png"


@pytest.mark.parametrize(("pool", "score"), [("cls", "cosine"), ("grid", "MaxSim")])
def test_a_sheet_shows_rows_and_members_under_the_score_of_the_index(tiny_model, tmp_path, monkeypatch, pool, score):
    tiny_model.save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    sources = [write_parquet(tmp_path / "q.parquet"), write_tar(tmp_path / "m.tar"), write_files(tmp_path / "f")]
    embed(str(tmp_path / "model"), [*map(str, sources)], tmp_path / "v", pool=pool, engine="torch", workers=1)
    index = ["--index", str(tmp_path / "index")]
    index_command.main([*index, "--embeddings", str(tmp_path / "v"), "--measure", "false"])
    drawn = []
    monkeypatch.setattr(module, "draw_sheet", lambda images, above, below, *rest: drawn.append((images, above, below)))
    query = ["--image", str(tmp_path / "f" / "red.png"), "--sheet", str(tmp_path / "hits.png")]
    search_command.main([*index, "--model", str(tmp_path / "model"), *query])
    images, above, below = drawn[0]
    colours = [tuple(image[0, 0].tolist()) for image in images]
    assert sorted(colours) == sorted([*COLOURS.values()] * 3)
    assert not any("cannot be read" in line for line in below)
    assert [line.split()[:2] for line in above] == [[f"{rank}.", score] for rank in range(1, 10)]
