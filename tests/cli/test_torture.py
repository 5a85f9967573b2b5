"""Folders and files as people bring them, through inspect, train (one step), predict and index: see `torture_cases`.

No command may be silent: where fewer images are used than lie there, the output says which and why.
"""

import functools
import json
import re

import pytest
import torch
from PIL import Image


pytest.importorskip("sentence_transformers")
pytest.importorskip("lancedb")
pytest.importorskip("transformers", minversion="5.23")

from test_retrieval_model import config, word_tokenizer
from torture_cases import CASES, build

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionForRetrieval,
    OmniVisionImageProcessor,
    OmniVisionRetrievalProcessor,
)
from modeling_omni_vision.cli import index, inspect, predict, train
from modeling_omni_vision.cli.program import explain
from modeling_omni_vision.embedding import encoder


SIZE = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
ONE_STEP = {"config": json.dumps(SIZE), "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
ONE_STEP |= {"disable_tqdm": True, "use_cpu": True, "do_predict": False, "load_best_model_at_end": False}


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
    monkeypatch.setattr(encoder, "ImageTextEncoder", functools.cache(encoder.ImageTextEncoder))


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
    return ", ".join(f"{split} {count}" for split, count in splits.items()) + (f": {' '.join(classes)}" * bool(classes))


def _check(expected, status, said, found):
    """Compare with what a table says: `!` and a part of the sentence that refuses, or what is found."""
    if expected.startswith("!"):
        assert (status, expected[1:] in said) == (2, True), said
        assert "Traceback" not in said
    else:
        assert found() == expected, said


@pytest.fixture
def place(tmp_path, request):
    case = request.param
    folder = tmp_path / "data"
    build(folder, case.tree)
    return case, folder / case.named


every = pytest.mark.parametrize("place", CASES, indirect=True, ids=lambda case: case.name)


@every
def test_inspect(place, outcome, tmp_path):
    case, folder = place
    status, said = outcome(inspect.main, "--dataset", folder, "--sheet", "", "--json", tmp_path / "found.json")

    def found():
        described = json.loads((tmp_path / "found.json").read_text())
        splits = described["splits"]
        return _counted({one["split"]: one["num_images"] for one in splits}, splits[0]["classes"])

    _check(case.found, status, said, found)
    for part in case.says:
        assert part in said, said


@pytest.mark.parametrize("place", [one for one in CASES if one.train is not None], indirect=True, ids=lambda c: c.name)
def test_train(place, outcome, tmp_path):
    case, folder = place
    options = {"dataset": folder, "output_dir": tmp_path / "run", **ONE_STEP}
    status, said = outcome(train.main, *_flags(options))

    def found():
        dataset = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["dataset"]
        return _counted({name: value for name, value in dataset.items() if isinstance(value, int)}, dataset["classes"])

    _check(case.train or case.found, status, said, found)
    for part in case.says:
        assert part in said, said


@pytest.mark.parametrize("place", [c for c in CASES if c.images is not None], indirect=True, ids=lambda c: c.name)
def test_predict(place, models, outcome, tmp_path):
    case, folder = place
    status, said = outcome(
        predict.main, "--model", models / "classifier", "--images", folder, "--json", tmp_path / "found.json"
    )

    def found():
        rows = json.loads((tmp_path / "found.json").read_text())
        broken = sum(row["label"] is None for row in rows)
        assert status == (3 if broken else 0)
        return f"{len(rows) - broken}" + f" + {broken}" * bool(broken)

    _check(str(case.images), status, said, found)


@pytest.mark.parametrize("place", [c for c in CASES if c.index is not None], indirect=True, ids=lambda c: c.name)
def test_index(place, models, outcome, tmp_path):
    case, folder = place
    status, said = outcome(
        index.main,
        *_flags({"model": models / "search", "index": tmp_path / "index", "images": folder, "measure": False}),
    )

    def found():
        record = json.loads((tmp_path / "index" / "last_run.json").read_text())
        return f"{record['images']}" + f" + {len(record['failed'])}" * bool(record["failed"])

    _check(str(case.images if case.index == "" else case.index), status, said, found)
