"""Search an index that `omni-vision index` made, by words or by an image.

    omni-vision search --model runs/search --index runs/index --text "a red circle" --sheet hits.png
    omni-vision search --model runs/search --index runs/index --image mine.jpg --where "folder = 'cats'"

Prints a table, or with `--json` JSON. A score is the cosine in an index of one vector an image, which is searched by
images. Else it is MaxSim: the sum, over the words of the text (or the vectors of the image), of the cosine with the
most similar vector of an image in the index; divide it by their number to compare queries of different lengths.
Words that the checkpoint does not know are named and weigh nothing; without any other, nothing is searched. `--sheet`
draws a PNG with rank, score and path of every hit, with `--maps` also a similarity map for each word. `--where` is an
SQL condition on path, folder, name, bytes, modified, and what the vectors came with.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .arguments import JSON, REVISION, option, parse, write_result
from .model_kind import RETRIEVAL, check_kind
from .program import program


SCORES = {
    "multi_vector": "MaxSim: sum of cosines over the vectors of the query",
    "single_vector": "cosine with the vector of the query",
}
SHORT = {"multi_vector": "MaxSim", "single_vector": "cosine"}


@dataclass
class SearchArguments:
    """What to look for, and where."""

    model: str = option("The checkpoint that made the index, or its vectors; code of a retrieval checkpoint runs.")
    index: str = option("Folder of the index.")
    text: str | None = option("Find images by these words.", None, words=True)
    image: str | None = option("Find images like this file.", None)
    where: str | None = option("Only among these: \"folder = 'x' AND bytes > 1000\".", None)
    limit: int = option("Number of hits.", 10)
    exact: bool = option("Score every image, however many there are.", False)
    json: str | None = option(JSON, None, bare="-")
    sheet: str | None = option("PNG to draw.", None)
    maps: bool = option("Draw a similarity map for each word; needs --text and --sheet.", False)
    force: bool = option("Search although no word of the text is known to the checkpoint.", False)
    revision: str | None = option(REVISION, None)
    trust_remote_code: bool = option("Run the code of an encoder that is not ours.", False)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(SearchArguments, argv)
    text, image = arguments.text, arguments.image
    if (text is None) == (image is None) or (arguments.maps and not (text and arguments.sheet)):
        raise ValueError(
            f"Expected --text or --image, and with --maps both --text and --sheet, got text {text!r}, image "
            f"{image!r}, maps {arguments.maps!r}, sheet {arguments.sheet!r}. Correct them."
        )
    from ..retrieval.contact_sheet import contact_sheet
    from ..retrieval.index import ImageIndex

    index = ImageIndex(arguments.index, make=False)
    encoder, score = encoder_of(index.settings, arguments), SCORES[index.vectors_of_an_image]
    index.use(encoder)
    options = {"limit": arguments.limit, "where": arguments.where, "exact": arguments.exact or None}
    if image:
        encoded, hits = None, index.search_image(Path(image), **options)
    else:
        encoded = encoder.text(str(text))
        hits = index.search_text(str(text), force=arguments.force and not encoded.words, **options)
    if arguments.sheet:
        title = f"{text or Path(str(image)).name} ({len(hits)} of {len(index):,} images)"
        words = encoded.words if encoded and arguments.maps else ()
        short = SHORT[index.vectors_of_an_image]
        contact_sheet(hits, Path(arguments.sheet), title, encoder, text if words else None, short)
    unknown = list(encoded.unknown) if encoded else []
    found = {"query": text or image, "score": score, "unknown_words": unknown, "hits": [asdict(hit) for hit in hits]}
    if write_result(found, arguments.json):
        return
    print(f"{'rank':>4}{'score':>9}  image (score is {score})")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:>4}{hit.score:>9.3f}  {hit.path}")
    print(f"{len(hits)} of {len(index):,} images{f'. Sheet: {arguments.sheet}' if arguments.sheet else ''}")


def encoder_of(settings: dict[str, Any], arguments: SearchArguments) -> Any:
    """Load the encoder of an index: a retrieval checkpoint, or what made the vectors that were put in."""
    if settings["pool"] is None:
        from ..embedding.encoder import ImageTextEncoder

        check_kind(arguments.model, RETRIEVAL, revision=arguments.revision)
        return ImageTextEncoder(arguments.model, arguments.revision)
    if arguments.text is not None:
        raise ValueError(
            f"Expected --image: the vectors of {arguments.index!r} are of images alone, made by `omni-vision embed` "
            f"with {settings['checkpoint']!r}, got --text {arguments.text!r}. Words need a retrieval checkpoint."
        )
    from ..retrieval.embedded import EmbedEncoder

    return EmbedEncoder(arguments.model, settings, arguments.revision, arguments.trust_remote_code)
