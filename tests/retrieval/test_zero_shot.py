import json
import shutil

import pytest
import torch
from PIL import Image


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.cli.zero_shot import main
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
    images, truths, names = module._combinations()
    assert len(images) == len(truths) == 480
    assert [truths.count(name) for name in names] == [10] * 48
    assert names[0] == "red square"


def test_labelled_datasets_use_the_names_of_their_own_classes(checkpoint):
    found = zero_shot(checkpoint, "shapes:red,blue", ["{}", "a {}"], "test")
    assert found["classes"] == 3
    assert "held_out" not in found["multi_vector"]


def test_a_missing_split_is_refused(checkpoint):
    with pytest.raises(ValueError, match="one of train, validation, test, got 'none'"):
        zero_shot(checkpoint, "shapes", ["{}"], "none")


def test_all_images_of_a_folder_are_taken_and_labels_name_what_folders_do_not(checkpoint, tmp_path, capsys):
    for place in ("flat/a.png", "flat/b.png", "split/test/red circle/a.png", "split/test/blue ring/deep/b.png"):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(file)
    (tmp_path / "flat" / "broken.png").write_text("no image")
    (checkpoint / "metrics.json").unlink(missing_ok=True)
    main(["--model", str(checkpoint), "--dataset", str(tmp_path / "flat"), "--labels", "red circle", "blue ring"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("left out: broken.png")
    assert said[1].startswith("2 images, 2 names")
    assert [line.split("/")[-1] for line in said[-2:]] == ["a.png", "b.png"]
    assert not (checkpoint / "metrics.json").exists()
    found = zero_shot(checkpoint, str(tmp_path / "split"), ["{}"])
    assert (found["images"], found["classes"]) == (2, 2)
    assert "accuracy" in found["multi_vector"]
    with pytest.raises(ValueError, match="at least two names"):
        zero_shot(checkpoint, str(tmp_path / "flat"), ["{}"])


def test_results_of_a_published_folder_are_written_beside_it(checkpoint, tmp_path):
    published = shutil.copytree(checkpoint, tmp_path / "published")
    (published / "proof.json").write_text("{}")
    before = sorted(path.name for path in published.iterdir())
    zero_shot(published, "shapes:red,blue", ["{}"])
    assert sorted(path.name for path in published.iterdir()) == before
    assert "zero_shot" in json.loads((tmp_path / "published-evaluation" / "metrics.json").read_text())


@pytest.mark.parametrize("names", [["cat", "hound"], ["red cat", "red hound"], ["red square", "cat", "hound"]])
def test_names_that_differ_in_unknown_words_alone_are_refused(checkpoint, names):
    with pytest.raises(ValueError, match="tell apart"):
        zero_shot(checkpoint, "combinations", ["{}"], labels=names)
