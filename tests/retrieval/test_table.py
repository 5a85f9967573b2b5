"""Names of columns: those that Lance refuses are others in an index, and no index is begun with one of them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


pytest.importorskip("lancedb")
pytest.importorskip("sentence_transformers")

from modeling_omni_vision.embedding.shards import Manifest
from modeling_omni_vision.embedding.sources import Row
from modeling_omni_vision.retrieval.embedded import EmbedFolder
from modeling_omni_vision.retrieval.index import ImageIndex
from modeling_omni_vision.retrieval.table import LANCE_FIELDS, storable_name


def embedded(folder, metadata):
    """Write what `omni-vision embed` writes of two images with this metadata."""
    settings = {"vector": [8], "weights_digest": "0" * 64, "pool": "cls", "normalize": False}
    rows = [Row(f"{number}.png", f"/{number}.png", "", -1, 0, 0, json.dumps(metadata)) for number in range(2)]
    manifest = Manifest(folder, settings, rows, 10)
    manifest.write(0, rows, list(np.eye(8, dtype=np.float16)[:2]), [(3, 2)] * 2)
    manifest.finish({"model": "made"}, False)
    return EmbedFolder(folder)


def indexed(tmp_path, metadata):
    """Return the metadata that the nearest image has in an index of these."""
    folder = embedded(tmp_path / "v", metadata)
    index = ImageIndex(tmp_path / "index", folder, columns=folder.columns)
    assert index.add_embeddings([folder]).added == 2
    index.optimize(approximate=False)
    hit = index.search(np.eye(8, dtype=np.float32)[:1], limit=1)[0]
    assert (hit.id, index._candidates(index._query(np.eye(8)[:1]), None, 1).num_rows) == ("0.png", 2)
    ours = ("folder", "name", "bytes", "modified", "width", "height")
    return {name: value for name, value in hit.metadata.items() if name not in ours}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("caption.txt", "caption_txt"),
        (".", "_"),
        ("a.b.c", "a_b_c"),
        ("`a`", "_a_"),
        ("a\0b", "a_b"),
        ("", "metadata_"),
        ("_distance", "metadata__distance"),
        *((name, f"metadata_{name}") for name in LANCE_FIELDS),
        ("folder", "metadata_folder"),
        ("id", "metadata_id"),
        # What Lance takes stays.
        *((name, name) for name in ("_score", "_ROWID", "a b", "q'", 'a"b', "a/b[0]", "select", "日本", "vectors2")),
    ],
)
def test_columns_that_lance_refuses_have_names_that_say_what_they_were(tmp_path, name, expected):
    assert indexed(tmp_path, {name: "x"}) == {expected: "x"}


def test_no_two_columns_become_one(tmp_path):
    metadata = {
        "a.b": 1,
        "a_b": 2,
        "a`b": 3,
        "metadata_a_b": 4,
        "id": 5,
        "metadata_id": 6,
        "name": 7,
        "metadata_name": 8,
    }
    found = indexed(tmp_path, metadata | {"": 9, "metadata_": 10})
    assert sorted(found.values()) == [*range(1, 11)]
    kept = ("a_b", "metadata_a_b", "metadata_id", "metadata_name", "metadata_")
    assert [found[name] for name in kept] == [2, 4, 6, 8, 10]
    filtered = ImageIndex(tmp_path / "index").search(np.eye(8)[:1], where="metadata_id = 6 AND a_b = 2")
    assert len(filtered) == 2


def test_kinds_are_those_of_the_columns_whatever_their_names(tmp_path):
    metadata = {"id": 1.5, "metadata_id": True, "x.y": "t", "x_y": 3}
    types = {"metadata_metadata_id": "float", "metadata_id": "bool", "metadata_x_y": "str", "x_y": "int"}
    assert embedded(tmp_path / "v", metadata).columns == {"width": "int", "height": "int"} | types


def test_shards_that_lost_one_of_two_columns_are_indexed_without_it(tmp_path):
    folder = embedded(tmp_path / "v", {"id": 5, "metadata_id": 6})
    table = pq.read_table(folder.shards[0]).drop_columns("metadata_metadata_id")
    pq.write_table(table, folder.shards[0])
    index = ImageIndex(tmp_path / "index", folder, columns=folder.columns)
    index.add_embeddings([folder])
    found = index.search(np.eye(8)[:1], limit=1)[0].metadata
    assert (found["metadata_id"], found["metadata_metadata_id"]) == (6, None)


@pytest.mark.parametrize("name", ["caption.txt", "a`b", "", "a\0b", "\ud83d", "_distance", *LANCE_FIELDS, "vectors"])
def test_an_index_of_a_column_that_lance_refuses_is_never_begun(tmp_path, name):
    folder = embedded(tmp_path / "v", {})
    with pytest.raises(ValueError, match="`columns` must map names other than"):
        ImageIndex(tmp_path / "index", folder, columns={name: "str"})
    assert not (tmp_path / "index").exists()


def test_what_is_refused_is_what_lance_refuses(tmp_path):
    lancedb = pytest.importorskip("lancedb")
    database = lancedb.connect(tmp_path)
    for number, name in enumerate(["caption.txt", "`a`", "", *LANCE_FIELDS]):
        row = pa.table([[1], ["x"]], schema=pa.schema([("id", pa.int64()), (name, pa.string())]))
        with pytest.raises((RuntimeError, ValueError)):
            database.create_table(f"t{number}", schema=row.schema).add(row)
        assert storable_name(name) != name or name in ("", *LANCE_FIELDS)
