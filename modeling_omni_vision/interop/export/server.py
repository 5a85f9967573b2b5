"""Exports laid out as model repositories of OpenVINO Model Server and of Triton Inference Server.

A repository has a folder for each tower, and in it version 1: `NAME/1/model.onnx`, or `model.xml` and `model.bin`. The
other files of an export lie in `NAME` beside it, where both servers leave them alone, so that `NAME` is an export too.
"""

import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...records.metrics_file import write_json
from ..folder import atomic_output_dir
from .export import ExportOptions, ExportReport, export_model
from .exported import EXPORT_FILE
from .runtimes import SESSIONS, OnnxSession, Session
from .towers import CLASSIFIER


SERVERS = ("ovms", "triton")
BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino"}
MAX_BATCH_SIZE = 64
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int64": "TYPE_INT64"}
LABELS = "labels.txt"
NAME = re.compile(r"[\w.-]+", re.ASCII)

Tensors = dict[str, tuple[str, list[int]]]  # by name: type, and sizes with -1 where any is taken


def export_for_server(
    server: str, model: str | Path, output: str | Path, options: ExportOptions | None = None, **samples: Any
) -> ExportReport:
    """
    Export a model as `export_model` does, into a model repository of a server: int8 where it was quantised.

    Args:
        server: `"ovms"` or `"triton"`.
        model: Folder of an encoder, a classifier, a retrieval model (two models in the repository), or of a twin.
            Its name is the name of the model on the server.
        output: New or empty folder to write; nothing is left in it after an error.
        options: As for `export_model`, in the format `"onnx"` or `"openvino"`.
        samples: `dataset`, `split`, `images` and `count` of `export_model`.

    Raises:
        `ValueError`: if an argument is wrong, or the export is refused.
    """
    options = options or ExportOptions()
    if server not in SERVERS:
        raise ValueError(f"Expected --server {' or '.join(SERVERS)}, got {server!r}.")
    if options.format not in BACKENDS:
        raise ValueError(f"--server takes --format {' or '.join(BACKENDS)}, got {options.format!r}.")
    name = Path(model).resolve().name
    if not NAME.fullmatch(name):
        raise ValueError(f"Expected a folder name of letters, digits, '.', '-' and '_' for a server, got {name!r}.")
    with tempfile.TemporaryDirectory() as folder, atomic_output_dir(output) as repository:
        report = export_model(model, Path(folder) / name, options, **samples)
        towers = {found["tower"] for found in report.record["files"].values()}
        names = {tower: name if tower == "model" else f"{name}-{tower}" for tower in sorted(towers)}
        for tower, served in names.items():
            write_model(repository / served, tower, report)
            if server == "triton":
                write_triton(repository / served, report.record)
        if server == "ovms":
            # Relative to the file itself.
            listed = [{"config": {"name": one, "base_path": one}} for one in names.values()]
            write_json(repository / "config.json", {"model_config_list": listed})
    return replace(report, folder=Path(output))


def write_model(folder: Path, tower: str, report: ExportReport) -> None:
    """Write the folder of one tower: version 1, and the files that open it as an export."""
    shutil.copytree(report.folder, folder, ignore=lambda place, names: [report.record["format"], "preprocess.mjs"])
    files = report.record["files"].items()
    ((source, about),) = [
        (name, one) for name, one in files if one["tower"] == tower and one["int8"] == bool(report.record["quantize"])
    ]
    version = folder / "1"
    version.mkdir()
    file = report.folder / source
    for part in file.parent.glob(f"{file.stem}.*"):  # the weights of OpenVINO, and of a large graph
        new_name = f"model{part.name.removeprefix(file.stem)}"
        # A graph names the file of its weights.
        shutil.copy(part, version / (part.name if part.name.endswith(".data") else new_name))
    write_json(folder / EXPORT_FILE, {**report.record, "files": {f"1/model{file.suffix}": about}})
    # It names the files by their old places.
    (folder / "README.md").unlink()


def write_triton(folder: Path, record: dict[str, Any]) -> None:
    """Write config.pbtxt, and the names of the classes, which Triton gives beside scores when it is asked to."""
    (file,) = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))["files"]
    inputs, outputs = tensors(SESSIONS[record["format"]](folder / file))
    # The OpenVINO backend may end the server for batches other than the largest: there the graph's own sizes stand.
    batched = record["format"] == "onnx" and all(sizes[0] == -1 for _, sizes in inputs.values())
    labels = record["kind"] == CLASSIFIER
    parts = [
        f'name: "{folder.name}"',
        f'backend: "{BACKENDS[record["format"]]}"',
        f"max_batch_size: {MAX_BATCH_SIZE if batched else 0}",
        *(described("input", name, *one, batched) for name, one in inputs.items()),
        *(described("output", name, *one, batched, labels and name == "logits") for name, one in outputs.items()),
    ]
    if batched:
        parts.append("dynamic_batching { }")
    (folder / "config.pbtxt").write_text("\n".join([*parts, ""]), encoding="utf-8")
    if labels:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        lines = [str(names[str(index)]).replace("\n", " ") for index in range(len(names))]
        (folder / LABELS).write_text("\n".join([*lines, ""]), encoding="utf-8")


def described(kind: str, name: str, dtype: str, sizes: list[int], batched: bool, labels: bool = False) -> str:
    """Return the text of an input or output; of a batched model the first size is not named."""
    dims = ", ".join(map(str, sizes[batched:]))
    file = f' label_filename: "{LABELS}"' if labels else ""
    return f'{kind} [ {{ name: "{name}" data_type: {dtype} dims: [ {dims} ]{file} }} ]'


def tensors(session: Session) -> tuple[Tensors, Tensors]:
    """Return the inputs and the outputs of an opened file, as its runtime reports them."""
    opened: Any = session
    if isinstance(session, OnnxSession):
        kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
        both = (opened.session.get_inputs(), opened.session.get_outputs())
        found = [
            {one.name: (TYPES[kinds[one.type]], [s if isinstance(s, int) else -1 for s in one.shape]) for one in side}
            for side in both
        ]
    else:
        found = [
            {
                one.any_name: (
                    TYPES[np.dtype(one.element_type.to_dtype()).name],
                    [-1 if s.is_dynamic else s.get_length() for s in one.partial_shape],
                )
                for one in side
            }
            for side in (opened.compiled.inputs, opened.compiled.outputs)
        ]
    return found[0], found[1]


__all__ = ["SERVERS", "export_for_server"]
