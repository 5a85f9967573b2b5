#!/usr/bin/env bash
# OpenVINO reads Resize of ONNX without its `antialias`: a graph that shrinks images or position tables returns other numbers, without a word.
#
# Guess: OpenVINO computes an ONNX `Resize` with `antialias=1` (opset 18 and later, what torch writes for `interpolate(..., antialias=True)`)
# as ONNX Runtime does, or refuses it.
# Seen (openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2, opset 20, CPU, float32): the result is that of `antialias=0`, to the last bit when
# shrinking. A random image of 56 x 40 shrunk to 14 x 10 is up to 0.4 of its range away from ONNX Runtime's, which agrees with torch and Pillow.
# `cubic` loses `exclude_outside=1` too: even enlarging is 0.03 away at the borders. No warning from the reader or from `compile_model`. OpenVINO
# has such an operation (`bilinear_pillow`), and its reader of TorchScript uses it.
# Matters for: exported encoders with the image processor in the graph; encoders of timm, open_clip and DINOv2 with registers at sizes other
# than their own (their position tables are interpolated with antialiasing). Write the interpolation as two products of matrices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 \
  pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper
from PIL import Image


def resize(size, **options):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None, None]) for name in "xy"]
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, *size])
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **options)
    model = helper.make_model(
        helper.make_graph([node], "one", ends[:1], ends[1:], [sizes]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "one.onnx")
    there = onnxruntime.InferenceSession("one.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": image})[0]
    here = openvino.Core().compile_model("one.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]
    return there, here


image = np.random.default_rng(0).random((1, 1, 56, 40), dtype=np.float32)
found = {}
for name, mode, outside in (("linear", Image.Resampling.BILINEAR, {}), ("cubic", Image.Resampling.BICUBIC, {"cubic_coeff_a": -0.5})):
    smooth = {"mode": name, "antialias": 1, "exclude_outside": 1, **outside}
    pillow = np.asarray(Image.fromarray(image[0, 0]).resize((10, 14), mode))
    there, here = resize((14, 10), **smooth)
    plain = resize((14, 10), mode=name, **outside)[1]
    large = np.subtract(*resize((100, 90), **smooth))
    found[name] = [np.abs(one).max() for one in (there - pillow, here - there, here - plain, large)]
    print(
        f"{name:6} shrunk: ONNX Runtime is {found[name][0]:.1e} from Pillow, OpenVINO {found[name][1]:.2f} from ONNX Runtime "
        f"and {found[name][2]:.1e} from its own result without antialias; enlarged: {found[name][3]:.1e} apart"
    )
for name in found:
    assert found[name][0] < 1e-5 and found[name][1] > 0.2, found
assert found["linear"][2] == found["cubic"][2] == 0 and found["linear"][3] < 1e-4 and found["cubic"][3] > 0.01, found
print("as described")
PY
