import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from modeling_omni_vision.hub import render_card
from modeling_omni_vision.hub.card import TEMPLATE, check_card


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the checkpoint whose numbers a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "animals")


def rewrite(folder, change):
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_the_card_shows_the_numbers_of_metrics_and_weights(checkpoint):
    card = render_card(checkpoint, "me/animals")
    model = OmniVisionForImageClassification.from_pretrained(checkpoint)
    layer = sum(parameter.numel() for parameter in model.omni_vision.layers[0].parameters())
    assert f"{model.num_parameters():,} parameters" in card
    assert f"with {layer:,} in a layer" in card
    for row in (
        "| accuracy | 83.75% |",
        "| accuracy, bootstrap interval | 79.00% to 88.00% |",
        "| macro-F1 | 0.8211 |",
        "| expected calibration error | 0.0313 |",
        "| pictures | 123 |",
        "| owl | 0.8125 | 0.75 | 0.78 | 41 |",
        "| loss | 0.123456 |",
        "| epochs | 3 |",
        "| dataset: train | 1,000 |",
        "\npython scripts/evaluate.py --checkpoint animals\n",
        "\naccelerate launch scripts/train.py --dataset zoo/animals\n",
    ):
        assert row in card
    assert "On the test split of `zoo/animals`" in card


def test_the_metadata_is_what_the_hub_reads(checkpoint):
    data = ModelCard(render_card(checkpoint, "me/animals")).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert data.datasets == ["zoo/animals"]
    assert data.tags == ["vision", "omni_vision", "custom_code"]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.8375, "test")
    assert data.model_name == "animals"


def test_numbers_that_were_not_measured_are_left_out(folder):
    (folder / "metrics.json").write_text('{"test": {"accuracy": 0.5}}')
    card = render_card(folder, "animals")
    assert "| accuracy | 50.00% |" in card
    for word in ("None", "nan", "macro-F1", "interval", "| class |", "pictures |"):
        assert word not in card
    (folder / "metrics.json").unlink()
    card = render_card(folder, "animals")
    assert "Nothing was measured on this checkpoint." in card
    assert "No record of the training came with this checkpoint." in card
    assert ModelCard(card).data.eval_results is None


def test_a_test_of_another_split_stands_beside_the_evaluation(folder):
    rewrite(folder, lambda metrics: metrics["evaluation"].update(split="validation", accuracy=0.9))
    card = render_card(folder, "animals")
    assert "On the validation split" in card
    assert "On the test split" in card
    assert [result.metric_value for result in ModelCard(card).data.eval_results] == [0.9, 0.8375]


@pytest.mark.parametrize("accuracy", [1.5, -0.1, "high", True, float("nan"), [0.5]])
def test_what_cannot_be_an_accuracy_is_refused(folder, accuracy):
    rewrite(folder, lambda metrics: metrics["evaluation"].update(accuracy=accuracy))
    with pytest.raises(ValueError, match=r"metrics\.json"):
        render_card(folder, "animals")


def test_metrics_that_are_no_json_object_are_refused(folder):
    for text in ("[]", "{", '{"evaluation": 3}', ""):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json must"):
            render_card(folder, "animals")


def test_numbers_measured_on_other_classes_are_refused(folder):
    rewrite(folder, lambda metrics: metrics["evaluation"].update(per_class={"lorry": {"f1": 0.5}}))
    with pytest.raises(ValueError, match="lorry"):
        render_card(folder, "animals")


def test_numbers_measured_on_another_model_are_refused(folder):
    rewrite(folder, lambda metrics: metrics["training"].update(parameters=916992))
    with pytest.raises(ValueError, match="916992"):
        render_card(folder, "animals")


def test_a_placeholder_without_a_value_is_an_error(folder, tmp_path):
    template = tmp_path / "card.md"
    for text, named in (("{{ moon_phase }}", "moon_phase"), ("{{ '{{' }} later }}", "{{"), ("{% if %}", "Expected")):
        template.write_text(f"---\n{{{{ card_data }}}}\n---\n{text}\n")
        with pytest.raises(ValueError, match=re.escape(named)) as error:
            render_card(folder, "animals", template)
        assert "card.md" in str(error.value)


def test_a_missing_template_says_where_to_get_one(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.md.*checkout"):
        render_card(folder, "animals", tmp_path / "nowhere.md")


def test_names_that_would_break_a_table_are_escaped(folder):
    rewrite(folder, lambda metrics: metrics["training"].update(note="a|b\nc"))
    assert "| note | a\\|b c |" in render_card(folder, "animals")


def test_the_folders_of_a_machine_are_not_told(folder):
    rewrite(folder, lambda metrics: [part.update(dataset="/home/jo/photos") for part in metrics.values()])
    card = render_card(folder, "animals")
    assert "/home" not in card
    assert "`photos`" in card
    assert ModelCard(card).data.datasets is None


def test_an_encoder_is_presented_as_one(checkpoint, tmp_path):
    OmniVisionModel.from_pretrained(checkpoint).save_pretrained(tmp_path)
    card = render_card(tmp_path, "animals")
    assert ModelCard(card).data.pipeline_tag == "image-feature-extraction"
    assert "image-classification" not in card
    assert "Classes" not in card


def test_every_code_block_of_the_card_runs(published, tmp_path, monkeypatch, capsys):
    shutil.copytree(published.folder, tmp_path / "me" / "animals")
    monkeypatch.chdir(tmp_path)
    card = (published.folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        exec(compile(block, "model card", "exec"), {})
    printed = capsys.readouterr().out
    assert len(blocks) == 2
    assert "torch.Size([1, 1, 32]) torch.Size([1, 16, 32])" in printed
    assert all(label in printed for label in ("cat", "dog", "owl"))
    assert card.count(f'"{published.release}"') == 2


def test_the_check_finds_a_number_that_was_changed_by_hand(published, copy):
    card = copy / "README.md"
    assert check_card(copy) == []
    for before, after in (
        ("83.75%", "93.75%"),
        ("value: 0.8375", "value: 0.9375"),
        (published.release, "r-000000000000"),
    ):
        text = (published.folder / "README.md").read_text()
        assert before in text
        card.write_text(text.replace(before, after))
        assert check_card(copy)


def test_the_template_lies_at_the_root_of_the_checkout():
    assert TEMPLATE.name == "model_card.md"
    assert TEMPLATE.is_file()
