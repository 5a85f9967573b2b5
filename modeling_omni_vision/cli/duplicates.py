"""Find images that are one image in an embedded folder: by their vectors, and by a perceptual hash.

    omni-vision duplicates --embeddings runs/vectors --csv duplicates.csv --sheet duplicates.png

`--embeddings` is the output of `omni-vision embed`. Two images belong together if their cosine is at least the
threshold, or if their hashes differ in no more than --hash_bits of 64 bits. The threshold is measured with copies of
the images, saved anew at half the size, unless --threshold gives one; what it comes from is printed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .arguments import JSON, REVISION, option, parse, write_result
from .neighbours import CSV, EMBEDDINGS
from .program import program


@dataclass
class DuplicatesArguments:
    """Among what, and what counts."""

    embeddings: str = option(EMBEDDINGS)
    threshold: float | None = option("Least cosine of duplicates; measured if left out.", None, least=-1)
    hash_bits: int = option("Most bits of 64 that the hashes of duplicates differ in.", 4, least=0, most=64)
    csv: str | None = option(CSV, None)
    sheet: str | None = option("PNG to draw.", None)
    json: str | None = option(JSON, None, bare="-")
    revision: str | None = option(REVISION, None)
    trust_remote_code: bool = option("Run the code of a checkpoint that is not ours.", False)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(DuplicatesArguments, argv)
    from ..data.image_files import displayed
    from ..embedding.duplicates import Threshold, advice, find_duplicates, measure_threshold, perceptual_hashes
    from ..embedding.embedded import Embedded
    from ..embedding.sheets import draw_rows, write_csv

    embedded = Embedded(arguments.embeddings)
    # The model first: it may be refused, and reading all images takes long.
    encode: Any = None
    if arguments.threshold is None:
        encode = embedded.encoder(arguments.revision, arguments.trust_remote_code)
    hashes = perceptual_hashes(embedded)
    if gone := len(embedded.rows) - len(hashes.positions):
        print(f"{gone:,} of {len(embedded.rows):,} images cannot be read any more and are left out.", file=sys.stderr)
    if arguments.threshold is None:
        threshold = measure_threshold(embedded, encode, hashes.positions)
    else:
        threshold = Threshold(arguments.threshold, "as given")
    found = find_duplicates(embedded, threshold.cosine, hashes, arguments.hash_bits)
    table = [
        {"group": one.group, "cosine": round(one.cosine, 6), "hash_bits": one.hash_bits, **embedded.rows[one.position]}
        for one in found
    ]
    if arguments.csv:
        write_csv(arguments.csv, table, ("group", "cosine", "hash_bits", *embedded.rows[0]))
    groups = [list(group) for _, group in groupby(found, lambda one: one.group)]
    if arguments.sheet:
        rows = [
            [
                (image, f"cosine {one.cosine:.3f}, {one.hash_bits} bits", embedded.rows[one.position]["path"])
                for one, image in zip(group, embedded.images([one.position for one in group], 160), strict=True)
            ]
            for group in groups
        ]
        draw_rows(rows, "Groups of duplicates, each beside its first image", arguments.sheet)
    result = {
        "threshold": threshold.cosine,
        "reason": threshold.reason,
        "hash_bits": arguments.hash_bits,
        "images": table,
    }
    if said := advice(found, len(hashes.positions), arguments.hash_bits):
        print(said.replace("`threshold`", "--threshold"), file=sys.stderr)
    if write_result(result, arguments.json):
        return
    for row in table:
        print(f"{row['group']:>5}  cosine {row['cosine']:.4f}  {row['hash_bits']:>2} bits  {displayed(row['path'])}")
    print(f"Threshold {threshold.cosine:.4f}: {threshold.reason}")
    print(f"{len(groups):,} groups of {len(found):,} images among {len(hashes.positions):,}")
