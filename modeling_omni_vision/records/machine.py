"""The machine and the packages that numbers were measured with."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch


RECORDED_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets")
VECTOR_INSTRUCTIONS = ("avx", "amx", "neon", "sve")


def cpu_model() -> str:
    """Return the name of the processor, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_bf16_instructions() -> bool:
    """Return whether the processor has bfloat16 instructions; True where torch does not know."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known.get("architecture") != "x86_64" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def computes_in_bf16() -> bool:
    """Return whether training in bfloat16 is fast here: on the GPU if there is one, otherwise on the processor."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else has_bf16_instructions()


def instruction_sets() -> list[str]:
    """Return the vector instructions of the processor, as far as torch names them."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return sorted(name for name, has in known.items() if has is True and name.startswith(VECTOR_INSTRUCTIONS))


def describe_machine() -> dict[str, Any]:
    """Return the names of processor and GPU (None without one), the number of cores and of threads in use."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def recorded_versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of the packages that training needs, and of `more`."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in (*RECORDED_PACKAGES, *more)},
    }


__all__ = [
    "computes_in_bf16",
    "cpu_model",
    "describe_machine",
    "has_bf16_instructions",
    "instruction_sets",
    "recorded_versions",
]
