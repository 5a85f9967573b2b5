"""Forward latency of a vision model: wall time by `torch.utils.benchmark`, and CPU time, which load leaves alone."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.benchmark import Measurement, Timer
from torch.utils.benchmark.utils.common import set_torch_threads
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from ..interop.vision_tower import without_load_report
from ..records.machine import cpu_model


SECONDS_PER_SAMPLE = 0.1  # CPU time ticks every 10 ms on some systems
DTYPES = ("float32", "bfloat16", "float16")


def benchmark_model(
    model: str,
    batch_sizes: Sequence[int] = (1, 8, 32),
    dtype: str = "float32",
    threads: int | None = None,
    rounds: int = 5,
    compiled: bool = False,
    fused: bool = False,
) -> dict[str, Any]:
    """
    Time the forward pass of a vision model at its native image size, on the device that it is loaded to.

    Args:
        model: Folder or Hub id of anything that `AutoModel` opens and that takes images; of a retrieval or
            vision-language model the vision tower is timed.
        batch_sizes: Images in one forward.
        dtype: One of `DTYPES`.
        threads: Threads of torch; None for the present number.
        rounds: Samples of each number, of which the median is returned.
        compiled: Time the model after `torch.compile` too, without the time to compile.
        fused: Call `fuse_qkv_projections` of the model first.

    Returns:
        `model`, `machine`, and `rows`, for each batch size (and compiled or not) `batch_size`, `dtype`, `compiled`,
        `wall_ms` (of one forward), `cpu_ms` (CPU milliseconds of this process for each image; None on an accelerator,
        where they would be those of launching kernels), `images_per_second`, `peak_memory_mb` (of a CUDA device, None
        elsewhere).

    Raises:
        `ValueError`: if a number is below 1, or for another dtype.
    """
    if min((rounds, *batch_sizes, 1 if threads is None else threads)) < 1 or not batch_sizes or dtype not in DTYPES:
        raise ValueError(
            f"Expected batch sizes, rounds and threads of at least 1 and a dtype of {DTYPES}, got {batch_sizes!r}, "
            f"{rounds!r}, {threads!r} and {dtype!r}. Correct them."
        )
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    is_language = any("ForConditionalGeneration" in name for name in config.architectures or ())
    auto_class = AutoModelForImageTextToText if is_language else AutoModel
    with without_load_report():
        opened = auto_class.from_pretrained(model, trust_remote_code=False, dtype=getattr(torch, dtype)).eval()
    tower: Any = getattr(opened, "vision_model", getattr(opened, "vision_tower", opened))
    # Compiled for any batch size from the second one on.
    ways = [(False, tower), *([(True, torch.compile(tower))] if compiled else [])]
    if fused:
        if not hasattr(tower, "fuse_qkv_projections"):
            raise ValueError(f"`fused` needs a model with `fuse_qkv_projections`, got {type(tower).__name__}.")
        tower.fuse_qkv_projections()
    size, channels = tower.config.image_size, tower.config.num_channels
    rows = []
    with torch.inference_mode(), set_torch_threads(threads or torch.get_num_threads()):
        for count in batch_sizes:
            pixels = torch.randn(count, channels, *((size, size) if isinstance(size, int) else size))
            for is_compiled, step in ways:
                times = time_forward(step, pixels.to(tower.device, tower.dtype), rounds)
                rows.append({"batch_size": count, "dtype": dtype, "compiled": is_compiled, **times})
        machine = {"cpu": cpu_model(), "device": str(tower.device), "threads": torch.get_num_threads()}
    return {"model": model, "machine": machine | {"torch": str(torch.__version__)}, "rows": rows}


def time_forward(step: Any, pixels: torch.Tensor, rounds: int) -> dict[str, float | None]:
    """Time one batch (images, channels, height, width): the measured numbers of a row of `benchmark_model`."""
    if pixels.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pixels.device)
    timer = Timer("step(pixels)", globals={"step": step, "pixels": pixels}, num_threads=torch.get_num_threads())
    timer.timeit(1)  # compiles, and fills the caches
    number = max(1, round(SECONDS_PER_SAMPLE / timer.timeit(1).median))
    wall, cpu = [], []
    for _ in range(rounds):
        wall.append(timer.timeit(number))
        start = time.process_time()
        for _ in range(number):
            step(pixels)
        cpu.append(1e3 * (time.process_time() - start) / (number * len(pixels)))
    seconds = Measurement.merge(wall)[0].median
    return {
        "wall_ms": 1e3 * seconds,
        "cpu_ms": sorted(cpu)[rounds // 2] if pixels.device.type == "cpu" else None,
        "images_per_second": len(pixels) / seconds,
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if pixels.device.type == "cuda" else None,
    }


__all__ = ["benchmark_model"]
