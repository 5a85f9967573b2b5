"""Checkpoints in other runtimes: ONNX Runtime, OpenVINO, torch.export, a page in the browser, and on servers."""

from .export import ExportOptions, ExportReport, export_model
from .exported import ExportedModel, is_exported, load_exported, read_record
from .server import export_for_server
from .towers import open_checkpoint
from .web import WebReport, export_web


__all__ = [
    "ExportOptions",
    "ExportReport",
    "ExportedModel",
    "WebReport",
    "export_for_server",
    "export_model",
    "export_web",
    "is_exported",
    "load_exported",
    "open_checkpoint",
    "read_record",
]
