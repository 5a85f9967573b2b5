"""See what a search checkpoint sees: heat maps of each word, what CLS attends to, and who wins each word, as PNG.

    python scripts/visualize.py --model runs/search --image image.png --text "a red circle" --output runs/seen

The checkpoint's code runs (`trust_remote_code`); pass a `--revision` for checkpoints that are not yours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..retrieval.similarity_maps import visualize


@dataclass
class VisualizeArguments:
    """What to look at."""

    model: str = field(metadata={"help": "Folder or Hub id of a search checkpoint."})
    image: str = field(metadata={"help": "File of the image."})
    text: str = field(metadata={"help": "Words to look for in it."})
    output: str = field(metadata={"help": "Folder to write words.png, attention.png and winners.png into."})
    revision: str | None = field(default=None, metadata={"help": "Commit of the checkpoint on the Hub."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(VisualizeArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    for file in visualize(args.model, args.image, args.text, Path(args.output), args.revision):
        print(file)


if __name__ == "__main__":
    main()
