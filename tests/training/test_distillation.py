"""Distillation: any teacher, a tiny student, and what is measured of it."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from report_page import titles_of
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel
from transformers.utils import SAFE_WEIGHTS_NAME

from modeling_omni_vision import OmniVisionConfig, OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.cli.distill import main
from modeling_omni_vision.evaluation.agreement import (
    agreement,
    knn_accuracy,
    linear_probe_accuracy,
    recall_at_1,
)
from modeling_omni_vision.training import distillation, distillation_data
from modeling_omni_vision.training.checkpoints import held
from modeling_omni_vision.training.distill_arguments import DistillArguments, DistillTrainingArguments
from modeling_omni_vision.training.distillation import (
    DistillationRun,
    DistillationTrainer,
    Student,
    check_workers,
    distill,
    epoch_sizes,
    kept_bases,
    listed_rows,
    start_of,
)
from modeling_omni_vision.training.distillation_data import (
    Basis,
    DistillationCollator,
    DistillationDataset,
    Images,
    TeacherOutputs,
    vectors_of,
)
from modeling_omni_vision.training.distillation_measures import near_duplicates
from modeling_omni_vision.training.teacher import Teacher, TeacherOutput, load_teacher
from modeling_omni_vision.training.views import Views, choose_view, cut_together


STUDENT = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
QUICK = {
    "eval_strategy": "no",
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "save_strategy": "no",
    "logging_steps": 1000,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 64 images with patterns in one of four colours, and their colours as labels."""
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    colours, lines = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}, []
    for number in range(64):
        name, colour = list(colours.items())[number % 4]
        pattern = draws.integers(0, 2, (5, 5, 1)) * np.subtract(colour, 255) + 255
        Image.fromarray(pattern.astype(np.uint8)).resize((40, 40), Image.Resampling.NEAREST).save(
            folder / f"{number:02}.png"
        )
        lines.append(f"{number:02}.png,{name}")
    (folder / "labels.csv").write_text("\n".join(["id,label", *lines]))
    return folder


