"""Numbers of README.md and of the recipes about the encoder: Fashion-MNIST and the benchmark."""

from pathlib import Path
from typing import Any

from .benchmark import TABLE_HEAD, table_line
from .readme_records import last_part, read, where
from .training_step import ATTENTION_HEAD, DATA_HEAD, attention_line, data_line


SHORT, AS_WRITTEN = "docs/runs/fashion_mnist_short.json", "docs/runs/fashion_mnist_as_written.json"


def fashion_mnist(root: Path) -> str:
    """Describe the checkpoint in the box by its own metrics."""
    record = read(root, "checkpoints/omni-vision-fashion-mnist/metrics.json")
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
{machine["cpu"]}{last_part(training)}:

```text
{training["command"]}
```"""


def benchmark(root: Path) -> str:
    """Show the benchmark, every contestant of equal dimensions."""
    record = read(root, "docs/benchmark.json")
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

In the row with dropout, transformers draws fewer masks than the specification has: none inside its MLP.{
        training_step(record)
    }"""


def training_step(record: dict[str, Any]) -> str:
    """Show what our training step waits for and which attention suits it, where the benchmark measured that."""
    data, attention = record.get("data"), record.get("attention")
    if not data or not attention:
        return ""
    shape = "{image_size} px, patch {patch_size}, {num_channels} channel(s), batch {batch_size}".format(**data[0])
    return "\n".join(
        [
            "\n\nThe share of a training step that waits for its data, in CPU time, made in the same process",
            f"from pictures in memory ({shape}, eager attention):\n",
            DATA_HEAD,
            *map(data_line, data),
            "\nEager attention against sdpa in a training step of ours; in the last column more than 1 means that",
            "eager is faster:\n",
            ATTENTION_HEAD,
            *map(attention_line, attention),
        ]
    )


def recipe(root: Path, name: str = "checkpoints/omni-vision-fashion-mnist/metrics.json") -> str:
    """Say what a recipe promises: where it ran, how long, what came out."""
    record = read(root, name)
    evaluation = record["evaluation"]
    low_high = "{:.2%} to {:.2%}".format(*evaluation["accuracy_interval"])
    return f"""{where(record["training"])}
# {evaluation["date"]}: test accuracy {evaluation["accuracy"]:.2%}, 95 % bootstrap interval {low_high}."""


def short_recipe(root: Path) -> str:
    """Say what the short recipe promises."""
    return recipe(root, SHORT)


def as_written_recipe(root: Path) -> str:
    """Say what the recipe with the specification's geometry promises."""
    return recipe(root, AS_WRITTEN)


def other_runs(root: Path) -> str:
    """Show the other trainings on Fashion-MNIST beside the weights in the box."""
    rows = []
    for what, script, name in (
        ("the weights in the box", "fashion_mnist", "checkpoints/omni-vision-fashion-mnist/metrics.json"),
        ("short", "fashion_mnist_short", SHORT),
        ("as written: 224 px, patch 16", "fashion_mnist_as_written", AS_WRITTEN),
    ):
        record = read(root, name)
        training, evaluation = record["training"], record["evaluation"]
        low, high = evaluation["accuracy_interval"]
        rows.append(
            f"| {what} | `scripts/recipes/{script}.sh` | {training['epochs']:g} | {training['minutes']:.0f} | "
            f"{training['validation_accuracy']:.2%} | {evaluation['accuracy']:.2%} ({low:.2%} to {high:.2%}) |"
        )
    table = "\n".join(rows)
    return f"""| training | command | epochs | minutes | validation | test, with 95 % bootstrap interval |
|---|---|--:|--:|--:|--:|
{table}

Epochs and minutes (of one thread) of the box's weights are those of their last part. One seed each, each test split
opened once."""


__all__ = ["as_written_recipe", "benchmark", "fashion_mnist", "other_runs", "recipe", "short_recipe"]
