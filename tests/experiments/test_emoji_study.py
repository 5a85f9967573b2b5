import io
import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from packaging.version import Version
from PIL import Image, ImageDraw
from transformers import __version__ as transformers_version


pytest.importorskip("sentence_transformers")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from experiments import emoji_study
from experiments.emoji_study import main, on_white, pixel_scores, ranked, study_emoji, style_recall
from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.pairs import load_pairs
from modeling_omni_vision.retrieval.build import build_retrieval


COLOURS = ("red", "lime", "blue", "yellow", "white", "black")


def drawings(vendor, names):
    rows = []
    for name in names:
        content = io.BytesIO()
        # Neither without contrast nor the negative of another.
        drawn, place = Image.new("RGBA", (16, 16), "gray"), COLOURS.index(name)
        ImageDraw.Draw(drawn).rectangle((2 * place, 0, 2 * place + 3, 15), fill=name)
        drawn.save(content, format="PNG")
        image = {"bytes": content.getvalue(), "path": None}
        rows.append({"image": image, "texts": [name, f"{name} thing"], "concept": name, "group": "", "vendor": vendor})
    return rows


@pytest.fixture
def data():
    """The splits of `load_emoji`: four trained concepts, two held out."""
    trained, held_out = COLOURS[:4], COLOURS[4:]
    splits = {
        "train": [row for vendor in ("google", "twitter", "blobs") for row in drawings(vendor, trained)],
        "validation": drawings("google", held_out),
        "test": drawings("google", held_out),
        "unseen_style": drawings("fluent", [*trained[1:], trained[0]]),
        "validation_unseen_style": drawings("fluent", held_out),
        "test_unseen_style": drawings("fluent", held_out),
    }
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})


def test_each_split_is_queried_by_names_and_keywords_and_the_unseen_style_finds_its_concept(tmp_path, data):
    torch.manual_seed(0)
    vision = OmniVisionConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    model, processor = build_retrieval(vision, "new", [" ".join((*COLOURS, "thing"))], embedding_dim=16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = study_emoji(tmp_path, data)
    for split in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        asked = found["texts"][split]
        kinds = ("single_vector", "multi_vector")
        assert asked.keys() == {*kinds, *(f"{kind}, keywords" for kind in kinds)}
        # By the library, which also has nDCG.
        assert "ndcg@10" in asked["single_vector"]["image_to_text"]
        assert asked["single_vector"]["image_to_text"]["candidates"] == 2
    # The same drawing in another order finds its own concept, by pixels and by any tower.
    for name, concepts in (("trained concepts", 4), ("validation concepts", 2), ("held-out concepts", 2)):
        scores = found["styles"][name]
        assert scores.keys() == {"single_vector", "multi_vector", "pixels", "chance"}
        assert scores["single_vector"]["recall@1"] == scores["pixels"]["recall@1"] == 1
        assert scores["chance"]["recall@1"] == pytest.approx(1 / concepts)
    assert json.loads((tmp_path / "metrics.json").read_text())["emoji"] == found


def test_the_styles_of_any_encoder_are_measured_on_the_concepts_that_both_styles_have(data):
    data["unseen_style"] = Dataset.from_list(drawings("fluent", COLOURS))
    asked = []

    def scorer(questions, answers):
        asked.append((len(questions), len(answers)))
        return pixel_scores(questions, answers)

    found = style_recall({"mine": scorer}, data)
    # Only those of one vendor answer, and only concepts among them are asked for.
    assert asked == [(4, 4), (2, 2), (2, 2)]
    assert found["trained concepts"]["mine"]["recall@1"] == 1


def test_the_pairs_to_train_on_are_written_as_load_pairs_reads_them(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(emoji_study, "load_emoji", lambda folder: data)
    main(["--dataset", "emoji", "--output", str(tmp_path / "pairs")])
    pairs = load_pairs(str(tmp_path / "pairs"))
    # The vendors of this test draw alike: rows of equal images are one.
    assert {name: len(rows) for name, rows in pairs.items()} == {"train": 4, "validation": 2, "test": 2}
    for name, rows in pairs.items():
        texts = dict.fromkeys(map(tuple, data[name]["texts"][:]))
        assert [tuple(lines) for lines in rows["texts"][:]] == [*texts]
        # Pairs about the same are no wrong answers to each other: as many concepts as there were.
        assert len(set(rows["concept"][:])) == len(set(data[name]["concept"][:]))
    assert capsys.readouterr().out == ""


def test_recall_counts_the_questions_whose_answer_is_among_the_first():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.3, 0.2]])
    found = ranked(scores, ["a", "b", "c"], ["a", "b", "c"])
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == 1
    assert (found["candidates"], found["questions"]) == (3, 3)


def test_scores_that_are_all_equal_give_chance():
    names = [str(number) for number in range(20)]
    found = ranked(torch.zeros(20, 20), names, names)
    assert found["recall@1"] == pytest.approx(1 / 20)
    assert found["recall@5"] == pytest.approx(5 / 20)


def test_one_of_several_right_answers_is_enough():
    found = ranked(torch.tensor([[0.1, 0.9, 0.5]]), ["a"], ["a", "a", "b"])
    assert found["recall@1"] == 1


def test_a_question_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="1 questions without one"):
        ranked(torch.zeros(2, 2), ["a", "x"], ["a", "b"])


def test_pixels_find_the_same_drawing_and_not_its_mirror():
    images = []
    for place in (0, 20):
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        ImageDraw.Draw(image).rectangle((place, 5, place + 15, 20), fill="red")
        images.append(image)
    assert pixel_scores(images, images).argmax(1).tolist() == [0, 1]


def test_what_is_transparent_is_white():
    assert on_white([Image.new("RGBA", (10, 20), (9, 9, 9, 0))], 4).equal(torch.full((1, 4, 4, 3), 255.0))
