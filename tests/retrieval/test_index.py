import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image


pytest.importorskip("lancedb")
pytest.importorskip("sentence_transformers")

from test_retrieval_model import config, word_tokenizer  # skips this module too where transformers is too old

from modeling_omni_vision import OmniVisionForRetrieval, OmniVisionImageProcessor, OmniVisionRetrievalProcessor
from modeling_omni_vision.cli import embed as embed_script
from modeling_omni_vision.cli import index as index_script
from modeling_omni_vision.cli import search as search_script
from modeling_omni_vision.data.image_files import find_images, path_of
from modeling_omni_vision.data.synthetic.shapes import draw_scene
from modeling_omni_vision.embedding.encoder import ImageTextEncoder
from modeling_omni_vision.retrieval import index as index_module
from modeling_omni_vision.retrieval.contact_sheet import contact_sheet
from modeling_omni_vision.retrieval.index import ImageIndex
from modeling_omni_vision.retrieval.recall import measure, overlap, patch_queries, pooling_overlap, search_recall


WIDTH = 16


def checkpoint(folder, seed=0, **changes):
    torch.manual_seed(seed)
    options = config(**changes)
    model = OmniVisionForRetrieval(options).eval()
    with torch.no_grad():
        # Far from the initialisation vectors differ between patches and images.
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    OmniVisionRetrievalProcessor(images, word_tokenizer(), options.image_seq_length).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "search")


@pytest.fixture(scope="module")
def encoder(model):
    return ImageTextEncoder(model)


@pytest.fixture
def images(tmp_path):
    """Eight drawn images in two folders."""
    rng = np.random.default_rng(0)
    for number in range(8):
        file = tmp_path / "images" / ("cats", "dogs")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_scene(rng, 1, 48).image.save(file)
    return tmp_path / "images"


class StubEncoder(SimpleNamespace):
    """Replaces a checkpoint where vectors are added without encoding."""

    def __init__(self, **changes):
        super().__init__(**{"name": "made", "embedding_dim": WIDTH, "weights_digest": "0" * 64} | changes)


def random_vectors(count, seed=0, lengths=(1, 9)):
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=(rng.integers(*lengths), WIDTH)) for _ in range(count)]
    return [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float16) for one in made]


def rows_of(count, start=0, **more):
    return [{"id": f"{number}", "path": f"{number}.png", **more} for number in range(start, start + count)]


def by_hand(query, vectors):
    return [float((query @ torch.from_numpy(one).float().T).amax(1).sum()) for one in vectors]


# --- vectors ---


def test_scores_are_maxsim_of_ragged_vectors_and_come_best_first(tmp_path):
    index, vectors = ImageIndex(tmp_path, StubEncoder()), random_vectors(30)
    assert len({len(one) for one in vectors}) > 3
    index.add(rows_of(30), vectors)
    query = torch.from_numpy(random_vectors(1, 9, (4, 5))[0]).float()
    truth = by_hand(query, vectors)
    hits = index.search(query, limit=30)
    assert [hit.id for hit in hits] == [str(number) for number in np.argsort(truth)[::-1]]
    # 32-bit sums in another order.
    assert [hit.score for hit in hits] == pytest.approx(sorted(truth, reverse=True), abs=1e-5)
    assert index.search(query, limit=3) == hits[:3]


def test_an_image_added_again_is_replaced_and_one_deleted_is_gone(tmp_path):
    index, vectors = ImageIndex(tmp_path, StubEncoder()), random_vectors(12)
    index.add(rows_of(10), vectors[:10])
    query = torch.from_numpy(vectors[11]).float()
    before = index.search(query, limit=1)[0]
    index.add(rows_of(1, folder="new"), vectors[11:])
    best = index.search(query, limit=1)[0]
    assert (len(index), best.id, best.metadata["folder"]) == (10, "0", "new")
    assert best.score == pytest.approx(len(query), abs=1e-2) != before.score
    assert index.delete(["0", "no such id"]) == 1
    assert "0" not in {hit.id for hit in index.search(query, limit=10)}


