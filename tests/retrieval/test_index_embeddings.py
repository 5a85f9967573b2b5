import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch


pytest.importorskip("lancedb")
pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionConfig, OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.cli import index as index_command
from modeling_omni_vision.cli import search as search_command
from modeling_omni_vision.cli.program import SOME_UNREADABLE
from modeling_omni_vision.data.synthetic.shapes import draw_scene
from modeling_omni_vision.retrieval import index as index_module
from modeling_omni_vision.retrieval import recall as recall_module
from modeling_omni_vision.retrieval.embedded import EmbedFolder
from modeling_omni_vision.retrieval.index import ImageIndex


WIDTH = 20  # no multiple of 8, which the approximate index would refuse


def vectors_of(count, seed=0, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float16)


def write_embeddings(folder, vectors, start=0, shard=None, pool="cls", columns=None, **more):
    """Write what `omni-vision embed` writes; a list of arrays becomes many vectors an image, None a null."""
    folder.mkdir(parents=True, exist_ok=True)
    is_single = isinstance(vectors, np.ndarray)
    kind = pa.list_(pa.float16(), WIDTH)
    ids = [f"cats/{start + number}.png" for number in range(len(vectors))]
    table = {"id": ids, "path": [f"/images/{one}" for one in ids], "width": [3] * len(ids), "height": [2] * len(ids)}
    table |= {name: pa.array([value] * len(ids)) for name, (_, value) in (columns or {}).items()}
    made = [None if one is None else [list(row) for row in np.atleast_2d(one)] for one in vectors]
    if is_single:
        table["vector"] = pa.array([one[0] for one in made], kind)
    else:
        table["vectors"] = pa.array(made, pa.list_(kind))
    for number, first in enumerate(range(0, len(ids), shard or len(ids))):
        part = pa.table(table).slice(first, shard or len(ids))
        pq.write_table(part, folder / f"vectors-{number:05d}-of-00009.parquet")
    record = {"model": "made", "weights_digest": "0" * 64, "pool": pool, "rows": len(ids)}
    record |= {"vector": [WIDTH] if is_single else [9, WIDTH]}
    record |= {"columns": {name: kind for name, (kind, _) in (columns or {}).items()}} | more
    (folder / "embed.json").write_text(json.dumps(record))
    return EmbedFolder(folder)


def indexed(tmp_path, *folders, **options):
    index = ImageIndex(tmp_path / "index", folders[0], columns=folders[0].columns)
    return index, index.add_embeddings(folders, **options)


def cosines(query, vectors):
    rows = vectors.astype(np.float32)
    return rows @ query.numpy()[0] / np.linalg.norm(rows, axis=1)


def unit(seed):
    return torch.nn.functional.normalize(torch.from_numpy(vectors_of(1, seed)).float(), dim=-1)


def test_single_vectors_are_found_by_their_cosine_with_columns_and_metadata(tmp_path):
    vectors = vectors_of(40)
    columns = {"label": ("string", "cat"), "folder": ("string", "mine"), "year": ("int64", 2001)}
    index, done = indexed(tmp_path, write_embeddings(tmp_path / "v", vectors, shard=15, columns=columns))
    assert (done.added, done.failed, index.settings["metric"]) == (40, [], "cosine")
    query = unit(7)
    truth = cosines(query, vectors)
    hits = index.search(query, limit=40)
    assert [hit.id for hit in hits] == [f"cats/{number}.png" for number in np.argsort(truth)[::-1]]
    # Stored in 16 bits, of length 1.
    assert [hit.score for hit in hits] == pytest.approx(sorted(truth, reverse=True), abs=2e-3)
    first = hits[0].metadata
    assert (first["folder"], first["metadata_folder"], first["label"], first["year"]) == ("cats", "mine", "cat", 2001)
    assert (hits[0].path, first["width"], first["height"]) == (f"/images/{hits[0].id}", 3, 2)
    assert len(index.search(query, where="label = 'dog'")) == 0
    assert index.vectors(["cats/3.png"])["cats/3.png"].shape == (1, WIDTH)
    with pytest.raises(ValueError, match=r"query \(1, 20\)"):
        index.search(torch.ones(2, WIDTH))


