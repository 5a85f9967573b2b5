"""Find the images of an embedded folder that are nearest to images, all of them compared.

    omni-vision neighbours --embeddings runs/vectors --images query.jpg --sheet neighbours.png

`--embeddings` is the output of `omni-vision embed`, whose model encodes the images. Scores are cosines. `--csv` and
`--json` write the table. Images that cannot be read are named, and the exit status is then 3; --on_error stop refuses
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import JSON, REVISION, option, parse, write_result
from .predict import end_unreadable
from .program import program


CSV = "CSV to write."
EMBEDDINGS = "Output of omni-vision embed."
SIDE = 160


@dataclass
class NeighboursArguments:
    """Of what, among what."""

    embeddings: str = option(EMBEDDINGS)
    images: list[str] = option("Images to find the neighbours of.")
    limit: int = option("Neighbours of each.", 10, least=1)
    sheet: str | None = option("PNG to draw.", None)
    csv: str | None = option(CSV, None)
    on_error: str = option("stop or skip, for files that cannot be read.", "skip", choices=("stop", "skip"))
    json: str | None = option(JSON, None, bare="-")
    revision: str | None = option(REVISION, None)
    trust_remote_code: bool = option("Run the code of a checkpoint that is not ours.", False)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(NeighboursArguments, argv)
    from ..data.image_files import displayed
    from ..data.integrity import refuse_unreadable
    from ..embedding.embedded import Embedded
    from ..embedding.sheets import draw_rows, write_csv

    embedded = Embedded(arguments.embeddings)
    encode = embedded.encoder(arguments.revision, arguments.trust_remote_code)
    queries, vectors, broken = encode.read(arguments.images)
    paths = [row.path for row in queries]
    if broken and arguments.on_error == "stop":
        refuse_unreadable(broken, len(paths) + len(broken), "stop")
    positions, cosines = embedded.nearest(vectors, arguments.limit)
    found = [
        {"image": path, "rank": rank, "cosine": round(float(cosine), 6), **embedded.rows[position]}
        for path, row, scores in zip(paths, positions, cosines, strict=True)
        for rank, (position, cosine) in enumerate(zip(row, scores, strict=True), 1)
    ]
    if arguments.csv:
        write_csv(arguments.csv, found)
    if arguments.sheet:
        rows = [
            [(query, "asked for", path)]
            + [
                (image, f"{rank}. cosine {cosine:.3f}", embedded.rows[position]["path"])
                for rank, (image, position, cosine) in enumerate(
                    zip(embedded.images(row, SIDE), row, scores, strict=True), 1
                )
            ]
            for query, path, row, scores in zip(query_images(queries), paths, positions.tolist(), cosines, strict=True)
        ]
        draw_rows(rows, "Nearest images", arguments.sheet)
    if not write_result(found, arguments.json):
        for one in found:
            print(f"{one['rank']:>3}  {one['cosine']:.4f}  {displayed(one['path'])}")
    end_unreadable(broken, len(paths) + len(broken), None)


def query_images(rows: Sequence[Any]) -> Iterator[Any]:
    """Yield small images of the queries, grey ones where one is gone meanwhile."""
    from ..embedding.embedded import BLANK, small_images

    return (BLANK if image is None else image for image in small_images(rows, SIDE))
