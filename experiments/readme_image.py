"""Draw README's image: test images, what the bundled classifier predicts, and where its last layer attends.

    python -m experiments.readme_image --dataset data/fashion_mnist --output docs/predictions.png

The first test image of each class is taken, right or wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import AutoImageProcessor

from modeling_omni_vision import OmniVisionForImageClassification
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.sources import load_images
from modeling_omni_vision.image_processing_omni_vision import read_image
from modeling_omni_vision.interpretability.plots import Scale, add_colour_bar, overlay, save, show
from modeling_omni_vision.interpretability.style import TRUTH


CHECKPOINT = "checkpoints/omni-vision-fashion-mnist"


@torch.inference_mode()
def draw(dataset: str, output: Path) -> None:
    """Write the image: one column for each class, the input above its attention map."""
    model = OmniVisionForImageClassification.from_pretrained(CHECKPOINT).eval()
    test = load_images(dataset)["test"]
    classes = range(len(model.config.id2label))
    images = [read_image(test[test["label"][:].index(label)]["image"], 1)[..., 0] for label in classes]
    pixels = AutoImageProcessor.from_pretrained(CHECKPOINT)(images, return_tensors="pt")["pixel_values"]
    best = model(pixels).logits.softmax(-1).max(-1)
    maps = model.base_model.attention_maps(pixels, layers=[-1])[:, 0].mean(1)  # (images, rows, columns)
    maps = maps * maps[0].numel() / maps.sum((-2, -1), keepdim=True)
    scale = Scale.of([maps.numpy()], "times an even share", least=2.0, low=0.0)
    figure = Figure(figsize=(1.25 * len(images) + 0.8, 2.9), layout="constrained")
    panels = figure.subplots(2, len(images))
    for label, (above, below) in enumerate(panels.T):
        found = int(best.indices[label])
        above.set_title(model.config.id2label[found], fontsize=9, color="black" if found == label else TRUTH)
        below.set_xlabel(f"{best.values[label]:.0%}", fontsize=9)
        show(above, images[label][..., None])
        overlay(below, images[label][..., None], maps[label].numpy(), scale)
    add_colour_bar(figure, list(panels.flat), scale)
    save(figure, output, exact_colours=True)


@dataclass
class ImageArguments:
    """What to draw."""

    dataset: str = option("Folder of the IDX files of Fashion-MNIST.")
    output: Path = option("PNG file to write.", Path("docs/predictions.png"))


@program
def main(argv: Sequence[str]) -> None:
    args = parse(ImageArguments, argv)
    draw(args.dataset, args.output)


if __name__ == "__main__":
    main()
