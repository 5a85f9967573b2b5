"""The tabs Classify and Attention: the most probable classes, what CLS attends to, what the class depends on."""

from typing import Any

import gradio as gr
import torch

from ..interpretability.occlusion import explain_class
from ..interpretability.plots import Scale
from .components import ONE_AT_A_TIME, Drawing, ImageFile, answering, bars, map_drawing
from .example_images import add_examples
from .opened import OpenedCheckpoint


TOP = 5


@torch.inference_mode()
def classify(opened: OpenedCheckpoint, image: Any) -> dict[str, Any]:
    """Return the five most probable classes of an image under `top`: `label` and `probability` of each."""
    config, (pixels, _) = opened.classifier.config, opened.pixels(image)
    logits = opened.classifier(pixels).logits[0].float()
    lists = config.problem_type == "multi_label_classification"
    best = (logits.sigmoid() if lists else logits.softmax(-1)).topk(min(TOP, len(logits)))
    pairs = [(config.id2label[n], p) for n, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    top = [{"label": label, "probability": share} for label, share in pairs]
    return {"top": top, "html": bars([(label, share, f"{share:.1%}") for label, share in pairs])}


@torch.inference_mode()
def attention(opened: OpenedCheckpoint, image: Any, layer: int, head: int) -> dict[str, Any]:
    """Return the attention of CLS in a layer from 1, of a head from 1 or the mean of all heads (0), in multiples of an
    even share; colours mean the same for all heads of a layer.
    """
    config, (pixels, seen) = opened.tower.config, opened.pixels(image)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    layer, head = int(layer), int(head)
    if not 1 <= layer <= layers or not 0 <= head <= heads:
        raise ValueError(
            f"Expected a layer from 1 to {layers} and a head from 0 to {heads}, got {layer} and {head}. Correct them."
        )
    maps = opened.tower.attention_maps(pixels, [layer - 1])[0, 0].float()
    maps = maps * maps[0].numel() / maps.sum((-2, -1), keepdim=True)
    every = [maps.mean(0).numpy(), *maps.numpy()]
    scale = Scale.of(every, "times an even share", least=2.0, low=0.0)
    which = f"head {head}" if head else f"mean of {heads} heads"
    alt = f"Attention of CLS in layer {layer}, {which}: at most {every[head].max():.1f} times an even share"
    return {"layer": layer, "head": head} | map_drawing(
        seen, every[head], scale, alt, f"Attention of CLS, layer {layer} of {layers}, {which}"
    )


def occlusion(opened: OpenedCheckpoint, image: Any) -> dict[str, Any]:
    """Return by how many nats the most probable class is less probable without each patch and those around it."""
    pixels, seen = opened.pixels(image)
    number, relevance = explain_class(opened.classifier, pixels)
    label = opened.classifier.config.id2label[number]
    scale = Scale.of([relevance], "nats lost without the patch", least=0.5)
    alt = f"Occlusion map of {label}: at most {relevance.max():.2f} nats lost without a patch"
    return {"label": label} | map_drawing(seen, relevance, scale, alt, f"Patches that {label} depends on")


def classify_tab(opened: OpenedCheckpoint) -> None:
    """Build the tab of a classifier."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = ImageFile.labelled("Image to classify")
            add_examples(opened, [image], 8)
        with gr.Column(min_width=280):
            classes = Drawing.saying("The five most probable classes appear here, once there is an image.", "Classes")

            def answer_classes(image: Any) -> dict[str, Any]:
                return classify(opened, image) if image else classes.value

            classified = image.change(
                answering(answer_classes),
                image,
                classes,
                api_name="classify",
                api_description=classify.__doc__,
                **ONE_AT_A_TIME,
            )
    if opened.tower.config.use_cls_token:
        gr.Markdown("## What it attends to")
        attention_part(opened, image, classified)  # so that an unreadable image is said once
    gr.Markdown("## What the class depends on")
    with gr.Row():
        with gr.Column(min_width=280):
            button = gr.Button("Draw the occlusion map", variant="secondary")
            gr.Markdown("Each window of 3 x 3 patches is replaced by the mean of the image: one forward a patch.")
        with gr.Column(min_width=280):
            drawn = Drawing.saying("Not computed yet.", "Occlusion map")
        button.click(
            answering(lambda image: occlusion(opened, image)),
            image,
            drawn,
            api_name="occlusion",
            api_description=occlusion.__doc__,
            **ONE_AT_A_TIME,
        )
        image.change(lambda: drawn.value, None, drawn, api_visibility="private", queue=False)


def attention_tab(opened: OpenedCheckpoint) -> None:
    """Build the tab of the vision tower of a model without classes."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = ImageFile.labelled("Image to look at")
            add_examples(opened, [image], 8)
        with gr.Column(min_width=280):
            attention_part(opened, image)


def attention_part(opened: OpenedCheckpoint, image: ImageFile, after: Any = None) -> None:
    """Add two sliders and the map that they choose, drawn for a new image, or once an event `after` it succeeded."""
    config = opened.tower.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    with gr.Row():
        with gr.Column(min_width=280):
            layer = gr.Slider(1, layers, layers, step=1, label="Layer", buttons=[])
            head = gr.Slider(0, heads, 0, step=1, label="Head (0 is the mean of all heads)", buttons=[])
        with gr.Column(min_width=280):
            drawn = Drawing.saying("The attention map appears here, once there is an image.", "Attention map")

    def answer(image: Any, layer: int, head: int) -> dict[str, Any]:
        return attention(opened, image, layer, head) if image else drawn.value

    gr.on(
        [layer.change, head.change, *([] if after else [image.change])],
        answering(answer),
        [image, layer, head],
        drawn,
        api_name="attention",
        api_description=attention.__doc__,
        trigger_mode="always_last",
        **ONE_AT_A_TIME,
    )
    if after:
        after.success(answering(answer), [image, layer, head], drawn, api_visibility="private", **ONE_AT_A_TIME)


__all__ = ["attention", "attention_tab", "classify", "classify_tab", "occlusion"]
