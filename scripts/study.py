"""Run a study: every variant and seed of a plan, at equal budget; then write what came out as a page and a plot.

    python scripts/study.py --plan docs/map/plan.json --output docs/map/runs --workers 2
    python scripts/study.py --plan docs/map/plan.json --output docs/map/runs --page docs/map.md

Without `--page`, runs what is missing, one thread each; stop it whenever you like and start it again. Each run leaves
one small JSON, a failed one with its error; take a file away to run it again. With `--page`, nothing is trained: page
and plot are written from these files (`--check true` only compares, and exits 1 if they say anything else).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from modeling_omni_vision.analysis.map import write_map
from modeling_omni_vision.analysis.study import run_study


TRAINER = Path(__file__).parent / "train.py"


@dataclass
class StudyArguments:
    """Which study, and what to do with it."""

    plan: str = field(metadata={"help": "JSON file: date, question, budget, seeds, base and variants."})
    output: str = field(metadata={"help": "Folder of the runs, one JSON each."})
    workers: int = field(default=1, metadata={"help": "Runs at the same time, of one thread each."})
    page: str | None = field(default=None, metadata={"help": "Write this markdown file and its plot, train nothing."})
    check: bool = field(default=False, metadata={"help": "With page: change nothing, exit 1 if it should change."})


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(StudyArguments).parse_args_into_dataclasses(  # type: ignore[arg-type]
        None if argv is None else list(argv)
    )
    if arguments.page is not None:
        wrong = write_map(arguments.plan, arguments.output, arguments.page, arguments.check)
        if arguments.check and wrong:
            sys.exit(f"{', '.join(wrong)} say something else than {arguments.output}: run this without --check")
        print(f"rewritten: {', '.join(wrong) or 'nothing'}")
        return
    runs = run_study(
        arguments.plan,
        arguments.output,
        [sys.executable, str(TRAINER)],
        arguments.workers,
        report=lambda line: print(line, flush=True),
    )
    failed = [name for name, run in runs.items() if "failed" in run]
    print(f"{arguments.output}: {len(runs)} runs, failed of them: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
