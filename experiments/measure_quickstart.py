"""Measure the make targets that README promises, in a fresh clone: python -m experiments.measure_quickstart

It writes minutes and gigabytes of each target, which runs on top of the ones before it, to docs/quickstart.json. From
there `python -m experiments.results` copies them into README.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine
from modeling_omni_vision.records.metrics_file import write_json


ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "quickstart.json"


def measure_target(checkout: Path, target: str) -> dict[str, float]:
    """Run one make target in a checkout; return its minutes and what the checkout weighs afterwards in 10^9 bytes."""
    began = time.perf_counter()
    subprocess.run(["make", target], cwd=checkout, check=True)
    minutes = (time.perf_counter() - began) / 60
    sizes = (os.lstat(Path(parent) / name).st_size for parent, _, names in os.walk(checkout) for name in names)
    return {"minutes": round(minutes, 1), "gigabytes": round(sum(sizes) / 1e9, 2)}


@dataclass
class QuickstartArguments:
    """What to measure."""

    targets: list[str] = option("Make targets, in order.", ["quickstart", "test"])


@program
def main(argv: Sequence[str]) -> None:
    targets = parse(QuickstartArguments, argv).targets
    record: dict[str, Any] = {"command": recorded_command("python", ["-m", "experiments.measure_quickstart", *argv])}
    record |= {"date": date.today().isoformat(), "machine": describe_machine()}
    # A target that is not measured now keeps its figures.
    record["targets"] = json.loads(FILE.read_text(encoding="utf-8"))["targets"] if FILE.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        for target in targets:
            record["targets"][target] = measure_target(Path(folder), target)
            write_json(FILE, record)


if __name__ == "__main__":
    main()
