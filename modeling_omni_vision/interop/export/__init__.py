"""Checkpoints in other runtimes: ONNX Runtime, OpenVINO, torch.export and, by ONNX, the browser."""

from .export import ExportOptions, ExportReport, export_model
from .exported import ExportedModel, is_exported, load_exported
from .web import WebReport, export_web


__all__ = [
    "ExportOptions",
    "ExportReport",
    "ExportedModel",
    "WebReport",
    "export_model",
    "export_web",
    "is_exported",
    "load_exported",
]
