"""The validation split of a training run, checked against its record: fraction, counts and loss."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from ..data.hold_out import VALIDATION_FRACTION
from ..records.command import without_folder
from .metrics import negative_log_likelihood
from .predictions import Predictions


HELD_OUT, ALL = "validation", "all"
# Relative. A run in bf16 and an evaluation in float32 differ by 0.02 % on 10,000 images, by more on few.
SAME_LOSS = 0.02


def validation_fraction_of(training: Mapping[str, Any], dataset: str, given: float | None) -> float:
    """Return the fraction to hold out of train: that of the run where it was trained on this data, else the given one.

    Raises:
        `ValueError`: if another fraction is given than the run recorded, as it would be another split.
    """
    if not trained_on(training, dataset):
        return VALIDATION_FRACTION if given is None else given
    recorded = training["arguments"].get("validation_fraction", VALIDATION_FRACTION)
    if given not in (None, recorded):
        raise ValueError(
            f"`validation_fraction` must be that of the training run, {recorded!r}, got {given!r}: images that the "
            "model was trained on would count as held out. Leave it out."
        )
    return recorded


def trained_on(training: Mapping[str, Any], dataset: str) -> bool:
    """Whether the record of a run says that it was trained on this data, and with which arguments."""
    return "arguments" in training and (training.get("dataset") or {}).get("name") == without_folder(dataset)


def check_held_out(training: Mapping[str, Any], splits: Mapping[str, Any], dataset: str) -> None:
    """Raise `ValueError` where the data of a run no longer has the split sizes that the run recorded."""
    if not trained_on(training, dataset):
        return
    then = {name: training["dataset"].get(name) for name in splits}
    now = {name: len(rows) for name, rows in splits.items()}
    if any(count not in (None, now[name]) for name, count in then.items()):
        raise ValueError(
            f"The splits of {dataset!r} must be those of the training run, {then!r} images, got {now!r}. Other "
            "images would count as held out: evaluate on the data as it was."
        )


def check_loss(training: Mapping[str, Any], found: Predictions, dataset: str) -> None:
    """Raise `ValueError` where the loss on the validation split is not the recorded one.

    Splits of the same size can hold other images, by another seed or another order of the data. On images that a model
    was trained on its loss is lower.
    """
    losses = recorded_losses(training) if trained_on(training, dataset) else []
    loss = negative_log_likelihood(found.probabilities, found.labels)
    if losses and min(abs(loss - recorded) - max(SAME_LOSS * recorded, 0.1 * SAME_LOSS) for recorded in losses) > 0:
        raise ValueError(
            f"On the {HELD_OUT} split the loss must be that of the training run, {losses!r}, got {loss:.4f}: these "
            f"are not the images that were held out of {dataset!r} then, or not the weights of that run."
        )


def recorded_losses(training: Mapping[str, Any]) -> list[float]:
    """Return the validation losses that the final weights of a run can have: the last one, and those of the best."""
    entries = [entry for entry in training.get("evaluations") or [] if {"accuracy", "loss"} <= set(entry)]
    if not entries:
        return []
    ends = [entries[-1], max(entries, key=itemgetter("accuracy")), min(entries, key=itemgetter("loss"))]
    # Chosen by another metric.
    ends += [entry for entry in entries if entry.get("epoch") == training.get("best_epoch", -1)]
    return list(dict.fromkeys(entry["loss"] for entry in ends))


def why_not_fitted(training: Mapping[str, Any], dataset: str, split: str, given: float | None) -> str | None:
    """Return why no temperature can be fitted, None where one can; `given` is the fraction that the caller names."""
    if split == ALL:
        return "all images are evaluated"
    if split == HELD_OUT:
        return "the evaluated split is the one that a temperature is fitted on"
    if given is None and not trained_on(training, dataset):
        return "no record says what training held out of this data, and no validation_fraction was given"
    return None


__all__ = ["ALL", "HELD_OUT", "check_held_out", "check_loss", "trained_on", "validation_fraction_of", "why_not_fitted"]
