import json
import multiprocessing
import os

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.evaluation import test_split as lock_module
from modeling_omni_vision.evaluation.evaluate import evaluate, predict
from modeling_omni_vision.evaluation.test_split import LOCK_FILE, SplitRefusedError, open_test_split
from modeling_omni_vision.records.weights_digest import weights_digest


NAMES = ["dark", "light"]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=NAMES)})


def split(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = [index % 2 for index in range(count)]
    images = [torch.randint(120 * label, 120 * label + 120, (8, 8), generator=generator) for label in labels]
    return Dataset.from_dict({"image": [p.byte().numpy() for p in images], "label": labels}, features=FEATURES)


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "images"
    DatasetDict({"train": split(8), "validation": split(4, 1), "test": split(10, 2)}).save_to_disk(folder)
    return str(folder)


def classifier(seed=1):
    torch.manual_seed(seed)
    config = OmniVisionConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    return OmniVisionForImageClassification(config).eval()


@pytest.fixture
def run(tmp_path):
    return save(classifier(), tmp_path / "run")


def save(model, folder):
    model.save_pretrained(folder)
    OmniVisionImageProcessor(size={"height": 8, "width": 8}, num_channels=1).save_pretrained(folder)
    return folder


def record_of(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def predicted_weights(monkeypatch):
    """Hashes of the weights that predicted, in order."""
    seen = []

    def watch(model, *args):
        seen.append(weights_digest(model))
        return predict(model, *args)

    monkeypatch.setattr("modeling_omni_vision.evaluation.evaluate.predict", watch)
    return seen


def test_the_first_evaluation_leaves_a_record_of_weights_and_data(run, dataset, tmp_path):
    command = "omni-vision evaluate --model run"
    accuracy = evaluate(run, dataset, "test", command=command).metrics["accuracy"]
    lock = record_of(run, LOCK_FILE)
    assert lock["weights"] == weights_digest(classifier())
    assert (lock["dataset"], lock["images"], lock["command"]) == ("images", 10, command)
    assert lock["date"] == record_of(run)["evaluation"]["date"]
    assert record_of(run)["test_opened"] == {**lock, "accuracy": accuracy}
    assert str(tmp_path) not in (run / LOCK_FILE).read_text()
    assert not list(run.glob(".*"))


def test_other_splits_leave_no_record(run, dataset):
    for name in ("train", "validation"):
        evaluate(run, dataset, name)
    assert not (run / LOCK_FILE).exists()
    assert "test_opened" not in record_of(run)


def test_the_record_is_written_before_the_first_image_is_read(run, dataset, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_omni_vision.evaluation.evaluate.predict", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, dataset, "test")
    assert (run / LOCK_FILE).is_file()


def test_no_image_is_read_for_the_record(run, dataset):
    rows = split(10, 2).cast_column("image", Image(decode=False))
    broken = [{"bytes": b"no image", "path": None}] * len(rows)
    rows = Dataset.from_dict({"image": broken, "label": rows["label"][:]}, features=rows.features)
    assert open_test_split(run, classifier(), rows, dataset).accuracy is None


def test_the_same_weights_may_come_again_and_the_log_says_that_it_is_a_reproduction(run, dataset, caplog):
    first = evaluate(run, dataset, "test", command="first").metrics
    lock = (run / LOCK_FILE).read_bytes()
    assert not caplog.records
    second = evaluate(run, dataset, "test", command="second").metrics
    assert second["confusion_matrix"] == first["confusion_matrix"]
    assert "reproduction, no new measurement" in caplog.text
    assert (run / LOCK_FILE).read_bytes() == lock
    assert record_of(run)["test_opened"]["command"] == "first"


def test_a_reproduction_with_another_accuracy_is_an_error_and_writes_nothing(run, dataset):
    evaluate(run, dataset, "test")
    metrics = record_of(run)
    # One image of ten: the smallest difference there is.
    metrics["test_opened"]["accuracy"] += 0.1
    (run / "metrics.json").write_text(json.dumps(metrics))
    before = contents(run)
    with pytest.raises(SplitRefusedError, match=r"expected 0\.\d+, got 0\.\d+"):
        evaluate(run, dataset, "test")
    assert contents(run) == before


def test_another_image_processor_is_found_out_by_its_accuracy(tmp_path, dataset):
    folders = (save(classifier(seed), tmp_path / f"seed{seed}") for seed in range(50))
    # A constant answer is right for half of the images, and stays so whatever the pixels are.
    folder = next(folder for folder in folders if evaluate(folder, dataset, "test").metrics["accuracy"] != 0.5)
    processor = record_of(folder, "preprocessor_config.json")
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "image_mean": [50.0]}))
    with pytest.raises(SplitRefusedError, match="image processor"):
        evaluate(folder, dataset, "test")


def test_other_weights_are_refused_before_they_see_an_image_and_change_nothing(run, dataset, predicted_weights):
    evaluate(run, dataset, "test")
    save(classifier(seed=2), run)
    before = contents(run)
    date = record_of(run, LOCK_FILE)["date"]
    with pytest.raises(SplitRefusedError, match=rf"opened on {date} by other weights.*new folder.*on validation"):
        evaluate(run, dataset, "test")
    assert contents(run) == before
    assert predicted_weights == [weights_digest(classifier())]
    evaluate(run, dataset, "validation")