def test_images_without_vectors_are_reported_and_never_counted(tmp_path):
    vectors = vectors_of(6)
    vectors[1], vectors[2, 0], vectors[3, 0] = 0, np.nan, np.inf
    folder = write_embeddings(tmp_path / "v", vectors)
    (tmp_path / "v" / "failures.jsonl").write_text('{"id": "x", "path": "/images/x.png", "reason": "cut off"}\n')
    index, done = indexed(tmp_path, folder)
    assert (done.added, len(index)) == (3, 3)
    assert [path for path, _ in done.failed] == ["/images/x.png", *(f"/images/cats/{n}.png" for n in (1, 2, 3))]
    many = [vectors_of(3), None, np.zeros((0, WIDTH)), vectors[:2], vectors_of(2)]
    other = write_embeddings(tmp_path / "many", many, pool="grid")
    index, done = indexed(tmp_path / "many index", other)
    assert (done.added, [path[-5] for path, _ in done.failed]) == (2, ["1", "2", "3"])
    assert len(index.search(torch.eye(WIDTH)[:2], limit=9)) == 2


def test_a_run_where_nothing_changed_reads_no_vector_and_one_with_changes_writes_only_these(tmp_path, monkeypatch):
    vectors = vectors_of(30)
    folder = write_embeddings(tmp_path / "v", vectors)
    index, _ = indexed(tmp_path, folder)
    index.optimize()
    version = index.table.version
    with monkeypatch.context() as patched:
        patched.setattr(EmbedFolder, "batches", lambda *args: pytest.fail("read"))
        assert indexed(tmp_path, EmbedFolder(folder.folder))[1].unchanged == 30
    index.optimize()
    assert index.table.version == version
    vectors[4] = vectors_of(1, 9)
    folder = write_embeddings(tmp_path / "w", np.concatenate([vectors, vectors_of(2, 3)]))
    index, done = indexed(tmp_path, folder)
    assert (done.added, done.updated, done.unchanged) == (2, 1, 29)
    # What was deleted comes back from a folder that has it.
    assert index.delete(["cats/1.png"]) == 1
    assert indexed(tmp_path, folder)[1].added == 1
    smaller = write_embeddings(tmp_path / "x", vectors[:10])
    assert indexed(tmp_path, smaller, remove_missing=True)[1].removed == 22


def test_images_without_vectors_are_reported_by_every_run_and_remove_missing_is_never_skipped(tmp_path):
    vectors = vectors_of(6)
    vectors[1] = 0
    folder, other = (
        write_embeddings(tmp_path / name, rows) for name, rows in (("v", vectors), ("w", vectors_of(3, 5)))
    )
    first = indexed(tmp_path, folder)[1]
    again = indexed(tmp_path, EmbedFolder(folder.folder))[1]
    assert again.failed == first.failed == [("/images/cats/1.png", first.failed[0][1])]
    assert (first.added, again.unchanged) == (5, 5)
    index, _ = indexed(tmp_path, other)
    # The last one that was indexed is unchanged, but the index has what it lacks.
    assert indexed(tmp_path, other, remove_missing=True)[1].removed == len(vectors) - 3
    assert len(index) == 3


