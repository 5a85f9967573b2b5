"""Columns of a source in the shards: no value or name of theirs stops a run, and none is lost."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_omni_vision.data.image_files import LeftOut
from modeling_omni_vision.embedding.shards import Manifest, free_names
from modeling_omni_vision.embedding.sources import list_rows


SETTINGS = {"vector": [4], "weights_digest": "0" * 64, "pool": "cls", "normalize": False}


def written(source, output):
    """Plan and write the images of a source with vectors of zeros; return its shard, and the manifest."""
    manifest = Manifest(output, SETTINGS, list_rows([str(source)], [], LeftOut()), 10)
    rows = manifest.rows(0)
    manifest.write(0, rows, [np.zeros(4, np.float16)] * len(rows), [(3, 2)] * len(rows))
    return pq.read_table(manifest.shard(0)), manifest


def listed(tmp_path, *rows):
    """Write a list of images with these columns, as the escapes of JSON say them."""
    lines = [json.dumps({"image": f"{number}.png", **row}) for number, row in enumerate(rows)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    return tmp_path / "list.jsonl"


def png():
    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, "PNG")
    return content.getvalue()


MOST, LEAST = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([MOST, LEAST, None], pa.int64(), [MOST, LEAST, None]),
        ([MOST + 6, 5], pa.string(), [str(MOST + 6), "5"]),
        ([5, None, LEAST - 1], pa.string(), ["5", None, str(LEAST - 1)]),
        ([2**70], pa.string(), [str(2**70)]),
        ([2**53, 0.5, -(2**53)], pa.float64(), [2.0**53, 0.5, -(2.0**53)]),
        # A double holds no such integer; Arrow refuses to round it.
        ([2**53 + 1, 0.5], pa.string(), [str(2**53 + 1), "0.5"]),
        ([0.5, 2**70], pa.string(), ["0.5", str(2**70)]),
        ([1, True, "a"], pa.string(), ["1", "true", "a"]),
        ([[2**70], {"a": 1}], pa.string(), [f"[{2**70}]", '{"a": 1}']),
    ],
    ids=["int64", "above", "below", "far above", "exact in double", "inexact", "float first", "mixed", "nested"],
)
def test_integers_that_arrow_does_not_hold_are_their_digits(tmp_path, values, kind, stored):
    table, _ = written(listed(tmp_path, *({"phash": one} for one in values)), tmp_path / "out")
    assert (table.schema.field("phash").type, table["phash"].to_pylist()) == (kind, stored)


def test_integers_of_unsigned_columns_and_of_tars_are_their_digits_too(tmp_path):
    table = {
        "image": [png()] * 2,
        "hash": pa.array([1, 2**64 - 1], pa.uint64()),
        "small": pa.array([1, 2], pa.uint64()),
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    found, _ = written(tmp_path / "rows.parquet", tmp_path / "out")
    assert (found["hash"].to_pylist(), found["small"].to_pylist()) == (["1", str(2**64 - 1)], [1, 2])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, part in (("a.png", png()), ("a.json", json.dumps({"phash": 2**63 + 5}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            tar.addfile(member, io.BytesIO(part))
    assert written(tmp_path / "a.tar", tmp_path / "tar")[0]["phash"].to_pylist() == [str(2**63 + 5)]


def test_lone_surrogates_are_their_escapes_in_values_and_names(tmp_path):
    rows = {
        "high": "a \ud83d b",
        "low": "\ude00",
        "whole": "\U0001f600",
        "nested": ["\ud83d"],
        "\ud83d": 1,
    }
    source = listed(tmp_path, rows | {"\ud83e": 2})
    found, manifest = written(source, tmp_path / "out")
    values = {name: found[name][0].as_py() for name in manifest.settings["columns"]}
    assert values == {
        "high": r"a \ud83d b",
        "low": r"\ude00",
        "whole": "\U0001f600",
        "nested": r'["\\ud83d"]',
        r"\ud83d": 1,
        r"\ud83e": 2,
    }
    # The same list is the same plan: the run goes on.
    assert written(source, tmp_path / "out")[0].equals(found)
    # Bytes that are no UTF-8.
    source.write_bytes(b'{"image": "0.png", "title": "caf\xe9"}')
    assert written(source, tmp_path / "latin")[0]["title"].to_pylist() == [r"caf\udce9"]


@pytest.mark.parametrize("own", ["id", "path", "width", "vector", "vectors"])
def test_columns_of_our_names_lose_none_of_the_sources(tmp_path, own):
    row = {own: 5, f"metadata_{own}": 6, f"metadata_metadata_{own}": "x"}
    found, _ = written(listed(tmp_path, row), tmp_path / "out")
    names = [name for name in found.column_names if name.startswith("metadata_")]
    assert {name.count("metadata_"): found[name][0].as_py() for name in names} == {1: 6, 2: "x", 3: 5}
    assert found["id"].to_pylist() == ["0.png"]


def test_free_names_stay_what_they_are_wherever_they_can():
    names = ["a.b", "id", "a_b", "metadata_a_b", "a-b", "metadata_id"]
    found = free_names(names, ("id",), lambda name: name.replace(".", "_"))
    assert [*found] == names
    assert {name: one for name, one in found.items() if one != name} == {
        "a.b": "metadata_metadata_a_b",
        "id": "metadata_metadata_id",
    }
