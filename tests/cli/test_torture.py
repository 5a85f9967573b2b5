"""Folders and files as people bring them, through inspect, train (one step), predict and index: see `torture.md`.

No command may be silent: where fewer images are used than lie there, the output says which and why.
"""

import functools
import json
import os
import re
from pathlib import Path

import pytest


pytest.importorskip("sentence_transformers")
pytest.importorskip("lancedb")
pytest.importorskip("transformers", minversion="5.23")

from test_retrieval_model import config, word_tokenizer
from torture_cases import CASES, NAMED, build

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionForRetrieval,
    OmniVisionImageProcessor,
    OmniVisionRetrievalProcessor,
)
from modeling_omni_vision.cli import index, inspect, predict, train
from modeling_omni_vision.cli.program import SOME_UNREADABLE, explain
from modeling_omni_vision.embedding import encoder
from modeling_omni_vision.evaluation import evaluate  # noqa: F401 - before modules are frozen, see conftest.py
from modeling_omni_vision.training import classification  # noqa: F401


SIZE = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
ONE_STEP = {"config": json.dumps(SIZE), "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
ONE_STEP |= {"disable_tqdm": True, "use_cpu": True, "do_predict": False, "load_best_model_at_end": False}

COMMANDS, ANY_IMAGE = ("inspect", "train", "predict", "index"), ("predict", "index")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A classifier of cats and dogs, and a retrieval checkpoint, both tiny."""
    folder, images = tmp_path_factory.mktemp("models"), OmniVisionImageProcessor(size={"height": 8, "width": 8})
    classifier = OmniVisionForImageClassification(OmniVisionConfig(**SIZE, id2label={0: "cat", 1: "dog"}))
    search = OmniVisionForRetrieval(config(vision_config=SIZE))
    processor = OmniVisionRetrievalProcessor(images, word_tokenizer(), search.config.image_seq_length)
    for name, parts in (("classifier", (classifier, images)), ("search", (search, processor))):
        for part in parts:
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _one_encoder(monkeypatch):
    """Open the retrieval checkpoint once."""
    opened = functools.cache(encoder.MultiVectorEncoder)
    monkeypatch.setattr(encoder, "MultiVectorEncoder", opened)


@pytest.fixture
def outcome(capfd, caplog):
    """Return a function that runs a command and returns its exit status and all that it said."""

    def run(main, *words):
        caplog.clear()
        status, sentence = 0, ""
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        except Exception as error:
            sentence = explain(error, [str(word) for word in words])
            if sentence is None:
                raise
            status = 2
        out, err = capfd.readouterr()
        return status, "\n".join([out, err, caplog.text, sentence])

    return run


def _flags(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _counted(splits, classes):
    return ", ".join(f"{split} {count}" for split, count in splits.items()) + (
        f": {' '.join(classes)}" * bool(classes)
    )


def _parts(count, broken):
    return f"{count}" + f" + {broken}" * bool(broken)


def _rows():
    """Return the rows of the table: what each command is to find, by name; nothing where a command does not run."""
    table = (Path(__file__).parent / "torture.md").read_text(encoding="utf-8")
    rows = {}
    for line in table.splitlines()[8:]:
        name, *cells, says = (cell.strip().replace("\\\\", "\\") for cell in line.strip("|").split(" | "))
        before = ""
        for number, cell in enumerate(cells):
            cells[number] = before = before if cell == "same" else cell
        rows[name] = {
            **dict(zip(COMMANDS, cells, strict=True)),
            "says": list(filter(None, says.strip(" |").split("; "))),
        }
    return rows


ROWS = _rows()


def each(command):
    """Run a test with every tree that the command is tried on."""
    return pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[command] and name in CASES])


@pytest.fixture
def check(name, outcome, tmp_path):
    """Return a function that runs a command on a tree and compares with the table what it says and `found` returns."""
    build(tmp_path / "data", CASES[name])
    place = os.path.join(tmp_path / "data", NAMED.get(name, ""))

    def run(command, main, options, found):
        expected, says = ROWS[name][command], ROWS[name]["says"]
        status, said = outcome(main, *_flags({"images" if command in ANY_IMAGE else "dataset": place, **options}))
        if expected.startswith("!"):
            assert (status, expected[1:] in said) == (2, True), said
            return
        assert found() == expected, said
        assert status == (SOME_UNREADABLE if command in ANY_IMAGE and "+" in expected else 0)
        for part in says:
            if command not in ANY_IMAGE or re.match(r"\d+ (\.|broken|no regular|of a run|without a suffix)", part):
                assert part in said, said

    return run


def test_every_tree_has_a_row():
    assert set(ROWS) - {"a avif"} == set(CASES) - {"a avif"}  # some builds of Pillow lack it
    assert len(ROWS) >= 120
    counts = [sum(bool(row[command]) for row in ROWS.values()) for command in COMMANDS]
    assert all(count >= least for count, least in zip(counts, (120, 60, 60, 40), strict=True)), counts


@each("inspect")
def test_inspect(name, check, tmp_path):
    def found():
        splits = json.loads((tmp_path / "found.json").read_text())["splits"]
        return _counted({one["split"]: one["num_images"] for one in splits}, splits[0]["classes"])

    check("inspect", inspect.main, {"sheet": "", "json": tmp_path / "found.json"}, found)


@each("train")
def test_train(name, check, tmp_path):
    def found():
        dataset = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["dataset"]
        return _counted({name: value for name, value in dataset.items() if isinstance(value, int)}, dataset["classes"])

    check("train", train.main, {"output_dir": tmp_path / "run", **ONE_STEP}, found)


@each("predict")
def test_predict(name, check, models, tmp_path):
    def found():
        rows = json.loads((tmp_path / "found.json").read_text())
        broken = sum(row["label"] is None for row in rows)
        return _parts(len(rows) - broken, broken)

    check("predict", predict.main, {"model": models / "classifier", "json": tmp_path / "found.json"}, found)


@each("index")
def test_index(name, check, models, tmp_path):
    def found():
        record = json.loads((tmp_path / "index" / "last_run.json").read_text())
        return _parts(record["images"], len(record["failed"]))

    options = {"model": models / "search", "index": tmp_path / "index", "measure": False}
    check("index", index.main, options, found)


def test_a_class_of_which_no_image_can_be_read_is_refused_where_others_are_skipped(outcome, tmp_path):
    build(tmp_path / "data", CASES["a class all broken"])
    options = {"dataset": tmp_path / "data", "output_dir": tmp_path / "run", "on_error": "skip", **ONE_STEP}
    status, said = outcome(train.main, *_flags(options))
    assert (status, "got none of ['bird']" in said) == (2, True), said
