"""Everything that has to be shown on one CUDA GPU, in one run of at most eight minutes.

    python -m experiments.gpu_check --data .gpu --base .gpu/base --output gpu_check.json
    python -m experiments.gpu_check --dry_run

Sections run in the order of their weight, each within its seconds; the file is written after each, and one that fails
is recorded. `--data` holds the IDX files of Fashion-MNIST or Debian's package of them, `--base` another build of the
package, whose training is timed beside this one's. `--dry_run` goes through all sections with tiny sizes on a CPU.
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from experiments.benchmark_models import BUILDERS, OURS, Case, benchmark_models
from experiments.benchmark_peers import peers_in
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.records.metrics_file import write_json


ROOT = Path(__file__).parent.parent
BASE_SIZE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
DRY_SIZE = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
ROUNDS, SAMPLES = 3, 7
HEAD_SIZES = (8, 16, 32, 64, 80, 128)
TESTS = ("tests/training/test_cuda_graphs.py", "tests/data/test_image_dataset.py", "tests/training/test_muon.py")

Step = Callable[[], Any]


class Check:
    """The state of one run: device, sizes, and what was found.

    Args:
        given: Arguments of the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.dry = given, given.dry_run
        self.device = torch.device("cpu" if self.dry or not torch.cuda.is_available() else "cuda")
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.began, self.scratch = time.monotonic(), Path(tempfile.mkdtemp())
        self.found: dict[str, Any] = {"sections": {}}

    def left(self) -> float:
        """Return the seconds left of the whole run."""
        return self.given.budget - (time.monotonic() - self.began)

    def section(self, name: str, seconds: float, work: Callable[[float], Any]) -> None:
        """Do one section, given the seconds it may take, and write the file."""
        if name not in (self.given.only or name).split(","):
            return
        began, limit = time.monotonic(), min(seconds, self.left())
        try:
            result = work(limit) if limit > 5 else {"left_out": f"{self.left():.0f} seconds were left"}
        except Exception:  # the next section shall tell what it can
            result = {"error": traceback.format_exc()[-3000:]}
        self.found["sections"][name] = {"seconds": time.monotonic() - began, "result": result}
        self.write()
        print(f"{name}: {time.monotonic() - began:.1f} s, {self.left():.0f} s left", flush=True)
        for line in lines_of(result):
            print("   ", line, flush=True)

    def write(self) -> None:
        """Write what is known so far."""
        write_json(Path(self.given.output), self.found)

    def run(self, command: list[str], seconds: float, package: Path = ROOT) -> dict[str, Any]:
        """Run a command with a build of the package, and return its status and the end of its output."""
        paths = [str(package), *([] if package == ROOT else [str(ROOT)]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=seconds, capture_output=True, text=True, check=False
            )
            status, out = done.returncode, done.stdout[-1500:] + done.stderr[-1500:]
        except subprocess.TimeoutExpired as error:
            status, out = -1, f"stopped after {seconds:.0f} s: {str(error.stdout)[-1500:]}"
        return {"status": status, "seconds": time.monotonic() - began, "output": out}


def lines_of(result: Any, prefix: str = "") -> list[str]:
    """Return a short line for each result."""
    if not isinstance(result, dict):
        return [f"{prefix}{str(result)[-300:]}"]
    if any(isinstance(value, dict) for value in result.values()):
        return [line for key, value in result.items() for line in lines_of(value, f"{prefix}{key}: ")]
    shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    return [f"{prefix}{ {key: value for key, value in shown.items() if key != 'losses'} }"[:1200]]


# --- training ---


def fashion_mnist(check: Check) -> str:
    """Return the folder of the IDX files, out of the package if need be; `digits` in a dry run."""
    if check.dry:
        return "digits"
    place = Path(check.given.data)
    for package in place.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), "/tmp/fashion_mnist"], check=True)
        place = next(Path("/tmp/fashion_mnist").rglob("train-images-idx3-ubyte*")).parent
    return str(place)


