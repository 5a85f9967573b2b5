"""Measure the make targets that README promises, in a fresh clone: python -m experiments.measure_quickstart

It writes wall-clock minutes, CPU minutes and gigabytes of each target to docs/quickstart.json, from where
`python -m experiments.results` copies them into README. Standard library only: nothing is installed where it runs.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "quickstart.json"


def folder_gigabytes(folder: Path) -> float:
    """Return the size of all files in a folder, links not followed, in units of 10^9 bytes."""
    sizes = (os.lstat(Path(parent) / name).st_size for parent, _, names in os.walk(folder) for name in names)
    return round(sum(sizes) / 1e9, 2)


def measure_target(checkout: Path, target: str) -> dict[str, Any]:
    """Run one make target in a checkout; return its minutes and what the checkout weighs afterwards."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["make", target], cwd=checkout, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return {
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "cpu_minutes": round(used / 60, 1),
        "gigabytes": folder_gigabytes(checkout),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the targets in order, each on top of the ones before it, and keep the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=["quickstart", "test"], help="make targets, in order")
    targets = parser.parse_args(argv).targets
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    machine = {
        "cpu": cpu and cpu[1],
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    record: dict[str, Any] = {"command": "python -m experiments.measure_quickstart " + " ".join(targets)}
    record |= {"date": date.today().isoformat(), "machine": machine, "targets": {}}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        for target in targets:
            record["targets"][target] = measure_target(Path(folder), target)
            RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
