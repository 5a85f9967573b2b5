#!/usr/bin/env bash
# `openvino.convert_model` takes a path with a comma for several paths.
#
# Guess: a path is a path, above all where it is a `pathlib.Path`; `Core().read_model` and `save_model` take it.
# Seen (openvino 2026.4.1): the path is made a string and split at commas, the part before the comma is looked for, and
# the error names that part as missing, so that the comma is not what one looks at.
# Matters for: folders named by people, as "photos, 2026".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2
cd "$folder"
venv/bin/python - <<'PY'
from pathlib import Path

import onnx
import openvino
from onnx import TensorProto, helper

folder = Path("photos, 2026")
folder.mkdir()
tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", tensors[:1], tensors[1:])
file = folder / "model.onnx"
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
openvino.save_model(openvino.Core().read_model(file), folder / "read.xml")
try:
    openvino.convert_model(file)
except Exception as error:
    print(type(error).__name__, error)
    assert 'photos" is not existing' in str(error)
else:
    raise SystemExit("It takes the path now.")
PY
