"""Vectors laid out on a plane by t-SNE (scikit-learn): a PNG of thumbnails, and one HTML page without network."""

import base64
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..interop.page_colours import page_colours
from ..interpretability.plots import save
from ..interpretability.style import GREY as OTHER
from ..interpretability.style import KINDS as COLOURS
from .embedded import Embedded


PERPLEXITY, COMPONENTS, DRAWN, SIDE = 30, 50, 400, 64
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Map of images</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>
__COLOURS__
body{margin:0;font:14px system-ui,sans-serif;display:flex;height:100vh;background:var(--paper);color:var(--ink)}
canvas{flex:1;min-width:0}aside{width:230px;padding:14px;border-left:1px solid var(--line);overflow:auto}
img{width:200px;image-rendering:auto;background:var(--wash);min-height:40px}p{overflow-wrap:anywhere}
i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:6px}
</style>
<canvas></canvas><aside><img alt=""><p id="name">Point at an image.</p><div id="legend"></div></aside>
<script>
const points = __POINTS__, legend = __LEGEND__;
const canvas = document.querySelector("canvas"), context = canvas.getContext("2d"), pad = 20;
let near = -1;
const at = p => [pad + p[0] * (canvas.width - 2 * pad), pad + p[1] * (canvas.height - 2 * pad)];
function draw() {
  canvas.width = canvas.clientWidth; canvas.height = canvas.clientHeight;
  points.forEach((p, n) => {
    const [x, y] = at(p);
    context.beginPath(); context.arc(x, y, n === near ? 8 : 4, 0, 7);
    context.fillStyle = p[2]; context.globalAlpha = n === near ? 1 : 0.7; context.fill();
  });
}
canvas.onmousemove = event => {
  let best = 900, found = -1;
  points.forEach((p, n) => {
    const [x, y] = at(p), d = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
    if (d < best) { best = d; found = n; }
  });
  if (found < 0 || found === near) return;
  near = found; draw();
  document.querySelector("img").src = points[near][4];
  document.getElementById("name").textContent = points[near][3];
};
legend.forEach(([name, colour]) => {
  const line = document.createElement("div"), dot = document.createElement("i");
  dot.style.background = colour; line.append(dot, name); document.getElementById("legend").append(line);
});
onresize = draw; draw();
</script></html>
"""


def lay_out(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a place in the unit square (rows, 2) for each vector (rows, D) of length 1."""
    if len(vectors) < 3:
        return np.linspace(0.25, 0.75, len(vectors))[:, None].repeat(2, axis=1)
    parts = min(COMPONENTS, *vectors.shape)
    reduced = PCA(parts, random_state=seed).fit_transform(vectors)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    # Cosine distance of unit vectors is half of the squared Euclidean one.
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-12)


def draw_map(embedded: Embedded, positions: list[int], output: Path) -> tuple[Path, Path]:
    """Draw map.png and map.html of the images at positions into a folder; the colour is that of the folder."""
    places = lay_out(embedded.unit[positions])
    groups = [Path(embedded.rows[one]["id"]).parent.name or "." for one in positions]
    common = [name for name, _ in Counter(groups).most_common(len(COLOURS))]
    colours = dict(zip(common, COLOURS, strict=False))
    images = list(embedded.images(positions, SIDE))
    output.mkdir(parents=True, exist_ok=True)
    points = [
        [
            round(float(x), 4),
            round(1 - float(y), 4),
            colours.get(group, OTHER),
            embedded.rows[position]["path"],
            _data_uri(image),
        ]
        for (x, y), group, position, image in zip(places, groups, positions, images, strict=True)
    ]
    legend = [*colours.items(), *([("others", OTHER)] if len(set(groups)) > len(common) else [])]
    page = PAGE.replace("__COLOURS__", page_colours())
    page = page.replace("__LEGEND__", _in_script(legend)).replace("__POINTS__", _in_script(points))
    (output / "map.html").write_text(page, encoding="utf-8")
    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots()
    axes.scatter(places[:, 0], places[:, 1], c=[colours.get(group, OTHER) for group in groups], s=8)
    for number in np.linspace(0, len(positions) - 1, min(DRAWN, len(positions))).astype(int):
        frame = {"edgecolor": colours.get(groups[number], OTHER), "linewidth": 1}
        axes.add_artist(
            AnnotationBbox(OffsetImage(images[number], zoom=0.45), places[number], bboxprops=frame, pad=0.1)
        )
    axes.axis("off")
    axes.set_title(f"{len(positions):,} images by t-SNE of their vectors; frames have the colour of their folder")
    return save(figure, output / "map.png"), output / "map.html"


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _in_script(value: object) -> str:
    """Return JSON that cannot end the script that it stands in, whatever file names it holds."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


__all__ = ["draw_map", "lay_out"]
