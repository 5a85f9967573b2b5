"""The tab Search: images of an index by words or by an image, with a map of each word."""

import html
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from ..data.image_files import displayed, path_of
from ..interpretability.plots import Scale
from ..retrieval.contact_sheet import thumbnails
from ..retrieval.index import Hit, ImageIndex
from .components import ONE_AT_A_TIME, Drawing, ImageFile, answering, data_uri, figure, legend, map_over, note
from .example_images import EXAMPLES, add_examples
from .opened import OpenedCheckpoint


MOST, FOLDERS = 24, 200
ALL = "all folders"
QUERIES = ("a red circle", "a blue star", "a green square and a yellow cross", "a purple hexagon")


def search(
    index: ImageIndex, text: str | None, image: Any, folder: str, where: str | None, limit: int, maps: bool
) -> dict[str, Any]:
    """Return the images of an index that fit words, or an image: under `hits` `rank`, `score` (MaxSim), `image` (its
    file) and with `maps` the per-token similarity maps of `words`; `unknown_words`; and how many `images` there are.
    """
    text, where = (text or "").strip(), (where or "").strip()
    if bool(text) == (image is not None):
        both = "both" if text else "neither"
        raise ValueError(f"Expected words or an image to search by, got {both}. Leave one of them.")
    if not 1 <= limit <= MOST:
        raise ValueError(f"Expected a number of hits from 1 to {MOST}, got {limit}. Correct it.")
    quoted = str(folder).replace("'", "''")
    conditions = [f"({where})"] if where else []
    conditions += [f"folder = '{quoted}'"] if folder and folder != ALL else []
    options: dict[str, Any] = {"limit": int(limit), "where": " AND ".join(conditions) or None}
    encoder = index.require_encoder()
    encoded = encoder.text(text) if text else None
    if encoded is None:
        (opened,) = encoder.model.processor.image_processor.fetch_images([image])
        hits = index.search_image(opened, **options)
    else:
        hits = index.search(encoded.embeds, **options) if len(encoded.embeds) else []
    words = encoded.words if encoded and maps else ()
    found = [similarity_maps(index, encoded, hit) if words else None for hit in hits]
    unknown = list(encoded.unknown) if encoded else []
    return {
        "hits": [
            {"rank": rank, "score": hit.score, "image": displayed(path_of(hit.path)), "metadata": printable(hit)}
            | ({"maps": np.round(some, 6).tolist()} if some is not None else {})
            for rank, (hit, some) in enumerate(zip(hits, found, strict=True), 1)
        ],
        "words": list(words),
        "unknown_words": unknown,
        "images": len(index),
        "html": draw_hits(hits, words, found, unknown, len(index)),
    }


def printable(hit: Hit) -> dict[str, Any]:
    """Return the columns of a hit as JSON has them."""
    return {
        name: value if isinstance(value, (int, float, bool)) else str(value) for name, value in hit.metadata.items()
    }


def similarity_maps(index: ImageIndex, encoded: Any, hit: Hit) -> np.ndarray | None:
    """Return the map of each word (words, rows, columns), None where the file cannot be read any more."""
    try:
        return index.require_encoder().similarity_maps(encoded, path_of(hit.path)).numpy()
    except ValueError:
        return None


def draw_hits(
    hits: Sequence[Hit], words: Sequence[str], maps: Sequence[np.ndarray | None], unknown: Sequence[str], images: int
) -> str:
    """Return the hits in order, each with a map for each word by one scale."""
    parts = [note(f"Unknown to the checkpoint, without weight: {', '.join(unknown)}.")] if unknown else []
    if not hits:
        reason = "no word of the query is known." if unknown else f"none of {images:,} images passes the filters."
        return "".join([*parts, note(f"No image found: {reason}")])
    scale = Scale.of([one for one in maps if one is not None], "cosine with the word", least=0.1)
    images_of_hits = thumbnails([hit.path for hit in hits])
    for rank, (hit, image, some) in enumerate(zip(hits, images_of_hits, maps, strict=True), 1):
        path = path_of(hit.path)
        name = displayed(path.name)
        title = (
            f"<h3>{rank}. {html.escape(name)}</h3><p>MaxSim {hit.score:.3f}, {html.escape(displayed(path.parent))}</p>"
        )
        drawn = figure(data_uri(image), f"Hit {rank}: {name}") if image else note("The file cannot be read any more.")
        if image is not None and some is not None:
            drawn += "".join(
                figure(
                    data_uri(map_over(np.asarray(image), one, scale)),
                    f"Similarity map of {word}: at most {one.max():.2f}",
                    f"{word}, at most {one.max():.2f}",
                )
                for word, one in zip(words, some, strict=True)
            )
        parts.append(f'<li>{title}<div class="row">{drawn}</div></li>')
    head = legend(scale) if words else ""
    items = [part for part in parts if part.startswith("<li>")]
    return "".join([*parts[: len(parts) - len(items)], head, f'<ol class="hits">{"".join(items)}</ol>'])


def example_index(opened: OpenedCheckpoint) -> ImageIndex:
    """Return an index of the example images, made now."""
    index = ImageIndex(EXAMPLES.folder / "index", opened.encoder)
    index.add_images([str(EXAMPLES.scenes[0].parent)])
    return index


def search_tab(opened: OpenedCheckpoint, index: ImageIndex) -> None:
    """Build the tab."""
    folders = sorted({str(row["folder"]) for row in index.rows(columns=["folder"])})[:FOLDERS]
    with gr.Row():
        with gr.Column(min_width=280):
            text = gr.Textbox(label="Words", placeholder="a red circle", max_lines=1)
            image = ImageFile.labelled("Or an image")
            add_examples(opened, [text], 4, QUERIES)
        with gr.Column(min_width=280):
            folder = gr.Dropdown([ALL, *folders], value=ALL, label="Only in the folder")
            where = gr.Textbox(label="Only where", placeholder="bytes > 1000 AND name LIKE '%red%'", max_lines=1)
            limit = gr.Slider(1, MOST, 6, step=1, label="Hits", buttons=[])
            maps = gr.Checkbox(True, label="Show where each word matches")
            button = gr.Button("Search", variant="primary")
    empty = f"{len(index):,} images are in the index. Type words, or choose an image."
    drawn = Drawing.saying(
        empty if len(index) else "The index has no images yet: omni-vision index puts some in.", "Hits"
    )
    gr.on(
        [button.click, text.submit, where.submit],
        answering(partial(search, index)),
        [text, image, folder, where, limit, maps],
        drawn,
        api_name="search",
        api_description=search.__doc__,
        **ONE_AT_A_TIME,
    )


__all__ = ["example_index", "search", "search_tab"]
