"""Studies: variants of one training run, planned in a dated file before the first of them, and the runs themselves.

The runner starts the training script once for each variant and seed and keeps one small JSON of every run, failures
included; weights are thrown away. A run that was cut short leaves nothing and is begun again.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .command import recorded_command
from .record import METRICS_FILE, write_json


BASE = "base"
PLAN_KEYS = {"date", "question", "budget", "seeds", "base", "variants"}
VARIANT_KEYS = {"name", "group", "arguments", "config", "seeds"}
# The runner gives these itself.
RESERVED = ("--config", "--seed", "--output_dir", "--resume_from_checkpoint")
STOPPED_BY_SIGTERM = 128 + 15


@dataclass(frozen=True)
class Variant:
    """What is trained: the base with some arguments and fields of the configuration changed."""

    name: str
    group: str
    seeds: Sequence[int]
    arguments: Sequence[str] = ()
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed, and the arguments of the training script that make it."""

    variant: Variant
    seed: int
    arguments: list[str]

    @property
    def name(self) -> str:
        """Name of the run and of its file."""
        return f"{self.variant.name}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study as its file has it: `variants` begins with the base itself."""

    content: dict[str, Any]
    variants: list[Variant]

    @property
    def identity(self) -> dict[str, str]:
        """Date of the plan, and the SHA-256 of all of it and of its base."""
        content = self.content
        return {"date": content["date"], "sha256": digest(content), "base_sha256": digest(content["base"])}

    def runs(self) -> list[PlannedRun]:
        """List all runs, every variant with its first seed before any with its second: stopped early, it is fair."""
        rounds = range(max(len(variant.seeds) for variant in self.variants))
        return [
            self.run(variant, variant.seeds[number])
            for number in rounds
            for variant in self.variants
            if number < len(variant.seeds)
        ]

    def run(self, variant: Variant, seed: int) -> PlannedRun:
        """Merge a variant into the base."""
        base = self.content["base"]
        config = json.dumps({**base["config"], **variant.config})
        # Of an argument given twice the last one counts.
        merged = [*base["arguments"], "--config", config, *variant.arguments, "--seed", str(seed)]
        return PlannedRun(variant, seed, merged)


def digest(content: Any) -> str:
    """SHA-256 of what a JSON file says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_plan(path: str | Path) -> Plan:
    """
    Read a plan: a JSON object of these keys.

    - `date`, `question`, `budget`: when it was planned, and what for;
    - `seeds`: of every variant that has none of its own;
    - `base`: `arguments` of the training script, a list of words, and `config`, its `--config`;
    - `variants`: each a `name`, a `group`, and what differs from the base: `arguments`, `config`; perhaps `seeds`.

    Raises:
        `ValueError`: if something is missing or unknown, a name is used twice or no file name, a variant equals the
            base, or has a seed that the base has not.
    """
    content = read_json(Path(path))
    if set(content) != PLAN_KEYS or set(content["base"]) != {"arguments", "config"}:
        raise ValueError(
            f"{str(path)!r} must have the keys {sorted(PLAN_KEYS)}, and `base` of them `arguments` and `config`, got "
            f"{sorted(content)}. Complete it."
        )
    date.fromisoformat(content["date"])
    seeds = content["seeds"]
    variants = [Variant(BASE, BASE, seeds)]
    for entry in content["variants"]:
        if not {"name", "group"} <= set(entry) <= VARIANT_KEYS:
            raise ValueError(f"A variant must have a name, a group, and of {sorted(VARIANT_KEYS)} any, got {entry!r}.")
        variants.append(Variant(**{"seeds": seeds, **entry}))
    check_variants(variants, content["base"])
    return Plan(content, variants)


def check_variants(variants: Sequence[Variant], base: dict[str, Any]) -> None:
    """Raise `ValueError` unless every variant can be told from the others and compared with the base."""
    names = [variant.name for variant in variants]
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(f"Names of variants must differ, and none may be {BASE!r}, got {names}. Rename one.")
    for variant in variants:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", variant.name):
            raise ValueError(f"The name of a variant must do as a file name, got {variant.name!r}. Rename it.")
        given = {word.partition("=")[0] for word in (*base["arguments"], *variant.arguments)}
        if {*RESERVED} & given:
            raise ValueError(f"{variant.name!r} must leave out {RESERVED}, which the runner gives. Remove them.")
        seeds = {*variant.seeds}
        if not seeds or len(seeds) < len(variant.seeds) or not seeds <= {*variants[0].seeds}:
            raise ValueError(
                f"The seeds of {variant.name!r} must be some of the base's {variants[0].seeds}, each once, since runs "
                f"are compared seed by seed, got {variant.seeds}. Correct them."
            )
        same = not variant.arguments and {**base["config"], **variant.config} == base["config"]
        if variant is not variants[0] and same:
            raise ValueError(
                f"{variant.name!r} must differ from the base, got the same arguments. Change or remove it."
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object or say which file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected JSON in {str(path)!r}, got {error}. Correct the path or the file.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got {type(content).__name__}. Correct it.")
    return content


def read_runs(plan: Plan, folder: str | Path) -> dict[str, dict[str, Any]]:
    """
    Read the runs that a folder holds, by name, in the order of the plan.

    Raises:
        `ValueError`: if one of them is not a run of this plan as it stands: made under another base or with other
            arguments, or of a variant or seed that the plan no longer has. Such runs are never mixed in.
    """
    planned = {run.name: run for run in plan.runs()}
    found = {path.stem: read_json(path) for path in sorted(Path(folder).glob("*.json"))}
    foreign = [
        name
        for name, record in found.items()
        if name not in planned
        or record.get("plan", {}).get("base_sha256") != plan.identity["base_sha256"]
        or record.get("arguments") != planned[name].arguments
    ]
    if foreign:
        raise ValueError(
            f"Every run in {str(folder)!r} must be one of the plan as it is now, got stale ones: {', '.join(foreign)} "
            "(another base, other arguments, or no longer planned). Give the changed plan a folder of its own, or "
            "take these runs away."
        )
    return {name: found[name] for name in planned if name in found}


def run_study(
    plan_file: str | Path,
    output: str | Path,
    trainer: Sequence[str],
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """
    Run what a study still lacks; may be stopped and started again at any time.

    Args:
        plan_file: The plan, see `read_plan`.
        output: Folder of the runs, one `NAME-sSEED.json` each. A run that is there, finished or failed, is not run
            again; take its file away for that.
        trainer: Command of the training script, to which the arguments of a run are added.
        workers: Runs at the same time, of one thread each.
        report: Is given a line about each run.

    Returns:
        All runs that are there now, as `read_runs`.

    Raises:
        `ValueError`: if the plan cannot be read or `output` holds runs of another one.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers!r}. Use one for each free core.")
    plan, folder = read_plan(plan_file), Path(output)
    done = read_runs(plan, folder)
    missing = [run for run in plan.runs() if run.name not in done]
    folder.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(workers)
    try:
        running = [pool.submit(run_once, run, plan, folder, trainer) for run in missing]
        for number, one in enumerate(as_completed(running), 1):
            report(f"{one.result()} ({number} of {len(missing)})")
    finally:
        pool.shutdown(cancel_futures=True)
    return read_runs(plan, folder)


