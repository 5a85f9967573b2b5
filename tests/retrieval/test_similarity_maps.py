import json
import shutil

import pytest
import torch
from PIL import Image


pytest.importorskip("sentence_transformers")
pytest.importorskip("lancedb")
pytest.importorskip("transformers", minversion="5.23")

from experiments.cls_study import study_cls
from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.retrieval.build import build_retrieval
from modeling_omni_vision.retrieval.similarity_maps import visualize


CAPTIONS = ["This is a red square and a blue circle", "This is an orange star and a green cross, pink, purple hexagon"]


@pytest.fixture(scope="module", params=[0, 2], ids=["no registers", "registers"])
def checkpoint(request, tmp_path_factory):
    torch.manual_seed(0)
    config = OmniVisionConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_register_tokens=request.param,
    )
    model, processor = build_retrieval(config, "new", CAPTIONS, embedding_dim=16)
    folder = tmp_path_factory.mktemp("search")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_similarity_maps_attention_and_winning_tokens_are_drawn(checkpoint, tmp_path):
    Image.new("RGB", (80, 50), "red").save(tmp_path / "image.png")
    files = visualize(checkpoint, str(tmp_path / "image.png"), "a red $quare", tmp_path / "seen")
    assert [file.name for file in files] == ["words.png", "attention.png", "token_kinds.png"]
    for file in files:
        with Image.open(file) as drawn:
            # Not one colour: something is drawn.
            assert len(drawn.convert("RGB").getcolors(1 << 24)) > 10


def test_an_image_that_cannot_be_read_and_a_text_without_words_are_refused(checkpoint, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"broken\.png"):
        visualize(checkpoint, str(tmp_path / "broken.png"), "red", tmp_path)
    with pytest.raises(ValueError, match="at least one word"):
        visualize(checkpoint, str(tmp_path / "image.png"), " ", tmp_path)


def test_the_study_writes_tables_numbers_and_a_plot(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    scores = {"text_to_image": {"ndcg@10": 0.5}, "image_to_text": {"ndcg@10": 0.25}}
    (copy / "metrics.json").write_text(
        json.dumps({"training": {"seed": 7}, "retrieval": {"multi_vector": {"test": scores}}}), encoding="utf-8"
    )
    record = study_cls({"new": str(copy)}, tmp_path, scenes=3)
    found = record["checkpoints"]["new"]
    assert (found["checkpoint"], found["trained_with_seed"]) == ("copy", 7)
    assert found["ndcg@10"] == {"text_to_image": 0.5, "image_to_text": 0.25}
    assert found["grounding"]["seen"]["MaxSim"]["words"] == 12
    for state, one in found["dominance"]["seen"].items():
        assert sum(one["shares"].values()) == pytest.approx(1)
        assert (one["margin"] is None) == state.endswith("dropped")
        assert (one["chance"]["cls"] == 0) == state.endswith("dropped")
    assert len(found["dominance"]["seen"]) == len(found["dominance"]["held out"]) == 4
    assert (len(found["grounding"]["seen"]), list(found["grounding"]["held out"])) == (5, ["MaxSim"])
    assert json.loads((tmp_path / "cls.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    assert (tmp_path / "cls.png").is_file()
