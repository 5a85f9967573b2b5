"""The tab Zero-shot: which of any names fits an image best."""

import re
from functools import partial
from typing import Any

import gradio as gr

from ..retrieval.evaluation import filled, zero_shot_scores
from .components import ONE_AT_A_TIME, Drawing, ImageFile, answering, bars, note
from .example_images import add_examples
from .opened import OpenedCheckpoint


MOST = 200
NAMES = "red square\nyellow triangle\ngreen circle\nblue star"


def zero_shot(opened: OpenedCheckpoint, image: Any, names: str, template: str = "This is a {}") -> dict[str, Any]:
    """Return under `top` the names (one a line, or between commas), the best first, each with its `score`: the mean,
    over the words of the sentence, of the cosine with the most similar patch. `unknown_words` weigh nothing.
    """
    wanted = list(dict.fromkeys(name.strip() for name in re.split(r"[\n,]", names or "") if name.strip()))
    if image is None:
        raise ValueError("Expected an image, got none. Upload one or choose an example.")
    if len(wanted) > MOST:
        raise ValueError(f"Expected at most {MOST} names, got {len(wanted)}. Leave some out.")
    encoder = opened.encoder
    (read,) = encoder.model.processor.image_processor.fetch_images([image])
    scores = zero_shot_scores(encoder.model, [read], wanted, [template])[:, 0].tolist()
    ranked = sorted(zip(wanted, scores, strict=True), key=lambda pair: -pair[1])
    unknown = sorted({word for name in wanted for word in encoder.text(filled(template, name)).unknown})
    said = f"Unknown to the checkpoint, without weight: {', '.join(unknown)}. " if unknown else ""
    return {
        "top": [{"label": name, "score": score} for name, score in ranked],
        "unknown_words": unknown,
        "html": bars([(name, score, f"{score:.3f}") for name, score in ranked])
        + note(f"{said}A score is a cosine, averaged over the words; it is no probability."),
    }


def zero_shot_tab(opened: OpenedCheckpoint) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = ImageFile.labelled("Image")
            add_examples(opened, [image], 8)
        with gr.Column(min_width=280):
            names = gr.Textbox(NAMES, lines=4, max_lines=12, label="Names to choose from, one a line")
            template = gr.Textbox("This is a {}", label="Sentence, with {} where the name goes", max_lines=1)
            button = gr.Button("Classify", variant="primary")
            drawn = Drawing.saying("The best name appears here.", "Names")
    button.click(
        answering(partial(zero_shot, opened)),
        [image, names, template],
        drawn,
        api_name="zero_shot",
        api_description=zero_shot.__doc__,
        **ONE_AT_A_TIME,
    )


__all__ = ["zero_shot", "zero_shot_tab"]
