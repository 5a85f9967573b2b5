import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from transformers import (
    Dinov2ForImageClassification,
    Dinov2WithRegistersForImageClassification,
    ViTImageProcessor,
)

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionImageProcessor,
    OmniVisionModel,
)
from modeling_omni_vision.hub import render_card
from modeling_omni_vision.hub.card import TEMPLATES, check_card
from modeling_omni_vision.interop import convert_to_native


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
        "| images | 123 |",
        "| owl | 0.8125 | 0.75 | 0.78 | 41 |",
        "| loss | 0.123456 |",
        "| epochs | 3 |",
        "| dataset: train | 1,000 |",
        "\nomni-vision evaluate --model animals\n",
        "\nomni-vision train --dataset zoo/animals\n",
    ):
        assert row in card
    assert "On the test split of `zoo/animals`" in card


def test_the_card_shows_calibration_mirror_corruptions_and_doubtful_labels(checkpoint):
    card = render_card(checkpoint, "me/animals")
    for row in (
        "| temperature, fitted on 1,117 images of the validation split | 1.6253 |",
        "| expected calibration error, before and after scaling | 0.0313, 0.0127 |",
        "| negative log-likelihood, before and after scaling | 0.5173, 0.4492 |",
        "| accuracy averaged over image and its mirror, for comparison | 84.15% |",
        "| rotation (degrees) | 0: 83.75%, 45: 41.13% |",
        "| gaussian blur (sigma in pixels) | 0: 83.75%, 0.5: 82.11% |",
        "| suspected_labels | 1,713 |",
        "| share | 0.0427 |",
        "| by_class: owl | 19 |",
    ):
        assert f"\n{row}\n" in card
    assert "Accuracy by severity on the test split of `zoo/animals`" in card
    # The accuracy of the model index stays that of the plain images.
    assert [result.metric_value for result in ModelCard(card).data.eval_results] == [0.8375]


def test_the_card_says_why_there_is_no_temperature(folder):
    rewrite(folder, lambda metrics: metrics["evaluation"].update(calibration={"left_out": "nobody knows"}))
    card = render_card(folder, "animals")
    assert "| temperature scaling | none: nobody knows |" in card
    assert "before and after" not in card


def test_the_card_shows_the_images_that_lie_beside_it_where_they_belong(folder):
    card = render_card(folder, "animals")
    shown = re.findall(r"^!\[[^\]]+\]\((\S+)\)$", card, flags=re.MULTILINE)
    assert shown == [
        f"plots/{name}.png" for name in ("training", "confusion", "calibration", "mistakes", "attention", "robustness")
    ]
    assert card.index("## Training") < card.index("plots/training.png") < card.index("## Evaluation")
    assert card.index("| accuracy |") < card.index("plots/confusion.png") < card.index("## Limits")
    assert card.index("### Under corruption") < card.index("plots/robustness.png") < card.index("## Limits")
    shutil.rmtree(folder / "plots")
    rewrite(folder, lambda metrics: [metrics.pop(name) for name in ("robustness", "data_audit")])
    card = render_card(folder, "animals")
    for word in ("plots/", "corruption", "may be wrong", "doubtful"):
        assert word not in card


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
    for word in ("None", "nan", "macro-F1", "interval", "| class |", "images |"):
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


