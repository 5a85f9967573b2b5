#!/usr/bin/env bash
# ONNX Runtime rounds the inputs of a product in float32 whose weights alone come from DequantizeLinear.
#
# Guess: `MatMul(x, DequantizeLinear(int8 weights))` with float32 x computes what `MatMul(x, the same weights in float32)` does,
# but for the last bits: ONNX defines it so, and nothing in the graph quantises x.
# Seen (onnxruntime 1.32.0, CPU, default options): the pair is fused into MatMulNBits with accuracy level 4, which rounds x to
# 8 bits in blocks. The result is off by some thousandths, and differs between processors and WASM by as much, on one file.
# `Cast` and `Mul` in place of DequantizeLinear are folded as the file is opened, and give the float32 result.
# Matters for: comparing a browser with a server on one file; files whose weights alone have 8 bits to stay exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

draw = np.random.default_rng(0)
inputs = draw.normal(0, 1, (16, 128)).astype(np.float32)
small = draw.integers(-127, 128, (128, 64)).astype(np.int8)
scale = draw.uniform(0.0005, 0.0015, 64).astype(np.float32)
exact = inputs.astype(np.float64) @ (small * scale.astype(np.float64))
nodes = {
    "DequantizeLinear": [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1)],
    "Cast and Mul": [helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["f", "s"], ["w"])],
}
found = {}
for name, first in nodes.items():
    graph = helper.make_graph(
        [*first, helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(small, "q"), numpy_helper.from_array(scale, "s")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), "small.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = "optimized.onnx"
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession("small.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load("optimized.onnx").graph.node]
    found[name] = float(np.abs(session.run(None, {"x": inputs})[0] - exact).max() / np.abs(exact).max())
    print(f"{name}: executed as {', '.join(kinds)}; largest error {found[name]:.1e} of the largest output")
assert found["DequantizeLinear"] > 1e-4, "inputs are no longer rounded"
assert found["Cast and Mul"] < 1e-5, "folded weights are wrong too"
print("as described")
PY
