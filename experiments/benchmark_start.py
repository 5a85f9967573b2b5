"""Training of builds side by side on the CPU: from the end of imports to the first step, memory, speed of steps.

    git worktree add ../COMMIT COMMIT
    python -m experiments.benchmark_start --builds ../COMMIT . --output docs/start.json

Every figure is of a process of its own; the builds take turns. CPU seconds count, in which other programs do not, of
all threads and children. The images (PNG, 32 x 32, ten classes) are drawn into a temporary folder. Peak memory is what
the process holds before the first step beyond what it held after its imports. Some of that does not depend on the
number of images (the model, its optimizer, modules imported late): what each image adds is the difference to a folder
of half as many, relative to its decoded bytes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json


SIDE, CLASSES = 32, 10
# Runs in the build that is measured: prints CPU seconds and memory at the first step, then at the last.
MEASURED = """
import json, os, resource, sys
import datasets, torch, torchvision, transformers
import modeling_omni_vision.cli.train as command
from modeling_omni_vision.training import classification

def cpu():
    return sum(os.times()[:4])

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

warm, begun, before, seen = int(sys.argv[1]), cpu(), peak_mb(), {}

class Clock(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            seen.update(start_cpu_seconds=cpu() - begun, added_mb=peak_mb() - before)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == warm:
            seen["warm"] = cpu()
        if state.global_step == state.max_steps:
            if state.max_steps > warm:
                images = (state.max_steps - warm) * args.per_device_train_batch_size
                seen["images_per_cpu_second"] = images / (cpu() - seen.pop("warm"))
            print("\\n" + json.dumps(seen), flush=True)
            os._exit(0)

original = transformers.Trainer.__init__
def with_clock(self, *args, **kwargs):
    original(self, *args, **kwargs)
    self.add_callback(Clock())
transformers.Trainer.__init__ = with_clock
command.main(sys.argv[2:])
"""


def draw_images(folder: Path, count: int) -> None:
    """Write smooth images of random colours, a folder for each class."""
    draws = np.random.default_rng(0)
    ramp = np.linspace(0, 1, SIDE)[:, None, None]

    def draw(number: int, colours: np.ndarray) -> None:
        path = folder / f"class {number % CLASSES}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = ramp * colours[0] + ramp.transpose(1, 0, 2) * colours[1]
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    with ThreadPoolExecutor() as threads:
        list(threads.map(draw, range(count), draws.integers(0, 128, (count, 2, 3))))


def measure(build: Path, words: Sequence[str], warm: int, threads: int) -> dict[str, float]:
    """Return what one process of a build measures."""
    environment = {**os.environ, "PYTHONPATH": str(build.resolve()), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        # Nothing is remembered of an earlier run.
        environment |= {"HF_DATASETS_CACHE": f"{folder}/cache", "HF_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(warm), *words, "--output_dir", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"{build} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


Runs = dict[str, list[dict[str, float]]]


def ratios(runs: Runs, name: str) -> dict[str, float]:
    """Return the median over rounds of a figure of each build relative to that of the first."""
    first = next(iter(runs.values()))
    return {
        build: statistics.median(after[name] / before[name] for before, after in zip(first, some, strict=True))
        for build, some in runs.items()
    }


def least_mb(runs: Runs) -> dict[str, float]:
    """Return the least memory that each build adds: what a thread takes at the same time is chance."""
    return {build: min(run["added_mb"] for run in some) for build, some in runs.items()}


def measure_builds(builds: Sequence[Path], words: Sequence[str], warm: int, rounds: int, threads: int) -> Runs:
    """Return what all builds measure, in turns."""
    runs: Runs = {build.resolve().name: [] for build in builds}
    for _ in range(rounds):
        for build in builds:
            runs[build.resolve().name].append(measure(build, words, warm, threads))
            print(build.resolve().name, runs[build.resolve().name][-1], flush=True)
    return runs


@dataclass
class StartArguments:
    """What to measure."""

    builds: list[Path] = option("Checkouts: the build before, and those that are compared with it.")
    images: int = option("Images of the folder.", 40_000)
    rounds: int = option("Processes of each build.", 3)
    steps: int = option("Steps whose speed is measured; 0 for the start alone.", 0)
    threads: int = option("Threads of torch.", 1)
    output: Path = option("JSON file to write.", Path("start.json"))


@program
def main(argv: Sequence[str]) -> None:
    args = parse(StartArguments, argv)
    if not 1 < len({build.resolve().name for build in args.builds}) == len(args.builds):
        raise ValueError(
            f"--builds are two or more folders of different names, got {[*map(str, args.builds)]}. Correct them."
        )
    config = {"image_size": SIDE, "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    warm = min(20, args.steps) if args.steps else 1
    words = ["--config", json.dumps(config | {"attn_implementation": "eager"})]
    words += ["--max_steps", str(warm + args.steps), "--per_device_train_batch_size", "64"]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--do_predict", "false", "--disable_tqdm", "true"]
    words += ["--muon_learning_rate", "0.02", "--ema_decay", "0.99", "--learning_rate", "1e-3", "--flip", "true"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as half:
        draw_images(Path(folder), args.images)
        draw_images(Path(half), args.images // 2)
        runs = measure_builds(args.builds, [*words, "--dataset", folder], warm, args.rounds, args.threads)
        fewer = measure_builds(args.builds, [*words, "--dataset", half], warm, args.rounds, args.threads)
    cache_mb = args.images * SIDE * SIDE * 3 / 2**20
    whole, part = least_mb(runs), least_mb(fewer)
    found: dict[str, Any] = {
        "start_relative": ratios(runs, "start_cpu_seconds"),
        "added_mb_by_cache": {name: (whole[name] - part[name]) / (cache_mb / 2) for name in runs},
        "fixed_mb": {name: 2 * part[name] - whole[name] for name in runs},
    }
    if args.steps:
        found["speed_relative"] = ratios(runs, "images_per_cpu_second")
    command = recorded_command("python", ["-m", "experiments.benchmark_start", *argv])
    write_json(
        args.output,
        {
            "machine": describe_machine() | recorded_versions("torch"),
            "images": args.images,
            "threads": args.threads,
            "cache_mb": cache_mb,
            "runs": runs,
            "runs_of_half": fewer,
            **found,
            "command": command,
        },
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