BREAKAGES = {
    "calibration error above 1": lambda found: found["evaluation"]["calibration"].update(
        expected_calibration_error={"before": 1.5, "after": 0.1}
    ),
    "no nll after": lambda found: found["evaluation"]["calibration"].update(nll={"before": 0.5}),
    "temperature that is no number": lambda found: found["evaluation"]["calibration"].update(temperature="hot"),
    "calibration that is no object": lambda found: found["evaluation"].update(calibration=[1]),
    "mirror above 1": lambda found: found["evaluation"]["test_time_augmentation"].update(accuracy=84.15),
    "mirror that is no object": lambda found: found["evaluation"].update(test_time_augmentation=0.8),
    "accuracy under rotation above 1": lambda found: found["robustness"]["rotation"][1].update(accuracy=41),
    "no severity": lambda found: found["robustness"]["rotation"][1].pop("severity"),
    "robustness that is no object": lambda found: found.update(robustness=[1]),
    "audit that is no object": lambda found: found.update(data_audit=3),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_cannot_have_been_measured_is_refused(folder, name):
    rewrite(folder, BREAKAGES[name])
    with pytest.raises(ValueError, match=r"metrics\.json"):
        render_card(folder, "animals")


@pytest.mark.parametrize("accuracy", [1.5, -0.1, "high", True, float("nan"), [0.5]])
def test_what_cannot_be_an_accuracy_is_refused(folder, accuracy):
    rewrite(folder, lambda metrics: metrics["evaluation"].update(accuracy=accuracy))
    with pytest.raises(ValueError, match=r"metrics\.json"):
        render_card(folder, "animals")


def test_metrics_that_are_no_json_object_are_refused(folder):
    for text in ("[]", "{", '{"evaluation": 3}', ""):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json'? must"):
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
    with pytest.raises(ValueError, match=rf"nowhere\.md.*{TEMPLATES}"):
        render_card(folder, "animals", tmp_path / "nowhere.md")


def test_names_that_would_break_a_table_are_escaped(folder):
    rewrite(folder, lambda metrics: metrics["training"].update(note="a|b\nc"))
    assert "| note | a\\|b c |" in render_card(folder, "animals")


def test_local_folders_are_not_published(folder):
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


@pytest.mark.parametrize(
    ("twin", "registers"), [(Dinov2ForImageClassification, 0), (Dinov2WithRegistersForImageClassification, 3)]
)
def test_every_code_block_of_the_card_of_another_stock_model_runs(
    checkpoint, tmp_path, monkeypatch, capsys, twin, registers
):
    config = twin.config_class(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=3,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(("cat", "dog", "owl"))),
        **({"num_register_tokens": registers} if registers else {}),
    )
    folder = tmp_path / "me" / "twin"
    twin(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    shutil.copyfile(checkpoint / "metrics.json", folder / "metrics.json")
    card = render_card(folder, "me/twin")
    assert "native twin" in card
    assert "MLP 96." in card
    assert "add_pooling_layer" not in card
    assert "trust_remote_code=True" not in card
    assert ModelCard(card).data.tags == ["vision", config.model_type]
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(compile(block, "model card", "exec"), {})
    printed = capsys.readouterr().out
    assert "torch.Size([1, 1, 32]) torch.Size([1, 16, 32])" in printed
    assert "owl" in printed


def test_every_code_block_of_the_card_of_a_grey_twin_runs(tmp_path, monkeypatch, capsys):
    names = dict(enumerate(("cat", "dog", "owl")))
    config = OmniVisionConfig(image_size=32, patch_size=8, num_channels=1, num_hidden_layers=1, id2label=names)
    OmniVisionForImageClassification(config).save_pretrained(tmp_path / "grey")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}, num_channels=1).save_pretrained(tmp_path / "grey")
    convert_to_native(tmp_path / "grey", tmp_path / "me" / "twin")
    card = render_card(tmp_path / "me" / "twin", "me/twin")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        exec(compile(block, "model card", "exec"), {})
    assert len(blocks) == 2
    answer = capsys.readouterr().out.splitlines()[-1]
    assert all(f"'{name}'" in answer for name in names.values())


def test_the_check_finds_a_number_that_was_changed_by_hand(published, copy):
    card = copy / "README.md"
    assert check_card(copy) == []
    for before, after in (
        ("83.75%", "93.75%"),
        ("value: 0.8375", "value: 0.9375"),
        ("0.0313, 0.0127", "0.0313, 0.0027"),
        ("45: 41.13%", "45: 81.13%"),
        ("| 1,713 |", "| 13 |"),
        (published.release, "r-000000000000"),
    ):
        text = (published.folder / "README.md").read_text()
        assert before in text
        card.write_text(text.replace(before, after))
        assert check_card(copy)


def test_a_template_of_somebody_else_may_extend_ours(folder, tmp_path):
    template = tmp_path / "card.md"
    template.write_text('{% extends "vision.md.j2" %}\n{% block limits %}Only on weekdays.{% endblock %}\n')
    card = render_card(folder, "animals", template)
    assert "Only on weekdays." in card
    assert "## Limits" not in card
    assert "| accuracy | 83.75% |" in card


def test_templates_are_package_data_beside_the_code():
    assert {path.name for path in TEMPLATES.iterdir()} == {
        "language.md.j2",
        "retrieval.md.j2",
        "tables.md.j2",
        "vae.md.j2",
        "vision.md.j2",
    }


def test_a_converted_checkpoint_keeps_name_licence_and_citation_of_the_original(folder):
    conversion = {
        "source": "someone/model",
        "revision": "a" * 40,
        "license": "cc-by-4.0",
        "library": "timm",
        "citation": "@article{someone2026,\n}",
    }
    rewrite(folder, lambda metrics: metrics.update(conversion=conversion))
    card = render_card(folder, "me/animals")
    data = ModelCard(card).data
    assert (data.license, data.base_model) == ("cc-by-4.0", "someone/model")
    assert f"Converted from `someone/model` at revision `{'a' * 40}`" in card
    assert "@article{someone2026," in card
