"""Images to vectors on disk: what a row holds, what is left after a kill, what a broken image costs."""

import contextlib
import copy
import functools
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from modeling_omni_vision.cli.embed import main
from modeling_omni_vision.cli.predict import main as predict_command
from modeling_omni_vision.data.image_files import LeftOut
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.embedding import shards
from modeling_omni_vision.embedding.embed import embed
from modeling_omni_vision.embedding.pixels import PixelReader
from modeling_omni_vision.embedding.shards import read_vectors
from modeling_omni_vision.embedding.sources import Reader, list_rows
from modeling_omni_vision.embedding.vision_encoder import AGREEMENT, VisionEncoder
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor, OmniVisionImageProcessorPil
from modeling_omni_vision.interop.export.export import ExportOptions, export_model
from modeling_omni_vision.interop.to_native import convert_to_native
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel


ROOT = Path(__file__).parents[2]
SIZE = {"height": 32, "width": 32}
# `embed` in a process of its own, which waits in its first written shard for a signal.
STOPS_AFTER_A_SHARD = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's `&` around the tests has switched off
from modeling_omni_vision.cli.embed import main
from modeling_omni_vision.embedding.shards import Manifest

write = Manifest.write
def waits(self, *args, **kwargs):
    write(self, *args, **kwargs)
    print("a shard is written", flush=True)
    time.sleep(100)
