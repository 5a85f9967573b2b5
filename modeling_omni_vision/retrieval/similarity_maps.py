"""Per-token similarity maps of one image, the attention of CLS, and which kind of token scores best for each word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from ..embedding.encoder import ImageTextEncoder
from ..interpretability.cls_dominance import all_tokens
from ..interpretability.plots import drawable, plot_attention, save
from ..interpretability.style import OURS, THIRD, TRUTH
from .contact_sheet import contact_sheet
from .index import Hit
from .losses import unwrap_retrieval_model


KINDS = {"CLS": TRUTH, "best register": THIRD, "best patch": OURS}


@torch.no_grad()
def visualize(model: str, image: str, text: str, output: Path, revision: str | None = None) -> list[Path]:
    """Draw how a retrieval checkpoint relates the words of a text to an image, and return the three PNG files.

    Args:
        model: Folder or Hub id of an [`OmniVisionForRetrieval`] with its processor. Its code runs.
        image: File of the image.
        text: The query.
        output: Folder to write `words.png` (the similarity map of each word), `attention.png` (the attention of CLS in
            the last layer) and `token_kinds.png` (for each word the cosine of CLS, of the best register and of the
            best patch) into.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ValueError: for an image that cannot be read, a text without a word, or what is no retrieval checkpoint.
    """
    encoder = ImageTextEncoder(model, revision)
    core, image_processor = unwrap_retrieval_model(encoder.model).eval(), encoder.model.processor.image_processor
    encoded = encoder.text(text)
    if not encoded.words:
        raise ValueError(f"Expected a text with a word that the checkpoint knows, got {text!r}. Use other words.")
    decoded = image_processor.fetch_images(image)
    pixel_values = image_processor(images=[decoded], return_tensors="pt")["pixel_values"]
    resized = image_processor(images=[decoded], do_normalize=False, return_tensors="pt")["pixel_values"][0]
    # As `omni-vision search` scores: the sum over the tokens of the text.
    score = float((encoded.embeds @ encoder.images([decoded])[0].T).amax(1).sum())
    title = f"{text}: similarity map of each word"
    words = contact_sheet([Hit(score, image, image)], output / "words.png", title, encoder, text)
    maps = core.vision_model.attention_maps(pixel_values)[:, 0].numpy()
    # Pixel values 0..255 (height, width, channels), as large as the model's input.
    background = (resized * 255).permute(1, 2, 0).numpy()
    attention = plot_attention([background], maps, [Path(image).name], output / "attention.png")
    tokens, num_prefix_tokens = all_tokens(core, pixel_values)[0], core.vision_model.num_prefix_tokens
    cosines = normalize(encoded.embeds, dim=-1) @ tokens.T
    kinds = {"CLS": cosines[:, 0], "best patch": cosines[:, num_prefix_tokens:].amax(1)}
    if num_prefix_tokens > 1:
        kinds["best register"] = cosines[:, 1:num_prefix_tokens].amax(1)
    word_ids, numbers = torch.tensor(encoded.word_ids), range(len(encoded.words))
    means = {name: [float(one[word_ids == number].mean()) for number in numbers] for name, one in kinds.items()}
    return [words, attention, plot_token_kinds(encoded.words, means, output / "token_kinds.png")]


def plot_token_kinds(words: Sequence[str], cosines: dict[str, list[float]], path: Path) -> Path:
    """Draw for each word the cosines of kinds of tokens side by side."""
    figure = Figure(figsize=(max(4.0, 0.9 * len(words) + 1.5), 3), layout="constrained")
    axes = figure.subplots()
    width, places = 0.8 / len(cosines), np.arange(len(words))
    for number, (name, values) in enumerate(cosines.items()):
        axes.bar(places + (number - (len(cosines) - 1) / 2) * width, values, width, color=KINDS[name], label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, [drawable(word) for word in words], rotation=45 if len(words) > 8 else 0)
    axes.set_ylabel("cosine with the word")
    axes.set_title("Which kind of image token is most like each word", fontsize=10)
    # Below the axes: bars can reach any corner.
    figure.legend(loc="outside lower center", ncols=len(cosines), frameon=False, fontsize=8)
    return save(figure, path)


__all__ = ["plot_token_kinds", "visualize"]
