"""The map that a study draws: how each variant differs from the base and how sure that is, as a page and a plot.

Everything comes from the files of the runs.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .comparison import (
    LEAST_FREEDOM,
    Comparison,
    Run,
    budget,
    compare,
    finished,
    mean,
    quantile,
    spread_of_runs,
    without_unsteadiest,
)
from .metrics import CONFIDENCE
from .plots import GREY, OURS, TRUTH, save
from .readme import filled
from .study import Plan, Variant, digest, read_plan, read_runs


COLOURS = {"better": OURS, "worse": TRUTH}
DIGEST_KEY = "Runs"
FRAME = "# A study\n\n<!-- begin study -->\n<!-- end study -->\n"
LINEAR_UP_TO = 1  # points; a plot that reaches much further is logarithmic beyond
TICKS = (0.5, 1, 2, 5, 10, 20, 50)
TABLE_HEAD = (
    "| group | variant | differs from the base by | accuracy | of each seed | difference, points | verdict | time "
    "| parameters |\n|---|---|---|--:|--:|--:|---|--:|--:|"
)


def changes(plan: Plan, variant: Variant) -> str:
    """Say what a variant changes, beside what the base has."""
    base = plan.content["base"]
    said = [f"`{name}` {value} for {base['config'].get(name, 'none')}" for name, value in variant.config.items()]
    return ", ".join([*said, *([f"`{' '.join(variant.arguments)}`"] if variant.arguments else [])])


def table_line(plan: Plan, row: Comparison) -> str:
    """Write one variant as a row of the table."""
    seeds = [
        f"{row.accuracies[seed]:.2%}" if seed in row.accuracies else "failed" if seed in row.failures else "not run"
        for seed in row.variant.seeds
    ]
    difference = "" if row.difference is None else f"{100 * row.difference:+.2f}"
    interval = "" if row.half_width is None else f" ± {100 * row.half_width:.2f}"
    cells = [
        row.variant.group,
        row.variant.name,
        changes(plan, row.variant),
        f"{mean(row.accuracies):.2%}" if row.accuracies else "",
        ", ".join(seeds),
        f"{difference}{interval}",
        row.verdict,
        "" if row.time is None else f"{row.time:.2f}",
        "" if row.parameters is None else f"{row.parameters:,}",
    ]
    return f"| {' | '.join(cells)} |"


def results(plan: Plan, runs: Mapping[str, Run], plan_link: str, plot_link: str) -> str:
    """Write all that a study found, in markdown."""
    rows, ended = compare(plan, runs), finished(runs)
    parts = [introduction(plan, runs, plan_link)]
    if any(row.differences for row in rows):
        parts.append(f"![Difference of each variant to the base]({plot_link})")
    parts.append("\n".join([TABLE_HEAD, *(table_line(plan, row) for row in rows)]))
    failures = [(row.variant.name, seed, error) for row in rows for seed, error in row.failures.items()]
    if failures:
        parts.append("\n".join(f"- {name}, seed {seed}, failed: `{error}`" for name, seed, error in failures))
    if ended:
        parts += [rule(rows, ended), *afterthought(plan, runs), origin(ended)]
    return "\n\n".join(parts)


def introduction(plan: Plan, runs: Mapping[str, Run], plan_link: str) -> str:
    """Say what was asked, when it was planned, and how far the study is."""
    content, planned, ended = plan.content, len(plan.runs()), len(finished(runs))
    early = [name for name, run in runs.items() if run["date"] < content["date"]]
    when = f"after these runs: {', '.join(early)}" if early else "before the runs"
    text = f"""{content["question"]}

