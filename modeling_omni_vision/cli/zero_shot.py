"""Classify images by the names of their classes alone, with a retrieval checkpoint, by many vectors and by one.

    omni-vision zero-shot --model runs/search --dataset combinations
    omni-vision zero-shot --model runs/search --dataset my_images --labels "red circle" "blue star"

`--dataset` is combinations (fresh drawings of every colour of every shape), a folder of which all images are taken, or
a labelled dataset as for `omni-vision train`. Classes are the folders of the images; without folders --labels says
what to choose from, and the choice is printed. Adds the section `zero_shot` to the checkpoint's metrics.json, or to
one beside a published folder. The checkpoint's code runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arguments import option, parse
from .model_kind import RETRIEVAL, check_kind
from .program import program


@dataclass
class ZeroShotArguments:
    """What to classify, and the sentences to compare with."""

    model: str = option("Folder of a retrieval checkpoint.")
    dataset: str = option("combinations, a folder of images, or a labelled dataset as for train.", "combinations")
    split: str | None = option("train, validation or test; by default all of a folder, test of others.", None)
    labels: list[str] = option("Names to choose from, in place of those of the classes.", [])
    templates: list[str] = option("Sentences with {} where the name goes.", ["This is a {}"])


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(ZeroShotArguments, argv)
    from ..retrieval.zero_shot import zero_shot

    check_kind(arguments.model, RETRIEVAL)
    found = zero_shot(Path(arguments.model), arguments.dataset, arguments.templates, arguments.split, arguments.labels)
    if found.get("unreadable"):
        print(f"{len(found['unreadable'])} files are no images, left out: {', '.join(found['unreadable'][:5])}")
    print(f"{found['images']} images, {found['classes']} names, chance {found['chance']:.1%}")
    if "predictions" in found["multi_vector"]:
        both = zip(*(found[name]["predictions"] for name in ("multi_vector", "single_vector")), strict=True)
        print(f"{'multi-vector':<24}{'single-vector':<24}image")
        for (file, name), (_, other) in both:
            print(f"{name:<24}{other:<24}{file}")
        return
    for name in ("multi_vector", "single_vector"):
        low, high = found[name]["accuracy_interval"]
        held_out = f", combinations not in training {found[name]['held_out']:.1%}" if "held_out" in found[name] else ""
        print(f"{name:13} accuracy {found[name]['accuracy']:.1%} ({low:.1%} to {high:.1%}){held_out}")
