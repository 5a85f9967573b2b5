"""Search an index that `omni-vision index` made, by words or by an image.

    omni-vision search --model runs/search --index runs/index --text "a red circle" --sheet hits.png
    omni-vision search --model runs/search --index runs/index --image mine.jpg --where "folder = 'cats'"

Prints a table, or with `--json` JSON. `--sheet` draws a PNG with rank, score and path of every hit, with `--maps` also
a similarity map for each word. `--where` is an SQL condition on path, folder, name, bytes, modified.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .arguments import JSON, REVISION, option, parse, write_result
from .program import program


@dataclass
class SearchArguments:
    """What to look for, and where."""

    model: str = option("The checkpoint that made the index; its code runs.")
    index: str = option("Folder of the index.")
    text: str | None = option("Find images by these words.", None)
    image: str | None = option("Find images like this file.", None)
    where: str | None = option("Only among these: \"folder = 'x' AND bytes > 1000\".", None)
    limit: int = option("Number of hits.", 10)
    exact: bool = option("Score every image, however many there are.", False)
    json: str | None = option(JSON, None, bare="-")
    sheet: str | None = option("PNG to draw.", None)
    maps: bool = option("Draw a similarity map for each word; needs --text and --sheet.", False)
    revision: str | None = option(REVISION, None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(SearchArguments, argv)
    text, image = arguments.text, arguments.image
    if (text is None) == (image is None) or (arguments.maps and not (text and arguments.sheet)):
        raise ValueError(
            f"Expected --text or --image, and with --maps both --text and --sheet, got text {text!r}, image "
            f"{image!r}, maps {arguments.maps!r}, sheet {arguments.sheet!r}. Correct them."
        )
    from ..embedding.encoder import ImageTextEncoder
    from ..retrieval.contact_sheet import contact_sheet
    from ..retrieval.index import ImageIndex

    encoder = ImageTextEncoder(arguments.model, arguments.revision)
    index = ImageIndex(arguments.index, encoder, make=False)
    options = {"limit": arguments.limit, "where": arguments.where, "exact": arguments.exact or None}
    hits = index.search_image(Path(image), **options) if image else index.search_text(str(text), **options)
    if arguments.sheet:
        title = f"{text or Path(str(image)).name} ({len(hits)} of {len(index):,} images)"
        contact_sheet(hits, Path(arguments.sheet), title, encoder, text if arguments.maps else None)
    if write_result([asdict(hit) for hit in hits], arguments.json):
        return
    print(f"{'rank':>4}{'score':>9}  image")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:>4}{hit.score:>9.3f}  {hit.path}")
    print(f"{len(hits)} of {len(index):,} images{f'. Sheet: {arguments.sheet}' if arguments.sheet else ''}")