class Features(nn.Module):
    """A teacher with vectors, a feature map and logits: random convolutions."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.map, self.head = nn.Conv2d(3, 24, 8, 8), nn.Linear(24, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def forward(self, pixel_values):
        found = (self.map(pixel_values) - self.map(torch.ones_like(pixel_values))).tanh()  # 0 for white
        vectors = found.mean((2, 3))
        return TeacherOutput(vectors, found.permute(0, 2, 3, 1), self.head(vectors))


def run(images, output, teacher=None, epochs=2, arguments=None, **recipe):
    recipe = DistillArguments(
        **{
            "teacher": "features",
            "images": [str(images)],
            "config": json.dumps(STUDENT),
            "views": 2,
            "held_out_fraction": 0.25,
            "cache": str(output.parent / "cache"),
            **recipe,
        }
    )
    args = DistillTrainingArguments(output_dir=str(output), num_train_epochs=epochs, **{**QUICK, **(arguments or {})})
    return distill(recipe, args, teacher or Features())


def test_a_student_agrees_with_its_teacher_and_its_folder_needs_none(images, tmp_path, reports):
    labels = str(images / "labels.csv")
    folder = run(images, tmp_path / "run", epochs=12, label_file=labels, logit_weight=0.5)
    found = json.loads((folder / "metrics.json").read_text())["agreement"]
    assert found["overlap"] > found["overlap_of_random_weights"]
    assert found["cosine"] > 0.8
    assert set(found["labels"]) >= {"teacher", "student", "from_scratch", "random_weights"}
    assert found["parameters"]["student"] == sum(one.numel() for one in AutoModel.from_pretrained(folder).parameters())
    assert (folder / "neighbours.png").is_file()
    assert {"Samples", "Neighbours", "Attention of CLS in the last layer"} <= {*titles_of(folder)}
    assert "token_head" not in str(load_file(folder / "model.safetensors"))
    assert set(found["speed"]["torch"]) >= {"student_images_per_cpu_second", "ratio"}


def test_a_student_that_goes_on_with_other_images_starts_from_what_it_learned(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # other images turn the axes
        patch.setattr(distillation, "Basis", partial(Basis, seed=5))
        first = run(images, tmp_path / "first", epochs=12)
    learned = json.loads((first / "metrics.json").read_text())["agreement"]
    fewer = shutil.copytree(images, tmp_path / "fewer")
    for path in sorted(fewer.glob("*.png"))[::3]:
        path.unlink()
    labels = str(fewer / "labels.csv")
    unchanged = {"learning_rate": 0.0, "max_steps": 1}  # all that it says it knew before
    seen = {}

    class Recorded(DistillationRun):
        def trainer_of(self, recipe, *args):
            trainer = super().trainer_of(recipe, *args)
            seen[recipe.model] = trainer.core.omni_vision.state_dict()["embeddings.patch_embeddings.projection.weight"]
            return trainer

    recipe = DistillArguments(
        **{"teacher": "features", "images": [str(fewer)], "model": str(first), "views": 1, "held_out_fraction": 0.25},
        **{"cache": str(tmp_path / "other"), "label_file": labels, "token_weight": 0.0},
    )
    args = DistillTrainingArguments(output_dir=str(tmp_path / "second"), **{**QUICK, **unchanged})
    found = json.loads((Recorded(recipe, args, Features()).run() / "metrics.json").read_text())["agreement"]
    assert found["cosine"] > learned["cosine"] - 0.05 > 0.7
    assert set(seen) == {str(first), None}  # the student, and the one from labels alone, which starts anew
    assert not torch.equal(seen[str(first)], seen[None])


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(images, tmp_path):
    both = {"save_strategy": "epoch", "eval_strategy": "epoch", "do_predict": False, "save_total_limit": None}
    options = {"ema_decay": 0.9, "muon_learning_rate": 0.01, "epochs": 3}
    whole = run(images, tmp_path / "whole", arguments=both, **options)
    expected = load_file(whole / "model.safetensors")
    first, *later = sorted(whole.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    begun = shutil.copytree(first, tmp_path / "begun" / first.name)
    again = {**both, "resume_from_checkpoint": str(begun)}
    found = load_file(run(images, begun.parent, arguments=again, **options) / "model.safetensors")
    assert len(later) == 2
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_second_run_asks_the_teacher_nothing_and_a_stopped_one_goes_on(images, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    asked = []

    def teach(pixel_values):
        asked.append(len(pixel_values))
        if sum(asked) > 20 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return pixel_values.flatten(1)[:, :6]

    stopped: list[bool] = []
    basis = {"vectors": Basis(torch.randn(50, 6), 32)}
    teacher = Teacher("function", teach, 16, [0.5] * 3, [0.5] * 3)
    outputs = lambda: TeacherOutputs(teacher, pixels, range(40), Views(0, 0.5, True), basis, tmp_path, "key", [])  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        outputs().view(1)
    found = outputs().view(1)["vectors"].copy()
    before = sum(asked)
    assert np.array_equal(outputs().view(1)["vectors"], found)
    assert sum(asked) == before
    assert np.isfinite(found).all()


class Killed(BaseException):
    """The process ends."""


def test_arrays_of_a_run_that_was_killed_are_not_taken_for_those_of_an_earlier_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    basis, budget = {"vectors": Basis(torch.randn(50, 6), 32)}, [10]

    def teach(pixel_values):
        budget[0] -= 1
        if not budget[0]:
            raise Killed
        return pixel_values.flatten(1)[:, :6]

    def vectors(key):
        teacher = Teacher("function", teach, 16, [0.5] * 3, [0.5] * 3)
        views = Views(0, 0.5, True)
        return TeacherOutputs(teacher, pixels, range(40), views, basis, tmp_path, key, []).view(0)["vectors"].copy()

    expected, budget[0] = vectors("one teacher"), 2
    with pytest.raises(Killed):
        vectors("another")
    budget[0] = 10
    assert np.array_equal(vectors("one teacher"), expected)


def test_pixels_of_a_run_that_was_killed_are_not_taken_for_those_of_an_earlier_one(images, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(images.glob("*.png"))[:20]:
        shutil.copy(path, other / f"other-{path.name}")
    processor, cache = OmniVisionImageProcessor(size={"height": 32, "width": 32}), tmp_path / "cache"
    expected = distillation_data.read_images([str(images)], processor, 32, cache).pixels.copy()

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(distillation_data, "Reader", killed)
        with pytest.raises(Killed):
            distillation_data.read_images([str(other)], processor, 32, cache)
    assert np.array_equal(distillation_data.read_images([str(images)], processor, 32, cache).pixels, expected)


def test_bases_of_a_run_that_was_killed_are_not_taken_for_those_of_an_earlier_one(tmp_path, monkeypatch):
    matrices = {"one": torch.zeros(6, 32), "another": torch.ones(6, 32)}

    def kept(key):
        return kept_bases(tmp_path, key, lambda: ({"vectors": Basis.of(matrices[key], 1.0)}, 0, []))[0]["vectors"]

    def killed(*args):
        raise Killed

    kept("one")
    with monkeypatch.context() as patch:
        patch.setattr(distillation, "write_json", killed)
        with pytest.raises(Killed):
            kept("another")
    assert torch.equal(kept("one").matrix, matrices["one"])


def test_weights_of_a_checkpoint_come_back_in_a_process_of_torchrun(tmp_path):
    recipe = DistillArguments(teacher="features", images=["images"])
    students = [Student(OmniVisionConfig(**STUDENT), recipe) for _ in range(2)]
    save_file(
        {name: value.contiguous() for name, value in students[0].state_dict().items()}, tmp_path / SAFE_WEIGHTS_NAME
    )
    trainer = SimpleNamespace(core=students[1], args=SimpleNamespace(device=torch.device("cpu", 0)))
    DistillationTrainer.restore(trainer, str(tmp_path))
    expected, found = (student.state_dict() for student in students)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("arguments", "low", "total"),
    [
        ({"num_train_epochs": 10}, 6, 10),
        ({"max_steps": 12}, 2, 3),  # of 60 images in batches of 16
        ({"max_steps": 12, "gradient_accumulation_steps": 2}, 4, 6),
        ({"max_steps": 5}, 1, 2),
    ],
)
def test_the_low_resolution_lasts_for_its_part_of_the_steps(tmp_path, arguments, low, total):
    recipe = DistillArguments(teacher="features", images=["images"], low_resolution=16)
    args = DistillTrainingArguments(output_dir=str(tmp_path), **QUICK, **arguments)
    assert epoch_sizes(recipe, args, 32, 60) == [16] * low + [32] * (total - low)


def test_training_that_would_end_at_the_low_resolution_is_refused(images, tmp_path):
    recipe = DistillArguments(teacher="features", images=["images"], low_resolution=16)
    args = DistillTrainingArguments(output_dir=str(tmp_path), max_steps=2, **QUICK)
    with pytest.raises(ValueError, match=r"the last of 0\.5 epochs at the full size of 32, got 16"):
        epoch_sizes(recipe, args, 32, 60)
    with pytest.raises(ValueError, match=r"`low_resolution` must be 0 with `max_minutes`, got 16"):
        run(images, tmp_path / "run", low_resolution=16, arguments={"max_minutes": 1})


def test_two_runs_do_not_write_to_one_cache_at_a_time(images, tmp_path):
    cache = run(images, tmp_path / "first", epochs=1, arguments={"do_predict": False}).parent / "cache"
    before = {file.name: file.read_bytes() for file in cache.iterdir()}
    with held(cache, first=True), pytest.raises(ValueError, match=r"another at work.* name another --cache"):
        run(images, tmp_path / "second", config=json.dumps({**STUDENT, "hidden_size": 64}))
    assert before == {file.name: file.read_bytes() for file in cache.iterdir()}
    assert not (tmp_path / "second").exists()


def test_outputs_computed_for_each_view_equal_those_that_were_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    basis, teacher = (
        {"vectors": Basis(torch.randn(50, 6), 32)},
        Teacher("f", lambda x: x[:, 0, 0, :6], 16, [0.5] * 3, [0.5] * 3),
    )
    outputs = TeacherOutputs(teacher, pixels, range(8), Views(0, 0.5, True), basis, tmp_path, "key", [])
    kept, fresh = outputs.view(3)["vectors"], outputs.outputs(range(8), [3] * 8)["vectors"]
    assert np.abs(kept - fresh.numpy()).max() < 1e-2


def test_views_depend_on_seed_row_and_number_alone_and_the_first_is_the_whole_image():
    image = torch.randint(256, (3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = Views(0, 0.3, True)
    assert torch.equal(views.cut(image, 4, 0, 20), image)
    assert torch.equal(views.cut(image, 4, 2, 20), Views(0, 0.3, True).cut(image, 4, 2, 20))
    assert not torch.equal(views.cut(image, 4, 2, 20), views.cut(image, 5, 2, 20))
    assert {choose_view(3, epoch, 4) for epoch in range(4)} == {0, 1, 2, 3}
    assert [choose_view(3, epoch, 0) for epoch in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("dimension", [8, 31, 100])
def test_the_students_vector_has_the_teachers_cosines_without_a_head(dimension):
    vectors = torch.randn(300, dimension, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        0, -6, dimension
    )
    basis = Basis(vectors, 32)
    made = basis(vectors)
    expected = torch.nn.functional.cosine_similarity(vectors[:100], vectors[100:200])
    assert torch.allclose(torch.nn.functional.cosine_similarity(made[:100], made[100:200]), expected, atol=1e-3)
    assert made.mean(-1).abs().max() < 1e-5
    assert basis.energy > 0.999


@pytest.mark.parametrize("count", [0, 3, 37])
def test_vectors_of_a_teacher_are_those_of_its_batches_one_after_another(count):
    teacher = Teacher("features", Features(), 16, [0.5] * 3, [0.5] * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 20, 20), dtype=np.uint8)
    rows = [(7 * row) % 40 for row in range(count)]
    found = vectors_of(teacher, pixels, rows)
    assert found.dtype == np.float32
    assert len(found) == count
    alone = [teacher(torch.from_numpy(pixels[row : row + 1])).vectors[0].numpy() for row in rows]
    assert np.allclose(found, np.reshape(alone, found.shape), atol=1e-6)


@pytest.mark.parametrize("dimension", [8, 31, 100])
def test_a_student_that_learned_from_the_teacher_before_keeps_its_space(dimension):
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, dimension, generator=draws) * torch.logspace(0, -6, dimension)
    learned = Basis(vectors, 32, seed=5)(vectors)
    nearly = learned + 0.01 * learned.std() * torch.randn(300, 32, generator=draws)
    basis = Basis(vectors + 0.001 * torch.randn(300, dimension, generator=draws), 32, nearly)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(basis(vectors), learned).min() > 0.99
    assert cosine(Basis(vectors, 32)(vectors), learned).abs().mean() < 0.5
    made, expected = basis(vectors), cosine(vectors[:100], vectors[100:200])
    assert torch.allclose(cosine(made[:100], made[100:200]), expected, atol=1e-2)
    assert made.mean(-1).abs().max() < 1e-5


@pytest.mark.parametrize("size", [20, 9, 31])
def test_views_cut_together_equal_those_cut_one_by_one_within_two_levels(size):
    images = torch.randint(256, (24, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views, rows, numbers = Views(0, 0.3, True), range(24), [number % 5 for number in range(24)]
    expected = views.cut_all(images, rows, numbers, size)
    found = cut_together(images, views.boxes(rows, numbers, 20, 28), size)
    assert (found.int() - expected.int()).abs().max() <= 2
    with ThreadPoolExecutor(2) as threads:
        assert torch.equal(views.cut_all(images, rows, numbers, size, threads), expected)


def outputs_of(teacher, folder, count=8, wanted=("tokens", "logits")):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    bases = {name: Basis(torch.randn(50, 24), 32) for name in ("vectors", "tokens")}
    return TeacherOutputs(teacher, pixels, range(count), Views(0, 0.5, True), bases, folder, "key", wanted)


def test_a_teacher_on_another_device_gets_large_batches_there_and_its_outputs_come_back(tmp_path):
    seen = []

    class OnDevice(Features):
        def forward(self, pixel_values):
            seen.append((pixel_values.device, len(pixel_values), pixel_values.dtype))
            found = super().forward(pixel_values)
            return TeacherOutput(*(torch.zeros_like(one, device="cpu") for one in found))

    device = torch.device("meta")  # as strict about devices as a GPU
    teacher = Teacher("features", OnDevice(), 16, [0.5] * 3, [0.5] * 3).to(device)
    outputs = outputs_of(teacher, tmp_path, 300)
    found = outputs.view(1)
    assert teacher.fastest() is teacher
    assert [one[1] for one in seen] == [256, 44]
    assert {(one[0], one[2]) for one in seen} == {(device, torch.float32)}
    assert found["vectors"].shape == (300, 32)
    function = Teacher("function", lambda pixels: pixels.mean((2, 3)), 16, [0.5] * 3, [0.5] * 3).to(device)
    assert function.device.type == "cpu"


def test_all_of_a_training_step_lies_on_the_device_of_its_batch(tmp_path):
    device = torch.device("meta")
    outputs = outputs_of(Teacher("features", Features(), 16, [0.5] * 3, [0.5] * 3).to(device), tmp_path)
    outputs.move_to(device)
    collator = DistillationCollator(OmniVisionImageProcessor(size={"height": 16, "width": 16}))
    batch = collator(DistillationDataset(outputs, range(8), 0, [16])[0])
    assert {one.device for name, one in batch.items() if name != "rows"} == {device}


def test_images_on_a_device_are_all_of_those_in_memory_in_the_order_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation_data, "SAVED_EVERY", 3)  # rows that are moved together
    outputs = outputs_of(Teacher("features", Features(), 16, [0.5] * 3, [0.5] * 3), tmp_path)
    before, every = outputs.images([7, 0, 5]), outputs.images(range(8))
    assert outputs.bytes_on_device == every.nbytes
    outputs.move_to(torch.device("cpu"))
    outputs.pixels = None
    assert torch.equal(outputs.images([7, 0, 5]), before)
    assert torch.equal(outputs.images(range(8)), every)


def test_losses_under_bfloat16_are_computed_in_float32():
    recipe = DistillArguments(teacher="features", images=["images"], token_weight=0)
    student = Student(OmniVisionConfig(**STUDENT), recipe).eval()
    pixels, wanted = torch.rand(6, 3, 32, 32), torch.randn(6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = student(pixels, labels=wanted)
    assert output.vectors.dtype == output.loss.dtype == torch.float32
    assert torch.equal(output.loss, torch.stack(student.vector_losses(output.vectors, wanted)).sum())


def test_a_bank_teaches_the_similarities_to_all_training_images_and_is_not_saved(images, tmp_path):
    quick = {"save_strategy": "epoch", "do_predict": False}
    folder = run(images, tmp_path / "run", epochs=1, neighbour_bank=True, arguments=quick)
    assert not any("bank" in name for file in folder.rglob("*.safetensors") for name in load_file(file))
    bank = torch.nn.functional.normalize(torch.randn(9, 32), dim=-1)
    recipe = DistillArguments(teacher="features", images=["images"], vector_weight=0, temperature=0.5)
    student, wanted = Student(OmniVisionConfig(**STUDENT), recipe, bank=bank), torch.randn(4, 32)
    assert student.vector_losses(wanted, wanted)[1].abs() < 1e-5
    ours = torch.randn(4, 32)
    found, expected = (
        (torch.nn.functional.normalize(one, dim=-1) @ bank.T / 0.5).softmax(-1) for one in (ours, wanted)
    )
    divergence = (expected * (expected / found).log()).sum(-1).mean()
    assert torch.allclose(student.vector_losses(ours, wanted)[1], divergence, atol=1e-5)


def test_relations_among_the_students_own_vectors_do_not_change_when_it_turns_them():
    recipe = DistillArguments(teacher="features", images=["images"], neighbour_weight=0, relation_weight=1)
    student, wanted = Student(OmniVisionConfig(**STUDENT), recipe), torch.randn(6, 32)
    turned = wanted @ torch.linalg.qr(torch.randn(32, 32)).Q
    assert student.vector_losses(turned, wanted)[1].abs() < 1e-4
    assert student.vector_losses(torch.randn(6, 32), wanted)[1] > 0.1


def test_workers_that_outlive_an_epoch_show_the_views_and_the_size_of_the_next(tmp_path):
    outputs = outputs_of(Teacher("features", Features(), 16, [0.5] * 3, [0.5] * 3), tmp_path, wanted=["tokens"])
    for view in range(3):
        outputs.view(view)  # before there are workers, as in a run: two of them would write one file
    data = DistillationDataset(outputs, range(8), 3, [8, 16])
    collator = DistillationCollator(OmniVisionImageProcessor(size={"height": 16, "width": 16}))
    loader = DataLoader(data, 4, collate_fn=collator, num_workers=2, persistent_workers=True)
    for epoch, size in enumerate((8, 16, 16)):
        data.set_epoch(epoch)
        batch = next(iter(loader))
        assert batch["pixel_values"].shape == (4, 3, size, size)
        assert torch.equal(batch["pixel_values"], collator(data.__getitems__(range(4)))["pixel_values"])


def test_a_teacher_on_a_gpu_is_not_asked_by_workers():
    teacher = Teacher("features", Features(), 16, [0.5] * 3, [0.5] * 3)
    check_workers(teacher, 0, 2)
    teacher.device = torch.device("cuda", 0)
    check_workers(teacher, 8, 2)
    with pytest.raises(ValueError, match=r"`dataloader_num_workers` must be 0 .* got 2"):
        check_workers(teacher, 0, 2)


def vit(folder, classifies=True):
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    (ViTForImageClassification(config) if classifies else ViTModel(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def timm_folder(folder):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=5)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    about = {
        "architecture": "resnet10t",
        "num_classes": 5,
        "pretrained_cfg": {"num_classes": 5, "input_size": [3, 64, 64]},
    }
    (folder / "config.json").write_text(json.dumps(about))
    return str(folder)


@pytest.mark.parametrize("kind", ["vit", "bare vit", "timm"])
def test_teachers_of_other_libraries_give_vectors_tokens_and_logits(kind, tmp_path):
    made = {"vit": vit, "bare vit": lambda folder: vit(folder, False), "timm": timm_folder}[kind](tmp_path / "teacher")
    teacher = load_teacher(made)
    images = torch.randint(256, (3, 3, 48, 48), dtype=torch.uint8)
    said = teacher(images)
    sizes = {"vit": (24, (4, 4, 24)), "bare vit": (24, (4, 4, 24)), "timm": (512, (2, 2, 512))}[kind]
    assert said.vectors.shape == (3, sizes[0])
    assert said.tokens.shape[1:] == sizes[1]
    assert (said.logits is None) == (kind == "bare vit")
    assert teacher.parameters == sum(one.numel() for one in teacher.model.parameters())


class OutsideTorch(nn.Module):
    """A teacher that a tracer takes for a constant."""

    def forward(self, pixel_values):
        return torch.from_numpy(pixel_values.numpy().mean((2, 3)))


def test_a_teacher_that_leaves_torch_is_not_run_as_a_constant():
    teacher = Teacher("outside", OutsideTorch(), 16, [0.5] * 3, [0.5] * 3)
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(teacher.fastest()(images).vectors, teacher(images).vectors, atol=1e-5)


def test_a_function_teaches_vectors_alone(images, tmp_path, caplog):
    run(images, tmp_path / "run", lambda pixels: pixels.mean((2, 3)), arguments={"do_predict": False}, epochs=1)
    assert "has no grid of tokens" in caplog.text


def test_held_out_images_of_a_list_are_never_trained_on_and_near_duplicates_are_left_out(images, tmp_path):
    (tmp_path / "held.txt").write_text("".join(f"{number:02}.png\n" for number in range(0, 20)))
    folder = run(images, tmp_path / "run", epochs=1, held_out=str(tmp_path / "held.txt"), scratch=False)
    record = json.loads((folder / "metrics.json").read_text())
    assert record["training"]["images"]["held_out"] == 20
    assert record["agreement"]["images"] + record["agreement"]["near_duplicates_removed"] == 20
    vectors, pixels = np.eye(4)[:3], np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    assert near_duplicates(vectors, np.eye(4)[2:], pixels, pixels[[0, 0]]).tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["id", "path", "relative path"])
def test_held_out_images_are_listed_by_ids_or_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ids = [f"{number:02}.png" for number in range(30)]
    paths = [str(tmp_path / "images" / one) for one in ids]
    listed = {"id": ids, "path": paths, "relative path": [f"images/{one}" for one in ids]}[name][:7]
    broken = {"id": "x.png", "path": str(tmp_path / "images" / "x.png"), "relative path": "images/x.png"}[name]
    unread = frozenset({"x.png", str(tmp_path / "images" / "x.png")})
    images = Images(ids, paths, np.empty(0), [], "", unread)
    (tmp_path / "held.txt").write_text("\n".join(["# images to measure", *listed, broken, ""]))
    assert listed_rows(images, "held.txt") == list(range(7))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["00.png", "no.png", "nor.png"], r"such as '00\.png', got 2 other names, such as 'no\.png'"),
        ([], "got none that can be read"),
        ([f"{number:02}.png" for number in range(30)], "at least 10 images to train on .* got 0 of 30"),
    ],
)
def test_a_list_of_images_to_hold_out_is_refused_with_what_is_wrong(tmp_path, names, said):
    ids = [f"{number:02}.png" for number in range(30)]
    (tmp_path / "held.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=said):
        listed_rows(Images(ids, [f"/{one}" for one in ids], np.empty(0), [], ""), str(tmp_path / "held.txt"))


def test_a_grey_student_to_go_on_from_is_refused(tmp_path):
    OmniVisionModel(OmniVisionConfig(**STUDENT, num_channels=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="square colour images, got 32 x 32 of 1 channels"):
        start_of(DistillArguments(teacher="features", images=["images"], model=str(tmp_path)))


def test_few_images_are_said_to_be_too_few(images, tmp_path, caplog):
    run(images, tmp_path / "run", arguments={"do_predict": False}, epochs=1)
    assert "64 images are too few to trust what is measured: use 500 or more" in caplog.text


@pytest.mark.slow
def test_a_learning_curve_shows_what_fewer_images_would_give(images, tmp_path):
    folder = run(images, tmp_path / "run", epochs=2, learning_curve=True, arguments={"per_device_train_batch_size": 8})
    curve = json.loads((folder / "metrics.json").read_text())["agreement"]["learning_curve"]
    assert len(curve) == 3
    assert all(0 <= overlap <= 1 for overlap in curve.values())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vector_weight", "0", "--neighbour_weight", "0", "--token_weight", "0"], "nothing is taught"),
        (["--temperature", "0"], "`temperature` must be above 0"),
        (["--min_crop_scale", "0"], "`min_crop_scale` must be above 0"),
        (["--teacher", "nowhere/at-all"], "Expected a teacher"),
        (["--teacher_kind", "keras"], "`teacher_kind` must be one of"),
        (["--held_out", "labels.csv"], "ids of images"),
        (["--config", '{"num_channels": 1}'], "colour"),
        (["--label_smoothing_factor", "0.1"], "teacher"),
    ],
)
def test_mistakes_end_in_a_sentence(images, tmp_path, flags, said):
    flags = [str(images / one) if one == "labels.csv" else one for one in flags]
    command = ["--teacher", vit(tmp_path / "teacher"), "--images", str(images), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=f"(?i){said}"):
        main([*command, "--cache", str(images.parent / "shared-cache"), *flags])


def test_agreement_is_one_with_itself_and_small_with_noise():
    draws = np.random.default_rng(0)
    vectors, noise = draws.normal(size=(200, 8)), draws.normal(size=(200, 8))
    assert min(agreement(vectors, vectors).values()) > 0.999
    assert agreement(noise, vectors)["overlap"] < 0.15
    labels = ["a" if one > 0 else "b" for one in vectors[:, 0]]
    assert knn_accuracy(vectors[:50], labels[:50], vectors[50:], labels[50:]) > 0.7
    assert linear_probe_accuracy(vectors[:50], labels[:50], vectors[50:], labels[50:]) > 0.85
    assert recall_at_1(vectors, vectors) == 1


@pytest.mark.parametrize(
    ("recipe", "compared"),
    [
        ({}, True),  # with the teacher's vectors of the batch
        ({"neighbour_bank": True}, False),
        ({"neighbour_bank": True, "relation_weight": 1.0}, True),
        ({"neighbour_weight": 0.0}, False),
    ],
)
def test_a_run_knows_whether_its_losses_depend_on_how_a_step_is_divided(tmp_path, recipe, compared):
    args = DistillTrainingArguments(output_dir=str(tmp_path / "run"))
    run = DistillationRun(DistillArguments(teacher="features", images=["images"], **recipe), args)
    assert run.compares_images_of_a_batch is compared


def test_a_clip_like_teacher_keeps_its_text_tower_in_one_folder(images, tmp_path):
    pytest.importorskip("transformers", minversion="5.23")
    from tests.interop.test_whole_models import save_clip

    save_clip(tmp_path / "teacher")
    folder = run(images, tmp_path / "run", str(tmp_path / "teacher"), epochs=2)
    from modeling_omni_vision import OmniVisionForRetrieval

    model = OmniVisionForRetrieval.from_pretrained(folder)
    teacher = load_teacher(str(tmp_path / "teacher"))
    ids = torch.tensor([[3, 4, 5]])
    found, expected = model.get_text_features(ids).pooler_output, teacher.model.model.get_text_features(ids)
    expected = getattr(expected, "pooler_output", expected)
    cosine = torch.nn.functional.cosine_similarity(found, expected).item()
    assert cosine > 0.9999
    assert model.config.vision_config.hidden_size == 32
    record = json.loads((folder / "metrics.json").read_text())
    assert record["agreement"]["cosine"] > 0


@pytest.mark.slow
def test_two_processes_teach_together(images, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["scripts/distill.py", "--teacher", vit(tmp_path / "teacher"), "--images", str(images)]
    options = [
        "--config",
        json.dumps(STUDENT),
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "4",
        "--views",
        "1",
    ]
    quick = ["--cache", str(tmp_path / "cache")]  # with a checkpoint, from which the best weights come
    subprocess.run(
        [*torchrun, *command, *options, *quick, "--output_dir", str(tmp_path / "run")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=280,
    )
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["training"]["processes"] == 2
    assert record["agreement"]["images"] > 0
