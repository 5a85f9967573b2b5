"""Classify images by the names of their classes alone, with a search checkpoint, by late interaction and by wholes.

    python scripts/zero_shot.py --model runs/search --dataset combinations

`--dataset` is combinations (fresh drawings of every colour of every shape), or a labelled dataset as for
scripts/train.py. Adds the section `zero_shot` to the checkpoint's metrics.json. The checkpoint's code runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..retrieval.zero_shot import zero_shot


@dataclass
class ZeroShotArguments:
    """What to classify, and how to ask."""

    model: str = field(metadata={"help": "Folder of a search checkpoint."})
    dataset: str = field(default="combinations", metadata={"help": "combinations, or a labelled dataset."})
    split: str = field(default="test", metadata={"help": "Split of a labelled dataset."})
    templates: list[str] = field(
        default_factory=lambda: ["This is a {}"], metadata={"help": "Sentences with {} where the name goes."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(ZeroShotArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    found = zero_shot(Path(args.model), args.dataset, args.templates, args.split)
    print(f"{found['images']} images, {found['classes']} names, chance {found['chance']:.1%}")
    for name in ("multi_vector", "single_vector"):
        low, high = found[name]["accuracy_interval"]
        held_out = f", never seen combinations {found[name]['held_out']:.1%}" if "held_out" in found[name] else ""
        print(f"{name:6} accuracy {found[name]['accuracy']:.1%} ({low:.1%} to {high:.1%}){held_out}")


if __name__ == "__main__":
    main()
