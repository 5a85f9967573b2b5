"""Variants of a study beside its base: differences seed by seed, how far repeated runs lie apart, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .metrics import CONFIDENCE
from .study import BASE, Plan, Variant


# One file of `study.run_study`.
Run = Mapping[str, Any]


# With a single degree of freedom t is 12.7: "no difference" would be said of anything.
LEAST_FREEDOM = 2


@dataclass(frozen=True)
class Spread:
    """How far repeated runs lie apart: a standard deviation of accuracy, and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Comparison:
    """One variant beside the base. Accuracies are shares; what has a seed is a dict by it."""

    variant: Variant
    accuracies: dict[int, float]
    failures: dict[int, str]
    differences: dict[int, float]
    half_width: float | None
    time: float | None
    parameters: int | None

    @property
    def difference(self) -> float | None:
        """Mean difference to the base over the seeds that both have."""
        return mean(self.differences) if self.differences else None

    @property
    def verdict(self) -> str:
        """What the rule on the page says; open while it cannot say anything."""
        if self.variant.name == BASE:
            return ""
        if self.difference is None or self.half_width is None:
            return "open"
        if abs(self.difference) <= self.half_width:
            return "no difference"
        return "better" if self.difference > 0 else "worse"


def mean(of_seeds: Mapping[int, float]) -> float:
    """Mean over seeds."""
    return float(np.mean(list(of_seeds.values())))


def spread_of_runs(runs: Sequence[Run]) -> Spread:
    """
    Pool the spread of repeated runs over all variants.

    Accuracies are taken apart into a mean for each variant and a shift for each seed, common to all (pairing by seed
    takes it out of differences, too); the spread is that of what is left over.

    Args:
        runs: Finished runs, each with `variant`, `seed` and `accuracy`.
    """
    variants, seeds = (sorted({run[key] for run in runs}) for key in ("variant", "seed"))
    rows = [[*(run["variant"] == name for name in variants), *(run["seed"] == seed for seed in seeds)] for run in runs]
    if not rows:
        return Spread(math.nan, 0)
    effects, accuracies = np.array(rows, dtype=float), np.array([run["accuracy"] for run in runs])
    fit, _, rank, _ = np.linalg.lstsq(effects, accuracies, rcond=None)
    left, freedom = accuracies - effects @ fit, len(runs) - int(rank)
    return Spread(math.sqrt(left @ left / freedom) if freedom else math.nan, freedom)


def quantile(spread: Spread) -> float:
    """Student's t of the interval."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, spread.freedom))


def half_width(accuracies: Sequence[float], pairs: int, pictures: int, spread: Spread) -> float | None:
    """
    Half the 95 % interval of a difference between two mean accuracies.

    Args:
        accuracies: Both means.
        pairs: Seeds that both have.
        pictures: Pictures that both were measured on. Their sampling error is counted as if each had its own sample:
            more than it is, since the same pictures are hard for both.
        spread: Of repeated runs.

    Returns:
        None where too few runs were repeated to know their spread.
    """
    if spread.freedom < LEAST_FREEDOM:
        return None
    sampling = sum(share * (1 - share) / pictures for share in accuracies)
    return quantile(spread) * math.sqrt(2 * spread.deviation**2 / pairs + sampling)


def budget(runs: Sequence[Run]) -> dict[str, float]:
    """
    Training pictures, epochs and validation pictures, which all finished runs have in common.

    Raises:
        `ValueError`: if they have not.
    """
    budgets = {(run["pictures"]["train"], run["epochs"], run["pictures"]["validation"]) for run in runs}
    if len(budgets) != 1:
        raise ValueError(
            "Runs must have the same numbers of training pictures, epochs and validation pictures to be compared, got "
            f"{sorted(budgets)}. Give the others a study of their own."
        )
    return dict(zip(("train", "epochs", "validation"), budgets.pop(), strict=True))


def finished(runs: Mapping[str, Run]) -> list[Run]:
    """Leave out the runs that failed."""
    return [run for run in runs.values() if "failed" not in run]


def compare(plan: Plan, runs: Mapping[str, Run]) -> list[Comparison]:
    """Compare every variant of the plan with the base, which comes first; raises as `budget` does."""
    ended = finished(runs)
    spread = spread_of_runs(ended)
    pictures = int(budget(ended)["validation"]) if ended else 0
    of_base = {run["seed"]: run for run in ended if run["variant"] == BASE}
    return [compare_one(variant, runs, of_base, pictures, spread) for variant in plan.variants]


def without_unsteadiest(plan: Plan, runs: Mapping[str, Run]) -> tuple[str, Spread, list[Comparison]] | None:
    """
    Compare once more without the runs of the variant whose seeds disagree most, if most of the spread is its.

    This is seen after the runs, so it gives no verdicts; it says what one unsteady variant hides.

    Returns:
        That variant's name, the spread of the others, and all comparisons, its own an open one; None where no variant
        has more than half of the variance.
    """
    ended = finished(runs)
    names = sorted({run["variant"] for run in ended} - {BASE})
    spreads = {name: spread_of_runs([run for run in ended if run["variant"] != name]) for name in names}
    name = min(spreads, key=lambda one: np.nan_to_num(spreads[one].deviation, nan=math.inf), default=None)
    whole = spread_of_runs(ended)
    if name is None or spreads[name].freedom < LEAST_FREEDOM or spreads[name].deviation ** 2 > whole.deviation**2 / 2:
        return None
    others = {key: run for key, run in runs.items() if run["variant"] != name}
    return name, spreads[name], compare(plan, others)


def compare_one(
    variant: Variant, runs: Mapping[str, Run], of_base: Mapping[int, Run], pictures: int, spread: Spread
) -> Comparison:
    """Compare one variant with the base, seed by seed; the base with nothing."""
    tried = {run["seed"]: run for run in runs.values() if run["variant"] == variant.name}
    own = {seed: run for seed, run in tried.items() if "failed" not in run}
    accuracies = {seed: run["accuracy"] for seed, run in own.items()}
    pairs = [(own[seed], of_base[seed]) for seed in own if seed in of_base and variant.name != BASE]
    time = width = None
    if pairs:
        time = sum(run["minutes"] for run, _ in pairs) / sum(base["minutes"] for _, base in pairs)
        means = [float(np.mean([run["accuracy"] for run in side])) for side in zip(*pairs, strict=True)]
        width = half_width(means, len(pairs), pictures, spread)
    return Comparison(
        variant,
        accuracies,
        failures={seed: run["failed"] for seed, run in tried.items() if "failed" in run},
        differences={run["seed"]: run["accuracy"] - base["accuracy"] for run, base in pairs},
        half_width=width,
        time=time,
        parameters=next((run["parameters"] for run in own.values()), None),
    )


__all__ = [
    "Comparison",
    "Run",
    "Spread",
    "budget",
    "compare",
    "finished",
    "half_width",
    "mean",
    "quantile",
    "spread_of_runs",
    "without_unsteadiest",
]
