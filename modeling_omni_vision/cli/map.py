"""Draw an embedded folder as a map on which images of near vectors lie together.

    omni-vision map --embeddings runs/vectors --output runs/map

`--embeddings` is the output of `omni-vision embed`. Writes map.png, and map.html, one page without network that shows
the image under the mouse. Both have the colour of the image's folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arguments import option, parse
from .neighbours import EMBEDDINGS
from .program import program


@dataclass
class MapArguments:
    """What to draw where."""

    embeddings: str = option(EMBEDDINGS)
    output: str = option("Folder to write.", folder=True)
    limit: int = option("Images on the map, spread evenly over the folder.", 5000, least=1)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(MapArguments, argv)
    from ..embedding.embedded import Embedded
    from ..embedding.image_map import draw_map

    embedded = Embedded(arguments.embeddings)
    count, total = min(arguments.limit, len(embedded.rows)), len(embedded.rows)
    png, page = draw_map(embedded, [number * total // count for number in range(count)], Path(arguments.output))
    print(f"{count:,} of {total:,} images: {png}, {page}")
