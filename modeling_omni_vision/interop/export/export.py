"""A checkpoint as files of another runtime, compared with torch as that runtime computes, or not written at all."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.hold_out import SPLITS_FILE
from ...records.command import without_folder
from ...records.machine import cpu_model, instruction_sets, recorded_versions
from ...records.metrics_file import METRICS_FILE, read_metrics, write_json
from ...records.weights_digest import weights_digest
from ..folder import atomic_output_dir, write_preprocess
from . import comparison
from .comparison import Compared
from .export_card import write_card
from .exported import EXPORT_FILE
from .files import SUFFIXES, write_float, write_int8, write_weights
from .runtimes import PRECISIONS, SESSIONS
from .samples import Batches, Samples, calibration_batches, load_samples, of_other_sizes
from .towers import (
    CLASSIFIER,
    ENCODER,
    RETRIEVAL,
    Checkpoint,
    TowerModule,
    fold_bytes,
    open_checkpoint,
    reference,
    traced,
)


VECTOR = "vector"  # the outputs of an encoder without its tokens
TOLERANCE = 1e-4  # of float32, relative to the largest output where that exceeds 1
# Accuracy hides a wrong fusion: with one, OpenVINO 2026.4 lost half a point of accuracy and had a cosine of 0.918.
MIN_COSINE = 0.98
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}
# What an exported folder shares with its checkpoint: configuration, processors and the code that these need.
CARRIED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "configuration_*.py",
    "image_processing_*.py",
    "processing_*.py",
    SPLITS_FILE,
)


@dataclass(frozen=True)
class ExportOptions:
    """How to export: see `export_model`."""

    format: str = "onnx"
    outputs: str = "tokens"
    quantize: str | None = None
    precision: str = "float32"
    batch_size: int | None = None
    dynamic_size: bool = False
    uint8: bool = False
    max_drop: float = 0.5

    def check(self) -> None:
        """Raise a `ValueError` for a value that is none of those expected, or a pair that contradicts itself."""
        choices = {"format": tuple(SESSIONS), "quantize": (None, "int8", "weights"), "precision": tuple(PRECISIONS)}
        choices["outputs"] = ("tokens", VECTOR)
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Expected --{name} {' or '.join(map(str, known))}, got {getattr(self, name)!r}.")
        if self.format == "torch" and self.quantize == "int8":
            raise ValueError("int8 is for the formats onnx and openvino, got torch. Name one of them.")
        if self.format != "onnx" and self.quantize == "weights":
            raise ValueError(
                f"--quantize weights is for the formats onnx and web, got {self.format}. Name one of them."
            )
        if self.format != "openvino" and self.precision != "float32":
            raise ValueError(f"--precision bfloat16 is for the format openvino, got {self.format!r}. Leave it out.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"Expected --batch_size of at least 1, got {self.batch_size}.")
        if not self.max_drop >= 0:
            raise ValueError(f"Expected --max_drop of at least 0 points, got {self.max_drop}.")


@dataclass(frozen=True)
class ExportReport:
    """What was written: the folder and the content of its `export.json`."""

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)

    def gain_of_int8(self) -> float:
        """Return how many times faster the int8 files are than the float ones, the least of all towers."""
        speeds: dict[tuple[str, bool], float] = {
            (found["tower"], found["int8"]): found["speed_ratio"] for found in self.record["files"].values()
        }
        return min(speed / speeds[tower, False] for (tower, int8), speed in speeds.items() if int8)


def export_model(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    dataset: str | None = None,
    split: str | None = None,
    images: Sequence[str] = (),
    count: int = 1000,
) -> ExportReport:
    """
    Export a checkpoint, run each file in its runtime on images that you name, and compare it with torch.

    Args:
        model: Folder of an encoder, a classifier, a retrieval model (both towers), or of their native twin.
        output: New or empty folder to write; nothing is left in it after an error.
        options: `format` (`"onnx"`, `"openvino"`, `"torch"`); `outputs="vector"` leaves out the tokens of an encoder
            or retrieval model, and computes the last layer for CLS alone where that is the vector; `quantize="int8"`
            adds files quantised with ranges measured on the calibration images, `"weights"` ONNX files whose weights
            alone have 8 bits; `precision="bfloat16"` asks OpenVINO to compute so where the processor can;
            `batch_size` fixes the images of one forward, any otherwise; `dynamic_size` takes any multiple of the
            patch size; `uint8` takes pixel values 0..255; `max_drop` is how many points may be lost.
        dataset: Labelled images, or images and texts of a retrieval model, as for training.
        split: Split to compare on; by default validation. int8 is calibrated on images of train.
        images: Files and folders without labels, in place of a dataset.
        count: Images to compare on at most.

    Raises:
        `ValueError`: if an argument is wrong, or an export differs in float32 by more than 1e-4, loses more than
            `max_drop` points, or has a mean cosine below 0.98.
    """
    options = options or ExportOptions()
    options.check()
    checkpoint = open_checkpoint(model)
    if options.outputs == VECTOR and checkpoint.kind == CLASSIFIER:
        raise ValueError("--outputs vector is for encoders and retrieval models, got a classifier. Leave it out.")
    samples = load_samples(checkpoint, dataset, split, images, count)
    return export_checkpoint(checkpoint, samples, output, options, dataset, split)


def export_checkpoint(
    checkpoint: Checkpoint,
    samples: Samples,
    output: str | Path,
    options: ExportOptions,
    dataset: str | None = None,
    split: str | None = None,
) -> ExportReport:
    """Export an opened checkpoint, compared on loaded samples; the source of these is only recorded."""
    with atomic_output_dir(output) as folder, torch.inference_mode():
        carry(checkpoint, folder, options)
        exports = [
            export_tower(checkpoint, tower, name, folder, options, samples)
            for name, tower in checkpoint.towers().items()
        ]
        record = describe(checkpoint, options, exports, samples, dataset, split)
        refuse_bad(record, options.max_drop)
        write_json(folder / EXPORT_FILE, record)
        write_card(folder, record, checkpoint)
    return ExportReport(Path(output), record)


def carry(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> None:
    """Copy what opens the export: configuration, processors with their code, and what training held out."""
    for file in (one for pattern in CARRIED for one in checkpoint.folder.glob(pattern)):
        shutil.copy(file, folder)
    # Without the losses of the run: they are those of the weights before they were exported.
    training = read_metrics(checkpoint.folder).get("training") or {}
    if known := {name: training[name] for name in ("arguments", "dataset") if name in training}:
        write_json(folder / METRICS_FILE, {"training": known})
    for settings in folder.glob("*processor_config.json") if options.uint8 else ():
        found = json.loads(settings.read_text(encoding="utf-8"))
        found.get("image_processor", found).update(do_rescale=False, do_normalize=False)
        write_json(settings, found)
    if options.format == "onnx":
        write_preprocess(folder)


def export_tower(
    checkpoint: Checkpoint, tower: TowerModule, name: str, folder: Path, options: ExportOptions, samples: Samples
) -> dict[str, dict[str, Any]]:
    """Write the files of a tower and compare each; return what was found by file."""
    if options.outputs == VECTOR:
        tower = tower.vector_alone()
    takes_images = tower.inputs == ("pixel_values",)
    raw, any_size = options.uint8 and takes_images, options.dynamic_size and takes_images
    source = fold_bytes(checkpoint, tower) if raw else tower
    program = traced(checkpoint, source, options.batch_size, any_size)
    files = [write_float(program, source, folder / options.format / f"{name}{SUFFIXES[options.format]}")]
    if options.quantize == "weights":
        files.append(write_weights(files[0]))
    elif options.quantize:
        files.append(write_int8(files[0], calibration_batches(checkpoint, tower, samples, options.batch_size, raw)))
    batches = Batches(checkpoint, tower, samples, raw=raw)
    others = of_other_sizes(checkpoint, batches, options.batch_size or 2) if any_size else []
    found = {}
    for file in files:
        session = SESSIONS[options.format](file, precision=options.precision)
        compared = comparison.compare(reference(tower), session, batches, tower.outputs[0], others)
        speed = comparison.speed_ratio(reference(tower), session, first(batches[0], options.batch_size or 1))
        about = {"tower": name, "int8": file != files[0], "precision": session.precision(), "speed_ratio": speed}
        if about["int8"] and options.quantize == "weights":
            about["precision"] = f"int8 weights in {session.precision()} products"
        found[file.relative_to(folder).as_posix()] = {**about, "compared": compared}
    return found


def first(batch: tuple[dict[str, np.ndarray], dict[str, np.ndarray]], count: int) -> Any:
    """Return the first items of a batch, repeated where there are fewer."""
    return tuple({name: np.resize(array, (count, *array.shape[1:])) for name, array in one.items()} for one in batch)


def describe(
    checkpoint: Checkpoint,
    options: ExportOptions,
    exports: Sequence[dict[str, dict[str, Any]]],
    samples: Samples,
    dataset: str | None,
    split: str | None,
) -> dict[str, Any]:
    """Return the content of `export.json`."""
    towers = [list(files.items()) for files in exports]
    described = {}
    # The float files of all towers, then the quantised ones: a retrieval model is measured with both of its towers.
    for group in zip(*towers, strict=True):
        measured = measure(checkpoint.kind, samples, [about["compared"] for _, about in group])
        for name, about in group:
            compared: Compared = about.pop("compared")
            cosines = compared.cosines()
            numbers = {"largest_difference": compared.difference, "largest_output": compared.largest}
            numbers |= {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}
            if checkpoint.kind == CLASSIFIER:
                numbers["other_class"] = int((compared.before.argmax(1) != compared.after.argmax(1)).sum())
            described[name] = {**about, **numbers, **measured}
    where = {"dataset": dataset and without_folder(dataset), "split": (split or "validation") if dataset else None}
    packages = [*PACKAGES[options.format], *(["nncf"] if options.quantize and options.format == "openvino" else [])]
    return {
        "kind": checkpoint.kind,
        **asdict(options),
        "weights": weights_digest(checkpoint.model),
        "images": len(samples.images),
        **where,
        "calibration_images": len(samples.calibration_images) if options.quantize == "int8" else None,
        "files": described,
        "cpu": cpu_model(),
        "instructions": instruction_sets(),
        "threads": torch.get_num_threads(),
        "versions": recorded_versions(*packages),
    }


def measure(kind: str, samples: Samples, compared: Sequence[Compared]) -> dict[str, Any]:
    """Return what is counted, and its share before and after with the points lost."""
    labels, (before, after) = samples.labels, (compared[0].before, compared[0].after)
    if kind == RETRIEVAL:
        texts = np.asarray(samples.texts)
        hits = [
            texts[comparison.nearest(*pair)] == texts
            for pair in zip(*((c.before, c.after) for c in compared), strict=True)
        ]
        return {"measure": "recall@1 of texts by image", **comparison.drop(*hits)}
    if kind == CLASSIFIER and labels is not None:
        return {
            "measure": "accuracy",
            **comparison.drop(*(comparison.classified(one, labels) for one in (before, after))),
        }
    if kind == ENCODER and labels is not None:
        hits = [labels[comparison.nearest(one)] == labels for one in (before, after)]
        return {"measure": "accuracy of the nearest neighbour's label", **comparison.drop(*hits)}
    decide = comparison.nearest if kind == ENCODER else lambda logits: logits.argmax(1)
    same = decide(before) == decide(after)
    name = "same nearest neighbour as in torch" if kind == ENCODER else "same class as in torch"
    return {"measure": name, **comparison.drop(np.ones_like(same), same)}


def refuse_bad(record: dict[str, Any], max_drop: float) -> None:
    """Raise a `ValueError` for the first file that is too far from torch."""
    for name, found in record["files"].items():
        exact = not found["int8"] and record["precision"] == "float32"
        limit = TOLERANCE * max(1.0, found["largest_output"])
        # Written so that NaN is refused too.
        if exact and not found["largest_difference"] <= limit:
            raise ValueError(
                f"Expected {name} to differ from torch by at most {limit:.1e}, got {found['largest_difference']:.1e}. "
                "The runtime computes something else: export in another format or with another version."
            )
        if not (found["drop_points"] <= max_drop and found["mean_cosine"] >= MIN_COSINE):
            raise ValueError(
                f"Expected {name} to lose at most {max_drop} points ({found['measure']}) at a mean cosine of at least "
                f"{MIN_COSINE}, got {found['drop_points']:.2f} points and {found['mean_cosine']:.4f}. Calibrate on "
                "more or other images, raise --max_drop, or leave out --quantize (of a page: --quantize none)."
            )


__all__ = ["MIN_COSINE", "TOLERANCE", "ExportOptions", "ExportReport", "export_checkpoint", "export_model"]
