"""See where in images the answers of a language model come from: images, questions, answers and maps as one PNG.

    python scripts/looks.py --model checkpoints/omni-vision-language-scenes --output looks.png
    python scripts/looks.py --model runs/seeing --dataset mine.jsonl --split validation --output looks.png

The checkpoint's code runs (`trust_remote_code`); pass a `--revision` for checkpoints that are not yours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser

from ..data.questions import load_questions
from ..data.stored_images import open_stored
from ..interpretability.occlusion import explain_answer, plot_occlusion


@dataclass
class LooksArguments:
    """What to look at."""

    model: str = field(metadata={"help": "Folder or Hub id of a language model that sees."})
    dataset: str = field(default="scenes", metadata={"help": "Questions, as for scripts/train_language.py."})
    split: str = field(default="test", metadata={"help": "Split whose first images are drawn."})
    count: int = field(default=12, metadata={"help": "Images; each is asked its n-th question in turn."})
    output: str = field(default="looks.png", metadata={"help": "PNG to write."})
    revision: str | None = field(default=None, metadata={"help": "Commit of the checkpoint on the Hub."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(LooksArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    data = load_questions(args.dataset)
    if args.split not in data or args.count < 1:
        raise ValueError(f"Expected a split of {[*data]} and a count of at least 1, got {args.split!r}, {args.count}.")
    trust = {"trust_remote_code": True, "revision": args.revision}
    processor = AutoProcessor.from_pretrained(args.model, **trust)
    model = AutoModelForImageTextToText.from_pretrained(args.model, **trust).eval()
    # Images between which a conversation goes on would need more than a line.
    rows = [row for row in data[args.split] if len(row["images"]) == 1][: args.count]
    images, found, truths = [], [], []
    for number, row in enumerate(rows):
        image = open_stored(row["images"][0]).convert("RGB")
        question = row["questions"][number % len(row["questions"])]
        text = question["messages"][-1]["content"].replace("<image>", "").strip()
        images.append(np.asarray(image))
        found.append(explain_answer(model, processor, image, text))
        truths.append(question["answer"])
    print(plot_occlusion(images, found, truths, Path(args.output)))


if __name__ == "__main__":
    main()
