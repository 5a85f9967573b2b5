import json

import pytest
import torch


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES
from modeling_omni_vision.retrieval import zero_shot as module
from modeling_omni_vision.retrieval.build import build_retrieval
from modeling_omni_vision.retrieval.zero_shot import zero_shot


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = OmniVisionConfig(image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    model, processor = build_retrieval(config, "new", [" ".join((*COLOURS, *SHAPES, "this is a"))], embedding_dim=16)
    folder = tmp_path_factory.mktemp("search")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_an_untrained_model_is_near_chance_and_the_result_is_written_to_metrics(checkpoint, monkeypatch):
    monkeypatch.setattr(module, "PER_COMBINATION", 2)
    found = zero_shot(checkpoint, "combinations", ["This is a {}"])
    assert (found["images"], found["classes"]) == (96, 48)
    for name in ("multi_vector", "single_vector"):
        # An untrained model names one class for nearly everything: two of 96 are right, give or take luck.
        assert found[name]["accuracy"] < 0.12
        low, high = found[name]["accuracy_interval"]
        assert low <= found[name]["accuracy"] <= high
        assert 0 <= found[name]["held_out"] <= 1
    assert json.loads((checkpoint / "metrics.json").read_text())["zero_shot"] == found


def test_every_combination_is_drawn_equally_often_with_its_own_name():
    images, labels, names = module._combinations()
    assert len(images) == len(labels) == 480
    assert [int((labels == number).sum()) for number in range(48)] == [10] * 48
    assert names[0] == "red square"


def test_labelled_datasets_use_the_names_of_their_own_classes(checkpoint):
    found = zero_shot(checkpoint, "shapes:red,blue", ["{}", "a {}"], "test")
    assert found["classes"] == 3
    assert "held_out" not in found["multi_vector"]


def test_a_missing_split_is_refused(checkpoint):
    with pytest.raises(ValueError, match="one of train, validation, test, got 'none'"):
        zero_shot(checkpoint, "shapes", ["{}"], "none")
