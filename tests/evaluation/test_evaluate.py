import json
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import ClassLabel as Classes
from datasets import Dataset, DatasetDict, Features, Image, Sequence, load_from_disk
from PIL import Image as PilImage
from PIL import ImageOps
from scipy.special import softmax

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.cli.evaluate import main
from modeling_omni_vision.cli.predict import main as predict_command
from modeling_omni_vision.data.hold_out import save_splits
from modeling_omni_vision.data.integrity import leave_out_unreadable, write_skipped
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.evaluation.calibration import fit_temperature
from modeling_omni_vision.evaluation.evaluate import evaluate
from modeling_omni_vision.evaluation.robustness import CORRUPTIONS
from modeling_omni_vision.interop import convert_to_native
from modeling_omni_vision.interop.export import ExportOptions, export_model
from modeling_omni_vision.records.metrics_file import merge_metrics, read_metrics


NAMES = ["dark", "light", "red"]


def image(label, index):
    draw = np.random.default_rng(10 * label + index)
    values = draw.integers(0, 60, (20 + index, 24, 3), dtype=np.uint8)
    return PilImage.fromarray(values + np.array([[0, 0, 0], [180, 180, 180], [180, 0, 0]], dtype=np.uint8)[label])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "saved"
    features = Features({"image": Image(), "label": Classes(names=NAMES)})

    def split(count):
        rows = [{"image": image(label, index), "label": label} for index in range(count) for label in range(3)]
        return Dataset.from_list(rows, features=features)

    DatasetDict({"train": split(8), "test": split(3)}).save_to_disk(folder)
    return folder


@pytest.fixture
def new_checkpoint(tmp_path):
    """A function that saves a tiny classifier with other options, and returns its folder."""

    def save(**change):
        # Of the seeds this is the first whose model gives all three answers and is better than chance.
        torch.manual_seed(34)
        config = OmniVisionConfig(
            image_size=16,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            intermediate_size=16,
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
            **change,
        )
        model = OmniVisionForImageClassification(config)
        # Far from the initialisation the answers depend on the image, so that equal numbers mean something.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
        model.center_residual_()
        model.save_pretrained(tmp_path / "run")
        OmniVisionImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "run")
        return tmp_path / "run"

    return save


@pytest.fixture
def checkpoint(new_checkpoint):
    return new_checkpoint()


@pytest.mark.parametrize(("format", "uint8"), [("torch", False), ("onnx", False), ("openvino", True)])
def test_an_export_is_evaluated_as_its_checkpoint_is(dataset, checkpoint, tmp_path, format, uint8):
    for package in {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}.get(format, ()):
        pytest.importorskip(package, reason=f"the extra `{format}` is not installed")
    options = ExportOptions(format=format, uint8=uint8)
    export_model(checkpoint, tmp_path / "exported", options, dataset=str(dataset), split="train")
    for folder in (checkpoint, tmp_path / "exported"):
        main(["--model", str(folder), "--dataset", str(dataset), "--split", "test"])
    ours, theirs = (read_metrics(one)["evaluation"] for one in (checkpoint, tmp_path / "exported"))
    assert 1 / 3 < theirs["accuracy"] < 1
    for name in ("accuracy", "macro_f1", "num_examples", "confusion_matrix", "per_class"):
        assert theirs[name] == ours[name]
    assert theirs["nll"] == pytest.approx(ours["nll"], abs=1e-4)


def by_hand(checkpoint):
    """Predictions one by one, without anything of `evaluate`."""
    model = OmniVisionForImageClassification.from_pretrained(checkpoint).eval()
    processor = OmniVisionImageProcessor.from_pretrained(checkpoint)
    pairs = [(label, image(label, index)) for index in range(3) for label in range(3)]
    with torch.inference_mode():
        return [(label, int(model(**processor(one, return_tensors="pt")).logits.argmax(-1))) for label, one in pairs]


def test_numbers_agree_with_predictions_made_one_by_one(checkpoint, dataset):
    found = evaluate(checkpoint, str(dataset), "test", batch_size=4).metrics
    expected = np.zeros((3, 3), dtype=int)
    for truth, predicted in by_hand(checkpoint):
        expected[truth, predicted] += 1
    assert (expected.sum(axis=0) > 0).sum() > 1, "a constant answer would prove nothing"
    assert found["confusion_matrix"] == expected.tolist()
    assert found["accuracy"] == pytest.approx(expected.trace() / 9)
    assert list(found["per_class"]) == NAMES


