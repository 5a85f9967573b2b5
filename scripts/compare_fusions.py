"""Compare ways to show pictures to a language model: tokens per picture against exact answers against speed.

    python scripts/compare_fusions.py --runs "grid=runs/grid" "CLS=runs/cls" --output fusions.json

Each run is NAME=FOLDER, as scripts/train_language.py leaves it. Prints a table and writes all numbers as JSON.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from modeling_omni_vision.analysis.command import recorded_command
from modeling_omni_vision.analysis.fusions import compare_fusions, fusion_table
from modeling_omni_vision.analysis.record import write_json


@dataclass
class Arguments:
    """What to compare."""

    runs: list[str] = field(metadata={"help": "NAME=FOLDER of each trained model."})
    output: str = field(metadata={"help": "JSON file to write."})
    rounds: int = field(default=9, metadata={"help": "Samples of each time; medians are printed."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(args=None if argv is None else list(argv))  # type: ignore[arg-type]
    wrong = [text for text in args.runs if not all(text.partition("="))]
    if wrong:
        raise ValueError(f"Expected NAME=FOLDER for each run, got {wrong!r}.")
    named = {text.partition("=")[0]: Path(text.partition("=")[2]) for text in args.runs}
    found = compare_fusions(named, args.rounds)
    command = recorded_command("scripts/compare_fusions.py", sys.argv[1:] if argv is None else argv)
    write_json(Path(args.output), found | {"command": command})
    print(fusion_table(found))


if __name__ == "__main__":
    main()