@pytest.mark.parametrize("kind", ["files", "a tar", "Parquet", "a dataset", "addresses"])
def test_an_image_never_takes_the_place_of_another_of_the_same_id(tmp_path, kind):
    def place(part, number):
        if kind == "files":
            return str(tmp_path / f"{part}/cats/{number}.png")
        if kind == "addresses":
            return f"s3://{part}/cats/{number}.png"
        whole = {"a tar": f"{part}/a.tar", "Parquet": f"{part}/a.parquet", "a dataset": f"{part}:train"}[kind]
        return f"{tmp_path}/{whole}{'/' if kind == 'a tar' else '#'}{number}"

    def embedded(part, name, seed):
        folder = write_embeddings(tmp_path / name, vectors_of(4, seed))
        file = next(folder.folder.glob("*.parquet"))
        table = pq.read_table(file)
        column = pa.array([place(part, number) for number in range(4)])
        pq.write_table(table.set_column(table.schema.get_field_index("path"), "path", column), file)
        for number in range(4):
            made = tmp_path / f"{part}/cats/{number}.png"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()
        for container in ("a.tar", "a.parquet"):
            (tmp_path / part / container).touch()
        return folder

    index, _ = indexed(tmp_path, embedded("2020", "v", 1))
    later = embedded("2021", "w", 2)
    with pytest.raises(
        ValueError, match=r"4 images have the ids of others in the index, as 'cats/0.png': .*id_prefix"
    ):
        indexed(tmp_path, later)
    assert [hit.path for hit in index.search(unit(0), limit=4) if "2021" in hit.path] == []
    prefixed = ImageIndex(tmp_path / "index").add_embeddings([EmbedFolder(later.folder, "2021/")])
    assert prefixed.added == 4
    hit = index.search(unit(0), limit=9)
    assert {(one.id, one.metadata["folder"]) for one in hit if "2021" in one.path} == {
        (f"2021/cats/{number}.png", "2021/cats") for number in range(4)
    }
    # The same images in another place, where the old one is gone, and an index that shall have nothing else.
    if kind != "addresses":
        shutil.rmtree(tmp_path / "2020")
        assert indexed(tmp_path, later)[1].updated == 4
    else:
        assert indexed(tmp_path, later, remove_missing=True)[1].updated == 4


def test_new_rows_are_appended_and_only_known_ones_merged(tmp_path, monkeypatch):
    index, _ = indexed(tmp_path, write_embeddings(tmp_path / "v", vectors_of(30)))
    merged = []
    real = type(index.table).merge_insert
    monkeypatch.setattr(type(index.table), "merge_insert", lambda self, on: merged.append(on) or real(self, on))
    rows = [{"id": f"{number}"} for number in range(4)]
    index.add(rows, list(vectors_of(4)[:, None]))
    assert (merged, len(index)) == ([], 34)
    # Another process adds a row; this one must not add it twice.
    ImageIndex(tmp_path / "index").add([{"id": "theirs"}], [vectors_of(1)])
    index.add([{"id": "theirs"}, {"id": "4"}], list(vectors_of(2)[:, None]))
    assert (merged, len(index)) == (["id"], 36)
    with pytest.raises(ValueError, match="Expected 1 vector of width 20"):
        index.add([{"id": "two"}], [vectors_of(2)])


def test_a_stopped_run_goes_on(tmp_path):
    folder = write_embeddings(tmp_path / "v", vectors_of(30), shard=10)
    index = ImageIndex(tmp_path / "index", folder, columns=folder.columns)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add_embeddings([folder], report=stop)
    assert len(index) == 10
    done = indexed(tmp_path, folder)[1]
    assert (done.added, done.updated, done.unchanged) == (20, 0, 10)


@pytest.mark.parametrize(
    "wrong", [{"weights_digest": "1" * 64}, {"pool": "mean"}, {"vector": [8]}], ids=["weights", "pool", "width"]
)
def test_vectors_of_another_encoder_are_refused(tmp_path, wrong):
    index, _ = indexed(tmp_path, write_embeddings(tmp_path / "v", vectors_of(3)))
    other = write_embeddings(tmp_path / "w", vectors_of(3), **wrong)
    with pytest.raises(
        ValueError, match=f"made by 'made', with {next(iter(wrong)).replace('vector', 'embedding_dim')[:7]}"
    ):
        index.use(other)
    with pytest.raises(ValueError, match="finished `omni-vision embed`"):
        EmbedFolder(tmp_path)