def test_metrics_json_gets_the_evaluation_and_keeps_what_others_wrote(checkpoint, dataset, tmp_path, capsys):
    (checkpoint / "metrics.json").write_text('{"training": {"epochs": 3}, "evaluation": {"accuracy": 2}}')
    main(["--model", str(checkpoint), "--dataset", str(dataset), "--split", "test", "--output", str(tmp_path / "png")])
    written = json.loads((checkpoint / "metrics.json").read_text())
    assert written["training"] == {"epochs": 3}
    assert set(written["evaluation"]) == {
        "accuracy",
        "accuracy_interval",
        "balanced_accuracy",
        "macro_f1",
        "expected_calibration_error",
        "nll",
        "num_examples",
        "split",
        "dataset",
        "per_class",
        "confusion_matrix",
        "calibration",
        "command",
        "date",
    }
    assert written["evaluation"]["num_examples"] == 9
    assert written["evaluation"]["dataset"] == "saved"
    # Published with the checkpoint: it must name no folder of this machine.
    assert written["evaluation"]["command"].startswith("omni-vision evaluate --model run --dataset saved")
    assert str(tmp_path) not in (checkpoint / "metrics.json").read_text()
    assert {path.name for path in (tmp_path / "png").iterdir()} == {
        "confusion.png",
        "calibration.png",
        "mistakes.png",
        "attention.png",
    }
    assert f"{written['evaluation']['accuracy']:.2%}" in capsys.readouterr().out


def test_images_go_into_the_checkpoint_by_default_and_curves_are_drawn_where_training_left_them(checkpoint, dataset):
    merge_metrics(checkpoint, {"training": {"history": [{"epoch": 1, "loss": 2.0}]}})
    report = evaluate(checkpoint, str(dataset), "validation")
    assert {path.parent for path in report.images} == {checkpoint / "plots"}
    assert (checkpoint / "plots" / "training.png").is_file()


def test_without_a_name_the_validation_split_is_evaluated(checkpoint, dataset, tmp_path):
    rows = load_from_disk(str(dataset))
    DatasetDict({"train": rows["train"], "validation": rows["test"]}).save_to_disk(tmp_path / "two")
    for source in (dataset, tmp_path / "two"):
        report = evaluate(checkpoint, str(source))
        assert (report.metrics["split"], report.held_out) == ("validation", False)
    assert not (checkpoint / "test_opened.json").exists()


@pytest.mark.parametrize(
    "change", [{}, {"pooling": "mean"}, {"pooling": "cls_mean", "num_register_tokens": 2}], ids=str
)
def test_the_native_twin_is_evaluated_to_the_same_numbers_without_attention(new_checkpoint, dataset, tmp_path, change):
    checkpoint = new_checkpoint(**change)
    convert_to_native(checkpoint, tmp_path / "twin")
    ours = evaluate(checkpoint, str(dataset)).metrics
    report = evaluate(tmp_path / "twin", str(dataset))
    assert report.metrics["confusion_matrix"] == ours["confusion_matrix"]
    # Weights equal to 1e-6, pixels equal: probabilities differ in the sixth digit at most.
    assert report.metrics["nll"] == pytest.approx(ours["nll"], abs=1e-5)
    assert "attention.png" not in {path.name for path in report.images}


def logits_by_hand(checkpoint, rows):
    model = OmniVisionForImageClassification.from_pretrained(checkpoint).eval()
    processor = OmniVisionImageProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        logits = [model(**processor(row["image"], return_tensors="pt")).logits for row in rows]
    return torch.cat(logits).double().numpy(), np.asarray(rows["label"])


def record_run(checkpoint, evaluations=(), **data):
    record = {"arguments": {"validation_fraction": 9.0}, "dataset": {"name": "saved", **data}}
    merge_metrics(checkpoint, {"training": record | {"evaluations": list(evaluations)}})


def test_the_temperature_is_that_of_the_images_which_training_held_out(checkpoint, dataset):
    record_run(checkpoint, train=15, validation=9, test=9)
    found = evaluate(checkpoint, str(dataset), "test").metrics["calibration"]
    held_out = load_images(str(dataset), validation_fraction=9)["validation"]
    # Rounding of float32 logits, in other batches.
    assert found["temperature"] == pytest.approx(fit_temperature(*logits_by_hand(checkpoint, held_out)), rel=1e-4)
    assert found["fitted_on"] == {"split": "validation", "images": 9}
    assert found["nll"]["before"] != found["nll"]["after"]
    # Where no record is, whoever calls has to say the share; then the same is found.
    (checkpoint / "metrics.json").unlink()
    assert evaluate(checkpoint, str(dataset), "test", validation_fraction=9).metrics["calibration"] == found