Planned on {content["date"]} in [a file]({plan_link}), {when}, with this budget: {content["budget"]}
Of {planned} runs planned, {ended} are finished, {len(runs) - ended} failed and {planned - len(runs)} are not run yet;
all that were run are here."""
    other = sum(run["plan"]["sha256"] != plan.identity["sha256"] for run in runs.values())
    if other:
        text += f"\n{other} of them were run while the plan had another text, with the same base and arguments."
    return text


def rule(rows: Sequence[Comparison], runs: Sequence[Run]) -> str:
    """State how a verdict comes about, and what it does not say."""
    spread, common = spread_of_runs(runs), budget(runs)
    train, epochs, pictures = f"{common['train']:,}", f"{common['epochs']:g}", f"{common['validation']:,}"
    compared = sum(row.half_width is not None for row in rows)
    opened = sum(run["test_opened"] for run in runs) or "none"
    text = f"""Every finished run was trained on {train} pictures, the same in all runs, for {epochs} epochs and
measured once, after its last step, on {pictures} others; {opened} of the runs opened the test split.
Time is relative to the base, training and measuring, on a machine that may have had other work."""
    if not compared:
        return (
            f"{text}\n\nToo few runs have been repeated yet to know how far repeated runs lie apart ({spread.freedom} "
            f"degrees of freedom of at least {LEAST_FREEDOM}), so there are no intervals: every verdict is open."
        )
    confidence = f"{100 * CONFIDENCE:g} %"
    return f"""{text}

The rule: **better** or **worse** where the {confidence} interval of the difference leaves out zero, otherwise
**no difference**, which means none that is larger than the ends of the interval. Differences are taken seed by seed.
A few runs of one variant say next to nothing about its own spread, so one spread is pooled over all variants: after
a mean for each variant and a shift for each seed, the accuracies of repeated runs have a standard deviation of
s = {100 * spread.deviation:.3f} points ({spread.freedom} degrees of freedom).
The interval is ± t √(2 s² / n + e² + e²): t = {quantile(spread):.2f} is Student's, n the seeds compared, and
e² = p (1 - p) / {pictures} the binomial sampling error of each of the two accuracies p, as if each had been measured
on pictures of its own; since the same pictures are hard for both, the interval is rather too wide.

What it does not say: of {compared} comparisons, up to about {compared * (1 - CONFIDENCE):.1f} would leave out zero by
chance if nothing mattered. All differences share the base's runs: if these were lucky, everything looks worse. The
spread is taken to be the same for every variant. Another budget, learning rate or dataset may have another map."""


def afterthought(plan: Plan, runs: Mapping[str, Run]) -> list[str]:
    """Say what one unsteady variant hides, if there is one."""
    found = without_unsteadiest(plan, runs)
    if found is None:
        return []
    name, spread, rows = found
    said = {
        verdict: ", ".join(
            f"{row.variant.name} {100 * (row.difference or 0):+.2f}" for row in rows if row.verdict == verdict
        )
        for verdict in ("better", "worse")
    }
    width = max(100 * row.half_width for row in rows if row.half_width is not None)
    return [
        f"""Seen after the runs, so it changes no verdict: most of this spread is that of one variant, `{name}`, whose
seeds lie far apart. Without it s = {spread.deviation * 100:.3f} points ({spread.freedom} degrees of freedom), the
intervals are ± {width:.2f} or less, and these differences leave out zero:

- above the base: {said["better"] or "none"}
- below the base: {said["worse"] or "none"}"""
    ]


def origin(runs: Sequence[Run]) -> str:
    """Say where finished runs were made, and show the command of the first."""
    machines = {f"{run['machine']['cpu']}, {run['machine']['threads']} thread(s)" for run in runs}
    versions = {", ".join(f"{name} {version}" for name, version in run["versions"].items()) for run in runs}
    dates = sorted(run["date"] for run in runs)
    return f"""Run from {dates[0]} to {dates[-1]} on {"; ".join(sorted(machines))},
with {"; ".join(sorted(versions))}. The command of the first:

```text
{runs[0]["command"]}
```"""


def plot_map(rows: Sequence[Comparison], path: Path) -> Path:
    """Draw the difference of each variant to the base: seeds as dots, mean and interval as a bar, by group."""
    drawn = [row for row in rows if row.differences]
    heights, height = [], 0.0
    for number, row in enumerate(drawn):
        new_group = number > 0 and row.variant.group != drawn[number - 1].variant.group
        height += 1.6 if new_group else 1.0
        heights.append(-height)
    figure = Figure(figsize=(8.5, 1.3 + 0.27 * height), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    for row, y in zip(drawn, heights, strict=True):
        colour, points = COLOURS.get(row.verdict, GREY), 100 * np.array(list(row.differences.values()))
        error = None if row.half_width is None else 100 * row.half_width
        axes.errorbar(points.mean(), y, xerr=error, fmt="s", color=colour, markersize=5, capsize=3)
        axes.plot(points, [y] * len(points), "o", color=colour, markersize=3.5, markerfacecolor="white", zorder=3)
    labels = [f"{row.variant.group}: {row.variant.name}" for row in drawn]
    axes.set_yticks(heights, labels, fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    scale_points(axes)
    axes.set_title("blue better, red worse, grey no difference or open; circles: single seeds", fontsize=9)
    return save(figure, path, **{DIGEST_KEY: digest_of(rows)})


def scale_points(axes: Axes) -> None:
    """Keep small differences apart where one variant is far away."""
    note = ""
    if max(map(abs, axes.get_xlim())) > 4 * LINEAR_UP_TO:
        low, high = axes.get_xlim()
        axes.set_xscale("symlog", linthresh=LINEAR_UP_TO)
        ticks = [tick for tick in (*(-tick for tick in TICKS), 0, *TICKS) if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(low, high)
        note = f"; logarithmic beyond {LINEAR_UP_TO}"
    axes.set_xlabel(f"accuracy less that of the base, percentage points{note}")


def digest_of(rows: Sequence[Comparison]) -> str:
    """Tell what was drawn, to find out later whether it still is what the runs say."""
    drawn = []
    for row in rows:
        numbers = [*row.differences.values(), row.half_width]
        # Processors differ in the last bits of a sum.
        rounded = [None if number is None else round(number, 9) for number in numbers]
        drawn.append([row.variant.name, row.verdict, *rounded])
    return digest(drawn)


def write_map(plan_file: str | Path, folder: str | Path, page: str | Path, check: bool = False) -> list[str]:
    """
    Write what a study found into a page and, beside it, a plot.

    Args:
        plan_file: The plan.
        folder: The runs, see `study.run_study`.
        page: Markdown file: the numbers go between its lines `begin study` and `end study`, the rest is left
            alone. The plot has its name and ends in `.png`.
        check: Change nothing.

    Returns:
        The files that said, or with `check` still say, something else than the runs.

    Raises:
        `ValueError`: if the plan or the runs cannot be read, or the runs cannot be compared.
    """
    page, plan = Path(page), read_plan(plan_file)
    runs, plot = read_runs(plan, folder), page.with_suffix(".png")
    rows = compare(plan, runs)

    def study(root: Path) -> str:
        return results(plan, runs, Path(os.path.relpath(plan_file, root)).as_posix(), plot.name)

    before = page.read_text(encoding="utf-8") if page.is_file() else FRAME
    after = filled(before, [study], page.resolve().parent)
    wrong = [str(page)] if after != before or not page.is_file() else []
    if any(row.differences for row in rows) and digest_drawn(plot) != digest_of(rows):
        wrong.append(str(plot))
    if not check:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(after, encoding="utf-8")
        if any(row.differences for row in rows):
            plot_map(rows, plot)
    return wrong


def digest_drawn(plot: Path) -> str | None:
    """Read the digest of the runs that a plot shows, if there is a plot."""
    if not plot.is_file():
        return None
    with Image.open(plot) as image:
        return str(image.info.get(DIGEST_KEY))


__all__ = ["plot_map", "write_map"]