def test_a_filter_searches_only_what_it_finds_and_deletes_it(tmp_path):
    index = ImageIndex(tmp_path, StubEncoder(), columns={"year": "int", "mine": "bool", "share": "float", "of": "str"})
    rows = [row | {"year": 2000 + int(row["id"]), "mine": row["id"] < "5", "of": "it's"} for row in rows_of(10)]
    index.add(rows, random_vectors(10))
    query = torch.eye(WIDTH)[:2]
    found = index.search(query, where="year >= 2007")
    assert {hit.metadata["year"] for hit in found} == {2007, 2008, 2009}
    assert found[0].metadata["share"] is None
    assert len(index.search(query, where="mine AND of = 'it''s'")) == 5
    assert index.search(query, where="year > 3000") == []
    assert index.delete(where="NOT mine") == 5
    assert {row["id"] for row in index.rows()} == set("01234")


def test_ids_of_any_characters_are_ids_and_never_a_filter(tmp_path):
    index = ImageIndex(tmp_path, StubEncoder())
    names = ["it's", "' OR '1'='1", '"; DROP TABLE images; --', "фото 猫 🐈.png", "%", "_", "\\", " ", "a\nb", "0"]
    index.add([{"id": name, "path": name} for name in names], random_vectors(len(names)))
    assert {hit.id for hit in index.search(torch.eye(WIDTH)[:1], limit=20)} == set(names)
    assert set(index.vectors(names[:3])) == set(names[:3])
    assert index.delete(["' OR '1'='1", "nobody"]) == 1
    assert index.delete(names) == len(names) - 1
    assert len(index) == 0


@pytest.mark.parametrize("where", ["folder =", "nothing = 3", "folder = 'x'; DROP TABLE images", "SELECT"])
def test_an_invalid_filter_is_a_value_error_that_names_the_columns(tmp_path, where):
    index = ImageIndex(tmp_path, StubEncoder())
    index.add(rows_of(3), random_vectors(3))
    for use in (lambda: index.search(torch.eye(WIDTH)[:1], where=where), lambda: index.delete(where=where)):
        with pytest.raises(ValueError, match="SQL condition on id, path, folder"):
            use()
    assert len(index) == 3


def test_an_empty_index_finds_nothing_and_can_be_optimised_and_measured(tmp_path):
    index = ImageIndex(tmp_path, StubEncoder())
    assert index.search(torch.eye(WIDTH)[:1]) == index.rows() == []
    index.optimize()
    assert (len(index), index.delete(["a"]), measure(index)) == (0, 0, {})


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((2, WIDTH)),
        np.ones((2, WIDTH + 1)),
        np.ones((0, WIDTH)),
        np.ones(WIDTH),
        np.full((1, WIDTH), np.nan),
        np.full((1, WIDTH), np.inf),
    ],
)
def test_vectors_that_could_never_be_found_are_refused_and_nothing_of_their_batch_is_added(tmp_path, vectors):
    index = ImageIndex(tmp_path, StubEncoder())
    with pytest.raises(ValueError, match="at least one vector of width 16"):
        index.add(rows_of(2), [*random_vectors(1), vectors])
    assert len(index) == 0


@pytest.mark.parametrize(
    "rows", [rows_of(1), [{"id": "a"}] * 2, [{"id": 1}, {"id": 2}], rows_of(2, colour="red"), rows_of(2, bytes="many")]
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows):
    index = ImageIndex(tmp_path, StubEncoder())
    with pytest.raises(ValueError, match="Expected"):
        index.add(rows, random_vectors(2))
    assert len(index) == 0