def test_no_temperature_is_fitted_on_the_evaluated_split_or_without_a_record_of_the_held_out_one(checkpoint, dataset):
    assert "no record" in evaluate(checkpoint, str(dataset), "test").metrics["calibration"]["left_out"]
    record_run(checkpoint)
    found = evaluate(checkpoint, str(dataset), "validation").metrics
    assert "fitted on" in found["calibration"]["left_out"]
    assert found["num_examples"] == 9


def test_another_split_than_the_run_had_is_an_error_and_not_another_number(checkpoint, dataset):
    record_run(checkpoint, validation=9)
    with pytest.raises(ValueError, match="training run"):
        evaluate(checkpoint, str(dataset), "validation", validation_fraction=0.1)
    record_run(checkpoint, validation=10)
    with pytest.raises(ValueError, match="as it was"):
        evaluate(checkpoint, str(dataset), "validation")
    assert "evaluation" not in json.loads((checkpoint / "metrics.json").read_text())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_images_on_which_the_run_had_another_loss_are_not_those_that_it_held_out(checkpoint, dataset, split):
    loss = evaluate(checkpoint, str(dataset), "validation", validation_fraction=9).metrics["nll"]
    (checkpoint / "metrics.json").unlink()
    record_run(checkpoint, [{"epoch": 1.0, "accuracy": 0.5, "loss": loss * 1.001}])
    evaluate(checkpoint, str(dataset), split)
    (checkpoint / "metrics.json").unlink()
    record_run(checkpoint, [{"epoch": 1.0, "accuracy": 0.5, "loss": loss * 1.1}])
    with pytest.raises(ValueError, match="not the images that were held out"):
        evaluate(checkpoint, str(dataset), split)
    assert "evaluation" not in json.loads((checkpoint / "metrics.json").read_text())


@pytest.mark.parametrize("native", [False, True], ids=["ours", "native twin"])
def test_curves_begin_at_the_accuracy_and_the_mirror_stands_beside_it(checkpoint, dataset, tmp_path, native, capsys):
    folder = checkpoint
    if native:
        folder = tmp_path / "twin"
        convert_to_native(checkpoint, folder)
    main(["--model", str(folder), "--dataset", str(dataset), "--robustness", "true", "--batch_size", "4"])
    written = json.loads((folder / "metrics.json").read_text())
    robustness, accuracy = written["robustness"], written["evaluation"]["accuracy"]
    assert set(robustness) == {*CORRUPTIONS, "units", "num_examples", "seed", "split", "dataset", "command", "date"}
    assert set(robustness["units"]) == set(CORRUPTIONS)
    for name in CORRUPTIONS:
        assert robustness[name][0]["severity"] == 0
        assert robustness[name][0]["accuracy"] == accuracy
    assert len({point["accuracy"] for name in CORRUPTIONS for point in robustness[name]}) > 1
    assert (folder / "plots" / "robustness.png").is_file()
    assert "robustness.png" in capsys.readouterr().out
    rows = load_images(str(dataset))["test"]
    mirrored = rows.map(lambda row: {"image": ImageOps.mirror(PilImage.open(BytesIO(row["image"]["bytes"])))})
    views = [logits_by_hand(checkpoint, part)[0] for part in (rows, mirrored)]
    both = sum(softmax(logits, axis=1) for logits in views).argmax(axis=1)
    assert written["evaluation"]["test_time_augmentation"] == {
        "views": "image and its mirror",
        "accuracy": pytest.approx((both == np.asarray(rows["label"])).mean()),
    }


def test_an_evaluation_without_robustness_keeps_the_one_that_is_there(checkpoint, dataset):
    merge_metrics(checkpoint, {"robustness": {"split": "validation"}})
    evaluate(checkpoint, str(dataset))
    assert json.loads((checkpoint / "metrics.json").read_text())["robustness"] == {"split": "validation"}


def rename_classes(checkpoint, names):
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (checkpoint / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["dark", "light", "green"], r"'green'.*only in the model.*'red'"), (["light", "dark", "red"], "another order")],
)
def test_classes_that_differ_from_the_data_are_named(checkpoint, dataset, names, message):
    rename_classes(checkpoint, names)
    with pytest.raises(ValueError, match=message):
        evaluate(checkpoint, str(dataset))
    assert not (checkpoint / "metrics.json").exists()


