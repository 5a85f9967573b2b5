"""Time the forward pass of a model: milliseconds by the clock and of CPU time, images per second.

    omni-vision benchmark --model checkpoints/omni-vision-fashion-mnist --batch_sizes 1 8 32 --json out.json

Each number is the median of `--rounds`. Of a retrieval or vision-language model the vision tower is timed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import DTYPES, JSON, option, parse, write_result
from .program import program


@dataclass
class BenchmarkArguments:
    """What to time, and how."""

    model: str = option("Folder or Hub id of anything that AutoModel opens and that takes images.")
    batch_sizes: list[int] = option("Images in one forward.", [1, 8, 32])
    dtype: str = option("Type of the weights: float32, bfloat16 or float16.", "float32", choices=DTYPES)
    threads: int | None = option("Threads of torch; without it those of the environment.", None, least=1)
    rounds: int = option("Samples of each number.", 5, least=1)
    compiled: bool = option("Time the model after torch.compile too.", False)
    fused: bool = option("Fuse the projections of queries, keys and values first.", False)
    json: str | None = option(JSON, None, bare="-")


@program
def main(argv: Sequence[str]) -> None:
    arguments = vars(parse(BenchmarkArguments, argv))
    file = arguments.pop("json")
    from ..evaluation.speed import benchmark_model

    found = benchmark_model(**arguments)
    if write_result(found, file):
        return
    print(f"{'batch':>6}{'compiled':>10}{'wall ms':>10}{'CPU ms':>10}{'images/s':>10}")
    for row in found["rows"]:
        cpu = "-" if row["cpu_ms"] is None else f"{row['cpu_ms']:.2f}"
        compiled = "yes" if row["compiled"] else "no"
        print(f"{row['batch_size']:>6}{compiled:>10}{row['wall_ms']:>10.2f}{cpu:>10}{row['images_per_second']:>10.1f}")
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
