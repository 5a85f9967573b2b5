#!/usr/bin/env bash
# Static int8 of ONNX Runtime with its default options saturates on AVX2 and returns wrong numbers without a word.
#
# Guess: `quantize_static` with int8 weights, uint8 inputs and ranges measured on the data is off by rounding, about 1 %.
# Seen (onnxruntime 1.32.0, x86-64 CPU with AVX2 and neither AVX-VNNI nor AVX-512): its product adds pairs of
# uint8 x int8 in 16 bits, which saturate where both weights are large and inputs too. `reduce_range=True` (seven bits)
# avoids it; its documentation recommends it without VNNI, but it is off by default and nothing warns. Weights per channel make it
# likely in models whose tensors have few large weights, since then every channel reaches 127.
# Matters for: accuracy of quantised models on older servers and laptops, measured on another machine.
# Where a processor has VNNI this script fails: then it does not show there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
grep -m1 "model name" /proc/cpuinfo || true
grep -m1 -o -w -E "avx_vnni|avx512_vnni" /proc/cpuinfo || echo "no VNNI"
venv/bin/python - <<'PY'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

logging.disable(logging.WARNING)
draw = np.random.default_rng(0)
# Each channel of one sign, and inputs of one sign, as behind an activation.
weight = np.abs(draw.normal(1, 0.05, (64, 32))).astype(np.float32) * np.where(np.arange(32) % 2, 1, -1).astype(np.float32)
inputs = np.abs(draw.normal(1, 0.05, (16, 64))).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "one product",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
    [numpy_helper.from_array(weight, "w")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), "float.onnx")


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": inputs}])

    def get_next(self):
        return next(self.batches, None)


found = {}
for reduce_range in (False, True):
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static("float.onnx", "int8.onnx", Reader(), per_channel=True, reduce_range=reduce_range, **types)
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": inputs})
    exact = inputs @ weight
    found[reduce_range] = float(np.abs(output / exact - 1).max())
    print(f"reduce_range={reduce_range}: largest relative error {found[reduce_range]:.1%}")
assert found[False] > 0.2, "no longer saturates here"
assert found[True] < 0.05, "seven bits are wrong too"
print("as described")
PY
