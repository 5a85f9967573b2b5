"""Speed and memory of our encoder beside transformers, timm and nn.TransformerEncoderLayer, all of one size.

    python -m experiments.benchmark_peers --output benchmark.json
    python -m experiments.benchmark_peers --quick

Prints a line for each measurement and writes JSON, of which `experiments.results` makes tables. For our own training
steps it also measures which fraction of the time data takes and which attention is faster. Fifteen minutes on one
core, `--quick` two; many times that where the processor is slow in bfloat16. timm takes part if it is installed.

Models take turns in a new order each round, so that a machine that slows down slows all of them. Every figure is a
median, every ratio the median of the ratios of one round. CPU time decides, in which other programs do not count;
wall time is in the JSON file. Freed memory is kept, as in a program that serves one batch after another: otherwise
page faults are a tenth to a third of a forward pass and differ by 20 % from run to run (`--keep_freed_memory false`).
Memory is what one case adds to a fresh process. With `--runs 3` each row is measured three times with new models; of
their ratios, and of the bounds of their 95 % intervals, the middle ones count.
"""

import ctypes
import gc
import itertools
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
from scipy.stats import quantile_test
from torch.utils.benchmark import Timer, set_torch_threads

from experiments.benchmark_models import (
    COMPILED,
    FUSED,
    OURS,
    Case,
    batch_maker,
    benchmark_models,
    make_step,
    random_images,
)
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, instruction_sets, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json


TRAINING_BATCH, RECIPE_BATCH = 32, 128
SECONDS_PER_SAMPLE = 0.05
DTYPES, ATTENTIONS = ("bfloat16", "float32"), ("eager", "sdpa")
# Of mallopt(3): from which size on memory is given back, and how many blocks come straight from the system.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# As in the recipe for Fashion-MNIST.
RECIPE_SHAPE: dict[str, Any] = {"image_size": 28, "patch_size": 4, "num_channels": 1}
RECIPE: dict[str, Any] = {"max_translate": 2, "flip": True, "random_erasing": 0.25}
AUGMENTATIONS: tuple[dict[str, Any], ...] = (
    {},
    RECIPE,
    RECIPE | {"mixup": 0.2, "cutmix": 1.0},
    RECIPE | {"rand_augment": 9},
)
# 17, 50 and 197 tokens: scanned digits, Fashion-MNIST, the specification.
SPECIFIED_SHAPE = {"image_size": 224, "patch_size": 16, "num_channels": 3}
ATTENTION_SHAPES = (RECIPE_SHAPE | {"image_size": 16}, RECIPE_SHAPE, SPECIFIED_SHAPE)

Samples = dict[str, dict[str, list[float]]]


def time_in_turns(steps: dict[str, Callable[[], Any]], rounds: int) -> Samples:
    """Return `cpu_ms` and `wall_ms` of each step, a value a round; two steps before each sample are not timed."""
    ticks: list[float] = []

    def clock() -> float:
        # Timer subtracts the wall seconds; the CPU seconds of the same moments are kept beside them.
        ticks.append(time.process_time())
        return time.perf_counter()

    options: dict[str, Any] = {"timer": clock, "num_threads": torch.get_num_threads()}
    timers = {name: Timer("step()", globals={"step": step}, **options) for name, step in steps.items()}
    # Short steps are repeated, equally often for all, until a clock tick is nothing beside them.
    seconds = sum(timer.timeit(1).mean for timer in timers.values())
    repeats = max(1, math.ceil(SECONDS_PER_SAMPLE * len(steps) / seconds))
    samples: Samples = {name: {"cpu_ms": [], "wall_ms": []} for name in steps}
    names, shuffle = list(steps), random.Random(0).shuffle
    for _ in range(rounds):
        # A fixed order would always give one model the caches and the heap that the same other one left.
        shuffle(names)
        for name in names:
            samples[name]["wall_ms"].append(1e3 * timers[name].timeit(repeats).mean)
            samples[name]["cpu_ms"].append(1e3 * (ticks[-1] - ticks[-2]) / repeats)
    return samples


