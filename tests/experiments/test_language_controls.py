import json

import pytest
from datasets import Dataset
from packaging.version import Version
from transformers import __version__ as transformers_version


pytest.importorskip("peft")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from experiments import language_controls
from experiments.language_controls import ControlArguments, ControlConversations, ControlRun
from modeling_omni_vision import OmniVisionProcessor
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.data.synthetic.scene_questions import draw_questions
from modeling_omni_vision.training import language
from modeling_omni_vision.training.language_arguments import LanguageTrainingArguments


VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MAPPED = json.dumps({**VISION, "image_size": 64})


@pytest.fixture(scope="module")
def scenes():
    return draw_questions(size=32, sizes={"train": 24, "validation": 4, "test": 4, "held_out": 4})


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch, scenes):
    monkeypatch.setattr(language, "load_questions", lambda *options: scenes)


def recipe(**changes):
    options = {"dataset": "scenes", "vision_feature_select_strategy": "grid"}
    if "model" not in changes:
        options |= {"config": json.dumps(VISION), "text_config": json.dumps(TEXT)}
    return ControlArguments(**options | changes)


def run(folder, given, **changes):
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 6, "disable_tqdm": True, "seed": 3}
    quick = {"do_predict": False, "eval_strategy": "no", "save_strategy": "no"}
    ControlRun(given, LanguageTrainingArguments(output_dir=str(folder), **options | quick | changes)).run()
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def processor(tmp_path_factory, scenes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "load_questions", lambda *options: scenes)
        folder = tmp_path_factory.mktemp("start") / "run"
        run(folder, recipe(), max_steps=1)
    return OmniVisionProcessor.from_pretrained(folder)


def test_symbols_in_words_train_the_language_model_alone(tmp_path):
    record = run(tmp_path / "run", recipe(image_input="symbols"), do_predict=True)
    unchanged = {name: part["unchanged"] for name, part in record["training"]["parts"].items()}
    assert unchanged == {"vision": True, "text": False, "projector": True}
    assert list(record["answers"]["test"]) == ["prior", "symbols"]


def test_a_map_of_symbols_trains_all_parts_and_is_all_that_is_measured(tmp_path):
    record = run(tmp_path / "run", recipe(image_input="symbol_map", config=MAPPED), do_predict=True)
    assert not any(part["unchanged"] for part in record["training"]["parts"].values())
    assert list(record["answers"]["test"]) == ["prior", "symbol_map"]


def test_a_map_of_symbols_replaces_the_image_for_towers_that_it_fits_only(processor, scenes, tmp_path):
    images, mapped = (ControlConversations(scenes["test"], processor, name) for name in ("images", "symbol_map"))
    for row in range(len(images)):
        assert images[row].tokens == mapped[row].tokens
        (stored,) = mapped[row].images
        wanted = language_controls.draw_symbol_map(scenes["test"][mapped.rows_of[row]]["symbols"])
        assert open_stored(stored).tobytes() == wanted.tobytes()
    with pytest.raises(ValueError, match=r"towers of 64 pixels whose patches have 8, got \(32, 32\) and \(8, 8\)"):
        run(tmp_path / "run", recipe(image_input="symbol_map"))
    several = Dataset.from_list([{**row, "images": row["images"] * 2} for row in scenes["test"].select(range(2))])
    with pytest.raises(ValueError, match="got 2 images in a row"):
        ControlConversations(several, processor, "symbol_map")


def test_symbols_stand_where_the_image_was(processor, scenes):
    row = scenes["test"][0]
    question = row["questions"][0]
    text = question["messages"][0]["content"].removeprefix("<image>\n")
    found = ControlConversations(scenes["test"], processor, "symbols").messages_of(question, 0)
    assert found[0]["content"] == f"{row['symbols']}\n{text}"
    without = Dataset.from_list([{**row, "symbols": ""}])
    with pytest.raises(ValueError, match="Expected `symbols` in every row"):
        ControlConversations(without, processor, "symbols")


def test_the_command_takes_flags_of_both_and_aligns_a_new_projector_first(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(language_controls, "align_projector", lambda *given: seen.append(given[2:]))
    options = ["--dataset", "scenes", "--vision_feature_select_strategy", "grid", "--config", json.dumps(VISION)]
    options += ["--text_config", json.dumps(TEXT), "--align_steps", "7", "--seed", "5", "--max_steps", "1"]
    options += ["--eval_strategy", "no", "--save_strategy", "no", "--output_dir", str(tmp_path / "run")]
    language_controls.main([*options, "--image_input", "nothing"])
    assert seen == [(7, 5)]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["recipe"]["align_steps"] == 7
    assert "nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_input": "words"}, "must be one of images, shuffled, nothing, symbols, symbol_map"),
        ({"align_steps": -1}, "`align_steps` must be at least 0"),
        ({"align_steps": 5, "model": "somewhere"}, r"`model` has all of its parts, got \[.*'align_steps'\]"),
        ({"image_input": "symbols", "stage": "projector"}, "needs `stage` 'all'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{"config": "{}", **changes})
