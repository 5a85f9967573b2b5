"""`metrics.json`, the only source of numbers in cards and README, and the machine that they were measured on."""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch


METRICS_FILE = "metrics.json"


def merge_metrics(folder: Path, sections: dict[str, Any]) -> Path:
    """Write sections into `metrics.json` and keep the others; the file is replaced whole or not at all."""
    return write_json(folder / METRICS_FILE, {**read_metrics(folder), **sections})


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read `metrics.json`, an empty dictionary where there is none; refuse what is not a JSON object."""
    path = folder / METRICS_FILE
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} must hold a JSON object, got {error}. Repair it or take it away: it is not written over."
        ) from error


def write_json(path: Path, value: dict[str, Any]) -> Path:
    """Write a JSON file, whole or not at all, with null for numbers that JSON does not know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(
            json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cpu_model() -> str:
    """Name of the processor, from Linux where it is said there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_bf16_instructions() -> bool:
    """Whether the processor computes in bfloat16 by itself; True where torch cannot tell."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known.get("architecture") != "x86_64" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


__all__ = [
    "METRICS_FILE",
    "cpu_model",
    "finite",
    "has_bf16_instructions",
    "merge_metrics",
    "read_metrics",
    "write_json",
]