def medians(samples: Samples) -> dict[str, float]:
    """Return the median of CPU milliseconds of each step."""
    return {name: statistics.median(timed["cpu_ms"]) for name, timed in samples.items()}


def ratios_of(samples: Samples, above: str, below: str) -> list[float]:
    """Return CPU seconds of one step relative to those of another, a value a round."""
    pairs = zip(samples[above]["cpu_ms"], samples[below]["cpu_ms"], strict=True)
    return [one / other for one, other in pairs]


def median_ratio(samples: Samples, above: str, below: str) -> float:
    """Return the median over rounds of CPU seconds of one step relative to those of another."""
    return statistics.median(ratios_of(samples, above, below))


def median_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % interval of the median of a few values, which assumes nothing about how they scatter."""
    low, high = quantile_test(values, p=0.5).confidence_interval(0.95)
    return [min(values) if math.isnan(low) else float(low), max(values) if math.isnan(high) else float(high)]


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next step; False where it is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])


def peak_memory(config: OmniVisionConfig, case: Case, threads: int) -> dict[str, float | None]:
    """Return the MiB that each model adds at its peak, each in a fresh process; None if it was killed. Linux only."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    context = multiprocessing.get_context("forkserver")
    # The server imports once; children fork from it before any thread of torch exists.
    timm = ["timm.models.vision_transformer"] if util.find_spec("timm") else []
    context.set_forkserver_preload(["experiments.benchmark_models", *timm])
    peaks: dict[str, float | None] = {}
    # What compiling needs is nobody's working memory.
    for name in [name for name in benchmark_models(case) if name != COMPILED]:
        with ProcessPoolExecutor(1, context) as process:
            try:
                peaks[name] = process.submit(added_peak, name, config.to_diff_dict(), case, threads).result()
            except BrokenProcessPool:  # killed, most likely for want of memory
                peaks[name] = None
    return peaks


def added_peak(name: str, config: dict[str, Any], case: Case, threads: int) -> float:
    """Run two steps in this process and return the MiB that they and the model added at their peak."""
    torch.set_num_threads(threads)
    # Pages of the libraries are nobody's working memory: an image of one patch touches them first.
    make_step(name, OmniVisionConfig(**config | {"image_size": config.get("patch_size", 16)}), case)()
    gc.collect()
    before = peak_mb(reset=True)
    step = make_step(name, OmniVisionConfig(**config), case)
    step()
    step()
    return max(0.0, peak_mb() - before)


def peak_mb(reset: bool = False) -> float:
    """Return the highest resident MiB of this process, or, after a reset, what is resident now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def all_cases(batch_sizes: Sequence[int]) -> list[Case]:
    """List every row: forward at each batch size, training at 32, once more with the specification's dropout."""
    variants = list(itertools.product(("float32", "bfloat16"), ("sdpa", "eager")))
    forward = [Case("forward", size, *variant) for size in batch_sizes for variant in variants]
    training = [Case("training step", TRAINING_BATCH, *variant) for variant in variants]
    return [*forward, *training, Case("training step", TRAINING_BATCH, "float32", "sdpa", dropout=0.1)]


def peers_in(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in (OURS, FUSED, COMPILED)]


def against_best_peer(runs: Sequence[Samples], name: str) -> dict[str, Any]:
    """Return our speed relative to the best peer's and its 95 % interval, each the median over runs.

    The best peer is the one of the smallest median of CPU seconds in a run.
    """
    middles, intervals = [], []
    for samples in runs:
        cpu = medians(samples)
        ratios = ratios_of(samples, min(peers_in(cpu), key=cpu.__getitem__), name)
        middles.append(statistics.median(ratios))
        intervals.append(median_interval(ratios))
    bounds = [statistics.median(ends) for ends in zip(*intervals, strict=True)]
    return {"speed_relative_to_best_peer": statistics.median(middles), "interval": bounds}


