"""Peak memory of a step, measured in child processes that have everything imported and the libraries warm."""

import gc
import multiprocessing
import os
import resource
import sys
from importlib import util
from pathlib import Path
from typing import Any

import torch

from experiments.benchmark_models import Case, contestants, make_step
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig


def peak_memory(config: OmniVisionConfig, case: Case, threads: int) -> dict[str, float | None]:
    """Return the MiB that each contestant adds at its peak, each measured in a fresh child; None where unknown."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return {}
    context = multiprocessing.get_context("forkserver")
    # The server imports once, children fork from it before any thread of torch exists.
    context.set_forkserver_preload([__name__, *(["timm.models.vision_transformer"] if util.find_spec("timm") else [])])
    peaks: dict[str, float | None] = {}
    for name in contestants(case):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=report_peak, args=(sender, name, config.to_diff_dict(), case, threads))
        child.start()
        sender.close()
        try:
            peaks[name] = receiver.recv()
        except EOFError:  # killed, most likely for want of memory
            peaks[name] = None
        child.join()
    return peaks


def report_peak(sender: Any, name: str, config: dict[str, Any], case: Case, threads: int) -> None:
    """Run two steps in this process and send the MiB they and the model added at their peak."""
    torch.set_num_threads(threads)
    # Touch the libraries with an image of one patch: their pages are nobody's working memory.
    small = OmniVisionConfig(**config | {"image_size": config.get("patch_size", 16)})
    step = make_step(name, small, case)
    step()
    del step
    gc.collect()
    before = reset_peak()
    step = make_step(name, OmniVisionConfig(**config), case)
    step()
    step()
    sender.send(max(0.0, read_peak() - before))


def reset_peak() -> float:
    """Set the peak of this process back where the system can, and return its resident MiB now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return read_peak()


def read_peak() -> float:
    """Return the highest resident MiB of this process."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


__all__ = ["peak_memory"]