@pytest.mark.parametrize("query", [torch.ones(2, WIDTH - 1), torch.ones(WIDTH), torch.ones(0, WIDTH)])
def test_a_query_of_another_shape_is_refused(tmp_path, query):
    index = ImageIndex(tmp_path, StubEncoder())
    with pytest.raises(ValueError, match=r"query \(n, 16\)"):
        index.search(query)


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": StubEncoder(weights_digest="1" * 64, name="another")},
        {"encoder": StubEncoder(embedding_dim=8)},
        {"pool_factor": 2},
        {"columns": {"year": "int"}},
    ],
)
def test_an_index_refuses_other_weights_and_settings_and_names_its_own(tmp_path, wrong):
    ImageIndex(tmp_path, StubEncoder())
    with pytest.raises(ValueError, match=r"was made by .*, now .* build another one"):
        ImageIndex(tmp_path, **wrong)
    assert ImageIndex(tmp_path, StubEncoder(name="a copy elsewhere")).pool_factor == 3


def test_no_index_is_made_where_none_is_asked_for_or_other_files_lie(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    for options, said in ((StubEncoder(),), "other files"), ((), "found none"):
        with pytest.raises(ValueError, match=said):
            ImageIndex(tmp_path, *options)
    with pytest.raises(ValueError, match="found none"):
        ImageIndex(tmp_path / "new", StubEncoder(), make=False)
    with pytest.raises(ValueError, match="folder for the index"):
        ImageIndex(tmp_path / "mine.txt", StubEncoder())
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    for options in ({"pool_factor": 0.5}, {"columns": {"a": "date"}}, {"columns": {"path": "str"}}):
        with pytest.raises(ValueError, match=r"pool_factor|columns"):
            ImageIndex(tmp_path / "new", StubEncoder(), **options)


# --- large sets ---


def test_beyond_the_limit_an_approximate_index_answers_with_exact_scores_and_the_recall_asked_of_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(index_module, "EXACT_LIMIT", 100)
    monkeypatch.setattr(index_module, "EXACT_PER_VECTOR", 0)
    index, vectors = ImageIndex(tmp_path, StubEncoder()), random_vectors(600, lengths=(6, 9))
    index.add(rows_of(500, folder="old"), vectors[:500])
    index.optimize()
    assert [one.index_type for one in index.table.list_indices()] == ["IvfRq"]
    monkeypatch.setattr(ImageIndex, "_blocks", lambda *args: pytest.fail("scored all"))
    queries = [torch.from_numpy(one).float() for one in random_vectors(20, 5, (3, 6))]
    truth = [np.array(by_hand(query, vectors[:500])) for query in queries]
    found = [index.search(query) for query in queries]
    shared = [
        len({int(hit.id) for hit in hits} & set(np.argsort(scores)[-10:])) / 10
        for hits, scores in zip(found, truth, strict=True)
    ]
    # More are refined than there are.
    assert np.mean(shared) >= 0.97
    assert found[0][0].score == pytest.approx(truth[0].max(), abs=1e-5)
    # What was added or changed since is found before anybody optimises, and what was deleted is not.
    index.add(rows_of(100, 500, folder="new"), vectors[500:])
    index.add(rows_of(1, folder="new"), vectors[599:])
    index.delete(["599"])
    monkeypatch.undo()
    assert index.search(torch.from_numpy(vectors[599]).float(), limit=1)[0].id == "0"
    assert {hit.metadata["folder"] for hit in index.search(queries[0], where="folder = 'new'")} == {"new"}
    monkeypatch.setattr(index_module, "EXACT_LIMIT", 100)
    monkeypatch.setattr(index_module, "EXACT_PER_VECTOR", 0)
    index.optimize()
    assert index.table.index_stats("vectors_idx").num_unindexed_rows == 0
    assert search_recall(index, queries) >= 0.97


def test_an_approximate_index_is_built_anew_when_the_set_has_outgrown_it(tmp_path, monkeypatch):
    index, made = ImageIndex(tmp_path, StubEncoder()), []
    real = ImageIndex._build_approximate
    monkeypatch.setattr(index_module, "EXACT_LIMIT", 20)
    monkeypatch.setattr(ImageIndex, "_build_approximate", lambda self: made.append(len(self)) or real(self))
    for start, count in ((0, 20), (20, 80), (100, 100), (200, 250)):
        index.add(rows_of(count, start), random_vectors(count, start))
        index.optimize()
    assert made == [100, 450]
    # Nothing is new: optimising once more would only rearrange the partitions.
    version = index.table.version
    index.optimize()
    assert index.table.version == version


# --- crashes and several processes ---

WRITER = """
import sys
import time
from types import SimpleNamespace
import numpy as np
from modeling_omni_vision.retrieval.index import ImageIndex
folder, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
maker = SimpleNamespace(name="made", embedding_dim=16, weights_digest="0" * 64)
index = ImageIndex(folder, maker)
print("ready", flush=True)
sys.stdin.readline()
for batch in range(batches):
    # Half of the ids are this writer's own, half are everybody's.
    ids = [f"{name} {batch} {number}" for number in range(5)] + [f"shared {batch} {number}" for number in range(5)]
    index.add([{"id": one, "path": one, "folder": name} for one in ids], [np.ones((3, 16)) for _ in ids])
    print(batch, flush=True)
    time.sleep(0.05)  # encoding takes longer
"""


def writer(tmp_path, name, batches):
    program = tmp_path / "writer.py"
    program.write_text(WRITER)
    command = [sys.executable, "-W", "ignore", str(program), str(tmp_path / "index"), name, str(batches)]
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes)


