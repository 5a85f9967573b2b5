from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.evaluation.predictions import Predictions
from modeling_omni_vision.evaluation.robustness import CORRUPTIONS, measure_robustness, mirror_average
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessorPil


class LeftOrRight:
    """A classifier that says on which side an image is brighter; remembers its inputs."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(num_channels=1)

    def __init__(self):
        self.seen = []

    def __call__(self, pixels):
        self.seen.append(pixels)
        half = pixels.shape[-1] // 2
        return SimpleNamespace(
            logits=torch.stack([pixels[..., :half].sum((1, 2, 3)), pixels[..., half:].sum((1, 2, 3))], 1)
        )


@pytest.fixture(scope="module")
def rows():
    """Fourteen grey images of 12 x 12, on a dark and rough ground one side of which is brighter."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 80, (14, 12, 12)).astype(np.uint8)
    labels = [index % 2 for index in range(14)]
    for index, image in enumerate(images):
        image[:, 6 * labels[index] :][:, :6] += np.uint8(4 + index)
    features = Features({"image": Image(), "label": ClassLabel(names=["left", "right"])})
    return Dataset.from_dict({"image": list(images), "label": labels}, features=features)


@pytest.fixture
def processor():
    return OmniVisionImageProcessor(size={"height": 12, "width": 12}, num_channels=1)


def generators(count, seed=0):
    return [np.random.default_rng([seed, row]) for row in range(count)]


def apply(name, values, severity):
    return CORRUPTIONS[name].apply(values, severity, generators(len(values)))


@pytest.fixture
def values():
    return torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_rise_from_none_and_change_images_into_images(name, values):
    severities = CORRUPTIONS[name].severities
    assert severities[0] == 0
    assert list(severities) == sorted(set(severities))
    before = values.clone()
    for severity in severities[1:]:
        for corrupted in apply(name, values, severity):
            assert corrupted.dtype == torch.uint8
            assert corrupted.shape == values.shape
            assert not torch.equal(corrupted, values)
    assert torch.equal(values, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 9, 24)], ids=["tiny", "wide"])
def test_images_may_be_tiny_or_not_square(name, shape):
    values = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    for severity in CORRUPTIONS[name].severities[1:]:
        assert all(corrupted.shape == values.shape for corrupted in apply(name, values, severity))


def test_rotation_turns_in_both_directions_but_not_twice_by_half_a_turn(values):
    there, back = apply("rotation", values, 90)
    assert {tuple(there.flatten().tolist()), tuple(back.flatten().tolist())} == {
        tuple(torch.rot90(values, turns, (2, 3)).flatten().tolist()) for turns in (1, -1)
    }
    (half,) = apply("rotation", values, 180)
    assert torch.equal(half, values.flip(2, 3))


def test_blur_spreads_one_bright_pixel_as_a_gaussian_of_that_width():
    values = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    values[..., 15, 15] = 255
    (corrupted,) = apply("gaussian_blur", values, 1.5)
    profile = corrupted[0, 0].double().sum(0)
    variance = ((torch.arange(31) - 15) ** 2 * profile).sum() / profile.sum()
    # Integers cut the faint edge off.
    assert variance.sqrt() == pytest.approx(1.5, abs=0.15)


def test_noise_has_the_deviation_it_is_called_by_and_belongs_to_the_row():
    values = torch.full((6, 1, 40, 40), 128, dtype=torch.uint8)
    (corrupted,) = apply("gaussian_noise", values, 16)
    change = corrupted.double() - 128
    # 9,600 draws: the deviation is known to 0.7 %, the mean to 0.16.
    assert change.std() == pytest.approx(16, rel=0.03)
    assert abs(change.mean()) < 0.7
    assert not torch.equal(corrupted[0], corrupted[1])
    (alone,) = CORRUPTIONS["gaussian_noise"].apply(values[2:3], 16, generators(6)[2:3])
    assert torch.equal(alone[0], corrupted[2])


@pytest.mark.parametrize("size", [(20, 20), (10, 40)])
def test_erasing_takes_its_share_in_one_black_piece_anywhere(size):
    values = torch.full((200, 3, *size), 200, dtype=torch.uint8)
    (corrupted,) = apply("erasing", values, 0.2)
    black = (corrupted == 0).all(dim=1)
    height, width = (round(side * 0.2**0.5) for side in size)
    assert (black.sum((1, 2)) == height * width).all()
    assert set(corrupted.unique().tolist()) == {0, 200}
    assert {int(one.any(1).sum()) for one in black} == {height}
    assert {int(one.any(0).sum()) for one in black} == {width}
    # Every side of the image is reached by some.
    assert all(side.any() for side in (black[:, 0], black[:, -1], black[:, :, 0], black[:, :, -1]))


def test_curves_are_those_of_images_corrupted_one_by_one(rows, processor):
    curves = measure_robustness(LeftOrRight(), processor, rows, batch_size=5, seed=3)
    assert list(curves) == list(CORRUPTIONS)
    images = torch.stack([processor.process_image(row["image"]) for row in rows])
    model, truth = LeftOrRight(), np.array(rows["label"])
    for name, points in curves.items():
        assert [entry["severity"] for entry in points] == list(CORRUPTIONS[name].severities)
        for entry in points[1:]:
            right = []
            for row, (image, label) in enumerate(zip(images, truth, strict=True)):
                generator = [np.random.default_rng([3, row])]
                views = CORRUPTIONS[name].apply(image[None], entry["severity"], generator)
                inputs = [processor(view[0], return_tensors="pt")["pixel_values"] for view in views]
                right.append(np.mean([int(model(one).logits.argmax()) == label for one in inputs]))
            assert entry["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
            low, high = entry["accuracy_interval"]
            assert 0 <= low <= entry["accuracy"] <= high <= 1
    accuracies = [entry["accuracy"] for points in curves.values() for entry in points]
    assert len(set(accuracies)) > 4, "a model that nothing disturbs would prove nothing"


def test_severity_zero_gives_the_model_the_same_inputs_as_no_corruption(rows, processor):
    model = LeftOrRight()
    measure_robustness(model, processor, rows, batch_size=14)
    assert torch.equal(model.seen[0], processor(rows["image"][:], return_tensors="pt")["pixel_values"])


def test_another_seed_is_another_noise_and_the_same_seed_the_same(rows, processor):
    models = [LeftOrRight() for _ in range(3)]
    first, again, other = (
        measure_robustness(model, processor, rows, 14, seed) for model, seed in zip(models, (0, 0, 1), strict=True)
    )
    assert first == again
    inputs = [torch.stack(model.seen) for model in models]
    assert torch.equal(inputs[0], inputs[1])
    differ = (inputs[0] != inputs[2]).flatten(1).any(1)
    chance = sum(len(CORRUPTIONS[name].severities) - 1 for name in ("gaussian_noise", "erasing"))
    assert differ.sum() == chance
    assert first["rotation"] == other["rotation"]


def test_an_image_processor_without_tensors_is_refused(rows):
    with pytest.raises(ValueError, match="torchvision"):
        measure_robustness(LeftOrRight(), OmniVisionImageProcessorPil(num_channels=1), rows)


def test_the_mirror_is_averaged_in_as_probabilities():
    labels = np.array([0, 0, 1])
    plain = Predictions(np.log([[0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]), labels)
    mirrored = Predictions(np.log([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]]), labels)
    # 0.60, 0.55, 0.45 for the first class: all right, where each view alone has one or two mistakes.
    assert mirror_average(plain, mirrored) == {
        "views": "image and its mirror",
        "accuracy": 1.0,
    }