def run_once(run: PlannedRun, plan: Plan, folder: Path, trainer: Sequence[str]) -> str:
    """Train once, write down what came of it, and say so in a line."""
    start = time.monotonic()
    with TemporaryDirectory(prefix="study-") as scratch:
        words = [*run.arguments, "--output_dir", str(Path(scratch, run.name))]
        # Unbuffered, so that a run whose runner was killed finds nobody reading at its next line, and ends.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        ended = subprocess.run(
            [*trainer, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if ended.returncode < 0 or ended.returncode == STOPPED_BY_SIGTERM:
            return f"{run.name}: stopped by a signal ({ended.returncode}), not counted, to be begun again"
        record = {
            "variant": run.variant.name,
            "seed": run.seed,
            "plan": plan.identity,
            "command": recorded_command("scripts/train.py", words),
            "arguments": run.arguments,
            "date": datetime.now(UTC).date().isoformat(),
            "minutes": round((time.monotonic() - start) / 60, 2),
            # Of a finished run with its own minutes, which leave out imports and loading.
            **outcome(ended, Path(scratch, run.name)),
        }
        write_json(folder / f"{run.name}.json", record)
    if "failed" in record:
        return f"{run.name}: failed, {record['failed']}"
    return f"{run.name}: accuracy {record['accuracy']:.4f}, {record['minutes']:.2f} minutes"


def outcome(ended: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    """Take what a study keeps out of the metrics of a run, or the last line of one that failed."""
    if ended.returncode:
        lines = [line.strip() for line in ended.stdout.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {ended.returncode} without a word"
        return {"failed": last.replace(f"{folder.parent}{os.sep}", "")}
    record = read_json(folder / METRICS_FILE)
    training = record["training"]
    if len(training["evaluations"]) != 1:
        # The best of several would be a luckier number than the last.
        return {"failed": f"expected one evaluation, after the last step, got {len(training['evaluations'])}"}
    (evaluation,) = training["evaluations"]
    data = training["dataset"]
    kept = ("minutes", "steps", "epochs", "parameters", "versions", "machine")
    return {
        **{name: evaluation[name] for name in ("accuracy", "loss")},
        **{name: training[name] for name in kept},
        "pictures": {"train": data["train"], "validation": data["validation"]},
        "test_opened": "test" in record,
    }


__all__ = ["BASE", "Plan", "PlannedRun", "Variant", "digest", "read_plan", "read_runs", "run_study"]