def start(process):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.timeout(900)  # two processes that import torch, on a machine that may be busy
def test_two_writers_lose_nothing_double_nothing_and_a_killed_one_only_what_it_had_not_acknowledged(tmp_path):
    one, two = (writer(tmp_path, name, batches) for name, batches in (("one", 10), ("two", 10_000)))
    start(one)
    start(two)
    acknowledged = 0
    while acknowledged < 12 or one.poll() is None:
        acknowledged = int(two.stdout.readline()) + 1
    two.send_signal(signal.SIGKILL)
    acknowledged += len(two.communicate()[0].splitlines())
    assert one.returncode == 0
    index = ImageIndex(tmp_path / "index", StubEncoder())
    ids = [row["id"] for row in index.rows(columns=("id",))]
    assert len(ids) == len(set(ids))
    expected = {f"one {batch} {number}" for batch in range(10) for number in range(5)}
    expected |= {
        f"{name} {batch} {number}"
        for name in ("two", "shared")
        for batch in range(acknowledged)
        for number in range(5)
    }
    assert expected <= set(ids)
    # The batch that it was killed in is there whole or not at all.
    assert len(set(ids) - expected) in (0, 10)
    index.add(rows_of(1), random_vectors(1))
    index.optimize()
    assert len(index.search(torch.ones(1, WIDTH), limit=100)) == 100
    assert len(index) == len(ids) + 1


def test_a_reader_sees_what_another_has_written_at_the_moment_of_its_query(tmp_path):
    one = ImageIndex(tmp_path, StubEncoder())
    two = ImageIndex(tmp_path)
    one.add(rows_of(3), random_vectors(3))
    assert len(two.search(torch.eye(WIDTH)[:1])) == 3
    one.delete(["1"])
    assert {hit.id for hit in two.search(torch.eye(WIDTH)[:1])} == {"0", "2"}


# --- images ---


