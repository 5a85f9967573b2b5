#!/usr/bin/env bash
# ONNX Runtime and OpenCV take arrays of the other byte order for their own: 1.0 becomes 4.6e-41, without a word.
#
# Guess: a NumPy array of type ">f4" is converted, as Pillow, faiss (`add`) and safetensors do, or refused, as torch and pyarrow do.
# Seen (onnxruntime 1.32.0, opencv-python-headless 5.0.0.93, numpy 2.4.6, x86-64): `session.run` reads the bytes in the order of the machine, also
# of int64 inputs. `cv2.resize` and `cv2.imencode` do the same.
# `array.astype(array.dtype.newbyteorder("="))` before the call avoids it; any arithmetic with a NumPy scalar does, too.
# Matters for: pixels and ids from `np.frombuffer` of IDX files, FITS, HDF5, netCDF or network formats, which store big-endian numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 opencv-python-headless==5.0.0.93 \
  safetensors==0.8.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import cv2
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import load, save


def identity(kind):
    ends = [helper.make_tensor_value_info(name, kind, ["n", "m"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {"x": array})[0]


tools = {
    "onnxruntime, float32": (">f4", identity(TensorProto.FLOAT)),
    "onnxruntime, int64": (">i8", identity(TensorProto.INT64)),
    "cv2.resize, float32": (">f4", lambda array: cv2.resize(array, (2, 2))),
    "cv2.imencode, uint16": (">u2", lambda array: cv2.imdecode(cv2.imencode(".png", array)[1], cv2.IMREAD_UNCHANGED)),
    "Pillow, uint16": (">u2", lambda array: np.asarray(Image.fromarray(array))),
    "safetensors, float32": (">f4", lambda array: load(save({"x": array}))["x"]),
}
wrong = set()
for name, (kind, tool) in tools.items():
    native = np.ones((2, 2), np.dtype(kind).newbyteorder("="))
    swapped = native.astype(kind)
    assert np.array_equal(native, swapped) and np.array_equal(tool(native), native)
    found = tool(swapped)
    print(f"{name:22} makes {found.flat[0]:.4g} of 1")
    if not np.array_equal(found, native):
        wrong.add(name)
assert wrong == {name for name in tools if name.startswith(("onnxruntime", "cv2"))}, wrong
print("as described")
PY