def test_a_split_that_does_not_exist_is_refused_with_those_that_do(checkpoint, dataset):
    with pytest.raises(ValueError, match=r"'test', 'train', 'validation'.*'dev'"):
        evaluate(checkpoint, str(dataset), "dev")


def test_all_images_of_other_data_are_evaluated_without_anything_to_train_on(checkpoint, dataset, tmp_path):
    load_from_disk(dataset)["test"].save_to_disk(tmp_path / "other")
    report = evaluate(checkpoint, str(tmp_path / "other"), "all")
    assert (report.metrics["split"], report.metrics["num_examples"]) == ("all", 9)
    assert report.metrics["calibration"] == {"left_out": "all images are evaluated"}
    assert evaluate(checkpoint, str(dataset), "all").metrics["num_examples"] == 33


def test_lists_of_labels_are_evaluated_and_said_with_their_mean_average_precision(new_checkpoint, tmp_path, capsys):
    run = new_checkpoint(problem_type="multi_label_classification")
    features = Features({"image": Image(), "label": Sequence(Classes(names=NAMES))})
    images = [image(label, index) for index in range(8) for label in range(3)]
    rows = Dataset.from_dict({"image": images, "label": [[0], [1], [0, 2]] * 8}, features=features)
    rows.to_parquet(tmp_path / "lists.parquet")
    main(["--model", str(run), "--dataset", str(tmp_path / "lists.parquet")])
    found = json.loads((run / "metrics.json").read_text())["evaluation"]
    assert f"mean average precision {found['mean_average_precision']:.4f}, " in capsys.readouterr().out


@pytest.mark.parametrize("own", [("train", "val"), ("train", "val", "test"), ("train", "test")])
def test_a_run_that_skipped_files_is_evaluated_without_them(checkpoint, tmp_path, own):
    folder = tmp_path / "saved"
    for split in own:
        for label, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for index in range(6):
                image(label, index).save(folder / split / name / f"{split}{index}.png")
            (folder / split / name / f"{split}3.png").write_text("no image")
    loaded = load_images(str(folder), validation_fraction=9)
    kept, skipped = leave_out_unreadable(loaded, on_error="skip")
    write_skipped(checkpoint, skipped)
    save_splits(checkpoint, kept, str(folder))
    record_run(checkpoint, **{name: len(rows) for name, rows in kept.items()})
    for split in kept if "val" in own else ("validation", "test"):
        assert evaluate(checkpoint, str(folder), split).metrics["num_examples"] == len(kept[split])


def test_a_class_without_a_name_is_refused_before_any_image_is_read(checkpoint, dataset, tmp_path):
    image(0, 0).save(tmp_path / "a.png")
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = {"0": "dark", "1": "light", "5": "red"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"`id2label` must name the classes 0 to 2, got \{0: 'dark', 1: 'light', 5: 'red'"
    ):
        evaluate(checkpoint, str(dataset))
    with pytest.raises(ValueError, match="must name the classes 0 to 2"):
        predict_command(["--model", str(checkpoint), "--images", str(tmp_path / "a.png")])


def test_a_folder_without_config_classifier_or_processor_is_refused(checkpoint, dataset, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        evaluate(tmp_path / "nowhere", str(dataset))
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="image processor"):
        evaluate(checkpoint, str(dataset))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"architectures": ["OmniVisionModel"]}))
    with pytest.raises(ValueError, match="image classifier"):
        evaluate(checkpoint, str(dataset))


def test_a_model_that_gives_nan_is_refused_and_leaves_no_numbers(checkpoint, dataset):
    model = OmniVisionForImageClassification.from_pretrained(checkpoint)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="NaN"):
        evaluate(checkpoint, str(dataset))
    assert not (checkpoint / "metrics.json").exists()


@pytest.mark.parametrize("broken", ["{", "[1]", "3"])
def test_a_broken_metrics_file_is_not_written_over(tmp_path, broken):
    (tmp_path / "metrics.json").write_text(broken)
    with pytest.raises(ValueError, match="JSON object"):
        merge_metrics(tmp_path, {"evaluation": {}})
    assert (tmp_path / "metrics.json").read_text() == broken


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "metrics.json").write_text('{"training": 1}')
    with pytest.raises(TypeError):
        merge_metrics(tmp_path, {"evaluation": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"training": 1}


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    merge_metrics(tmp_path, {"evaluation": {"nll": float("inf"), "list": [float("nan"), 1.5]}})
    assert json.loads((tmp_path / "metrics.json").read_text())["evaluation"] == {"nll": None, "list": [None, 1.5]}