Manifest.write = waits
main()
"""


def noise(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def content_of(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size=SIZE).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def images(tmp_path):
    """Twenty-two files: 18 images, two that are cut off, one of text, one of no pixels."""
    folder = tmp_path / "images"
    for number in range(18):
        path = folder / f"class {number % 3}" / f"{number:02d}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(30 + number, 25 + number, number).save(path)
    for suffix in ("png", "jpg"):
        whole = content_of(noise(), {"png": "PNG", "jpg": "JPEG"}[suffix])
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").touch()
    return folder


def skip_without(format):
    for package in {"openvino": ("openvino", "onnxscript"), "onnx": ("onnxruntime", "onnxscript")}.get(format, ()):
        pytest.importorskip(package, reason=f"needs the extra {format}")


torch_embed = functools.partial(embed, engine="torch", workers=2)


def files_of(output):
    return {path.name: path.read_bytes() for path in output.iterdir() if path.suffix in (".parquet", ".jsonl", ".npy")}


def test_every_image_is_a_right_vector_or_a_failure_with_a_reason(model, images, tmp_path):
    record = torch_embed(model, [str(images)], tmp_path / "out", batch_size=4, shard_rows=7, npy=True)
    rows, vectors = read_vectors(tmp_path / "out")
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert record["images"] == 22 == len(rows) + len(failures)
    assert {one["id"] for one in failures} == {"cut.png", "cut.jpg", "text.png", "empty.jpg"}
    assert all(len(one["reason"]) > 5 for one in failures)
    encoder, processor = OmniVisionModel.from_pretrained(model).eval(), OmniVisionImageProcessor(size=SIZE)
    for row, vector in zip(rows, vectors, strict=True):
        assert row["path"] == str(images / row["id"])
        assert (row["width"], row["height"]) == Image.open(row["path"]).size
        with torch.inference_mode():
            expected = encoder(**processor(images=[row["path"]], return_tensors="pt")).pooler_output[0]
        # float16 keeps 11 bits
        assert np.abs(vector - expected.numpy()).max() < 2e-3
    assert np.array_equal(np.load(tmp_path / "out/vectors.npy"), vectors)


def test_shards_open_in_pandas_datasets_and_duckdb(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)
    rows, vectors = read_vectors(tmp_path / "out")
    pattern = str(tmp_path / "out/vectors-*.parquet")
    for path in (tmp_path / "out").glob("vectors-*.parquet"):
        schema = pq.read_schema(path)
        assert schema.field("vector").type == pa.list_(pa.float16(), 32)
        assert json.loads(schema.metadata[b"omni_vision"])["schema_version"] == shards.SCHEMA_VERSION
    frames = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "out").glob("vectors-*.parquet")))
    assert list(frames["id"]) == [row["id"] for row in rows]
    assert np.array_equal(np.stack(frames["vector"]), vectors)
    loaded = load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"][:] == [row["id"] for row in rows]
    assert np.allclose(loaded["vector"][:], vectors)
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"SELECT id, vector FROM '{pattern}' ORDER BY id").fetchall()
    by_id = dict(zip((row["id"] for row in rows), vectors, strict=True))
    assert len(found) == len(rows)
    assert all(np.array_equal(np.array(vector, np.float16), by_id[name]) for name, vector in found)


def test_ids_order_and_vectors_depend_on_neither_workers_nor_place(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "one", workers=1, batch_size=4)
    moved = images.rename(tmp_path / "moved")
    torch_embed(model, [str(moved)], tmp_path / "many", workers=8, batch_size=4)
    (one, vectors), (other, others) = read_vectors(tmp_path / "one"), read_vectors(tmp_path / "many")
    assert [row["id"] for row in one] == [row["id"] for row in other]
    assert np.array_equal(vectors, others)


def test_a_broken_image_changes_no_vector_of_the_others(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "broken", batch_size=4)
    for name in ("cut.png", "cut.jpg", "text.png", "empty.jpg"):
        noise(seed=99).save(images / name)
    torch_embed(model, [str(images)], tmp_path / "whole", batch_size=4)
    (one, vectors), (other, others) = read_vectors(tmp_path / "broken"), read_vectors(tmp_path / "whole")
    by_id = dict(zip((row["id"] for row in other), others, strict=True))
    assert len(other) == len(one) + 4
    assert all(np.array_equal(by_id[row["id"]], vector) for row, vector in zip(one, vectors, strict=True))


def test_a_run_goes_on_where_it_stopped(model, images, tmp_path, monkeypatch):
    """Stopped after each write that the run makes, at the moment before its file appears."""
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=7)
    replace, stopped = Path.replace, 0

    def run(stop):
        count = itertools.count()

        def stops(self, target):
            if next(count) == stop:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", stops)
        try:
            torch_embed(model, [str(images)], tmp_path / f"stopped {stop}", shard_rows=7)
        except KeyboardInterrupt:
            return True
        finally:
            monkeypatch.setattr(Path, "replace", replace)
        return False

    while run(stopped):
        torch_embed(model, [str(images)], tmp_path / f"stopped {stopped}", shard_rows=7)
        assert files_of(tmp_path / f"stopped {stopped}") == files_of(tmp_path / "whole")
        assert not list((tmp_path / f"stopped {stopped}").glob(".*.partial"))
        stopped += 1
    # Engine, plan and settings; four shards with their entries; failures.jsonl and embed.json.
    assert stopped == 3 + 4 * 2 + 2


def test_a_finished_run_is_left_as_it_is_and_a_lost_shard_is_written_again(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)
    before = files_of(tmp_path / "out")
    assert torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)["last_run"]["images"] == 0
    (tmp_path / "out/vectors-00001-of-00004.parquet").unlink()
    assert torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)["last_run"]["images"] == 7
    assert files_of(tmp_path / "out") == before


def test_an_engine_is_taken_by_the_name_that_a_run_stores_and_a_misspelt_one_is_refused_before_the_model_opens(
    model, images, tmp_path, capsys
):
    words = ["--model", model, "--images", str(images / "class 0"), "--output", str(tmp_path / "out"), "--engine"]
    for _ in range(2):  # a run, and the same again
        main([*words, "torch", "sdpa", "bfloat16"])
        assert json.loads((tmp_path / "out/embed.json").read_text())["engine"] == "torch sdpa bfloat16"
    assert "0 images failed (failures.jsonl); 0 images" in capsys.readouterr().out
    main([*words, "auto"])
    with pytest.raises(ValueError, match="engine 'torch sdpa bfloat16', now 'torch eager float32'"):
        main([*words, "torch eager float32"])
    for wrong, near in {"torch sdpa bfloat6": "torch sdpa bfloat16", "torhc": "torch", "openvino int4": ""}.items():
        with pytest.raises(ValueError, match=rf"`engine` must be one of auto, .*got '{wrong}'.*{near}"):
            embed("nowhere", [str(images)], tmp_path / "new", engine=wrong)
    assert not (tmp_path / "new").exists()
    encoder = VisionEncoder(model)
    encoder.pooled.model._supports_sdpa = False
    for name in ("torch sdpa float32", "onnx exported"):
        with pytest.raises(ValueError, match=f"'{name}' is none of OmniVisionModel: take torch eager and a type"):
            encoder.engine(name, 4, print)


def test_what_is_not_as_it_was_is_said(model, images, tmp_path, tiny_config):
    run = functools.partial(torch_embed, output=tmp_path / "out")
    run(model, [str(images)])
    with pytest.raises(ValueError, match="pool 'cls', now 'mean'"):
        run(model, [str(images)], pool="mean")
    (images / "class 0/00.png").rename(tmp_path / "00.png")
    with pytest.raises(ValueError, match=r"1 gone \(class 0/00.png\)"):
        run(model, [str(images)])
    (tmp_path / "00.png").rename(images / "class 0/00.png")
    noise(seed=7).save(images / "class 1/new.png")
    with pytest.raises(ValueError, match=r"1 new \(class 1/new.png\)"):
        run(model, [str(images)])
    (images / "class 1/new.png").unlink()
    noise(seed=8).save(images / "cut.png")
    with pytest.raises(ValueError, match=r"1 changed \(cut.png\)"):
        run(model, [str(images)])
    (images / "cut.png").unlink()
    OmniVisionModel(tiny_config).save_pretrained(model)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3).save_pretrained(model)
    digest = r"'[0-9a-f]{11}\.\.\."
    expected = rf"with weights_digest {digest}, now {digest}; processor.image_mean \[.*, now \[.*\]\. Vectors of both"
    with pytest.raises(ValueError, match=expected) as said:
        run(model, [str(images)])
    assert "rescale_factor" not in str(said.value)


def test_parts_of_a_run_write_what_one_process_writes(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=5)
    for part in ("1/3", "0/3"):
        assert torch_embed(model, [str(images)], tmp_path / "parts", shard_rows=5, shard=part) is None
    assert torch_embed(model, [str(images)], tmp_path / "parts", shard_rows=5, shard="2/3")["rows"] == 18
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    with pytest.raises(ValueError, match="i/n"):
        torch_embed(model, [str(images)], tmp_path / "parts", shard="3/3")


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(model, images, tmp_path, monkeypatch):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=7)
    write, count = pq.write_table, itertools.count()

    def full(table, where, **options):
        if next(count) == 2:
            Path(where).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(table, where, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ValueError, match=r"No space left on device\. What is finished stays"):
        torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)
    assert not list((tmp_path / "out").glob(".*"))
    assert len(list((tmp_path / "out").glob("vectors-*"))) == 2
    torch_embed(model, [str(images)], tmp_path / "out", shard_rows=7)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def listed(*sources):
    return list(list_rows([*map(str, sources)], [], LeftOut()))


def test_sources_of_all_kinds_give_the_same_vectors_and_carry_their_columns(model, tmp_path):
    contents = [content_of(noise(seed=number)) for number in range(5)]
    (tmp_path / "files").mkdir()
    table = {"image": [{"bytes": one, "path": None} for one in contents], "label": [*range(5)], "id": ["a"] * 5}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet", row_group_size=2)
    with tarfile.open(tmp_path / "samples.tar", "w") as tar:
        for number, one in enumerate(contents):
            for name, part in ((f"{number}.png", one), (f"{number}.json", json.dumps({"label": number}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    for number, one in enumerate(contents):
        (tmp_path / f"files/{number}.png").write_bytes(one)
    lines = [json.dumps({"image": f"files/{number}.png", "label": number}) for number in range(5)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    (tmp_path / "list.txt").write_text("".join(f"files/{number}.png\n" for number in range(5)))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/metadata.csv").write_text("file_name,label\n" + "".join(f"{n}.png,{n}\n" for n in range(5)))
    for number, one in enumerate(contents):
        (tmp_path / f"metadata/{number}.png").write_bytes(one)
    sources = {"rows.parquet": "rows.parquet#0", "samples.tar": "samples.tar/0.png", "list.jsonl": "files/0.png"}
    sources |= {"list.txt": "files/0.png", "files": "0.png", "files/*.png": "0.png", "metadata": "0.png"}
    found = {}
    for source, first in sources.items():
        output = tmp_path / f"out-{source.replace('/', '-')}"
        torch_embed(model, [str(tmp_path / source)], output, batch_size=2, shard_rows=3)
        rows, found[source] = read_vectors(output)
        assert rows[0]["id"] == first
        if source not in ("list.txt", "files", "files/*.png"):
            parts = [pq.read_table(path) for path in sorted(output.glob("*.parquet"))]
            assert pa.concat_tables(parts)["label"].to_pylist() == [*range(5)]
    assert all(np.array_equal(vectors, found["files"]) for vectors in found.values())
    assert "metadata_id" in pq.read_schema(tmp_path / "out-rows.parquet/vectors-00000-of-00002.parquet").names
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/bucket/{number}.png": one for number, one in enumerate(contents)})
    torch_embed(model, ["memory://bucket"], tmp_path / "remote")
    rows, vectors = read_vectors(tmp_path / "remote")
    assert rows[0]["id"].endswith("bucket/0.png")
    assert np.array_equal(vectors, found["files"])


def test_an_image_that_is_named_twice_is_one_row_and_a_missing_one_is_a_failure(model, tmp_path):
    noise().save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\na.png\ngone.png\n")
    record = torch_embed(model, [str(tmp_path / "list.txt")], tmp_path / "out")
    assert (record["images"], record["rows"], record["failed"]) == (2, 1, 1)
    assert "gone.png" in (tmp_path / "out/failures.jsonl").read_text()


def test_odd_names_are_ids_that_can_be_stored(tmp_path):
    names = [b"caf\xe9.png", b"s p [a]*.png", "日本.png".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(content_of(noise()))
    rows = listed(tmp_path)
    assert {row.id for row in rows} == {"file:caf%E9.png", "s p [a]*.png", "日本.png"}
    assert all(row.id.encode() and row.place.encode() for row in rows)


def two_of_one_name(tmp_path, kind):
    """Write two sources, each with a different image of the same name."""
    for number, part in enumerate("ab"):
        (tmp_path / part).mkdir()
        content = content_of(noise(seed=number))
        (tmp_path / part / "1.png").write_bytes(content)
        if kind == "dataset":
            rows = Dataset.from_dict({"image": [{"bytes": content, "path": None}]}).cast_column(
                "image", ImageFeature()
            )
            rows.save_to_disk(tmp_path / part / "saved")
        elif kind == "txt":
            (tmp_path / part / "saved.txt").write_text("1.png\n")
        else:
            (tmp_path / part / "saved.jsonl").write_text('{"path": "1.png"}\n')
    return [f"{part}/saved{'' if kind == 'dataset' else f'.{kind}'}" for part in "ab"]


@pytest.mark.parametrize("kind", ["dataset", "txt", "jsonl"])
def test_different_images_of_one_id_are_all_listed_and_one_image_is_listed_once(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = two_of_one_name(tmp_path, kind)
    left_out = LeftOut()
    rows = list(list_rows([one, two, one, "b"], [], left_out))
    first = "train#0" if kind == "dataset" else "1.png"
    assert [row.id for row in rows[:2]] == [first, f"{two}:{first}"]
    assert [Reader().read(row) for row in rows[:2]] == (
        [(tmp_path / part / "1.png").read_bytes() for part in "ab"]
        if kind == "dataset"
        else [tmp_path / part / "1.png" for part in "ab"]
    )
    assert len(rows) == len({row.id for row in rows}) == (3 if kind == "dataset" else 2)
    assert left_out.counts["named twice"] == (1 if kind == "dataset" else 2)
    before = [Reader().read(row) for row in rows[:2]]
    monkeypatch.chdir("/")
    assert [Reader().read(row) for row in rows[:2]] == before


def test_ids_of_a_list_are_as_written_wherever_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("a b.png", "deep/c.png", "deep/d.png"):
        (tmp_path / name).write_bytes(content_of(noise()))
    lines = [f"{tmp_path}/deep/c.png", "deep/../a b.png", f"file://{tmp_path}/a%20b.png", "./deep/d.png", "gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    places = [tmp_path / name for name in ("deep/c.png", "a b.png", "a b.png", "deep/d.png")]
    for folder in ("/", tmp_path, tmp_path / "deep"):
        monkeypatch.chdir(folder)
        rows = listed(tmp_path / "list.txt")
        assert [row.id for row in rows] == lines
        assert all(Reader().read(row).samefile(place) for row, place in zip(rows, places, strict=False))
    with pytest.raises(FileNotFoundError):
        Reader().read(rows[-1]).stat()


@pytest.mark.parametrize("kind", ["tar", "txt", "a missing file"])
def test_names_that_are_no_text_are_read_from_tars_and_lists_too(kind, model, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    if kind == "tar":
        with tarfile.open(tmp_path / "source.tar", "w", errors="surrogateescape") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content := content_of(noise()))
            archive.addfile(member, io.BytesIO(content))
    else:
        (tmp_path / "source.txt").write_bytes(b"caf\xe9.png\n")
        if kind == "txt":
            (tmp_path / name).write_bytes(content_of(noise()))
    source = next(tmp_path.glob("source.*"))
    record = torch_embed(model, [str(source)], tmp_path / "out")
    assert (record["rows"], record["failed"]) == ((0, 1) if kind == "a missing file" else (1, 0))
    assert listed(source)[0].id == ("source.tar/" if kind == "tar" else "") + "file:caf%E9.png"


@pytest.mark.parametrize("source", ["gone", "gone/*.png", "no.tar"])
def test_a_source_that_is_none_is_refused(source, tmp_path):
    (tmp_path / "no.tar").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"Expected .*, got"):
        listed(tmp_path / source)


PROCESSORS = {
    "ours": lambda: OmniVisionImageProcessor(size={"height": 48, "width": 40}),
    "crop": lambda: OmniVisionImageProcessor(
        size={"shortest_edge": 50}, do_center_crop=True, crop_size=SIZE, resample=3
    ),
    "pil": lambda: OmniVisionImageProcessorPil(size=SIZE),
    "grey": lambda: OmniVisionImageProcessor(size=SIZE, num_channels=1),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_exact_pixels_are_the_processors_to_the_bit(name):
    processor = PROCESSORS[name]()
    reader = PixelReader(processor, processor.num_channels)
    assert reader.is_stepwise == (name != "pil")
    rgba = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 70, 4), dtype=np.uint8))
    deep = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (60, 70), dtype=np.uint16))
    sources = [content_of(noise(90, 70)), content_of(rgba), content_of(deep), content_of(noise().convert("L"), "JPEG")]
    sources.append(content_of(noise().convert("CMYK"), "JPEG"))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        sources.append(content_of(noise(101, 75), "JPEG", exif=exif))
    for source in sources:
        found = reader.read(source)
        assert torch.equal(reader.batch([found]), processor(images=[source], return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_pixels_are_near_the_exact_ones(orientation):
    processor, exif = OmniVisionImageProcessor(size={"height": 64, "width": 48}), Image.Exif()
    exif[0x0112] = orientation
    photograph = noise(20, 15).resize((801, 603), Image.Resampling.BICUBIC)
    source = content_of(photograph, "JPEG", exif=exif)
    exact, fast = (PixelReader(processor, 3, decode).read(source) for decode in ("exact", "fast"))
    assert exact.size == fast.size == ((801, 603) if orientation < 5 else (603, 801))
    # Measured 0.27, and 0.92 turned, where libjpeg scales to 1.6 times the target and not 3: noise of 20 x 15 cells.
    assert 0 < (exact.values.float() - fast.values.float()).abs().mean() < 1


def test_fast_is_refused_where_the_processor_does_more(model, images, tmp_path):
    with pytest.raises(ValueError, match="must be exact with OmniVisionImageProcessorPil"):
        PixelReader(OmniVisionImageProcessorPil(), 3, "fast")
    with pytest.raises(ValueError, match="one of exact, fast"):
        torch_embed(model, [str(images)], tmp_path / "out", decode="slow")


def test_pools_are_cls_mean_of_patches_and_patches(model, images, tmp_path):
    convert_to_native(model, tmp_path / "twin")
    vectors = {}
    for folder, pool in itertools.product((model, str(tmp_path / "twin")), ("cls", "mean", "grid")):
        output = tmp_path / f"{Path(folder).name} {pool}"
        torch_embed(folder, [str(images)], output, pool=pool, normalize=pool == "cls", npy=True)
        vectors[Path(folder).name, pool] = np.load(output / "vectors.npy")
    assert vectors["model", "grid"].shape == (18, 16, 32)
    assert np.abs(vectors["model", "grid"].mean(1) - vectors["model", "mean"]).max() < 2e-3
    assert np.abs(np.linalg.norm(vectors["model", "cls"].astype(float), axis=1) - 1).max() < 1e-3
    for pool in ("cls", "mean", "grid"):  # a model of transformers' own without a line of ours
        assert np.abs(vectors["model", pool] - vectors["twin", pool]).max() < 2e-3


@pytest.mark.parametrize(
    ("format", "pool"), [("openvino", "cls"), ("openvino", "mean"), ("onnx", "cls"), ("torch", "mean")]
)
def test_every_engine_gives_the_vectors_of_torch(model, images, tmp_path, format, pool):
    skip_without(format)
    export_model(model, tmp_path / "exported", ExportOptions(format=format), images=[str(images / "class 0")])
    torch_embed(model, [str(images)], tmp_path / "torch", pool=pool)
    expected = read_vectors(tmp_path / "torch")[1].astype(float)
    ways = {"exported": (str(tmp_path / "exported"), "auto")} | (
        {"made": (model, format)} if format != "torch" else {}
    )
    for way, (source, engine) in ways.items():
        output = tmp_path / f"vectors, {way}"
        record = embed(source, [str(images)], output, engine=engine, pool=pool, batch_size=4)
        assert record["engine"].split()[0] == format
        found = read_vectors(output)[1].astype(float)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((found * expected).sum(1) / norms).min() > 0.9999


def test_an_output_of_other_files_is_refused_and_left_alone(model, images, tmp_path):
    for output in (images, images / "class 0", images / "text.png"):
        before = sorted(images.rglob("*"))
        with pytest.raises(ValueError, match=r"with other files in it|which is a file"):
            torch_embed(model, [str(images)], output)
        assert sorted(images.rglob("*")) == before


def test_numbers_below_one_are_refused_before_anything_is_written(model, images, tmp_path):
    for name, value in itertools.product(("batch_size", "shard_rows", "workers", "limit"), (0, -1, 2.5)):
        with pytest.raises(ValueError, match=rf"Expected a whole `{name}` of at least 1, got {value}\."):
            embed(model, [str(images)], tmp_path / "out", engine="torch", **{name: value})
    assert not (tmp_path / "out").exists()
    # The corrected call is not refused as one of another run.
    assert torch_embed(model, [str(images)], tmp_path / "out", limit=1, shard_rows=1)["images"] == 1


def test_vectors_among_images_are_no_images(model, images, tmp_path):
    torch_embed(model, [str(images)], images / "vectors")
    assert torch_embed(model, [str(images)], tmp_path / "out")["images"] == 22


def test_a_run_without_any_image_does_not_bind_the_next_one(model, images, tmp_path):
    (tmp_path / "later").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError, match="got none"):
            torch_embed(model, [str(tmp_path / "later")], tmp_path / "out")
    shutil.copy(images / "class 0" / "00.png", tmp_path / "later")
    assert torch_embed(model, [str(tmp_path / "later")], tmp_path / "out")["rows"] == 1


def test_vectors_are_read_past_a_shard_in_which_all_images_failed(model, images, tmp_path):
    for number in range(4):
        (images / f"{number}.png").write_text("no image")
    record = torch_embed(model, [str(images)], tmp_path / "out", shard_rows=4)
    rows, vectors = read_vectors(tmp_path / "out")
    assert record["rows"] == len(rows) == len(vectors) == 18
    assert 0 in [pq.read_metadata(file).num_rows for file in (tmp_path / "out").glob("*.parquet")]


def test_a_line_feed_in_a_path_is_part_of_it(model, tmp_path):
    (tmp_path / "a\nb").mkdir()
    noise().save(tmp_path / "a\nb" / "c\nd.png")
    found = torch_embed(model, [str(tmp_path / "a\nb")], tmp_path / "out")
    assert (found["rows"], found["failed"]) == (1, 0)


def test_a_model_that_computes_nan_is_the_reason(tiny_model, images, tmp_path):
    broken = copy.deepcopy(tiny_model)
    torch.nn.init.constant_(broken.embeddings.cls_token, float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    OmniVisionImageProcessor(size=SIZE).save_pretrained(tmp_path / "nan")
    assert torch_embed(str(tmp_path / "nan"), [str(images / "class 0")], tmp_path / "out")["failed"] == 6
    reasons = {json.loads(line)["reason"] for line in (tmp_path / "out/failures.jsonl").open()}
    assert reasons == {"its vector is not finite: the model computes NaN or infinity"}


@pytest.mark.parametrize("format", ["torch", "onnx", "openvino"])
def test_an_export_of_the_vector_alone_gives_it_and_says_what_it_lacks(model, images, tmp_path, format):
    skip_without(format)
    options = ExportOptions(format=format, outputs="vector", uint8=format != "torch")
    places = [str(images / "class 0")]
    export_model(model, tmp_path / "exported", options, images=places)
    torch_embed(model, places, tmp_path / "torch")
    embed(str(tmp_path / "exported"), places, tmp_path / "out", batch_size=4)
    assert np.abs(read_vectors(tmp_path / "out")[1] - read_vectors(tmp_path / "torch")[1]).max() < 2e-3
    for pool in ("mean", "grid"):
        with pytest.raises(ValueError, match=f"with --outputs vector, and --pool {pool} reads tokens"):
            embed(str(tmp_path / "exported"), places, tmp_path / "other", pool=pool)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch"])
def test_an_exported_vector_of_a_pooler_in_berts_way_is_refused_and_an_identity_taken(model, images, tmp_path, format):
    places = [str(images / "class 0")]
    convert_to_native(model, tmp_path / "twin")
    export_model(tmp_path / "twin", tmp_path / "out", ExportOptions(format=format, outputs="vector"), images=places)
    for name in ("twin", "out"):
        torch_embed(str(tmp_path / name), places, tmp_path / f"{name}-vectors", batch_size=4)
    with pytest.raises(ValueError, match="got an exported encoder, which returns vectors"):
        predict_command(["--model", str(tmp_path / "out"), "--images", *places])
    found, expected = (read_vectors(tmp_path / f"{name}-vectors")[1] for name in ("out", "twin"))
    assert np.abs(found - expected).max() < 2e-3
    config = tmp_path / "out/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pooler_act": "tanh"}))
    with pytest.raises(ValueError, match="--pool cls reads tokens"):
        embed(str(tmp_path / "out"), places, tmp_path / "other")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_rounds_products_alone_so_that_vectors_stay_within_the_bound(attention):
    encoder = VisionEncoder(str(ROOT / "checkpoints/omni-vision-fashion-mnist"))
    reader = PixelReader(encoder.processor, encoder.num_channels)
    pixels = reader.batch([reader.read(row["bytes"]) for row in load_images("digits")["test"]["image"][:200]])
    ways = {"engine": encoder.engine(f"torch {attention} bfloat16", 16, print).run(pixels)}
    with torch.inference_mode():
        ways["all"] = copy.deepcopy(encoder.pooled).bfloat16()(pixels.bfloat16())
        expected = encoder.reference(pixels)
    least = {way: torch.cosine_similarity(found, expected).min() for way, found in ways.items()}
    assert least["all"] < AGREEMENT < least["engine"]


def test_an_export_runs_in_its_own_runtime_alone_and_must_be_an_encoder(model, images, tmp_path):
    export_model(model, tmp_path / "exported", ExportOptions(format="torch"), images=[str(images / "class 0")])
    with pytest.raises(ValueError, match="must be auto or torch, which this was exported for, got 'openvino'"):
        embed(str(tmp_path / "exported"), [str(images)], tmp_path / "out", engine="openvino")
    record = json.loads((tmp_path / "exported/export.json").read_text())
    (tmp_path / "exported/export.json").write_text(json.dumps(record | {"kind": "classifier"}))
    with pytest.raises(ValueError, match="exported classifier does not return its tokens"):
        embed(str(tmp_path / "exported"), [str(images)], tmp_path / "out")


def test_what_is_no_vision_model_is_refused(tiny_llama_folder, tmp_path):
    for folder in (tmp_path / "nothing", tiny_llama_folder):
        with pytest.raises(ValueError, match="Expected a vision checkpoint"):
            embed(str(folder), [str(tmp_path)], tmp_path / "out")


def test_the_command_lists_and_embeds(model, images, tmp_path, capsys):
    words = ["--model", model, "--images", str(images), "--output", str(tmp_path / "out")]
    main([*words, "--dry_run"])
    assert capsys.readouterr().out.startswith("22 images")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--limit", "5", "--engine", "torch"])
    assert ended.value.code == 3
    assert "1 vectors of shape (32,)" in (out := capsys.readouterr().out)
    assert "4 images failed" in out
    for output in ("out", "other"):  # what is finished with failures, and what is not begun
        with pytest.raises(ValueError, match=r"4 of 5 images cannot be read: .*cut\.jpg \(.*--on_error skip"):
            main([*words[:-1], str(tmp_path / output), "--limit", "5", "--engine", "torch", "--on_error", "stop"])
    assert not list((tmp_path / "other").glob("vectors-*"))


FORKS = multiprocessing.get_context("forkserver")  # as fresh processes, without their imports
PRELOADED = ("cli.embed", "embedding.embed", "interop.export.export", "interop.to_native")
FORKS.set_forkserver_preload(["pytest", "torchvision.io", *(f"modeling_omni_vision.{name}" for name in PRELOADED)])


def run_command(model, images, output):
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch_embed(model, [str(images)], output, shard_rows=3, batch_size=2)


def start(*words):
    process = FORKS.Process(target=run_command, args=words)
    process.start()
    return process


def test_two_processes_share_an_output(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=3, batch_size=2)
    both = [start(model, images, tmp_path / "shared") for _ in range(2)]
    for process in both:
        process.join(200)
        assert process.exitcode == 0
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_in_a_line_that_says_how_to_go_on_and_the_same_command_does(
    model, images, tmp_path, signum
):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=3, batch_size=2)
    output = tmp_path / "out"
    words = ["--model", model, "--images", str(images), "--output", str(output), "--engine", "torch"]
    words += ["--shard_rows", "3", "--batch_size", "2"]
    stopped = subprocess.Popen(
        [sys.executable, "-c", STOPS_AFTER_A_SHARD, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert next(line for line in stopped.stdout if "a shard is written" in line)
    stopped.send_signal(signum)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 128 + signum, said
    assert said.splitlines()[-1] == "Interrupted. The files that are written stay; the same command goes on."
    assert "Traceback" not in said
    assert 0 < len(list((output / "manifest").glob("0*.json"))) < 8
    torch_embed(model, [str(images)], output, shard_rows=3, batch_size=2)
    assert files_of(output) == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=3, batch_size=2)
    took = 0.0
    for number in range(2):  # the first one waits for the imports of the server
        begun = time.monotonic()
        start(model, images, tmp_path / f"timed {number}").join()
        took = time.monotonic() - begun
    draws, kills, written = random.Random(0), 0, []
    while kills < 50:
        output = tmp_path / f"killed {kills}"
        while (process := start(model, images, output)).exitcode is None:
            process.join(draws.uniform(0, took))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            written.append(len(list((output / "manifest").glob("0*.json"))))
        assert process.exitcode == 0
        assert files_of(output) == files_of(tmp_path / "whole")
    assert len({*written} & {*range(8)}) > 3  # before the first shard, between shards


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system of two megabytes")
def test_a_disk_that_is_full_is_one_sentence_and_room_lets_the_run_go_on(model, images, tmp_path):
    torch_embed(model, [str(images)], tmp_path / "whole", shard_rows=3)
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        for left in (0, 12_000, 30_000):  # nothing, the plan, some shards
            filler = small / "filler"
            filler.write_bytes(bytes(shutil.disk_usage(small).free - 65536))
            with filler.open("ab") as file, contextlib.suppress(OSError):
                file.write(bytes(65536 - left))
            with pytest.raises((ValueError, OSError), match="No space left on device"):
                torch_embed(model, [str(images)], small / "out", shard_rows=3)
            filler.unlink()
        torch_embed(model, [str(images)], small / "out", shard_rows=3)
        assert files_of(small / "out") == files_of(tmp_path / "whole")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.slow
def test_a_thousand_odd_and_broken_images_are_right_vectors_or_reasons(model, tmp_path):
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr")
    kinds = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
    folder, draws, made = tmp_path / "images", random.Random(0), 0
    folder.mkdir()
    while made < 1000:
        (kind, suffix), width, height = draws.choice([*kinds.items()]), draws.randint(1, 90), draws.randint(1, 90)
        mode = draws.choice(modes)
        exif = Image.Exif()
        exif[0x0112] = draws.randint(0, 9)
        try:
            image = noise(width, height, made)
            image = image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)
            content = bytearray(content_of(image, kind, **({"exif": exif} if kind != "GIF" else {})))
        except (OSError, ValueError, KeyError):  # not a mode of this format
            continue
        damage = draws.choice(("none", "none", "cut", "bytes", "head", "name"))
        if damage == "cut":
            content = content[: draws.randrange(len(content))]
        elif damage == "bytes":
            for _ in range(draws.randint(1, 20)):
                content[draws.randrange(len(content))] = draws.randrange(256)
        elif damage == "head":
            content[: draws.randint(1, 12)] = b""
        elif damage == "name":
            suffix = draws.choice([*kinds.values()])
        (folder / f"{made:04d}{suffix}").write_bytes(content)
        made += 1
    record = torch_embed(model, [str(folder)], tmp_path / "out")
    rows, vectors = read_vectors(tmp_path / "out")
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in [*rows, *failures]}) == len(rows) + len(failures) == 1000
    assert record["rows"] > 400
    assert record["failed"] > 100
    assert all(one["reason"] and "\n" not in one["reason"] for one in failures)
    tower, processor = OmniVisionModel.from_pretrained(model).eval(), OmniVisionImageProcessor.from_pretrained(model)
    for row, vector in zip(rows, vectors, strict=True):  # each alone, by the model's own way
        pixels = processor(images=[folder / row["id"]], return_tensors="pt")
        with torch.inference_mode():
            expected = tower(**pixels).pooler_output[0].numpy()
        assert np.abs(vector - expected).max() < 5e-3, row
    for one in failures:
        with pytest.raises((ValueError, OSError)):
            processor(images=[folder / one["id"]], return_tensors="pt")
