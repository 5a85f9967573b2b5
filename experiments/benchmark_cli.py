"""Time our encoder beside transformers, timm and nn.TransformerEncoderLayer, all of one size, in one run.

    python scripts/benchmark.py --output benchmark.json
    python scripts/benchmark.py --quick
    python scripts/benchmark.py --part index --model runs/search --output index.json

Prints a markdown table (CPU milliseconds a step; "ours / best peer" above 1 means that ours is faster) and
writes JSON; then, for our own training steps, the share that waits for data and which attention is faster.
About ten minutes on one core, `--quick` about two; many times that where the processor is slow in bfloat16.
timm takes part where it is installed: `pip install -e ".[benchmark]"`. `--part index` instead measures recall, time
and bytes of a search index of 4,000 drawn scenes, in about four minutes.
"""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from transformers import HfArgumentParser

from experiments.benchmark_peers import TABLE_HEAD, all_cases, run_benchmark
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.metrics_file import write_json


@dataclass
class BenchmarkArguments:
    """What to measure."""

    part: str = field(default="speed", metadata={"help": "speed, or index: that of a search index."})
    model: str | None = field(default=None, metadata={"help": "A retrieval checkpoint, for the part index."})
    rounds: int = field(default=9, metadata={"help": "Samples of each contestant; medians are printed."})
    threads: int = field(default=1, metadata={"help": "Threads of torch. Use 1 where other programs run."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [1, 8, 32, 128],
        metadata={"help": "Batch sizes of the forward rows; training takes 32."},
    )
    output: str = field(default="benchmark.json", metadata={"help": "JSON file to write."})
    keep_heap: bool = field(
        default=True, metadata={"help": "Keep freed memory between steps (glibc); false adds page faults and noise."}
    )
    quick: bool = field(default=False, metadata={"help": "Three rounds, batches of 1 and 8, no memory, no data."})


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    command = recorded_command("scripts/benchmark.py", sys.argv[1:] if argv is None else argv)
    if arguments.part not in ("speed", "index") or (arguments.part == "index") != bool(arguments.model):
        raise ValueError(f"Expected --part speed, or index with --model, got {arguments.part!r}. Correct it.")
    if arguments.part == "index":
        from experiments.index_benchmark import run_index_benchmark  # wants the extra "retrieval"

        measured = run_index_benchmark(arguments.model, report=lambda line: print(line, flush=True))
        write_json(Path(arguments.output), measured | {"command": command})
        return
    if find_spec("timm") is None:
        print('timm is not installed, so it does not take part: pip install -e ".[benchmark]"')
    print(TABLE_HEAD)
    result = run_benchmark(
        all_cases([1, 8] if arguments.quick else arguments.batch_sizes),
        rounds=3 if arguments.quick else arguments.rounds,
        threads=arguments.threads,
        with_memory=not arguments.quick,
        keep_heap=arguments.keep_heap,
        with_training=not arguments.quick,
        report=lambda line: print(line, flush=True),
    )
    write_json(Path(arguments.output), result | {"command": command})
    worst = min(result["best_attention"], key=lambda row: row["speed_relative_to_best_peer"])
    print(
        f"Slowest against the best peer in its precision: {worst['speed_relative_to_best_peer']:.2f} of its speed "
        f"({worst['work']}, batch {worst['batch_size']}, {worst['dtype']}). Written: {arguments.output}"
    )


if __name__ == "__main__":
    main()