def training_runs(check: Check, build: Path, runs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Do runs of `experiments.gpu_training` with a build, and return what each found."""
    file = check.scratch / f"{build.name}.json"
    file.unlink(missing_ok=True)
    if check.dry:
        tiny = {"max_steps": 6, "held_out": 0.1, "warm": 2, "config": {"image_size": 8, "hidden_size": 16}}
        runs = [{**run, **tiny, "batch": 16} for run in runs]
    # From the build's own folder: the module is found there or in this checkout, the package there.
    script = [sys.executable, str(ROOT / "experiments/gpu_training.py"), "--data", fashion_mnist(check)]
    command = [*script, "--output", str(file), "--runs", json.dumps(runs)]
    done = check.run(command, seconds, build)
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.unlink(missing_ok=True)
    return {**found, "process": {key: done[key] for key in (("status", "seconds") if found else done)}}


def training_new(check: Check, seconds: float) -> dict[str, Any]:
    """Time this build: the recipe with three seeds, larger batches, and each fast path left out."""
    seeds: list[dict[str, Any]] = [
        {"name": f"256 seed {seed}", "batch": 256, "evaluate": True, "training": {"seed": seed}} for seed in (0, 1, 2)
    ]
    runs: list[dict[str, Any]] = [
        *seeds[:1],
        {"name": "1024", "batch": 1024, "training": {"num_train_epochs": 20}},
        {
            "name": "1024 sdpa",
            "batch": 1024,
            "config": {"attn_implementation": "sdpa"},
            "training": {"num_train_epochs": 20},
        },
        *seeds[1:],
        {"name": "256 no graphs", "batch": 256, "max_steps": 200, "recipe": {"cuda_graphs": "false"}},
        {"name": "1024 no graphs", "batch": 1024, "max_steps": 200, "recipe": {"cuda_graphs": "false"}},
        {"name": "256 images on the host", "batch": 256, "max_steps": 200, "recipe": {"images_on_device": "false"}},
        {"name": "256 fp16", "batch": 256, "max_steps": 200, "training": {"bf16": False, "fp16": True}},
        {"name": "256 mixup", "batch": 256, "max_steps": 200, "recipe": {"mixup": 0.2, "random_erasing": 0.25}},
        {"name": "128 x 2", "batch": 128, "max_steps": 200, "training": {"gradient_accumulation_steps": 2}},
    ]
    if check.dry:
        runs = [run for run in runs if "fp16" not in run["name"]]
    return training_runs(check, ROOT, runs, seconds)


def training_compiled(check: Check, seconds: float) -> dict[str, Any]:
    """Time this build under `--torch_compile true`."""
    compiled = {"training": {"torch_compile": True}, "max_steps": 300}
    return training_runs(
        check, ROOT, [{"name": f"{batch} compiled", "batch": batch, **compiled} for batch in (1024, 256)], seconds
    )


def training_base(check: Check, seconds: float) -> dict[str, Any]:
    """Time the other build: 1,024 briefly, then the whole recipe at 256."""
    runs = [{"name": "1024", "batch": 1024, "max_steps": 120}, {"name": "256 seed 0", "batch": 256, "evaluate": True}]
    return training_runs(check, Path(check.given.base).resolve(), runs, seconds)


def graph_equality(check: Check, seconds: float) -> dict[str, Any]:
    """Compare replayed steps with others: losses of the first steps, in float32."""
    plain = {"batch": 256, "max_steps": 60, "warm": 30, "logging_steps": 5, "training": {"bf16": False}}
    runs = [{**plain, "name": name, "recipe": {"cuda_graphs": name}} for name in ("auto", "false")]
    found = training_runs(check, ROOT, runs, seconds)
    if not all("losses" in found.get(name, {}) for name in ("auto", "false")):
        return found
    pairs = zip(found["auto"]["losses"], found["false"]["losses"], strict=True)
    return {"largest_difference_of_losses": max(abs(one[1] - other[1]) for one, other in pairs)}


# --- forward ---


def timed_in_turns(check: Check, steps: dict[str, Step], seconds: float) -> dict[str, Any]:
    """Return milliseconds of each step, and ours relative to the best peer with 95 % bounds, over whole rounds."""
    until, repeats = time.monotonic() + seconds, {}
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        for _ in range(3):
            step()
        repeats[name] = max(3, math.ceil((0.002 if check.dry else 0.06) / elapsed(step, 3)))
    for taken in range(ROUNDS * SAMPLES):
        names = list(steps)
        random.shuffle(names)
        for name in names:
            samples[name].append(elapsed(steps[name], repeats[name]))
        if taken and time.monotonic() > until:  # two at least, or bounds would be unknown
            break
    found: dict[str, dict[str, Any]] = {
        name: {"ms": 1e3 * statistics.median(values)} for name, values in samples.items()
    }
    peers = [name for name in steps if not name.startswith("ours")]
    best = min(peers, key=lambda name: found[name]["ms"])
    for name in set(steps) - set(peers):
        ratios = [peer / ours for peer, ours in zip(samples[best], samples[name], strict=True)]
        spread = 1.96 * statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else 0.0
        middle = statistics.median(ratios)
        found[name] |= {"speed_of_best_peer": middle, "bounds": [middle - spread, middle + spread], "best_peer": best}
    return found


def elapsed(step: Step, repeats: int) -> float:
    """Return the seconds of one step, with the device's work done."""
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    wait()
    return (time.perf_counter() - began) / repeats


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def towers(check: Check, size: dict[str, Any], fused: bool = True) -> dict[str, nn.Module]:
    """Build our model, once more with fused projections, and its peers, in evaluation mode on the device."""
    config = OmniVisionConfig(**(DRY_SIZE if check.dry else size))
    case = Case("forward", 1, "bfloat16", "sdpa")
    names = {
        "ours": OURS,
        **({"ours fused": OURS} if fused else {}),
        **{name: name for name in peers_in(benchmark_models(case))},
    }
    torch.manual_seed(0)
    made = {name: BUILDERS[kind](config, case).eval().to(check.device, check.dtype) for name, kind in names.items()}
    if fused:
        made["ours fused"].fuse_qkv_projections()  # type: ignore[operator]
    return made


def pixels_of(check: Check, count: int) -> torch.Tensor:
    """Return noise for the models of `towers`."""
    side = 32 if check.dry else 224
    return torch.randn(2 if check.dry else count, 3, side, side, device=check.device, dtype=check.dtype)


def forward_steps(models: dict[str, Any], pixels: torch.Tensor) -> dict[str, Step]:
    """Return a forward without gradients of each model."""

    def step_of(model: Any) -> Step:
        return torch.inference_mode()(lambda: model(pixels))

    return {name: step_of(model) for name, model in models.items()}


def forward(check: Check, seconds: float) -> dict[str, Any]:
    """Time eager forwards: ViTTiny at 1, 64, 1,024, and the base size at 1, 256."""
    rows: dict[str, Any] = {}
    for label, size, batches in (("tiny", {}, (1, 64, 1024)), ("base", BASE_SIZE, (1, 256))):
        models = towers(check, size)
        for count in batches:
            rows[f"{label} {count}"] = timed_in_turns(
                check, forward_steps(models, pixels_of(check, count)), seconds / 5
            )
    return rows


def forward_graphs(check: Check, seconds: float) -> dict[str, Any]:
    """Time CUDA graphs of forwards of one image."""
    if check.device.type == "cpu":
        return {"left_out": "no CUDA device"}
    steps = forward_steps(towers(check, {}), pixels_of(check, 1))
    replays: dict[str, Step] = {}
    for name, step in steps.items():
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replays[name] = graph.replay
    return {"tiny 1": timed_in_turns(check, replays, seconds)}


def forward_compiled(check: Check, seconds: float) -> dict[str, Any]:
    """Time compiled forwards, and count recompilations over batch sizes."""
    rows: dict[str, Any] = {}
    sizes: list[tuple[str, dict[str, Any], int]] = [("tiny", {}, 1024), ("base", BASE_SIZE, 256)]
    for label, size, count in sizes:
        models = {name: model for name, model in towers(check, size).items() if name != "TransformerEncoderLayer"}
        if label == "base":
            models.pop("transformers", None)
        compiled = {
            name: torch.compile(model, dynamic=False, fullgraph=name.startswith("ours"))
            for name, model in models.items()
        }
        began = time.monotonic()
        rows[f"{label} {count}"] = timed_in_turns(check, forward_steps(compiled, pixels_of(check, count)), 6)
        rows[f"{label} {count}"]["seconds"] = {"with_compilation": time.monotonic() - began}
        torch._dynamo.reset()
        if time.monotonic() - began > seconds / 2:
            break
    rows["reduce-overhead 1"] = reduce_overhead(check)
    return rows


def reduce_overhead(check: Check) -> dict[str, Any]:
    """Run our model compiled with CUDA graphs over batch sizes, and count graphs compiled after the second size."""
    from torch._dynamo.utils import counters

    model = torch.compile(towers(check, {})["ours fused"], mode="reduce-overhead", fullgraph=True)
    counts: list[int] = []
    with torch.inference_mode():
        for size in (1, 2, 3, 4, 7):
            model(torch.randn(size, *pixels_of(check, 1).shape[1:], device=check.device, dtype=check.dtype))
            counts.append(counters["stats"]["unique_graphs"])
    step = forward_steps({"ours": model}, pixels_of(check, 1)[:1])["ours"]
    for _ in range(3):
        step()
    return {"unique_graphs_by_size": counts, "ms": 1e3 * elapsed(step, 3 if check.dry else 200)}


def training_step(check: Check, seconds: float) -> dict[str, Any]:
    """Time bare training steps (autocast, AdamW) at ViTTiny 512 and base 128."""
    rows = {}
    for label, size, count in (("tiny", {}, 512), ("base", BASE_SIZE, 128)):
        models, pixels = towers(check, size, fused=False), pixels_of(check, count).float()
        steps = {name: one_training_step(check, model.float().train(), pixels) for name, model in models.items()}
        rows[f"{label} {count}"] = timed_in_turns(check, steps, seconds / 2)
        del models, steps
    return rows


def one_training_step(check: Check, model: nn.Module, pixels: torch.Tensor) -> Step:
    """Return zero_grad, forward, loss on CLS, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    autocast = torch.autocast("cuda", dtype=torch.bfloat16) if check.device.type == "cuda" else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            found = model(pixels)
            loss = getattr(found, "last_hidden_state", found)[:, 0].float().square().mean()
        loss.backward()
        optimizer.step()

    return step


# --- everything else ---


def attention_kinds(check: Check, seconds: float) -> dict[str, Any]:
    """Try each attention implementation at each head size, forwards and with gradients."""
    found: dict[str, Any] = {}
    until = time.monotonic() + seconds
    for kind in ("sdpa", "flash_attention_2", "flex_attention"):
        for head in HEAD_SIZES[: 2 if check.dry else None]:
            if time.monotonic() > until:
                return found
            row = found.setdefault(kind, {})
            for gradients in (False, True):
                row[f"head {head}{' with gradients' if gradients else ''}"] = attempt(check, kind, head, gradients)
    return found


def attempt(check: Check, kind: str, head: int, gradients: bool) -> str:
    """Return `works`, or the error, of one attention implementation against the eager one."""
    config = OmniVisionConfig(image_size=64, hidden_size=2 * head, intermediate_size=64, num_hidden_layers=2)
    model = BUILDERS[OURS](config, Case("forward", 1, "float32", "eager")).eval().to(check.device, check.dtype)
    pixels = torch.randn(2, 3, 64, 64, device=check.device, dtype=check.dtype)
    with torch.set_grad_enabled(gradients):
        expected = model(pixels).last_hidden_state
        try:
            model.set_attn_implementation(kind)  # type: ignore[operator]
            got = model(pixels).last_hidden_state
            if gradients:
                got.float().square().mean().backward()
                wait()
        except Exception as error:  # libraries raise many kinds
            return f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:150] if str(error).strip() else ''}"
    return f"works, {float((got - expected).abs().max()):.1e} from eager"


def embeddings(check: Check, seconds: float) -> dict[str, Any]:
    """Compare the bundled checkpoint's outputs on the CPU with those on the device."""
    from modeling_omni_vision import OmniVisionForImageClassification

    folder = ROOT / "checkpoints/omni-vision-fashion-mnist"
    model = OmniVisionForImageClassification.from_pretrained(folder).eval()
    pixels = torch.randn(64, model.config.num_channels, *model.config.image_size_hw)
    found = {}
    with torch.inference_mode():
        expected = model.omni_vision(pixels).last_hidden_state
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for fused in (False, True):
                there = model.to(check.device, dtype)
                there = there.fuse_qkv_projections() if fused else there.unfuse_qkv_projections()
                got = there.omni_vision(pixels.to(check.device, dtype)).last_hidden_state.float().cpu()
                cosine = nn.functional.cosine_similarity(got, expected, dim=-1).min()
                about = {"largest_difference": float((got - expected).abs().max()), "lowest_cosine": float(cosine)}
                found[f"{str(dtype)[6:]}{' fused' if fused else ''}"] = about
            model = OmniVisionForImageClassification.from_pretrained(folder).eval()
    return found


def commands(check: Check, seconds: float) -> dict[str, Any]:
    """Run each command that uses a model, and say what memory of the device it took."""
    model, out = "checkpoints/omni-vision-fashion-mnist", str(check.scratch)
    search, language = "checkpoints/omni-vision-search-scenes", "checkpoints/omni-vision-language-scenes"
    image = f"{out}/images"
    lines = {
        "inspect": ["inspect", "--dataset", "digits", "--export", image],
        "predict": ["predict", "--model", model, "--images", image],
        "visualize": ["visualize", "--model", model, "--images", image, "--output", f"{out}/maps"],
        "benchmark": ["benchmark", "--model", model, "--batch_sizes", "1", "8", "--rounds", "2"],
        "index": ["index", "--model", search, "--images", image, "--index", f"{out}/index"],
        "search": ["search", "--model", search, "--index", f"{out}/index", "--text", "a red square"],
        "ask": ["ask", "--model", language, "--image", f"{out}/one.png", "What is it?"],
    }
    Image.new("RGB", (64, 64), (200, 0, 0)).save(f"{out}/one.png")
    code = (
        "import sys, torch\n"
        "from modeling_omni_vision.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('MiB on the device:', torch.cuda.max_memory_allocated() >> 20)"
    )
    found, until = {}, time.monotonic() + seconds
    for name, line in lines.items():
        if time.monotonic() > until - 5:
            break
        done = check.run([sys.executable, "-c", code, *line], min(40, until - time.monotonic()))
        found[name] = {**done, "output": done["output"][-400:]}
    return found


def tests(check: Check, seconds: float) -> dict[str, Any]:
    """Run the tests of training on the device."""
    extra = ["--deselect", "tests/none"] if check.dry else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *extra]
    return check.run(command[: 6 if check.dry else None], seconds)


