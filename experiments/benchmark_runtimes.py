"""Speed of our encoder in ONNX Runtime and OpenVINO beside `ViTModel` of transformers with SDPA, all of one size.

    python -m experiments.benchmark_runtimes --output docs/runtimes.json

Random weights, float32, exports with any batch and with a fixed one, of all tokens, which `ViTModel` computes too, and
of the vector alone (`--outputs vector`), for which the last layer computes CLS alone. Prints a line for each batch and
writes JSON, of which `experiments.results` makes a table. Methods take turns, as in `experiments.benchmark_peers`; a
ratio is the median of the ratios of one round, in CPU seconds. "Products alone" are the matrix products of a forward
for all tokens without the rest: about the bound in float32. Minutes on one core; needs the extras onnx and openvino.
"""

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import set_torch_threads

from experiments.benchmark_models import Case, make_step
from experiments.benchmark_peers import keep_freed_memory, median_ratio, medians, printed, time_in_turns
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.interop.export.files import SUFFIXES, write_float
from modeling_omni_vision.interop.export.runtimes import SESSIONS, Session
from modeling_omni_vision.interop.export.towers import open_checkpoint, traced
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, instruction_sets, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json


PEER, RUNTIMES = "transformers", ("onnx", "openvino")
PRODUCTS = "products alone"
VECTOR = "vector alone"
PACKAGES = ("onnx", "onnxruntime", "openvino")


def sessions(config: OmniVisionConfig, batch_size: int | None) -> dict[str, Session]:
    """Export a random encoder with a fixed batch, or any, in each runtime, of tokens and of the vector alone."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        OmniVisionModel(config).save_pretrained(folder)
        height, width = config.image_size_hw
        OmniVisionImageProcessor(size={"height": height, "width": width}).save_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        (tower,) = checkpoint.towers().values()
        found = {}
        for label, exported in (("", tower), (f", {VECTOR}", tower.vector_alone())):
            graph = traced(checkpoint, exported, batch_size, dynamic_size=False)
            for name in RUNTIMES:
                file = write_float(graph, exported, Path(folder, f"{name}{label}{SUFFIXES[name]}"))
                found[f"{name}{label}"] = SESSIONS[name](file)
        return found


def products(config: OmniVisionConfig, batch_size: int) -> Callable[[], Any]:
    """Return all matrix products of a forward and nothing else, by torch into memory that is there already.

    No export of the same numbers in float32 can take less, unless its products are faster than those of MKL.
    """
    width, mlp, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    tokens, patches = 1 + config.num_patches, math.prod(config.patch_size_hw) * config.num_channels
    linear = [(width, 3 * width), (width, width), (width, mlp), (mlp, width)]
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    shapes = [((batch_size * tokens, one), (one, other)) for one, other in linear]
    rows, columns = (batch_size * heads, tokens, width // heads), (batch_size * heads, width // heads, tokens)
    shapes += [(rows, columns), ((*rows[:2], tokens), rows)]
    shapes = shapes * config.num_hidden_layers + [((batch_size * config.num_patches, patches), (patches, width))]
    pairs = [tuple(map(torch.randn, pair)) for pair in shapes]
    results = [one @ other for one, other in pairs]

    def step() -> None:
        for (one, other), result in zip(pairs, results, strict=True):
            torch.matmul(one, other, out=result)

    return step


def runtime_row(config: OmniVisionConfig, batch_size: int, dynamic: dict[str, Session], rounds: int) -> dict[str, Any]:
    """Return CPU milliseconds of a forward by method, and how many times faster than `ViTModel` each export is."""
    pixels = torch.randn(batch_size, config.num_channels, *config.image_size_hw).numpy()
    exports = {f"{name}, any batch": one for name, one in dynamic.items()}
    exports |= {f"{name}, fixed batch": one for name, one in sessions(config, batch_size).items()}
    steps: dict[str, Callable[[], Any]] = {
        name: functools.partial(one, {"pixel_values": pixels}) for name, one in exports.items()
    }
    steps[PEER] = make_step(PEER, config, Case("forward", batch_size, "float32", "sdpa"))
    steps[PRODUCTS] = products(config, batch_size)
    samples = time_in_turns(steps, rounds)
    ratios = {name: median_ratio(samples, PEER, name) for name in (*exports, PRODUCTS)}
    ways = {
        "tokens": [name for name in exports if VECTOR not in name],
        "vector": [name for name in exports if VECTOR in name],
    }
    best = {outputs: max(ratios[name] for name in names) for outputs, names in ways.items()}
    return {"batch_size": batch_size, "cpu_ms": medians(samples), "speed": ratios, "best": best}


@dataclass
class RuntimesArguments:
    """What to measure."""

    rounds: int = option("Samples of each method; medians are printed.", 9)
    batch_sizes: list[int] = option("Images in one forward.", [1, 8, 32])
    output: Path = option("JSON file to write.", Path("runtimes.json"))


def run(config: OmniVisionConfig, batch_sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure each batch size on one thread and return the content of the JSON file."""
    kept = keep_freed_memory()
    with set_torch_threads(1):
        dynamic = sessions(config, None)
        rows = printed(runtime_row(config, size, dynamic, rounds) for size in batch_sizes)
    return {
        "machine": describe_machine() | recorded_versions(*PACKAGES) | {"torch": torch.__version__},
        "instructions": instruction_sets(),
        "threads": 1,
        "rounds": rounds,
        "freed_memory_kept": kept,
        "config": {name: getattr(config, name) for name in ("image_size", "patch_size", "hidden_size")},
        "rows": rows,
    }


@program
def main(argv: Sequence[str]) -> None:
    args = parse(RuntimesArguments, argv)
    result = run(OmniVisionConfig(), args.batch_sizes, args.rounds)
    command = recorded_command("python", ["-m", "experiments.benchmark_runtimes", *argv])
    write_json(args.output, result | {"command": command})


if __name__ == "__main__":
    main()