def test_the_smallest_change_makes_other_weights():
    model, name = classifier(), "classifier.bias"
    before = weights_digest(model)
    with torch.no_grad():
        bias = dict(model.named_parameters())[name]
        bias[0] = torch.nextafter(bias[0], torch.tensor(1.0))
    assert weights_digest(model) != before
    assert weights_digest(classifier()) == before


def test_a_published_folder_has_the_record_in_its_numbers_alone(run, dataset, caplog):
    accuracy = evaluate(run, dataset, "test").metrics["accuracy"]
    (run / LOCK_FILE).unlink()
    assert evaluate(run, dataset, "test").metrics["accuracy"] == accuracy
    assert "reproduction" in caplog.text
    assert not (run / LOCK_FILE).exists()
    save(classifier(seed=2), run)
    with pytest.raises(SplitRefusedError, match="other weights"):
        evaluate(run, dataset, "test")


def test_both_records_must_agree(run, dataset):
    evaluate(run, dataset, "test")
    metrics = record_of(run)
    metrics["test_opened"]["weights"] = "0" * 64
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SplitRefusedError, match="expected SHA-256 0000"):
        evaluate(run, dataset, "test")


def test_the_same_labels_in_another_folder_are_the_same_test_split_and_other_labels_another(run, dataset, tmp_path):
    evaluate(run, dataset, "test")
    moved = tmp_path / "moved"
    os.rename(dataset, moved)
    evaluate(run, str(moved), "test")
    other = tmp_path / "other"
    DatasetDict({"train": split(8), "validation": split(4, 1), "test": split(12, 2)}).save_to_disk(other)
    with pytest.raises(SplitRefusedError, match=r"10 images of 'images', got 12 images of 'other'"):
        evaluate(run, str(other), "test")


@pytest.mark.parametrize("name", ["checkpoint-3", "checkpoint-15480"])
def test_a_checkpoint_within_a_run_never_sees_the_test_split(tmp_path, dataset, name, monkeypatch):
    folder = save(classifier(), tmp_path / "run" / name)
    before = contents(folder)
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder)
    for way in (folder, ".", tmp_path / "link"):
        with pytest.raises(SplitRefusedError, match="Choose among checkpoints on validation"):
            evaluate(way, dataset, "test")
    assert contents(folder) == before
    evaluate(folder, dataset, "validation")


def test_a_folder_that_is_only_called_like_a_checkpoint_is_none(tmp_path, dataset):
    evaluate(save(classifier(), tmp_path / "my-checkpoint-3"), dataset, "test")


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"weights": 3, "labels": "a", "date": "b"}'])
@pytest.mark.parametrize("place", [LOCK_FILE, "metrics.json"])
def test_a_damaged_record_is_refused_and_not_written_over(run, dataset, damage, place):
    if place == LOCK_FILE:
        (run / place).write_text(damage)
    else:
        (run / place).write_text((damage and f'{{"test_opened": {damage}}}') or "[")
    before = contents(run)
    with pytest.raises(ValueError, match="not written over"):
        evaluate(run, dataset, "test")
    assert contents(run) == before


def test_a_record_that_is_a_broken_link_is_damaged_too(run, dataset):
    (run / LOCK_FILE).symlink_to(run / "gone")
    with pytest.raises(SplitRefusedError, match="not written over"):
        evaluate(run, dataset, "test")


def test_after_a_crash_the_same_weights_go_on_and_others_do_not(run, dataset, caplog):
    open_test_split(run, classifier(), split(10, 2), dataset, "before the crash")
    with pytest.raises(SplitRefusedError, match="other weights"):
        open_test_split(run, classifier(seed=2), split(10, 2), dataset)
    accuracy = evaluate(run, dataset, "test").metrics["accuracy"]
    assert record_of(run)["test_opened"]["accuracy"] == accuracy
    assert record_of(run)["test_opened"]["command"] == "before the crash"
    assert "accuracy must be" not in caplog.text


def test_a_crash_while_the_record_is_written_leaves_none(tmp_path, monkeypatch):
    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(lock_module.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        lock_module.create_lock(tmp_path / LOCK_FILE, {"weights": "a"})
    assert not list(tmp_path.iterdir())


def test_of_many_processes_at_once_exactly_one_opens_the_split(run, dataset, monkeypatch):
    many = 6
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(many, timeout=60), fork.Queue()
    original = lock_module.create_lock

    def all_at_once(*args):
        # Every process has found no record and is about to make one.
        barrier.wait()
        return original(*args)

    monkeypatch.setattr(lock_module, "create_lock", all_at_once)
    models, rows = [classifier(seed) for seed in range(many)], split(10, 2)

    def race(index):
        try:
            results.put((index, open_test_split(run, models[index], rows, dataset).record["weights"]))
        except SplitRefusedError:
            results.put((index, None))

    processes = [fork.Process(target=race, args=(index,)) for index in range(many)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    (winner,) = [index for index, weights in found.items() if weights is not None]
    assert record_of(run, LOCK_FILE)["weights"] == found[winner] == weights_digest(models[winner])
    assert not list(run.glob(".*"))
