"""Write the numbers of README.md from the files that hold them; none is typed.

    python scripts/fill_readme.py           # after a new checkpoint or benchmark
    python scripts/fill_readme.py --check   # exit 1 if README.md says anything else

Between `<!-- begin NAME -->` and `<!-- end NAME -->` stands what the function NAME below makes of its file.
"""

import argparse
import json
import sys
from collections.abc import Sequence
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
    return f"""Speed of ViTTiny at 224 px beside peers of equal size, in CPU milliseconds, medians of
{record["rounds"]} interleaved rounds on {record["threads"]} thread(s) of a shared {machine["cpu"]}, {versions};
in the column "ours / best peer" more than 1 means that ours is faster. `{record["command"]}`:

{TABLE_HEAD}
{rows}"""


def filled(text: str) -> str:
    """Put each block in its place."""
    for block in (fashion_mnist, benchmark):
        begin, end = f"<!-- begin {block.__name__} -->", f"<!-- end {block.__name__} -->"
        before, after = text.partition(begin)[0], text.partition(end)[2]
        text = f"{before}{begin}\n{block()}\n{end}{after}"
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    check = parser.parse_args(argv).check
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if check:
        sys.exit(0 if after == before else "README.md is not what its files say: run python scripts/fill_readme.py")
    readme.write_text(after, encoding="utf-8")
    print(f"{readme.name}: {'unchanged' if after == before else 'rewritten'}")


if __name__ == "__main__":
    main()
