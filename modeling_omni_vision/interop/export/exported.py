"""An exported folder opened again: called like the model that it was made of."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor
from transformers.utils import ModelOutput

from .runtimes import SESSIONS, Session


EXPORT_FILE = "export.json"


class ExportedModel(nn.Module):
    """Exported files in their runtime, called with tensors as the model is.

    Attributes:
        config: Configuration of the model.
        processor: Its processor; of a model with raw input, one that neither rescales nor normalises.
        precision: In what each file computes, as the runtime reports it.
        record: Content of export.json.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, folder: Path, record: dict[str, Any], config: Any, processor: Any, threads: int | None = None):
        super().__init__()
        self.config, self.processor, self.record = config, processor, record
        chosen = {
            found["tower"]: name
            for name, found in record["files"].items()
            if found["int8"] == bool(record["quantize"])
        }
        opened = SESSIONS[record["format"]]
        self.sessions: dict[str, Session] = {
            tower: opened(folder / name, threads=threads, precision=record["precision"])
            for tower, name in chosen.items()
        }
        self.precision = {tower: session.precision() for tower, session in self.sessions.items()}
        # Identifies the weights where records ask for a digest of all tensors.
        digest = hashlib.sha256(b"".join(_content(folder / name) for name in sorted(chosen.values()))).digest()
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, pixel_values: torch.Tensor | None = None, **inputs: Any) -> ModelOutput:
        """Return the outputs for images (images, channels, height, width), texts, or both, by their names."""
        given = {"pixel_values": pixel_values, **inputs}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in given.items() if tensor is not None}
        found = ModelOutput()
        for session in self.sessions.values():
            if set(session.input_types) <= set(arrays):
                prepared = {name: _cast(arrays[name], dtype) for name, dtype in session.input_types.items()}
                for name, array in session(prepared).items():
                    found[name] = torch.from_numpy(array)
        if not found:
            wanted = " or ".join(str(list(session.input_types)) for session in self.sessions.values())
            raise ValueError(f"Expected {wanted}, got {sorted(arrays)}. Prepare them with the processor.")
        return found


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(array).clip(0, 255).astype(dtype) if dtype == np.uint8 else array.astype(dtype)


def _content(file: Path) -> bytes:
    weights = file.with_suffix(".bin")  # of OpenVINO
    return file.read_bytes() + (weights.read_bytes() if weights.is_file() else b"")


def is_exported(folder: str | Path) -> bool:
    """Return whether a folder is one that `omni-vision export` wrote."""
    return (Path(folder) / EXPORT_FILE).is_file()


def read_record(folder: Path) -> dict[str, Any]:
    """Return what `export.json` says of a folder, or raise `ValueError` if there is none or files of it are gone."""
    try:
        record: dict[str, Any] = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        names = list(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected a folder that `omni-vision export` wrote, got {str(folder)!r} ({error})."
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"Expected the files of {EXPORT_FILE} in {str(folder)!r}, got none called {missing!r}.")
    return record


def load_exported(folder: str | Path, threads: int | None = None) -> ExportedModel:
    """
    Open an exported folder in its runtime: int8 where it was quantised.

    Args:
        folder: What `omni-vision export` wrote.
        threads: Threads of the runtime; by default those of torch.

    Raises:
        `ValueError`: if the folder is none, or its files are damaged or gone.
    """
    path = Path(folder)
    record = read_record(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if config.model_type == "omni_vision_retrieval":
        # Not at the top of the file: the encoder alone does without transformers 5.23, which this needs.
        from ...processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

        return ExportedModel(path, record, config, OmniVisionRetrievalProcessor.from_pretrained(path), threads)
    processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    return ExportedModel(path, record, config, processor, threads)


__all__ = ["EXPORT_FILE", "ExportedModel", "is_exported", "load_exported", "read_record"]
