"""Does CLS dominate late interaction, and do word maps point at the right object? Measured on drawn scenes.

    python scripts/cls_study.py --checkpoints "late interaction=runs/search" --output runs/cls

Each checkpoint is NAME=FOLDER, as scripts/train_retrieval.py leaves it. Writes `cls.md` (tables), `cls.json` (all
numbers) and `cls.png` (margins and cosines) into the output folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from experiments.cls_study import study_cls


@dataclass
class Arguments:
    """What to study."""

    checkpoints: list[str] = field(metadata={"help": "NAME=FOLDER of each search checkpoint."})
    output: str = field(metadata={"help": "Folder to write into."})
    scenes: int = field(default=100, metadata={"help": "Scenes of each kind, seen and held-out combinations."})
    seed: int = field(default=7, metadata={"help": "Seed of the scenes."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(args=None if argv is None else list(argv))  # type: ignore[arg-type]
    wrong = [text for text in args.checkpoints if not all(text.partition("="))]
    if wrong:
        raise ValueError(f"Expected NAME=FOLDER for each checkpoint, got {wrong!r}.")
    named = {text.partition("=")[0]: text.partition("=")[2] for text in args.checkpoints}
    study_cls(named, Path(args.output), args.scenes, args.seed)
    print((Path(args.output) / "cls.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