def test_a_folder_with_broken_files_finishes_and_lists_them_with_reasons(images, encoder, tmp_path):
    whole = (images / "cats" / "0.png").read_bytes()
    broken = {
        images / "cats" / "half.png": (whole[: len(whole) // 2], "truncated|cannot be read"),
        images / "empty.jpg": (b"", "cannot identify"),
        images / "notes.png": (b"hello", "cannot identify"),
    }
    for file, (content, _) in broken.items():
        file.write_bytes(content)
    (images / ".hidden").write_bytes(b"not read")
    index = ImageIndex(tmp_path / "index", encoder)
    done = index.add_images([images])
    assert (done.added, len(index)) == (8, 8)
    found = dict(done.failed)
    assert set(found) == {str(file.resolve()) for file in broken}
    for file, (_, why) in broken.items():
        assert re.search(why, found[str(file.resolve())])
        assert str(file.parent) not in found[str(file.resolve())]


def test_a_run_goes_on_where_one_stopped_and_takes_changes_in(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "COMMIT", 3)
    index = ImageIndex(tmp_path / "index", encoder)
    said = []

    def stop(line):
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add_images([images], report=stop)
    assert len(index) == 6
    done = ImageIndex(tmp_path / "index", encoder).add_images([images])
    assert (done.added, done.updated, done.unchanged) == (2, 0, 6)
    file = images / "cats" / "0.png"
    before = index.vectors([str(file)])
    Image.new("RGB", (50, 50), "red").save(file)
    (images / "dogs" / "1.png").unlink()
    done = index.add_images([images], remove_missing=True)
    assert (done.added, done.updated, done.unchanged, done.removed) == (0, 1, 6, 1)
    after = index.vectors([str(file)])[str(file)]
    assert after.shape != before[str(file)].shape or not torch.equal(after, before[str(file)])
    assert len(index) == 7


def test_only_images_gone_from_a_folder_that_is_named_and_not_empty_are_removed(images, encoder, tmp_path):
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images])
    cats, dogs = images / "cats", images / "dogs"
    shutil.move(dogs, tmp_path / "elsewhere")
    # Not asked about: whatever is gone there stays.
    assert index.add_images([cats], remove_missing=True).removed == 0
    # A place to mount a disk on that is not mounted, as the folder named and below it.
    dogs.mkdir()
    for named in (dogs, images):
        with pytest.raises(
            ValueError, match=r"dogs', of which the index has 4 images, got an empty folder.* --delete"
        ):
            index.add_images([named], remove_missing=True)
    for named in ([], [cats / "0.png"]):
        with pytest.raises(ValueError, match="Expected folders that files may be gone from, got none"):
            index.add_images(named, remove_missing=True)
    assert len(index) == 8
    # What the sentence says forces it.
    assert index.delete(where=f"path LIKE '{dogs}/%'") == 4
    # A folder that was deleted itself, in one that still has something.
    shutil.copytree(cats, dogs, dirs_exist_ok=True)
    index.add_images([images])
    shutil.rmtree(dogs)
    (cats / "2.png").unlink()
    assert index.add_images([f"{images}/../images"], remove_missing=True).removed == 5


def test_every_kind_of_file_gets_the_vectors_of_the_image_that_it_holds(encoder, tmp_path):
    drawn = draw_scene(np.random.default_rng(1), 1, 48).image
    truth = encoder.images([drawn])[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.bmp", "b.tiff", "c.tif", "d.PNG", "фото 猫.png", "it's $5.png"):
        drawn.save(tmp_path / name)
    drawn.save(tmp_path / "no ending", format="PNG")
    drawn.save(tmp_path / "not what it says.gif", format="PNG")
    drawn.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    drawn.convert("RGBA").save(tmp_path / "transparent.webp", lossless=True)
    read, failed = encoder.files([one.file for one in find_images([tmp_path])[0]])
    assert (len(read), failed) == (10, [])
    # Rounded to 16 bits.
    assert all(np.abs(vectors - truth.numpy()).max() < 1e-3 for _, vectors in read)


def test_vectors_are_stored_merged_in_16_bits_and_measured_against_all_of_them(images, encoder, tmp_path):
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images])
    assert str(index.table.schema.field("vectors").type.value_type.value_type) == "halffloat"
    stored = index.vectors([row["id"] for row in index.rows()])
    assert {len(one) for one in stored.values()} == {5}  # a third of 16 patches
    cost = measure(index, ["a red circle", "a blue square"], limit=3)
    assert (cost["queries"], cost["pooling_sample"], cost["search_recall"]) == (2, 8, 1.0)
    assert 0 < cost["pooling_overlap"] <= 1
    assert measure(index) == {}
    whole = ImageIndex(tmp_path / "whole", encoder, pool_factor=1)
    whole.add_images([images])
    assert measure(whole, limit=3)["pooling_overlap"] == 1.0
    assert len(patch_queries(whole, 3)) == 3


