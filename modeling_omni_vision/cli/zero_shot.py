"""Classify images by the names of their classes alone, with a retrieval checkpoint, by many vectors and by one.

    omni-vision zero-shot --model runs/search --dataset combinations

`--dataset` is combinations (fresh drawings of every colour of every shape), or a labelled dataset as for
`omni-vision train`. Adds the section `zero_shot` to the checkpoint's metrics.json. The checkpoint's code runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arguments import option, parse
from .program import program


@dataclass
class ZeroShotArguments:
    """What to classify, and the sentences to compare with."""

    model: str = option("Folder of a retrieval checkpoint.")
    dataset: str = option("combinations, or a labelled dataset as for train.", "combinations")
    split: str = option("Split of a labelled dataset: train, validation or test.", "test")
    templates: list[str] = option("Sentences with {} where the name goes.", ["This is a {}"])


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(ZeroShotArguments, argv)
    from ..retrieval.zero_shot import zero_shot

    found = zero_shot(Path(arguments.model), arguments.dataset, arguments.templates, arguments.split)
    print(f"{found['images']} images, {found['classes']} names, chance {found['chance']:.1%}")
    for name in ("multi_vector", "single_vector"):
        low, high = found[name]["accuracy_interval"]
        held_out = f", combinations not in training {found[name]['held_out']:.1%}" if "held_out" in found[name] else ""
        print(f"{name:13} accuracy {found[name]['accuracy']:.1%} ({low:.1%} to {high:.1%}){held_out}")
