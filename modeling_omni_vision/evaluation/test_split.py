"""The test split is opened once for each run; `test_opened.json` in its folder records when, and by which weights.

All code that predicts on a test split calls `open_test_split` before the first image is read. The same weights may
open it again: a reproduction, which must give the same accuracy. Other weights may not, as choosing between them would
be model selection on test data. The record guards against mistakes, not against whoever deletes it.
"""

import hashlib
import json
import logging
import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from ..data.label_lists import label_array, label_names
from ..records.command import without_folder
from ..records.metrics_file import METRICS_FILE, read_metrics, results_folder
from ..records.weights_digest import weights_digest


logger = logging.getLogger(__name__)

LOCK_FILE = "test_opened.json"
# The same record in metrics.json, with the accuracy: a published folder has only this one.
SECTION = "test_opened"
CHECKPOINT_NAME = re.compile(r"checkpoint-\d+")
NEEDED = ("weights", "labels", "date")


class SplitRefusedError(ValueError):
    """The test split may not be opened, or its accuracy not be recorded."""


@dataclass(frozen=True)
class OpenedSplit:
    """A test split that may be read."""

    folder: Path  # of the run
    record: dict[str, Any]  # as in the file
    accuracy: float | None = None  # measured before; None for the first time, or after a crash before it was recorded

    def section(self, accuracy: float | None) -> dict[str, dict[str, Any]]:
        """Return the record with its accuracy as a section of metrics.json; refuse another accuracy than before."""
        if accuracy is None:  # of models that do not classify
            return {SECTION: self.record}
        if self.accuracy is not None and accuracy != self.accuracy:
            raise SplitRefusedError(
                f"The weights in {str(self.folder)!r} must give the accuracy again that was recorded on "
                f"{self.record['date']}, expected {self.accuracy!r}, got {accuracy!r}. Something else has changed: "
                "images, image processor, configuration, library or machine. Put it back; nothing was written."
            )
        return {SECTION: {**self.record, "accuracy": accuracy}}


def open_test_split(
    folder: str | Path, model: nn.Module, rows: Dataset, dataset: str, command: str | None = None
) -> OpenedSplit:
    """
    Open the test split for the weights of a run, or again for the same weights; call before an image is read.

    Args:
        folder: Folder of the run, or a published one, beside which the record is then written.
        model: Its weights as they will be used.
        rows: The test split, columns `image` and `label`; only labels are read here.
        dataset: Its name, for the record.
        command: Command to record.

    Raises:
        SplitRefusedError: for a checkpoint within a run, for other weights or another test split than in the
            record, and for a damaged record. No image was read and nothing written then.
    """
    folder = Path(folder)
    if CHECKPOINT_NAME.fullmatch(folder.resolve().name):
        raise SplitRefusedError(
            f"The test split is for the end of a run, expected its folder, got the checkpoint {str(folder)!r} within "
            "it. Choose among checkpoints on validation: --split validation."
        )
    wanted = describe(folder, model, rows, dataset, command)
    records = read_records(folder)
    if not records and create_lock(results_folder(folder) / LOCK_FILE, wanted):
        return OpenedSplit(folder, wanted)
    records = records or read_records(folder)  # another process was first
    for record in records.values():
        refuse_another(folder, record, wanted)
    accuracy = records.get(METRICS_FILE, {}).get("accuracy")
    record = {name: value for name, value in next(iter(records.values())).items() if name != "accuracy"}
    logger.warning(
        "%s: its test split was opened on %s by the same weights. This is a reproduction, no new measurement%s.",
        folder,
        record["date"],
        "" if accuracy is None else f"; the accuracy must be {accuracy} again",
    )
    return OpenedSplit(folder, record, accuracy)


def describe(folder: Path, model: nn.Module, rows: Dataset, dataset: str, command: str | None) -> dict[str, Any]:
    """Return the record: hashes of run, weights and labels, dataset, number of images, date and command."""
    weights = weights_digest(model)
    training = read_metrics(folder).get("training") or {}
    recipe = {name: training.get(name) for name in ("command", "arguments", "seed")}
    return {
        "run": hashlib.sha256(json.dumps([weights, recipe], sort_keys=True).encode()).hexdigest(),
        "weights": weights,
        "dataset": without_folder(dataset),
        "images": len(rows),
        "labels": labels_digest(rows),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }


def labels_digest(rows: Dataset) -> str:
    """Return the SHA-256 of class names and all labels in their order, or of the stored images without labels."""
    if "label" not in rows.features:
        stored = rows.with_format("arrow")[:]["image"].combine_chunks()
        return hashlib.sha256(repr(stored.to_pylist()).encode()).hexdigest()
    digest = hashlib.sha256(json.dumps(label_names(rows)).encode())
    digest.update(label_array(rows).astype("<i8").tobytes())
    return digest.hexdigest()


def create_lock(path: Path, record: dict[str, Any]) -> bool:
    """Write the record, complete or not at all; return False if there is one already, even since a moment ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # Fails where the name exists, unlike a rename, and never leaves half a file, unlike O_EXCL.
            path.hardlink_to(partial)
        except FileExistsError:
            return False
        except (OSError, NotImplementedError):  # a file system without hard links
            path.touch(exist_ok=False)
            partial.replace(path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every record of an opened test split, by the name of its file; refuse one that is damaged."""
    records: dict[str, Any] = {}
    results = results_folder(folder)
    lock = results / LOCK_FILE
    if os.path.lexists(lock):
        try:
            records[LOCK_FILE] = json.loads(lock.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            records[LOCK_FILE] = str(error)
    metrics = {**read_metrics(results), **read_metrics(folder)}
    if SECTION in metrics:
        records[METRICS_FILE] = metrics[SECTION]
    for name, record in records.items():
        if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in NEEDED):
            raise SplitRefusedError(
                f"The record of the opened test split in {str(folder / name)!r} must hold {', '.join(NEEDED)}, got "
                f"{str(record)[:200]!r}. It is not written over: restore it, or train again in a new folder."
            )
    return records


def refuse_another(folder: Path, record: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `SplitRefusedError` unless a record is of the same weights and the same test split."""
    if record["weights"] != wanted["weights"]:
        raise SplitRefusedError(
            f"The test split of the run in {str(folder)!r} was opened on {record['date']} by other weights: expected "
            f"SHA-256 {record['weights'][:12]}..., got {wanted['weights'][:12]}.... Start a new run in a new folder, "
            "and choose between runs on validation: omni-vision train --do_predict false."
        )
    if record["labels"] != wanted["labels"]:
        raise SplitRefusedError(
            f"The test split that the run in {str(folder)!r} opened on {record['date']} was {record.get('images')} "
            f"images of {record.get('dataset')!r}, got {wanted['images']} images of {wanted['dataset']!r} with "
            "other labels. Name that dataset; to measure the model on other data, copy it into a folder of its own."
        )


__all__ = ["LOCK_FILE", "SECTION", "OpenedSplit", "SplitRefusedError", "open_test_split"]
