"""Search an index that scripts/index.py made, by words or by an image.

    python scripts/search.py --model runs/search --index runs/index --text "a red circle" --sheet hits.png
    python scripts/search.py --model runs/search --index runs/index --image mine.jpg --where "folder = 'cats'"

Prints a table, or with `--json` JSON. `--sheet` draws a PNG with rank, score and path of every hit, with `--maps` also
how like each of its patches is to each word. `--where` is an SQL condition on path, folder, name, bytes, modified.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..embedding.encoder import ImageTextEncoder
from ..retrieval.contact_sheet import contact_sheet
from ..retrieval.index import ImageIndex


@dataclass
class SearchArguments:
    """What to look for, and where."""

    model: str = field(metadata={"help": "The checkpoint that made the index; its code runs."})
    index: str = field(metadata={"help": "Folder of the index."})
    text: str | None = field(default=None, metadata={"help": "Find images by these words."})
    image: str | None = field(default=None, metadata={"help": "Find images like this file."})
    where: str | None = field(default=None, metadata={"help": "Only among these: \"folder = 'x' AND bytes > 1000\"."})
    limit: int = field(default=10, metadata={"help": "How many to show."})
    exact: bool = field(default=False, metadata={"help": "Score every image, however many there are."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})
    sheet: str | None = field(default=None, metadata={"help": "PNG to draw."})
    maps: bool = field(default=False, metadata={"help": "Draw where each word looks; needs --text and --sheet."})
    revision: str | None = field(default=None, metadata={"help": "Commit of the checkpoint on the Hub."})


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(SearchArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    text, image = arguments.text, arguments.image
    if (text is None) == (image is None) or (arguments.maps and not (text and arguments.sheet)):
        raise ValueError(
            f"Expected --text or --image, and with --maps both --text and --sheet, got text {text!r}, image "
            f"{image!r}, maps {arguments.maps!r}, sheet {arguments.sheet!r}. Correct them."
        )
    encoder = ImageTextEncoder(arguments.model, arguments.revision)
    index = ImageIndex(arguments.index, encoder, make=False)
    options = {"limit": arguments.limit, "where": arguments.where, "exact": arguments.exact or None}
    hits = index.search_image(Path(image), **options) if image else index.search_text(text, **options)
    if arguments.sheet:
        title = f"{text or Path(image).name} ({len(hits)} of {len(index):,} images)"
        contact_sheet(hits, Path(arguments.sheet), title, encoder, text if arguments.maps else None)
    if arguments.json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, indent=2))
        return
    print(f"{'rank':>4}{'score':>9}  image")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:>4}{hit.score:>9.3f}  {hit.path}")
    print(f"{len(hits)} of {len(index):,} images{f'. Sheet: {arguments.sheet}' if arguments.sheet else ''}")


if __name__ == "__main__":
    main()
