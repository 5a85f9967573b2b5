import json
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, load_from_disk
from torch import nn

from modeling_omni_vision.evaluation.evaluate import load_classifier
from modeling_omni_vision.records.weights_digest import weights_digest
from modeling_omni_vision.training.classification import ClassificationRun, train
from modeling_omni_vision.training.classifier_teachers import ClassifierTeachers


QUICK = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "do_predict": False}
CLASSES = ["dark", "grey", "light"]


def test_teachers_answer_with_the_mean_of_their_probabilities(arguments):
    folders = [str(train(*arguments(f"teacher-{seed}", seed=seed, **QUICK))) for seed in (1, 2)]
    models, processor = [load_classifier(Path(one))[0] for one in folders], load_classifier(Path(folders[0]))[1]
    teachers = ClassifierTeachers(folders, processor, CLASSES, 2.0, torch.device("cpu"))
    pixels, logits = torch.randn(4, 1, 8, 8), torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        expected = sum((model(pixels).logits / 2).softmax(-1) for model in models) / 2
    torch.testing.assert_close(teachers(pixels), expected)
    found = teachers.loss(logits, pixels)
    torch.testing.assert_close(
        found, 4 * nn.functional.kl_div((logits / 2).log_softmax(-1), expected, reduction="batchmean")
    )
    assert torch.autograd.grad(found, logits)[0].abs().sum() > 0
    assert not any(weight.requires_grad for model in teachers.models for weight in model.parameters())


def test_a_student_learns_from_labels_and_teachers_and_says_from_whom(arguments, tmp_path):
    teacher = train(*arguments("teacher", num_train_epochs=20, learning_rate=3e-3, do_predict=False))
    options = {"teachers": [str(teacher)], "teacher_weight": 1.0, "mixup": 0.2, "label_smoothing_factor": 0.1}
    recipe, args = arguments("student", **options)
    run = ClassificationRun(recipe, args)
    trainer = run.build()
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = {name: batch[name] for name in ("pixel_values", "labels")}
    trainer.model.train()
    torch.manual_seed(0)
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    # With the whole weight on the teacher, labels do not matter.
    torch.testing.assert_close(loss, trainer.teachers.loss(outputs.logits, inputs["pixel_values"]))
    folder = train(recipe, args)
    training = json.loads((folder / "metrics.json").read_text())["training"]
    assert training["teachers"] == [weights_digest(load_classifier(teacher)[0])]
    assert training["arguments"]["teachers"] == ["teacher"]
    assert "--teachers teacher --teacher_weight 1.0" in training["command"]
    assert str(tmp_path) not in (folder / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ["dark", "light", "grey"]}, "must know the classes"),
        ({"config": {"image_size": 16}}, "other size"),
        ({"config": {"num_channels": 3}}, "other num_channels"),
        ({"teacher_weight": 0.0}, "`teacher_weight` must be above 0"),
        ({"teacher_temperature": 0.0}, "`teacher_temperature` must be above 0"),
    ],
)
def test_teachers_that_cannot_teach_are_refused(arguments, tiny_source, tmp_path, change, sentence):
    teacher = train(*arguments("teacher", **QUICK))
    if "classes" in change:
        data = load_from_disk(str(tiny_source))
        data.cast_column("label", ClassLabel(names=change.pop("classes"))).save_to_disk(str(tmp_path / "other"))
        change = {"dataset": str(tmp_path / "other")}
    with pytest.raises(ValueError, match=sentence):
        train(*arguments("student", teachers=[str(teacher)], **QUICK, **change))


def test_a_folder_that_holds_no_classifier_is_no_teacher(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        train(*arguments("student", teachers=[str(tmp_path)], **QUICK))