def summarise(case: Case, runs: Sequence[Samples], peaks: dict[str, float | None]) -> dict[str, Any]:
    """Return one row: medians of each model, and the speed of ours relative to each peer's (above 1 ours is faster).

    `relative_to_best_peer` has each of our ways to run the model.
    """
    pooled = {
        name: {unit: [value for run in runs for value in run[name][unit]] for unit in timed}
        for name, timed in runs[0].items()
    }
    figures: dict[str, Any] = {
        name: {unit: statistics.median(values) for unit, values in timed.items()} | {"peak_mb": peaks.get(name)}
        for name, timed in pooled.items()
    }
    ours = {name: against_best_peer(runs, name) for name in (OURS, FUSED, COMPILED) if name in pooled}
    relative = {
        "speed_relative_to": {name: median_ratio(pooled, name, OURS) for name in peers_in(pooled)},
        "relative_to_best_peer": ours,
    }
    if COMPILED in pooled:
        relative["compiled_relative_to_ours"] = {
            "speed": median_ratio(pooled, OURS, COMPILED),
            "interval": median_interval(ratios_of(pooled, OURS, COMPILED)),
        }
    return {**asdict(case), "models": figures, **relative}


def best_attention(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare our best with the best of any peer in the same precision, whichever attention each is best with.

    Compiling does not count: peers are not compiled here.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        case = {key: row[key] for key in ("work", "batch_size", "dtype", "dropout")}
        best = groups.setdefault(tuple(case.values()), case | {"cpu_ms": {}})["cpu_ms"]
        for name, figures in row["models"].items():
            best[name] = min(figures["cpu_ms"], best.get(name, math.inf))
    for found in groups.values():
        best = found["cpu_ms"]
        ours = min(best[name] for name in (OURS, FUSED) if name in best)
        found["speed_relative_to_best_peer"] = min(best[name] for name in peers_in(best)) / ours
    return [*groups.values()]


def data_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield, for each kind of augmentation, the fraction of a training step's CPU time that making the batch takes.

    Batches are made in this process, without workers, from images in memory: waiting for a disk does not count.
    """
    config = OmniVisionConfig(**RECIPE_SHAPE)
    steps = {dtype: make_step(OURS, config, Case("training step", RECIPE_BATCH, dtype, "eager")) for dtype in DTYPES}
    # Ten batches, so that their images do not wait in the processor's cache.
    dataset = random_images(config, 10 * RECIPE_BATCH)
    named = {", ".join(f"{key} {str(value).lower()}" for key, value in some.items()): some for some in AUGMENTATIONS}
    makers = {name or "none": batch_maker(config, dataset, some, RECIPE_BATCH) for name, some in named.items()}
    samples = time_in_turns(steps | makers, rounds)
    cpu = medians(samples)
    for name in makers:
        # The median over rounds of data / (data + step).
        shares = {dtype: 1 / (1 + median_ratio(samples, dtype, name)) for dtype in DTYPES}
        row = {"augmentation": name, "batch_size": RECIPE_BATCH, **RECIPE_SHAPE, "data_ms": cpu[name]}
        yield row | {"step_ms": {dtype: cpu[dtype] for dtype in DTYPES}, "share_waiting": shares}


def attention_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield, for each shape and precision, the speed of eager attention relative to sdpa (above 1 eager is faster)."""
    for shape, dtype in itertools.product(ATTENTION_SHAPES, DTYPES):
        config = OmniVisionConfig(**shape)
        cases = {attention: Case("training step", TRAINING_BATCH, dtype, attention) for attention in ATTENTIONS}
        samples = time_in_turns({name: make_step(OURS, config, case) for name, case in cases.items()}, rounds)
        row = {"tokens": 1 + config.num_patches, **shape, "batch_size": TRAINING_BATCH, "dtype": dtype}
        yield row | {"cpu_ms": medians(samples), "eager_relative_to_sdpa": median_ratio(samples, "sdpa", "eager")}


def case_rows(args: "BenchmarkArguments", cases: Sequence[Case], config: OmniVisionConfig) -> Iterator[dict[str, Any]]:
    """Yield the row of each case."""
    for case in cases:
        peaks = {} if args.quick else peak_memory(config, case, args.threads)
        runs = []
        for _ in range(args.runs):
            steps = {name: make_step(name, config, case) for name in benchmark_models(case)}
            runs.append(time_in_turns(steps, args.rounds))
        yield summarise(case, runs, peaks)


def run_benchmark(args: "BenchmarkArguments", cases: Sequence[Case], config: OmniVisionConfig) -> dict[str, Any]:
    """Measure every case on models of one size, print each row, and return everything that the JSON file holds.

    Raises:
        ValueError: if `rounds`, `runs`, `threads` or a batch size is below 1.
    """
    sizes = sorted({case.batch_size for case in cases})
    if min(args.rounds, args.runs, args.threads, *sizes) < 1:
        given = f"{args.rounds!r}, {args.runs!r}, {args.threads!r} and {sizes!r}"
        raise ValueError(f"`rounds`, `runs`, `threads` and batch sizes must be at least 1, got {given}. Correct them.")
    timm, kept = ["timm"] if util.find_spec("timm") else [], args.keep_freed_memory and keep_freed_memory()
    with set_torch_threads(args.threads):
        rows = printed(case_rows(args, cases, config))
        measured = () if args.quick or args.works else (data_rows, attention_rows)
        data, attention = [printed(some(args.rounds)) for some in measured] or ([], [])
    return {
        "machine": describe_machine() | recorded_versions(*timm) | {"torch": torch.__version__},
        "instructions": instruction_sets(),
        "threads": args.threads,
        "rounds": args.rounds,
        "runs": args.runs,
        "freed_memory_kept": kept,
        "config": {name: getattr(config, name) for name in ("image_size", "patch_size", "hidden_size")},
        "rows": rows,
        "best_attention": best_attention(rows),
        "data": data,
        "attention": attention,
    }


def printed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they are measured, and return them."""
    measured = []
    for row in rows:
        print(line(row), flush=True)
        measured.append(row)
    return measured


def line(values: dict[str, Any]) -> str:
    """Format a row: names before values, numbers with three digits, what is nested in brackets."""
    words = []
    for name, value in values.items():
        number = f"{value:.3g}" if isinstance(value, float) else value
        words.append(f"{name} ({line(value)})" if isinstance(value, dict) else f"{name} {number}")
    return ", ".join(words)


@dataclass
class BenchmarkArguments:
    """What to measure."""

    rounds: int = option("Samples of each model; medians are printed.", 9)
    runs: int = option("Whole measurements of each row, each with new models.", 1)
    dtypes: list[str] = option("Precisions, all if none is named.", [])
    works: list[str] = option("Rows, forward or 'training step', all if none is named.", [])
    keep_freed_memory: bool = option("Make the C library keep freed memory, where it is glibc.", True)
    threads: int = option("Threads of torch. Use 1 where other programs run.", 1)
    batch_sizes: list[int] = option("Of the forward rows; training takes 32.", [1, 8, 32, 128])
    output: Path = option("JSON file to write.", Path("benchmark.json"))
    quick: bool = option("Three rounds, batches of 1 and 8, no memory, no data.", False)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(BenchmarkArguments, argv)
    if util.find_spec("timm") is None:
        print('timm is not installed, so it does not take part: pip install -e ".[benchmark]"')
    cases = all_cases([1, 8] if args.quick else args.batch_sizes)
    cases = [case for case in cases if case.dtype in (args.dtypes or DTYPES)]
    cases = [case for case in cases if case.work in (args.works or [case.work])]
    args.rounds = 3 if args.quick else args.rounds
    result = run_benchmark(args, cases, OmniVisionConfig())
    command = recorded_command("python", ["-m", "experiments.benchmark_peers", *argv])
    write_json(args.output, result | {"command": command})
    worst = min(result["best_attention"], key=lambda row: row["speed_relative_to_best_peer"])
    print(
        f"Slowest against the best peer in its precision: {worst['speed_relative_to_best_peer']:.2f} of its speed "
        f"({worst['work']}, batch {worst['batch_size']}, {worst['dtype']}). Written: {args.output}"
    )


if __name__ == "__main__":
    main()
