import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from modeling_omni_vision.training.class_balance import BalancedSampler, class_weights
from modeling_omni_vision.training.classification import train
from modeling_omni_vision.training.trainer import OmniVisionTrainer


class Rows:
    def __init__(self, labels):
        self.labels, self.epoch = torch.tensor(labels), 0


def test_weighted_classes_weigh_alike_and_an_image_one_on_average():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 5)
    assert torch.allclose(weights, torch.tensor([10 / 18, 10 / 9, 0, 10 / 3, 0]))
    assert torch.allclose(weights[labels].mean(), torch.tensor(1.0))


def test_the_sampler_draws_classes_equally_often_and_repeats_an_epoch_and_no_other():
    rows = Rows([0] * 900 + [1] * 90 + [2] * 10)
    sampler = BalancedSampler(rows, seed=3)
    first, again = list(sampler), list(sampler)
    rows.epoch = 1
    assert first == again != list(sampler)
    assert len(first) == len(sampler) == 1000
    counts = torch.bincount(rows.labels[first])
    # Three standard deviations of a binomial of 1000 draws with one third.
    assert all(abs(int(count) - 1000 / 3) < 3 * (1000 * 2 / 9) ** 0.5 for count in counts)


@pytest.fixture
def unequal(tmp_path):
    """Sixty times the same image, of which 90 % are `many`: nothing but the frequency can be learned."""
    features = Features({"image": Image(), "label": ClassLabel(names=["many", "few"])})
    images = [np.full((8, 8), 128, np.uint8)] * 60
    labels = [int(row % 10 == 9) for row in range(60)]
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "unequal")
    return str(tmp_path / "unequal")


@pytest.mark.parametrize("balance", [None, "weights", "sampler"])
def test_a_balanced_run_learns_that_classes_are_equally_probable(arguments, unequal, monkeypatch, balance):
    seen = {}

    def watch(self, *args, **kwargs):
        seen["trainer"] = self
        return train_as_before(self, *args, **kwargs)

    train_as_before = OmniVisionTrainer.train
    monkeypatch.setattr(OmniVisionTrainer, "train", watch)
    config = {"hidden_dropout_prob": 0.0, "patch_drop_rate": 0.0, "drop_path_rate": 0.0}
    options = {"num_train_epochs": 8, "learning_rate": 3e-3, "load_best_model_at_end": False, "do_predict": False}
    train(*arguments(dataset=unequal, class_balance=balance, config=config, **options))
    trainer = seen["trainer"]
    batch = trainer.data_collator([trainer.eval_dataset[row] for row in range(60)])
    with torch.no_grad():
        share = float(trainer.model.eval()(batch["pixel_values"]).logits.softmax(-1)[:, 1].mean())
    # Batches of twelve hold one or two of the rare class: the last steps leave it away from one half.
    assert share < 0.2 if balance is None else abs(share - 0.5) < 0.2


def test_another_balance_is_refused(arguments):
    with pytest.raises(ValueError, match="`class_balance` must be one of weights, sampler, got 'oversample'"):
        arguments(class_balance="oversample")
