"""Speed and memory of our encoder beside its peers, all of one size, in one run.

Peers take turns in a new order each round, so a machine that slows down slows all of them, and each takes one
untimed step before its timed ones, so that no one pays for what another left behind; every figure is a median,
every ratio the median of the ratios of one round. CPU time decides (other programs do not count in it),
wall time is in the JSON file. Freed memory is kept, as in a program that serves one batch after another:
otherwise page faults, which depend on the order of allocations more than on the work, are a tenth to a third
of a forward pass, and the same step takes 20 % more or less from one run to the next. Memory is what one case
adds to a fresh process.
"""

import ctypes
import itertools
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib import metadata, util
from typing import Any

import torch

from experiments.benchmark_memory import peak_memory
from experiments.benchmark_models import OURS, PEERS, TRAINING_BATCH, Case, contestants, make_step
from experiments.timing import Samples, time_in_turns
from experiments.training_step import ATTENTION_HEAD, DATA_HEAD, attention_line, attention_rows, data_line, data_rows
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.records.machine import cpu_model


# Of mallopt(3): from which size on memory is given back, and how many blocks come straight from the system.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next step; False where it is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])


def time_case(config: OmniVisionConfig, case: Case, rounds: int) -> Samples:
    """Time every contestant of a case; they take turns."""
    return time_in_turns({name: make_step(name, config, case) for name in contestants(case)}, rounds)


def summarise(case: Case, samples: Samples, peaks: dict[str, float | None]) -> dict[str, Any]:
    """One row: medians for each contestant, and our speed relative to each peer (above 1 we are faster)."""
    ratios = {
        name: statistics.median(
            theirs / ours for theirs, ours in zip(timed["cpu_ms"], samples[OURS]["cpu_ms"], strict=True)
        )
        for name, timed in samples.items()
        if name != OURS
    }
    return {
        **asdict(case),
        "contestants": {
            name: {
                "cpu_ms": statistics.median(timed["cpu_ms"]),
                "wall_ms": statistics.median(timed["wall_ms"]),
                "peak_mb": peaks.get(name),
            }
            for name, timed in samples.items()
        },
        "speed_relative_to": ratios,
        "speed_relative_to_best_peer": min(ratios.values()),
    }


def all_cases(batch_sizes: Sequence[int]) -> list[Case]:
    """Every row: forward at each batch size, training at 32, one more with the specification's dropout."""
    variants = list(itertools.product(("float32", "bfloat16"), ("sdpa", "eager")))
    forward = [Case("forward", size, *variant) for size in batch_sizes for variant in variants]
    training = [Case("training step", TRAINING_BATCH, *variant) for variant in variants]
    return [*forward, *training, Case("training step", TRAINING_BATCH, "float32", "sdpa", dropout=0.1)]


def run_benchmark(
    cases: Sequence[Case],
    config: OmniVisionConfig | None = None,
    rounds: int = 9,
    threads: int = 1,
    with_memory: bool = True,
    keep_heap: bool = True,
    with_training: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Measure every case and return everything that the JSON file holds.

    Args:
        cases: What to run, from `all_cases`.
        config: Size of all contestants; the specification's ViTTiny where None.
        rounds: Samples per contestant and case.
        threads: Threads of torch; 1 where other programs run.
        with_memory: Also measure peak memory, in child processes.
        keep_heap: Keep freed memory in this process; it stays so.
        with_training: Also measure what our own training steps wait for and which attention suits them.
        report: Called with one line of the table as soon as it is measured.

    Raises:
        `ValueError`: if `rounds` or `threads` is below 1, or a batch size is.
    """
    if min(rounds, threads, *(case.batch_size for case in cases)) < 1:
        raise ValueError(
            f"`rounds`, `threads` and batch sizes must be at least 1, got {rounds!r}, {threads!r} and "
            f"{sorted({case.batch_size for case in cases})!r}. Correct them."
        )
    config = config or OmniVisionConfig()
    rows, kept = [], keep_heap and keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for case in cases:
            peaks = peak_memory(config, case, threads) if with_memory else {}
            rows.append(summarise(case, time_case(config, case, rounds), peaks))
            report(table_line(rows[-1]))
        data = report_table(DATA_HEAD, data_line, data_rows(rounds), report) if with_training else []
        attention = (
            report_table(ATTENTION_HEAD, attention_line, attention_rows(rounds), report) if with_training else []
        )
    finally:
        torch.set_num_threads(before)
    return {
        "machine": machine(),
        "threads": threads,
        "rounds": rounds,
        "freed_memory_kept": kept,
        "config": {name: getattr(config, name) for name in ("image_size", "patch_size", "hidden_size")},
        "rows": rows,
        "best_attention": best_attention(rows),
        "data": data,
        "attention": attention,
    }


def report_table(
    head: str,
    line: Callable[[dict[str, Any]], str],
    rows: Iterable[dict[str, Any]],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Report a table line by line as its rows are measured, and return the rows."""
    report("\n" + head)
    measured = []
    for row in rows:
        report(line(row))
        measured.append(row)
    return measured


def best_attention(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our best against the best of any peer in the same precision, whichever attention each is best with."""
    groups: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        best = groups.setdefault((row["work"], row["batch_size"], row["dtype"], row["dropout"]), {})
        for name, figures in row["contestants"].items():
            best[name] = min(figures["cpu_ms"], best.get(name, math.inf))
    return [
        {
            **dict(zip(("work", "batch_size", "dtype", "dropout"), group, strict=True)),
            "cpu_ms": best,
            "speed_relative_to_best_peer": min(best[name] for name in best if name != OURS) / best[OURS],
        }
        for group, best in groups.items()
    ]


def machine() -> dict[str, Any]:
    """Say what ran: processor, cores, versions."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in ("transformers", "timm") if util.find_spec(name)},
    }


TABLE_HEAD = (
    "| work | batch | precision | attention | ours ms | "
    + " | ".join(f"{name} ms" for name in PEERS)
    + " | ours / best peer | peak MiB: ours, "
    + ", ".join(PEERS)
    + " |\n|---|--:|---|---|--:|"
    + "--:|" * len(PEERS)
    + "--:|---|"
)


def table_line(row: dict[str, Any]) -> str:
    """One line of the markdown table: CPU milliseconds a step, how many times our speed is the best peer's, memory."""
    figures = [row["contestants"].get(name, {}) for name in (OURS, *PEERS)]
    times = " | ".join(f"{one['cpu_ms']:.1f}" if one else "-" for one in figures)
    peaks = ", ".join("-" if one.get("peak_mb") is None else f"{one['peak_mb']:.0f}" for one in figures)
    work = row["work"] + (f", dropout {row['dropout']}" if row["dropout"] else "")
    ratio = row["speed_relative_to_best_peer"]
    return f"| {work} | {row['batch_size']} | {row['dtype']} | {row['attention']} | {times} | {ratio:.2f} | {peaks} |"


__all__ = ["TABLE_HEAD", "Case", "all_cases", "run_benchmark", "table_line"]
