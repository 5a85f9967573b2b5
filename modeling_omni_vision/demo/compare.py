"""The tab Compare: how similar two images are, and which patches match."""

import html
from typing import Any

import gradio as gr
import numpy as np
import torch
from matplotlib import colormaps
from torch.nn.functional import cosine_similarity

from ..interpretability.patch_matches import PatchMatch, match_patches
from ..interpretability.style import MAP_COLOURS
from .components import ONE_AT_A_TIME, SIDE, Drawing, ImageFile, answering, data_uri
from .example_images import add_examples
from .opened import OpenedCheckpoint


GAP = 40
MOST = 50


@torch.inference_mode()
def compare(opened: OpenedCheckpoint, first: Any, second: Any, layer: int, matches: int = 12) -> dict[str, Any]:
    """Return the cosine of the pooled outputs of two images as `similarity`, and under `matches` pairs of patches that
    are each other's most similar after a layer from 1: `first` and `second` (row, column) and their `cosine`.
    """
    layers = opened.tower.config.num_hidden_layers
    if not 1 <= layer <= layers or not 0 <= matches <= MOST:
        raise ValueError(
            f"Expected a layer from 1 to {layers} and a number of matches from 0 to {MOST}, got {layer} and {matches}."
        )
    pixels, seen = zip(*(opened.pixels(image) for image in (first, second)), strict=True)
    outputs = [opened.tower(one, output_hidden_states=True) for one in pixels]
    similarity = float(cosine_similarity(outputs[0].pooler_output.float(), outputs[1].pooler_output.float()))
    height, prefix = opened.tower.config.patch_size_hw[0], opened.tower.num_prefix_tokens
    grids = [
        output.hidden_states[int(layer)][0, prefix:].float().unflatten(0, (one.shape[-2] // height, -1))
        for output, one in zip(outputs, pixels, strict=True)
    ]
    found = match_patches(grids[0], grids[1], int(matches))
    return {
        "similarity": similarity,
        "matches": [one._asdict() for one in found],
        "html": f"<p class='figure'><strong>{similarity:.3f}</strong> cosine of the pooled outputs</p>"
        + draw_matches(seen, [one.shape[:2] for one in grids], found, similarity),
    }


def draw_matches(
    seen: tuple[np.ndarray, ...], shapes: list[torch.Size], found: list[PatchMatch], similarity: float
) -> str:
    """Return two images (height, width, channels) of patches in rows and columns, and a line for each match."""
    width = round(SIDE * seen[0].shape[1] / seen[0].shape[0])
    starts, parts = (0, width + GAP), list[str]()
    for start, image in zip(starts, seen, strict=True):
        parts.append(f'<image href="{data_uri(image)}" x="{start}" width="{width}" height="{SIDE}"/>')
    for rank, match in enumerate(found):
        colour = "#" + "".join(f"{int(c * 255):02x}" for c in colormaps[MAP_COLOURS](1 - rank / len(found))[:3])
        ends = []
        for start, (rows, columns), (row, column) in zip(starts, shapes, match[:2], strict=True):
            ends.append((start + (column + 0.5) * width / columns, (row + 0.5) * SIDE / rows))
        (x1, y1), (x2, y2) = ends
        line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in ends)
        parts.append(
            f'<g class="match"><title>{match.first} to {match.second}: cosine {match.cosine:.3f}</title>'
            f'<line class="edge" {line}/><line {line} style="stroke:{colour}"/><g style="fill:{colour}">{dots}</g></g>'
        )
    alt = html.escape(f"Two images of similarity {similarity:.3f} with {len(found)} lines between matching patches")
    size = f'viewBox="0 0 {2 * width + GAP} {SIDE}"'
    return f'<svg class="matches" role="img" aria-label="{alt}" {size}>{"".join(parts)}</svg>'


def compare_tab(opened: OpenedCheckpoint) -> None:
    """Build the tab."""
    with gr.Row():
        images = []
        for label in ("First image", "Second image"):
            with gr.Column(min_width=280):
                images.append(ImageFile.labelled(label))
    layers = opened.tower.config.num_hidden_layers
    with gr.Row():
        # After the last one, all patches of a model that pools CLS are much alike.
        layer = gr.Slider(1, layers, max(1, layers - 1), step=1, label="Patches after layer", buttons=[])
        matches = gr.Slider(0, MOST, 12, step=1, label="Lines at most", buttons=[])
    drawn = Drawing.saying("Similarity and matching patches appear here, once there are two images.", "Comparison")

    def answer(first: Any, second: Any, layer: int, matches: int) -> dict[str, Any]:
        return compare(opened, first, second, layer, matches) if first and second else drawn.value

    gr.on(
        [images[0].change, images[1].change, layer.change, matches.change],
        answering(answer),
        [*images, layer, matches],
        drawn,
        api_name="compare",
        api_description=compare.__doc__,
        trigger_mode="always_last",
        **ONE_AT_A_TIME,
    )
    add_examples(opened, images, 4)


__all__ = ["compare", "compare_tab", "draw_matches"]