def test_overlap_counts_what_both_sides_find():
    near, far = torch.eye(4)[:1], torch.eye(4)[1:2]
    assert overlap([near, far], [far, near], [near], 1) == (0.0, 2)
    assert overlap([near, far], [near, far], [near], 1) == (1.0, 2)


def test_texts_and_images_find_images_and_an_image_finds_itself_first(images, encoder, tmp_path):
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images / "cats", images / "dogs" / "1.png"])
    assert len(index) == 5
    text = encoder.text("a red circle")
    assert (text.words, text.word_ids, text.embeds.shape) == (("a", "red", "circle"), (0, 1, 2), (3, WIDTH))
    hits = index.search_text("a red circle", limit=2)
    truth = encoder.model.similarity(
        encoder.model.encode_query(["a red circle"]), list(index.vectors([hit.id for hit in hits]).values())
    )
    assert sorted(hit.score for hit in hits) == pytest.approx(sorted(truth[0].tolist()), abs=1e-4)
    file = images / "cats" / "2.png"
    for query in (file, str(file), Image.open(file)):
        assert index.search_image(query, limit=1)[0].path == str(file)
    with pytest.raises(ValueError, match="at least one word"):
        encoder.text("")
    with pytest.raises(ValueError, match="Pass `encoder`"):
        ImageIndex(tmp_path / "index").search_text("a")


def test_the_similarity_map_of_a_word_holds_the_cosines_that_its_score_is_the_maximum_of(images, encoder):
    text, file = encoder.text("a blue ring"), images / "cats" / "0.png"
    maps = encoder.similarity_maps(text, file)
    assert maps.shape == (3, 4, 4)
    patches = encoder.images([file])[0]
    assert torch.allclose(maps.flatten(1), text.embeds @ patches.T, atol=1e-6)


def test_similarity_maps_leave_cls_out_of_the_grid(images, tmp_path):
    encoder = ImageTextEncoder(checkpoint(tmp_path / "cls", vision_feature_select_strategy="cls+grid"))
    file = images / "cats" / "0.png"
    text, vectors = encoder.text("ring"), encoder.images([file])[0]
    assert len(vectors) == 17
    assert torch.allclose(encoder.similarity_maps(text, file).flatten(1), text.embeds @ vectors[1:].T, atol=1e-6)


def test_checkpoints_are_told_apart_by_their_weights_wherever_they_lie(model, encoder, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    assert ImageTextEncoder(str(tmp_path / "copy")).weights_digest == encoder.weights_digest
    other = ImageTextEncoder(checkpoint(tmp_path / "other", seed=1))
    assert other.weights_digest != encoder.weights_digest
    ImageIndex(tmp_path / "index", encoder)
    with pytest.raises(ValueError, match=r"with weights '[0-9a-f]{11}\.\.\., now '"):
        ImageIndex(tmp_path / "index", other)
    with pytest.raises(ValueError, match="with embedding_dim 16, now 8"):
        ImageIndex(tmp_path / "index", ImageTextEncoder(checkpoint(tmp_path / "narrow", embedding_dim=8)))
    with pytest.raises(ValueError, match="retrieval checkpoint"):
        ImageTextEncoder(str(tmp_path / "nowhere"))


# --- sheets and scripts ---


def test_a_contact_sheet_has_every_hit_and_with_a_text_a_map_for_each_word(images, encoder, tmp_path):
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images])
    hits = index.search_text("a red circle", limit=6)
    (images / hits[0].path).unlink()
    plain = Image.open(contact_sheet(hits, tmp_path / "plain.png", "costs $5 and $6"))
    mapped = Image.open(contact_sheet(hits, tmp_path / "maps.png", "words", encoder, "a red circle"))
    assert plain.width > plain.height
    assert mapped.height > 2 * plain.height
    assert Image.open(contact_sheet([], tmp_path / "none.png", "nothing")).width > 0


