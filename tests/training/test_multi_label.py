import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PilImage
from transformers import AutoModelForImageClassification

from modeling_omni_vision.cli.predict import list_images, predict
from modeling_omni_vision.data.label_lists import label_array, label_names, number_label_lists
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.evaluation.evaluate import evaluate
from modeling_omni_vision.evaluation.multi_label import (
    choose_thresholds,
    mean_average_precision,
    multi_label_metrics,
    thresholds_of,
)
from modeling_omni_vision.hub.card_context import card_context
from modeling_omni_vision.training.classification import train


NAMES = ["bottom", "left", "top"]
PLACES = {"top": np.s_[:4, 4:], "left": np.s_[:, :4], "bottom": np.s_[4:, 4:]}


def drawn(count, seed):
    """Images (8, 8) with any of three bright places, and the lists of their names."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, 8, 8)).astype(np.uint8)
    lists = []
    for image in images:
        lists.append([name for name in PLACES if rng.random() < 0.4])
        for name in lists[-1]:
            image[PLACES[name]] += 150
    return list(images), lists


@pytest.fixture(params=["parquet", "metadata.jsonl"])
def source(request, tmp_path):
    folder = tmp_path / "data"
    for number, (split, count) in enumerate({"train": 96, "validation": 24, "test": 24}.items()):
        images, lists = drawn(count, number)
        (folder / split).mkdir(parents=True)
        if request.param == "parquet":
            rows = rows_of(images, labels=lists)
            rows.to_parquet(folder / f"{split}.parquet")
            (folder / split).rmdir()
            continue
        for row, image in enumerate(images):
            PilImage.fromarray(image).save(folder / split / f"{row}.png")
        lines = (json.dumps({"file_name": f"{row}.png", "labels": labels}) for row, labels in enumerate(lists))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_lists_of_labels_are_trained_on_evaluated_predicted_and_shown_in_the_card(arguments, source, tmp_path):
    options = {"num_train_epochs": 30, "learning_rate": 5e-3, "label_smoothing_factor": 0.02}
    config = {"hidden_dropout_prob": 0.0, "drop_path_rate": 0.0, "patch_drop_rate": 0.0}
    folder = train(*arguments(dataset=source, config=config, **options))
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification"
    assert list(model.config.label_thresholds) == list(model.config.id2label.values()) == NAMES
    record = json.loads((folder / "metrics.json").read_text())
    assert record["training"]["evaluations"][-1]["mean_average_precision"] > 0.75
    assert record["test"]["mean_average_precision"] > 0.75
    found = evaluate(folder, source, "test").metrics
    assert found["mean_average_precision"] == record["test"]["mean_average_precision"]
    assert list(found["per_class"]) == NAMES
    assert {row["threshold"] for row in found["per_class"].values()} == set(model.config.label_thresholds.values())
    images, lists = drawn(6, 9)
    files = [tmp_path / f"{row}.png" for row in range(6)]
    for file, image in zip(files, images, strict=True):
        PilImage.fromarray(image).save(file)
    right = sum(
        set(filter(None, one.label.split(", "))) == set(labels)
        for one, labels in zip(predict(str(folder), list_images([str(file) for file in files])), lists, strict=True)
    )
    assert right >= 4
    context = card_context(folder)
    assert context["per_class"]["header"][:3] == ["class", "average_precision", "threshold"]
    assert any("mean_average_precision" in part["results"] for part in context["measured"])


def test_a_checkpoint_goes_on_with_its_thresholds_of_the_new_data(arguments, tmp_path):
    images, lists = drawn(48, 0)
    rows = rows_of(images, labels=lists)
    rows.to_parquet(tmp_path / "train.parquet")
    options = {"dataset": str(tmp_path / "train.parquet"), "num_train_epochs": 1, "mixup": 0.2, "cutmix": 0.5}
    first = train(*arguments("first", **options))
    recipe, args = arguments("second", model=str(first), **options)
    recipe.config = None
    assert (train(recipe, args) / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="`class_balance` is for one class"):
        train(*arguments("third", class_balance="weights", **options))
    with pytest.raises(ValueError, match="a list of labels for each image, got one class"):
        evaluate(first, one_class(tmp_path))


def rows_of(images, **columns):
    kinds = {
        name: [Value("string")] if isinstance(values[0], list) else Value("string") for name, values in columns.items()
    }
    return Dataset.from_dict({"image": images, **columns}, features=Features({"image": Image(), **kinds}))


def one_class(tmp_path):
    images, _ = drawn(48, 0)
    rows_of(images, label=[NAMES[row % 3] for row in range(48)]).to_parquet(tmp_path / "single.parquet")
    return str(tmp_path / "single.parquet")


def split_of(lists, kind="string"):
    features = Features({"image": Value("int64"), "label": [Value(kind)]})
    return Dataset.from_dict({"image": [*range(len(lists))], "label": lists}, features=features)


def test_lists_become_numbers_of_the_same_names_everywhere():
    splits = {"train": split_of([["b", "a", "b"], [], ["c"]]), "test": split_of([["c", "a"]])}
    found = number_label_lists(splits, "x")
    assert label_names(found["test"]) == ["a", "b", "c"]
    assert label_array(found["train"]).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert label_array(found["test"]).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("train_lists", "test_lists", "kind", "message"),
    [
        ([["a"], ["b"]], [["z"]], "string", r"only elsewhere \{'test': \['z'\]\}"),
        ([["a"], []], [["a"]], "string", "got 1 classes"),
        ([["a"], None], [["a"]], "string", "labels of row 1 of the train split of 'x', got None"),
        ([["a"], ["b", None]], [["a"]], "string", r"labels of row 1 of the train split of 'x', got \['b', None\]"),
        ([[0.5], [1.0]], [[1.0]], "float32", r"labels of row 0 of the train split of 'x', got \[0.5\]"),
    ],
)
def test_lists_that_are_none_and_classes_without_training_are_refused_by_row(train_lists, test_lists, kind, message):
    with pytest.raises(ValueError, match=message):
        number_label_lists({"train": split_of(train_lists, kind), "test": split_of(test_lists, kind)}, "x")


def test_validation_is_held_out_of_lists_too(tmp_path):
    images, lists = drawn(40, 1)
    rows = rows_of(images, labels=lists)
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
    splits = load_images(str(tmp_path / "saved"))
    assert {name: len(split) for name, split in splits.items()} == {"train": 36, "validation": 4}


def test_a_threshold_has_the_highest_f1_and_is_a_half_without_positives():
    probabilities = np.array([[0.1, 0.2], [0.3, 0.4], [0.35, 0.6], [0.8, 0.9]])
    labels = np.array([[0, 0], [0, 0], [1, 0], [1, 0]])
    assert choose_thresholds(probabilities, labels) == [pytest.approx((0.35 + 0.3) / 2), 0.5]


def test_metrics_of_lists_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.6]])
    labels = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    found = multi_label_metrics(probabilities, labels, ["a", "b"], np.array([0.5, 0.5]))
    assert found["accuracy"] == pytest.approx(1 / 3)
    # Class a: ranks of its positives are 1 and 3; class b: both come first.
    assert found["mean_average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["per_class"]["a"]["recall"] == 0.5
    assert found["micro_f1"] == pytest.approx(6 / 8)
    wanted = torch.nn.functional.binary_cross_entropy(torch.tensor(probabilities), torch.tensor(labels).double())
    assert found["nll"] == pytest.approx(float(wanted))
    assert mean_average_precision(probabilities, np.zeros((3, 2))) == 0


def test_a_model_without_thresholds_has_a_half():
    class Config:
        id2label, num_labels = {0: "a", 1: "b"}, 2
        label_thresholds = {"b": 0.2}

    assert thresholds_of(Config).tolist() == [0.5, 0.2]


@pytest.mark.parametrize("kind", [int, float, bool])
def test_a_zero_or_one_for_each_class_is_a_list_of_classes(kind, tmp_path):
    vectors = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]] * 6
    columns = {"image": drawn(24, 0)[0], "labels": [[kind(one) for one in row] for row in vectors]}
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(tmp_path / "a.parquet")
    train = load_images(str(tmp_path / "a.parquet"), validation_fraction=4)["train"]
    assert label_names(train) == ["0", "1", "2"]
    assert {(*row,) for row in label_array(train).astype(int).tolist()} == {(*row,) for row in vectors}


@pytest.mark.parametrize("labels", [[0, 1, 0.5], [0, 1, None], [0, 1, 2.0]])
def test_what_is_neither_is_refused(labels, tmp_path):
    columns = {"image": drawn(4, 0)[0], "labels": [[0.0, 1.0, 0.0]] * 3 + [labels]}
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a list may also have a 0 or 1 for each class"):
        load_images(str(tmp_path / "a.parquet"), validation_fraction=1)
