import json
from importlib import metadata

import pytest


pytest.importorskip("lancedb")
pytest.importorskip("sentence_transformers")

import torch
from test_retrieval_model import config, word_tokenizer  # skips this module too where transformers is too old

from experiments import index_benchmark
from modeling_omni_vision import OmniVisionForRetrieval, OmniVisionImageProcessor, OmniVisionRetrievalProcessor


WIDTH = 16


@pytest.fixture
def model(tmp_path):
    """A retrieval checkpoint whose vectors differ between patches and images."""
    torch.manual_seed(0)
    options = config()
    model = OmniVisionForRetrieval(options).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(tmp_path / "search")
    images = OmniVisionImageProcessor(size={"height": 32, "width": 32})
    processor = OmniVisionRetrievalProcessor(images, word_tokenizer(), options.image_seq_length)
    processor.save_pretrained(tmp_path / "search")
    return str(tmp_path / "search")


def test_there_is_a_row_for_each_kind_of_query_and_search_and_nothing_warns(model, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(index_benchmark, "IMAGE_QUERIES", 2)
    file, before = tmp_path / "index.json", torch.get_num_threads()
    index_benchmark.main(["--model", model, "--count", "40", "--output", str(file)])
    assert torch.get_num_threads() == before
    written = json.loads(file.read_text())
    assert written["machine"]["lancedb"] == metadata.version("lancedb")
    assert written["command"].startswith("python -m experiments.index_benchmark --model search --count 40")
    assert [(row["queries"], row["search"]) for row in written["rows"]] == [
        (kind, search) for kind in ("texts", "images") for search in ("exact", "IvfRq")
    ]
    for row in written["rows"]:
        assert row["images"] == 40
        assert 0.9 <= row["recall"] <= 1
        assert 0 < row["recall_of_all_vectors"] <= 1
        assert row["bytes_per_image"] > 5 * WIDTH * 2
        assert row["cpu_ms"] > 0
    said = capfd.readouterr()
    assert said.out.count("search IvfRq, ") == 2
    assert "WARN" not in said.err