@pytest.mark.parametrize("name", [b"latin\xe9.png", b"100%E9.png", b"caf\xc3\xa9.png"])
def test_names_of_any_bytes_are_drawn_with_maps_and_measured(images, encoder, tmp_path, name):
    for file in [*images.rglob("*.png")][1:]:
        file.rename(file.with_name(f"{file.stem}{os.fsdecode(name)}"))
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images])
    hits = index.search_text("a red circle", limit=8)
    mapped = Image.open(contact_sheet(hits, tmp_path / "maps.png", "words", encoder, "a red circle"))
    assert mapped.height > mapped.width
    queries = patch_queries(index, 3)
    assert pooling_overlap(index, queries, limit=8) == (1, 8)


def test_the_scripts_build_search_and_draw_an_index(model, images, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"no")
    common = ["--model", model, "--index", str(tmp_path / "index")]
    (tmp_path / "queries.txt").write_text("a red circle\n\na ring\n")
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(images / f"more {number}.png")
    with pytest.raises(SystemExit) as ended:
        index_script.main([*common, "--images", str(images), "--queries", str(tmp_path / "queries.txt")])
    assert ended.value.code == 3
    said = capsys.readouterr().out
    assert "broken.png" in said
    assert "by 2 queries (texts): search finds 100.0%" in said
    assert "11 images" in said
    record = json.loads((tmp_path / "index" / "last_run.json").read_text())
    assert [file["path"] for file in record["failed"]] == [str((images / "broken.png").resolve())]
    assert record["failed"][0]["reason"]
    (images / "broken.png").unlink()
    index_script.main([*common, "--images", str(images), "--delete", "folder = 'dogs'", "--measure", "false"])
    assert "7 images" not in capsys.readouterr().out  # deleted, then found in the folder again
    sheet = tmp_path / "hits.png"
    search_script.main([*common, "--text", "a red circle", "--limit", "3", "--sheet", str(sheet), "--maps", "true"])
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 5
    assert sheet.is_file()
    query = images / "cats" / "4.png"
    search_script.main([*common, "--image", str(query), "--where", "folder = 'cats'", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["unknown_words"], found["score"][:6]) == ([], "MaxSim")
    hits = found["hits"]
    assert len(hits) == 4
    assert hits[0]["path"] == str(query)
    assert hits[0]["metadata"]["folder"] == "cats"


def test_words_that_the_checkpoint_does_not_know_are_named_in_every_way_and_weigh_nothing(
    model, images, encoder, tmp_path, capfd, caplog
):
    index = ImageIndex(tmp_path / "index", encoder)
    index.add_images([images])
    encoded = encoder.text("a bird circle")
    assert (encoded.words, encoded.word_ids, encoded.unknown) == (("a", "circle"), (0, 1), ("bird",))
    common = ["--model", model, "--index", str(tmp_path / "index")]
    search_script.main([*common, "--text", "a bird", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert (found["unknown_words"], len(found["hits"])) == (["bird"], 8)
    assert "does not know weigh nothing: 'bird'" in caplog.text
    # Nothing but unknown words: no hits, unless forced.
    for text in ("bird", "asdf bird"):
        assert index.search_text(text) == []
        assert len(index.search_text(text, force=True)) == 8
    assert "No word of 'asdf bird' is known" in caplog.text
    for force, hits in ((["--force"], 8), ([], 0)):
        search_script.main([*common, "--text", "bird", "--sheet", str(tmp_path / "s.png"), "--maps", "--json", *force])
        assert len(json.loads(capfd.readouterr().out)["hits"]) == hits


def test_a_query_longer_than_the_text_encoder_reads_is_reported_once(encoder, caplog):
    encoder.model.processor.tokenizer.backend_tokenizer.no_truncation()
    for _ in range(2):
        assert len(encoder.text("a red circle " * 20).embeds) == 30
    assert [record.getMessage()[:37] for record in caplog.records] == ["A text of 62 tokens is cut to 32, as "]


@pytest.mark.parametrize(
    "wrong", [[], ["--text", "a", "--image", "b"], ["--text", "a", "--maps"], ["--image", "a", "--maps"]]
)
def test_a_search_for_nothing_or_two_things_is_refused(wrong):
    with pytest.raises(ValueError, match="--text or --image"):
        search_script.main(["--model", "a", "--index", "b", *wrong])


def test_an_empty_folder_is_refused_and_an_empty_index_is_searched(model, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    common = ["--model", model, "--index", str(tmp_path / "index")]
    with pytest.raises(ValueError, match="folders that hold some"):
        index_script.main([*common, "--images", str(tmp_path / "images")])
    index_script.main(common)
    assert "0 images" in capsys.readouterr().out
    search_script.main([*common, "--text", "a ring", "--sheet", str(tmp_path / "sheet.png")])
    assert "0 of 0 images" in capsys.readouterr().out
    with pytest.raises(ValueError, match="does not exist"):
        index_script.main([*common, "--images", str(tmp_path / "nowhere")])


def test_the_commands_of_the_documentation_are_true(model, images, tmp_path, monkeypatch, capfd):
    text = (Path(__file__).parents[2] / "docs" / "index.md").read_text(encoding="utf-8")
    commands = re.findall(r"^omni-vision ((?:embed|index|search) .*)$", text, flags=re.MULTILINE)
    assert len(commands) == 6
    monkeypatch.chdir(tmp_path)
    images.rename("my_images")
    Path("runs").mkdir()
    for name in ("runs/search", "my_encoder"):
        Path(name).symlink_to(model)
    shutil.copy("my_images/cats/0.png", "mine.jpg")
    for command in commands:
        name, *argv = shlex.split(command)
        {"embed": embed_script, "index": index_script, "search": search_script}[name].main(argv)
    printed = capfd.readouterr().out
    hits = json.JSONDecoder().raw_decode(printed.partition("hits.png\n")[2])[0]["hits"]
    assert "score is cosine" in printed
    assert [hit["metadata"]["folder"] for hit in hits] == ["cats"] * 4
    assert Path("hits.png").is_file()


def test_a_folder_is_indexed_as_the_user_sees_it(images, encoder, tmp_path, caplog):
    odd = images / "cats" / os.fsdecode(b"caf\xe9.png")
    shutil.copy(images / "cats" / "0.png", odd)
    shutil.move(images / "dogs", tmp_path / "elsewhere")
    (images / "dogs").symlink_to(tmp_path / "elsewhere")
    (images / "again.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (images / "Thumbs.db").touch()
    (images / "notes.txt").touch()
    index = ImageIndex(images / "index", encoder)
    shutil.copy(images / "cats" / "0.png", index.folder / "sheet.png")
    done = index.add_images([images])
    assert (done.added, done.failed) == (9, [])
    assert "2 files left out: 1 .txt (notes.txt), 1 that links lead to twice (1.png)" in caplog.text
    rows = index.rows(columns=("id", "folder", "name"))
    assert sorted(row["folder"] for row in rows) == [".", *["cats"] * 5, *["dogs"] * 3]
    (stored,) = (row for row in rows if row["name"] == "caf\\xe9.png")
    assert path_of(stored["id"]) == odd
    assert stored["id"] in [hit.id for hit in index.search_image(odd, limit=2)]
    assert index.add_images([images], remove_missing=True).removed == 0


def test_unreadable_files_are_refused_before_anything_is_indexed_where_that_is_asked_for(images, encoder, tmp_path):
    (images / "cats" / "broken.png").write_text("no image")
    index = ImageIndex(tmp_path / "index", encoder)
    with pytest.raises(ValueError, match=r"1 of 9 images cannot be read: .*broken\.png \("):
        index.add_images([images], on_error="stop")
    assert len(index) == 0
