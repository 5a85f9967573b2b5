"""Files of the formats, written by the libraries that they belong to: torch, ONNX Runtime, OpenVINO and NNCF."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .runtimes import Arrays
from .towers import TowerModule


OPSET = 20
# Of a file in the format of protocol buffers; weights beyond lie in a second file.
MAX_BYTES = 2**31 - 2**20
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
QUANTIZED = "_quantized"  # what transformers.js looks for
PRODUCTS = ("MatMul", "Gemm", "Conv")  # of ONNX


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress and deprecation notes off the terminal; errors still are."""
    loggers = [logging.getLogger(name) for name in ("root", "nncf", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


def write_float(program: torch.export.ExportedProgram, tower: TowerModule, file: Path) -> Path:
    """Write a traced tower in the format that the suffix of the file names, in float32."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == SUFFIXES["torch"]:
        names = "\n".join(" ".join(one) for one in (tower.inputs, tower.outputs))
        torch.export.save(program, file, extra_files={"names": names})
    elif file.suffix == SUFFIXES["onnx"]:
        write_onnx(program, tower, file)
    else:
        import openvino

        # By way of ONNX: names of inputs and outputs come along. Not beside the file: the converter takes a path with
        # a comma for several.
        with tempfile.TemporaryDirectory() as folder:
            graph = write_onnx(program, tower, Path(folder, "model.onnx"))
            openvino.save_model(openvino.convert_model(graph), file, compress_to_fp16=False)
    return file


def write_onnx(program: torch.export.ExportedProgram, tower: TowerModule, file: Path) -> Path:
    """Write a traced tower as ONNX, in one file if its weights fit."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    with quiet():
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(tower.inputs),
            output_names=list(tower.outputs),
            verbose=False,
        )
    converted.save(file, external_data=size > MAX_BYTES)
    return file


def write_int8(file: Path, batches: Sequence[Arrays]) -> Path:
    """Quantise a float file to int8 with ranges measured on batches (static); return the file beside it."""
    quantized = file.with_stem(file.stem + QUANTIZED)
    with quiet():
        (quantize_onnx if file.suffix == SUFFIXES["onnx"] else quantize_openvino)(file, quantized, batches)
    return quantized


def write_weights(file: Path) -> Path:
    """Write an ONNX file again with the weights of its products in 8 bits, a scale for each output; return it.

    Cast and Mul are computed once, when the file is opened. DequantizeLinear would be fused into MatMulNBits, which
    rounds the other factor too, on each processor in its own way.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    weights = {one.name: one for one in model.graph.initializer}
    nodes, products = [], [one for one in model.graph.node if one.op_type in PRODUCTS]
    for product in products:
        tensor = weights.pop(product.input[1], None)
        if tensor is None:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        is_transposed = any(one.name == "transB" and one.i for one in product.attribute)
        outputs = 0 if product.op_type == "Conv" or is_transposed else values.ndim - 1
        largest = np.abs(values).max(tuple(axis for axis in range(values.ndim) if axis != outputs), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        small, scaled = np.rint(values / scale).astype(np.int8), [f"{name}.int8", f"{name}.scale"]
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(map(numpy_helper.from_array, (small, scale), scaled))
        nodes.append(helper.make_node("Cast", scaled[:1], [f"{name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.float", scaled[1]], [name]))
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    written = file.with_stem(file.stem + QUANTIZED)
    onnx.save(model, written)
    return written


def quantize_onnx(file: Path, quantized: Path, batches: Sequence[Arrays]) -> None:
    """Quantise weights and inputs of products by ONNX Runtime."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """The batches, one after the other."""

        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> Arrays | None:
            """Return the next batch, or None after the last."""
            return next(self.batches, None)

    prepared = file.with_suffix(".prepared.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        Reader(),
        op_types_to_quantize=list(PRODUCTS),
        per_channel=True,
        # Seven bits: processors without VNNI add two products in 16 bits, which saturate with eight.
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def quantize_openvino(file: Path, quantized: Path, batches: Sequence[Arrays]) -> None:
    """Quantise by NNCF."""
    import nncf
    import openvino

    model = openvino.Core().read_model(file)
    left_out = after_a_mean(model)
    made = nncf.quantize(
        model,
        nncf.Dataset(list(batches)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
        # As for ONNX: without VNNI eight bits of weights saturate.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        ignored_scope=nncf.IgnoredScope(names=left_out) if left_out else None,
    )
    openvino.save_model(made, quantized, compress_to_fp16=False)


def after_a_mean(model: Any) -> list[str]:
    """Return the names of the products that read a mean over tokens without kept dimensions.

    OpenVINO 2026.4 fuses such a mean with the scale and the quantiser before the product, and computes it wrongly.
    """
    means = [one for one in model.get_ops() if one.get_type_name() == "ReduceMean"]
    waiting = [one for one in means if not one.get_attributes()["keep_dims"]]
    found, known = [], set()
    while waiting:
        for target in (one.get_node() for output in waiting.pop().outputs() for one in output.get_target_inputs()):
            name = target.get_friendly_name()
            if target.get_type_name() == "MatMul":
                found.append(name)
            elif name not in known:
                waiting.append(target)
            known.add(name)
    return found


__all__ = ["QUANTIZED", "SUFFIXES", "quiet", "write_float", "write_int8", "write_weights"]
