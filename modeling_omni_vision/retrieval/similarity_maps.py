"""What a search checkpoint sees in one image: where each word looks, where CLS looks, which token wins each word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from ..embedding.encoder import ImageTextEncoder
from ..interpretability.cls_dominance import all_tokens
from ..interpretability.plots import plot_attention, save
from .contact_sheet import contact_sheet
from .index import Hit
from .losses import unwrap_retrieval_model


KINDS = {"CLS": "#c0392b", "best register": "#8e44ad", "best patch": "#1f5fa8"}


@torch.no_grad()
def visualize(checkpoint: str, image: str, text: str, folder: Path, revision: str | None = None) -> list[Path]:
    """Draw an image and a query.

    Args:
        checkpoint: Folder or Hub id of an [`OmniVisionForRetrieval`] with its processor. Its code runs.
        image: File of the image.
        text: The query.
        folder: Where `words.png` (a heat map for each word), `attention.png` (what CLS attends to in the last layer)
            and `winners.png` (for each word the cosine of CLS, of the best register and of the best patch) go.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ValueError: for an image that cannot be read, a text without a word, or what is no retrieval checkpoint.
    """
    encoder = ImageTextEncoder(checkpoint, revision)
    model, processor = unwrap_retrieval_model(encoder.model).eval(), encoder.model.processor
    read = encoder.text(text)
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    score = float((read.embeds @ encoder.images([image])[0].T).amax(1).mean())
    hit = Hit(score, image, image)
    files = [contact_sheet([hit], folder / "words.png", f"{text}: where each word looks", encoder, text)]
    attention = model.vision_model.attention_maps(pixels)[:, 0].numpy()
    files.append(plot_attention([shown(processor, image)], attention, [Path(image).name], folder / "attention.png"))
    tokens, leading = all_tokens(model, pixels)[0], model.vision_model.num_prefix_tokens
    found = normalize(read.embeds, dim=-1) @ tokens.T
    parts = {"CLS": found[:, 0], "best patch": found[:, leading:].amax(1)}
    if leading > 1:
        parts["best register"] = found[:, 1:leading].amax(1)
    owners = torch.tensor(read.owners)
    rows = {
        name: [float(values[owners == word].mean()) for word in range(len(read.words))]
        for name, values in parts.items()
    }
    files.append(plot_winners(read.words, rows, folder / "winners.png"))
    return files


def plot_winners(words: Sequence[str], cosines: dict[str, list[float]], path: Path) -> Path:
    """Draw for each word the cosines of kinds of tokens side by side."""
    figure = Figure(figsize=(max(4.0, 0.9 * len(words) + 1.5), 3), layout="constrained")
    axes = figure.subplots()
    width, places = 0.8 / len(cosines), np.arange(len(words))
    for number, (name, values) in enumerate(cosines.items()):
        axes.bar(places + (number - (len(cosines) - 1) / 2) * width, values, width, color=KINDS[name], label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, [word.replace("$", r"\$") for word in words], rotation=45 if len(words) > 8 else 0)
    axes.set_ylabel("cosine with the word")
    axes.legend(fontsize=8)
    return save(figure, path)


def shown(processor: object, image: str) -> np.ndarray:
    """The image as the model sees it, levels 0..255 of the model's size (height, width, channels)."""
    images = processor.image_processor  # type: ignore[attr-defined]
    levels = images(images=[image], do_normalize=False, return_tensors="pt")["pixel_values"][0]
    return (levels * 255).permute(1, 2, 0).numpy()


__all__ = ["plot_winners", "visualize"]
