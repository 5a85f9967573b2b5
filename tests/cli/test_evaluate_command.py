"""`omni-vision evaluate` for every kind of model, on own data; nothing is written into a published folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision.cli.evaluate import main
from modeling_omni_vision.data.synthetic.shapes import draw_scene
from modeling_omni_vision.hub.verify import check_files


CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
OBJECTS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("pink", "cross"))


@pytest.fixture
def own_data(tmp_path):
    """Four drawings with captions, and a question about each."""
    captions, conversations = [], []
    for number, (colour, shape) in enumerate(OBJECTS):
        name = f"{number}.png"
        draw_scene(np.random.default_rng(number), [(colour, shape)], 64).image.save(tmp_path / name)
        captions.append({"file_name": name, "text": f"This is a {colour} {shape}"})
        asked = {"role": "user", "content": f"What colour is the {shape}?"}
        conversations.append({"image": f"../{name}", "messages": [asked, {"role": "assistant", "content": colour}]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, captions)))
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "asked.jsonl").write_text("\n".join(map(json.dumps, conversations)))
    return tmp_path


def test_a_published_retrieval_model_is_measured_on_own_pairs_and_stays_as_its_proof_says(own_data, tmp_path, capsys):
    published = shutil.copytree(CHECKPOINTS / "omni-vision-search-scenes", tmp_path.parent / f"{tmp_path.name}-search")
    main(["--model", str(published), "--dataset", str(own_data)])
    assert "all: 4 rows" in capsys.readouterr().out
    assert check_files(published) == []
    beside = published.with_name(f"{published.name}-evaluation") / "metrics.json"
    found = json.loads(beside.read_text())["retrieval_evaluation"]
    assert (found["split"], found["pairs"], found["dataset"]) == ("all", 4, own_data.name)
    assert found["multi_vector"]["text_to_image"]["recall@1"] >= 0.75
    assert found["command"].startswith("omni-vision evaluate --model")


def test_a_language_model_answers_own_questions_with_and_without_images(own_data, tmp_path, capsys):
    model = shutil.copytree(CHECKPOINTS / "omni-vision-language-scenes", tmp_path / "model")
    (model / "proof.json").unlink()
    main(["--model", str(model), "--dataset", str(own_data / "questions" / "asked.jsonl")])
    found = json.loads((model / "metrics.json").read_text())["answers_evaluation"]
    assert found["images"]["accuracy"] > found["nothing"]["accuracy"]
    assert found["images"]["questions"] == 4
    assert "exact answers" in capsys.readouterr().out


def test_what_only_a_classifier_has_and_a_split_that_is_not_there_are_refused(own_data):
    words = ["--model", str(CHECKPOINTS / "omni-vision-search-scenes"), "--dataset", str(own_data)]
    with pytest.raises(ValueError, match="--robustness"):
        main([*words, "--robustness"])
    with pytest.raises(ValueError, match="validation or all, got 'test'"):
        main([*words, "--split", "test"])
