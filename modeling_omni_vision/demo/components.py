"""What all tabs are made of: an image input that our processor reads, a drawing, one sentence for a mistake.

`gr.HTML` fills its template by Handlebars and evaluates the result as a JavaScript template: text of users must reach
it as a value, never by `{{...}}`. So every drawing is rendered, and escaped, here.
"""

import base64
import functools
import html
import inspect
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio import component_meta
from matplotlib import colormaps
from PIL import Image

from ..interpretability.plots import Scale
from ..interpretability.style import MAP_COLOURS


OBJECT = re.compile(r" <_io\.\w+ object at \w+>")
NO_ADDRESS = gr.Error(
    "Expected an uploaded file, got an address. Download it and upload the file.", print_exception=False
)
SIDE = 320  # pixels that a drawing is at least high, of images that are often 28
# Uses of the model wait for each other: tokenizers and hooks are not safe in two threads.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}


# Or Gradio would write a stub (.pyi) of each class below beside this file.
vars(component_meta).update(create_or_modify_pyi=lambda *_: None)


# Neither has an `__init__` of its own: Gradio sends the browser the arguments that its signature names. Overrides are
# those of a class: choosing an example makes components anew.
class ImageFile(gr.Image):
    """An uploaded image that our processor reads: Gradio itself would open, turn and convert it first."""

    is_template = True

    @classmethod
    def labelled(cls, label: str) -> "ImageFile":
        """Return an input for files and the clipboard."""
        sources: Any = ["upload", "clipboard"]
        return cls(label=label, type="filepath", image_mode=None, sources=sources, buttons=[], height=300)

    def preprocess(self, payload: Any) -> Any:
        """Return of an upload what `read_image` reads, by the name that the file had."""
        if payload is None:
            return None
        if payload.path is None:
            if not str(payload.url).startswith("data:"):
                raise NO_ADDRESS
            return payload.url
        return {"bytes": Path(payload.path).read_bytes(), "path": payload.orig_name or Path(payload.path).name}


class Drawing(gr.HTML):
    """An output: values for programs, and under `html` what the page shows of them."""

    @classmethod
    def saying(cls, empty: str, label: str) -> "Drawing":
        """Return an output that says what will stand there."""
        return cls({"html": note(empty)}, html_template="${value.html}", js_on_load=None, label=label)

    def api_info(self) -> dict[str, Any]:
        """Describe the output to clients."""
        return {"type": "object", "description": "values, and under `html` what the page shows of them"}


async def refuse_address(*_: Any, **__: Any) -> str:
    """Take the place of what downloads addresses from any public host, at any size, for any kind of input."""
    raise NO_ADDRESS


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler of an event: a mistake of the user becomes a sentence, a fault of ours stays in the log.

    Clients name the inputs as its parameters.
    """

    def mistake(error: ValueError) -> gr.Error:
        # Pillow names a file in memory by its address.
        sentence = html.escape(OBJECT.sub("", " ".join(str(error).split())), quote=False)
        return gr.Error(sentence, duration=20, print_exception=False)

    @functools.wraps(function)
    def stream(*inputs: Any) -> Iterator[Any]:
        try:
            yield from function(*inputs)
        except ValueError as error:
            raise mistake(error) from error

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except ValueError as error:
            raise mistake(error) from error

    return stream if inspect.isgeneratorfunction(function) else call


def note(text: str) -> str:
    """Return a paragraph that says something in place of a result, or about one."""
    return f'<p class="note">{html.escape(text)}</p>'


def bars(rows: list[tuple[str, float, str]]) -> str:
    """Return names with a bar each, by (name, share 0..1, value as text)."""
    items = [
        f'<li><span class="name">{html.escape(name)}</span> <span class="value">{html.escape(value)}</span>'
        f'<span class="track"><span style="width:{max(0.0, min(share, 1.0)):.1%}"></span></span></li>'
        for name, share, value in rows
    ]
    return f'<ol class="bars">{"".join(items)}</ol>'


def data_uri(image: np.ndarray | Image.Image) -> str:
    """Return an image, or pixel values 0..255 (height, width, 1 or 3), as the address of a PNG within the page."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.repeat(image, 3, -1) if image.shape[-1] == 1 else image)
    if max(image.size) < SIDE:
        factor = -(-SIDE // max(image.size))
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def map_over(image: np.ndarray, values: np.ndarray, scale: Scale) -> Image.Image:
    """Return a map (rows, columns) over an image (height, width, channels) in grey, in the colours of our plots."""
    colours = Image.fromarray((colormaps[MAP_COLOURS](scale.norm(values))[..., :3] * 255).astype(np.uint8))
    grey = Image.fromarray((50 + 0.6 * image.mean(-1)).astype(np.uint8)).convert("RGB")
    width, height = grey.size
    factor = max(1, -(-SIDE // max(width, height)))
    large = (width * factor, height * factor)
    kinds = Image.Resampling
    return Image.blend(grey.resize(large, kinds.NEAREST), colours.resize(large, kinds.NEAREST), 0.65)


def figure(source: str, alt: str, caption: str = "") -> str:
    """Return an image with a text for those who do not see it, and a line below."""
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{html.escape(alt)}">{below}</figure>'


def legend(scale: Scale) -> str:
    """Return the colours of a scale from its lowest to its highest value."""
    stops = ", ".join(
        "#" + "".join(f"{int(part * 255):02x}" for part in colormaps[MAP_COLOURS](place)[:3])
        for place in np.linspace(0, 1, 9)
    )
    low, high = float(scale.norm.vmin or 0), float(scale.norm.vmax or 0)
    flat = note(scale.note.strip()) if scale.note else ""
    return (
        f'<p class="legend"><span>{low:.2f}</span>'
        f'<span class="ramp" style="background:linear-gradient(90deg,{stops})"></span>'
        f"<span>{high:.2f}</span> {html.escape(scale.label)}</p>{flat}"
    )


def map_drawing(image: np.ndarray, values: np.ndarray, scale: Scale, alt: str, caption: str) -> dict[str, Any]:
    """Return one map over an image with its legend, and its values in rows."""
    drawn = figure(data_uri(map_over(image, values, scale)), alt, caption)
    return {"values": np.round(values.astype(float), 6).tolist(), "html": drawn + legend(scale)}


__all__ = ["ONE_AT_A_TIME", "Drawing", "ImageFile", "answering", "bars", "data_uri", "figure", "legend"]
__all__ += ["map_drawing", "map_over", "note", "refuse_address"]
