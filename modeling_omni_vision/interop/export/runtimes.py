"""Exported files opened in their runtimes, as functions of arrays by name, and the precision that is in effect.

Each runtime is imported where it is needed: they are extras.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch


Arrays = dict[str, np.ndarray]
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# What int8 products are called in the graph that ONNX Runtime executes.
INT8_OPERATIONS = ("QLinear", "QGemm", "MatMulInteger", "QAttention")
PRODUCTS = ("MatMul", "Gemm", "Conv", "QGemm", "FullyConnected", "Convolution")


class Session:
    """A file in its runtime."""

    input_types: dict[str, np.dtype]
    batch_size: int | None  # a fixed one

    def __init__(self, file: Path, threads: int | None = None, precision: str = "float32"):
        raise NotImplementedError

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch of any size; one of a fixed size gets it in parts, the last one filled up."""
        inputs = {name: inputs[name].astype(dtype, copy=False) for name, dtype in self.input_types.items()}
        count, step = len(next(iter(inputs.values()))), self.batch_size
        if step is None or step == count:
            return self.run(inputs)
        parts = []
        for start in range(0, count, step):
            part = {name: array[start : start + step] for name, array in inputs.items()}
            missing = step - len(next(iter(part.values())))
            fill = {name: np.concatenate([array, array[:1].repeat(missing, 0)]) for name, array in part.items()}
            parts.append({name: array[: step - missing] for name, array in self.run(fill).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs of one batch."""
        raise NotImplementedError

    def precision(self) -> str:
        """Say in which precision the products of matrices are computed, as the runtime itself reports it."""
        raise NotImplementedError


class OnnxSession(Session):
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, threads: int | None = None, precision: str = "float32"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self._precision = self._read_precision(optimized)
        kinds = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
        self.input_types = {one.name: np.dtype(kinds[one.type]) for one in self.session.get_inputs()}
        size = self.session.get_inputs()[0].shape[0]
        self.batch_size = size if isinstance(size, int) else None

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs of one batch."""
        names = [one.name for one in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))

    def precision(self) -> str:
        """Count the products of the graph that is executed."""
        return self._precision

    @staticmethod
    def _read_precision(optimized: Path) -> str:
        import onnx

        kinds = [node.op_type for node in onnx.load(optimized).graph.node]
        products = [kind for kind in kinds if kind.endswith(PRODUCTS) or kind == "MatMulIntegerToFloat"]
        return _share(sum(kind.startswith(INT8_OPERATIONS) for kind in products), len(products), "float32")


class OpenVinoSession(Session):
    """An OpenVINO file, or an openvino.Model, on the CPU."""

    def __init__(self, file: Any, threads: int | None = None, precision: str = "float32"):
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY"}
        hints["INFERENCE_NUM_THREADS"] = str(threads or torch.get_num_threads())
        source = file if isinstance(file, openvino.Model) else str(file)
        self.compiled = openvino.Core().compile_model(source, "CPU", hints)
        self.request = self.compiled.create_infer_request()
        self.input_types = {one.any_name: one.element_type.to_dtype() for one in self.compiled.inputs}
        first = self.compiled.inputs[0].partial_shape[0]
        self.batch_size = None if first.is_dynamic else first.get_length()

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs of one batch."""
        found = self.request.infer(inputs, share_inputs=True)
        return {one.any_name: found[one].copy() for one in self.compiled.outputs}

    def precision(self) -> str:
        """Count the products of the graph that is executed, by the type that each reports."""
        found: Counter[str] = Counter()
        for operation in self.compiled.get_runtime_model().get_ops():
            about = operation.get_rt_info()
            if about["layerType"].astype(str) in PRODUCTS:
                found[about["runtimePrecision"].astype(str)] += 1
        others = {name: count for name, count in found.items() if name not in ("i8", "u8")}
        in_effect = max(others, key=others.__getitem__, default="f32")
        names = {short: long for long, short in PRECISIONS.items()}
        return _share(found["i8"] + found["u8"], found.total(), names.get(in_effect, in_effect))


class TorchSession(Session):
    """A program of torch.export."""

    def __init__(self, file: Path, threads: int | None = None, precision: str = "float32"):
        extra = {"names": ""}
        program = torch.export.load(file, extra_files=extra)
        self.module: Any = program.module()
        names = program.graph_signature.user_inputs
        shown = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in names}
        self.names, self.outputs = (line.split() for line in extra["names"].split("\n"))
        kinds = {torch.uint8: np.uint8, torch.int64: np.int64}
        examples = [shown[name] for name in names]
        types = [np.dtype(kinds.get(one.dtype, np.float32)) for one in examples]
        self.input_types = dict(zip(self.names, types, strict=True))
        self.batch_size = examples[0].shape[0] if isinstance(examples[0].shape[0], int) else None

    @torch.inference_mode()
    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs of one batch."""
        found = self.module(*(torch.from_numpy(inputs[name]) for name in self.names))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, found, strict=True)}

    def precision(self) -> str:
        """Return float32: torch computes in the type of the weights."""
        return "float32"


SESSIONS: dict[str, type[Session]] = {"onnx": OnnxSession, "openvino": OpenVinoSession, "torch": TorchSession}


def _share(int8: int, products: int, other: str) -> str:
    return f"int8 in {int8} of {products} products, others {other}" if int8 else other


__all__ = ["PRECISIONS", "SESSIONS", "Arrays", "OnnxSession", "OpenVinoSession", "Session", "TorchSession"]