def test_beyond_the_limit_scores_are_exact_recall_is_measured_once_and_bytes_are_those_of_the_rows(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(index_module, "SINGLE_EXACT_LIMIT", 500)
    vectors = vectors_of(4000)
    index, _ = indexed(tmp_path, write_embeddings(tmp_path / "v", vectors, shard=250))
    index.optimize()
    assert [one.index_type for one in index.table.list_indices()] == ["IvfRq"]
    cost = recall_module.measure(index)
    assert (cost["search_recall"] >= 0.98, cost["queries_are"]) == (True, "images of its own")
    monkeypatch.setattr(recall_module, "_measured", lambda *args: pytest.fail("measured again"))
    assert recall_module.measure(ImageIndex(tmp_path / "index")) == cost
    hits = index.search(unit(7), limit=5)
    truth = cosines(unit(7), vectors)
    assert all(hit.score == pytest.approx(truth[int(hit.id[5:-4])], abs=2e-3) for hit in hits)
    # A few more rows are searched without rearranging the index, and beside the others with scores of one kind.
    version = index.table.version
    index.add([{"id": "new"}], [unit(7).numpy()])
    index.optimize()
    assert index.table.version == version + 1
    assert (index.search(unit(7), limit=1)[0].id, recall_module.measure(index)) == ("new", cost)
    lance = sum(file.stat().st_size for file in (tmp_path / "index").rglob("*.lance") if file.is_file())
    index.add([{"id": f"again {number}"} for number in range(3000)], list(vectors_of(3000, 2)[:, None]))
    index.optimize()
    after = sum(file.stat().st_size for file in (tmp_path / "index").rglob("*.lance") if file.is_file())
    assert after < 1.8 * lance  # 7,001 rows and no old version, of which there were 4,000
    rows = sum(batch.nbytes for batch in index.table.search().limit(None).to_batches())
    assert index.num_bytes() < 1.2 * rows


def test_a_reader_whose_version_was_removed_reads_the_newest(tmp_path, monkeypatch):
    indexed(tmp_path, write_embeddings(tmp_path / "v", vectors_of(200), shard=20))
    reader, real, times = ImageIndex(tmp_path / "index"), ImageIndex._blocks, []

    def cleaned_meanwhile(self, where):
        blocks = real(self, where)
        if not times:
            times.append(1)
            for file in (tmp_path / "index").rglob("data/*.lance"):
                os.rename(file, file.with_suffix(".moved"))
            try:
                return iter(list(blocks))
            finally:
                for file in (tmp_path / "index").rglob("data/*.moved"):
                    os.rename(file, file.with_suffix(".lance"))
        return blocks

    monkeypatch.setattr(ImageIndex, "_blocks", cleaned_meanwhile)
    assert len(reader.search(unit(3))) == 10
    assert times == [1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = OmniVisionConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    OmniVisionModel(config).save_pretrained(folder)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("pool", "score"), [("cls", "cosine"), ("grid", "MaxSim")])
def test_commands_index_and_search_by_image_what_any_encoder_embedded(encoder, tmp_path, capsys, pool, score):
    from modeling_omni_vision.embedding.embed import embed

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(12):
        draw_scene(rng, 1, 48).image.save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no")
    embed(encoder, [str(tmp_path / "images")], tmp_path / "vectors", pool=pool, engine="torch")
    common = ["--index", str(tmp_path / "index")]
    with pytest.raises(SystemExit) as stopped:
        index_command.main([*common, "--embeddings", str(tmp_path / "vectors")])
    assert stopped.value.code == SOME_UNREADABLE
    said = capsys.readouterr().out
    assert "12 added" in said
    assert "broken.png" in said
    query = str(tmp_path / "images" / "5.png")
    search_command.main([*common, "--model", encoder, "--image", query, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (Path(found["hits"][0]["path"]).name, found["score"][:6]) == ("5.png", score)
    if pool == "cls":
        assert found["hits"][0]["score"] == pytest.approx(1, abs=2e-3)
    with pytest.raises(ValueError, match="Expected --image"):
        search_command.main([*common, "--model", encoder, "--text", "a cat"])
    with pytest.raises(ValueError, match="1 of 13 images cannot be read"):
        index_command.main([*common, "--embeddings", str(tmp_path / "vectors"), "--on_error", "stop"])
    for wrong in (["--model", encoder, "--embeddings", "a"], ["--embeddings", "a", "--images", "b"], []):
        with pytest.raises(ValueError, match="--model, with --images to encode, or --embeddings"):
            index_command.main([*common, *wrong])
