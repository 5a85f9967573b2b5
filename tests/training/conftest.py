import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.trainer import OmniVisionTrainer


CONFIG = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "drop_path_rate": 0.1,
    "patch_drop_rate": 0.25,
}
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["dark", "grey", "light"])})


def _images(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    noise = rng.integers(0, 60, (count, 8, 8))
    images = (labels[:, None, None] * 90 + noise).astype(np.uint8)
    return Dataset.from_dict({"image": list(images), "label": labels.tolist()}, features=FEATURES)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory):
    """A saved dataset of 36 training, 9 validation and 9 test images of three easy classes."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    counts = {"train": 36, "validation": 9, "test": 9}
    DatasetDict({name: _images(count, seed) for seed, (name, count) in enumerate(counts.items())}).save_to_disk(folder)
    return folder


@pytest.fixture
def arguments(tiny_source, tmp_path):
    """A function that makes recipe and training arguments of a tiny run of two epochs of three steps."""

    def make(output_dir="run", config=(), **options):
        names = RecipeArguments.__dataclass_fields__
        recipe = {name: value for name, value in options.items() if name in names}
        training = {name: value for name, value in options.items() if name not in names}
        defaults = {"per_device_train_batch_size": 12, "num_train_epochs": 2, "disable_tqdm": True, "logging_steps": 1}
        return (
            RecipeArguments(
                **{"dataset": str(tiny_source), "config": json.dumps({**CONFIG, **dict(config)}), **recipe}
            ),
            OmniVisionTrainingArguments(output_dir=str(tmp_path / output_dir), **{**defaults, **training}),
        )

    return make


@pytest.fixture
def callbacks(monkeypatch):
    """A list; callbacks put into it take part in every training."""
    extra = []
    original = OmniVisionTrainer.train

    def with_callbacks(self, *args, **kwargs):
        for callback in extra:
            self.add_callback(callback)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(OmniVisionTrainer, "train", with_callbacks)
    return extra
