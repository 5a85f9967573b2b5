"""Checkpoints in other runtimes: ONNX Runtime, OpenVINO, torch.export and, by ONNX, the browser."""

from .export import ExportOptions, ExportReport, export_model
from .exported import ExportedModel, is_exported, load_exported


__all__ = ["ExportOptions", "ExportReport", "ExportedModel", "export_model", "is_exported", "load_exported"]
