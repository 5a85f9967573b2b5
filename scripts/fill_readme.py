"""Write the numbers of README.md and of the recipes from the files that hold them; none is typed.

    python scripts/fill_readme.py           # after a new checkpoint or benchmark
    python scripts/fill_readme.py --check   # exit 1 if they say anything else

Between the lines `begin NAME` and `end NAME` stands what the function NAME below makes of its file.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeling_omni_vision.analysis.benchmark import TABLE_HEAD, table_line


ROOT = Path(__file__).parent.parent


def read(name: str) -> dict[str, Any]:
    """Read a JSON file of the repository."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def fashion_mnist() -> str:
    """Describe the checkpoint in the box by its own metrics."""
    record = read("checkpoints/omni-vision-fashion-mnist/metrics.json")
    training, evaluation = record["training"], record["evaluation"]
    data, machine = training["dataset"], training["machine"]
    low, high = evaluation["accuracy_interval"]
    return f"""`checkpoints/omni-vision-fashion-mnist`: 28 px, patch 4, grey, {training["parameters"]:,} parameters;
trained on {data["train"]:,} pictures of Fashion-MNIST, chosen on {data["validation"]:,} held out of them.

| measure | value |
|---|--:|
| test accuracy, {evaluation["num_examples"]:,} pictures | {evaluation["accuracy"]:.2%} |
| its 95 % bootstrap interval | {low:.2%} to {high:.2%} |
| macro-F1 | {evaluation["macro_f1"]:.4f} |
| expected calibration error | {evaluation["expected_calibration_error"]:.4f} |
| validation accuracy, best of {training["epochs"]:g} epochs | {training["validation_accuracy"]:.2%} |

One seed ({training["seed"]}), {training["minutes"]:.0f} minutes on {machine["threads"]} thread(s),
{machine["cpu"]}:

```text
{training["command"]}
```"""


def benchmark() -> str:
    """Show the benchmark, every contestant of equal dimensions."""
    record = read("docs/benchmark.json")
    machine = record["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "timm"))
    rows = "\n".join(table_line(row) for row in record["rows"])
    best = sorted(record["best_attention"], key=lambda row: row["speed_relative_to_best_peer"])
    low, high = (
        "{speed_relative_to_best_peer:.2f} ({work}, batch {batch_size}, {dtype})".format(**best[i]) for i in (0, -1)
    )
    return f"""Speed of ViTTiny at 224 px beside peers of equal size, in CPU milliseconds, medians of
{record["rounds"]} interleaved rounds on {record["threads"]} thread(s) of a shared {machine["cpu"]}, {versions};
freed memory {"kept" if record["freed_memory_kept"] else "given back"};
in the column "ours / best peer" more than 1 means that ours is faster. With each side's best
attention, our speed is from {low} to {high} of the best peer's. `{record["command"]}`:

{TABLE_HEAD}
{rows}

In the row with dropout, transformers draws fewer masks than the specification has: none inside its MLP."""


def recipe() -> str:
    """Say what the recipe promises: where it ran, how long, what came out."""
    record = read("checkpoints/omni-vision-fashion-mnist/metrics.json")
    training, evaluation = record["training"], record["evaluation"]
    machine, low_high = training["machine"], "{:.2%} to {:.2%}".format(*evaluation["accuracy_interval"])
    return f"""# {machine["cpu"]}, {machine["threads"]} thread(s), shared; {training["minutes"]:.0f} minutes.
# {evaluation["date"]}: test accuracy {evaluation["accuracy"]:.2%}, 95 % bootstrap interval {low_high}."""


def filled(text: str, blocks: Sequence[Callable[[], str]]) -> str:
    """Put each block in its place."""
    for block in blocks:
        begin, end = (
            re.search(rf"^.*\b{word} {block.__name__}\b.*$", text, re.MULTILINE) for word in ("begin", "end")
        )
        if begin is None or end is None:
            raise ValueError(f"Expected lines with 'begin {block.__name__}' and 'end {block.__name__}', found none.")
        text = f"{text[: begin.end()]}\n{block()}\n{text[end.start() :]}"
    return text


FILES: dict[str, Sequence[Callable[[], str]]] = {
    "README.md": (fashion_mnist, benchmark),
    "scripts/recipes/fashion_mnist.sh": (recipe,),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    check = parser.parse_args(argv).check
    wrong = []
    for name, blocks in FILES.items():
        before = (ROOT / name).read_text(encoding="utf-8")
        after = filled(before, blocks)
        if after != before:
            wrong.append(name)
            if not check:
                (ROOT / name).write_text(after, encoding="utf-8")
    if check and wrong:
        sys.exit(f"{', '.join(wrong)} say other numbers than their files: run python scripts/fill_readme.py")
    print(f"rewritten: {', '.join(wrong) or 'nothing'}")


if __name__ == "__main__":
    main()
