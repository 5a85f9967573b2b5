import json

import pytest
from packaging.version import Version
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.analysis.fusions import TIMES, fusion_table
from modeling_omni_vision.interop import compose_language_model
from scripts.compare_fusions import main


def scored(accuracy):
    kinds = {"colour": {"accuracy": accuracy - 0.25}, "shape": {"accuracy": accuracy + 0.25}}
    return {"pictures": {"accuracy": accuracy, "kinds": kinds}}


@pytest.fixture
def runs(tiny_model, tiny_llama_folder, tmp_path):
    eyes = tmp_path / "eyes"
    tiny_model.save_pretrained(eyes)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(eyes)
    ways = {
        "reduced": {"select_feature": "grid", "pixel_shuffle": 2},
        "late": {"fusion": "late", "select_feature": "grid", "cross_attention_every": 2},
        "CLS": {"select_feature": "cls"},
    }
    for name, options in ways.items():
        compose_language_model(str(eyes), str(tiny_llama_folder), tmp_path / name, **options)
        record = {"training": {"steps": 7}, "answers": {"test": scored(0.5), "held_out": scored(0.375)}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(record))
    return {name: tmp_path / name for name in ways}


def test_each_way_says_what_it_costs_and_what_it_was_worth(runs, tmp_path, capsys):
    named = [f"{name}={folder}" for name, folder in runs.items()]
    main(["--runs", *named, "--output", str(tmp_path / "fusions.json"), "--rounds", "2"])
    found = json.loads((tmp_path / "fusions.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert {name: (row["picture_length"], row["image_tokens"]) for name, row in rows.items()} == {
        "reduced": (4, 4),
        "late": (16, 1),
        "CLS": (1, 1),
    }
    for row in rows.values():
        assert row["answers"]["held_out"]["pictures"] == {"all": 0.375, "colour": 0.125, "shape": 0.625}
        assert min(row[name] for name in TIMES) > 0
    table = capsys.readouterr().out
    assert "| reduced | early | grid, 2 x 2 | 4 | 4 | 50.0% | 37.5% |" in table
    assert "| late | late | grid | 16 | 1 | 50.0% | 37.5% |" in table
    assert table.strip() == fusion_table(found)


def test_a_run_that_was_not_measured_and_a_run_without_a_name_are_refused(runs, tmp_path):
    (runs["CLS"] / "metrics.json").write_text(json.dumps({"training": {"steps": 7}}))
    with pytest.raises(ValueError, match=r"Expected measured answers in .*metrics\.json, got none"):
        main(["--runs", f"CLS={runs['CLS']}", "--output", str(tmp_path / "fusions.json")])
    with pytest.raises(ValueError, match="Expected NAME=FOLDER"):
        main(["--runs", str(runs["CLS"]), "--output", str(tmp_path / "fusions.json")])