def launch(check: Check, seconds: float) -> dict[str, Any]:
    """Train digits for a few steps in one process of `torchrun` (nccl), and through `accelerate launch`."""
    flags = ["--dataset", "digits", "--max_steps", "12", "--eval_strategy", "no", "--save_strategy", "no"]
    flags += ["--do_predict", "false", "--ema_decay", "0.9", "--muon_learning_rate", "0.02"]
    config = '{"image_size": 16, "patch_size": 4, "num_channels": 1}'
    found = {}
    starts = {"torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "1"]}
    starts["accelerate"] = ["accelerate.commands.launch", "--num_processes", "1", "--mixed_precision", "fp16"]
    for name, start in starts.items():
        output = str(check.scratch / name)
        line = [sys.executable, "-m", *start, "scripts/train.py", "--output_dir", output, "--config", config, *flags]
        found[name] = check.run(line, seconds / 2)
    return found


UNTIMED: dict[str, Callable[[Check, float], Any]] = {
    "graph_equality": graph_equality,
    "embeddings": embeddings,
    "tests": tests,
    "attention_kinds": attention_kinds,
    "launch": launch,
    "commands": commands,
}


def side_by_side(check: Check, seconds: float) -> dict[str, Any]:
    """Do sections that measure no time in processes beside each other."""
    flags = ["--data", check.given.data, "--budget", str(seconds), *(["--dry_run"] if check.dry else [])]
    started = {}
    for name in UNTIMED:
        file = check.scratch / f"{name}.json"
        command = [sys.executable, "-m", "experiments.gpu_check", "--only", name, "--output", str(file), *flags]
        started[name] = file, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    until = time.monotonic() + seconds
    for name, (file, process) in started.items():
        try:
            process.wait(max(1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        known = json.loads(file.read_text())["sections"] if file.is_file() else {}
        found[name] = known.get(name, {"result": {"error": "stopped"}})["result"]
        file.unlink(missing_ok=True)
    return found


def about(check: Check, seconds: float) -> dict[str, Any]:
    """Return the machine and versions."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    for name in ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "numpy", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if check.device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Do all sections."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=".gpu")
    parser.add_argument("--base")
    parser.add_argument("--output", default="gpu_check.json")
    parser.add_argument("--budget", type=float, default=540.0)
    parser.add_argument("--only", help="names of sections, with commas")
    parser.add_argument("--dry_run", action="store_true")
    check = Check(parser.parse_args(argv))
    timed: list[tuple[str, float, Callable[[Check, float], Any]]] = [
        ("about", 10, about),
        ("training_new", 130, training_new),
        ("forward", 45, forward),
        ("forward_graphs", 15, forward_graphs),
        ("training_base", 110, training_base),
        ("beside", 90, side_by_side),
        ("forward_compiled", 90, forward_compiled),
        ("training_compiled", 70, training_compiled),
        ("training_step", 25, training_step),
    ]
    alone = [(name, math.inf, work) for name, work in UNTIMED.items() if check.given.only]
    for name, seconds, work in [*timed, *alone]:
        if name != "training_base" or check.given.base:
            check.section(name, seconds, functools.partial(work, check))


if __name__ == "__main__":
    main()
