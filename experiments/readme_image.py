"""Draw README's image: test images, what the bundled classifier predicts, and where its last layer attends.

    python -m experiments.readme_image --images data/fashion_mnist --output docs/predictions.png

`--images` is the folder of the IDX files. The first test image of each class is taken, right or wrong.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import AutoImageProcessor

from modeling_omni_vision import OmniVisionForImageClassification
from modeling_omni_vision.interpretability.plots import save


CHECKPOINT = "checkpoints/omni-vision-fashion-mnist"


def first_of_each_class(folder: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return the first test image of every class (height, width) and its label."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(len(labels), 28, 28)
    values, first = np.unique(labels, return_index=True)
    return [pixels[index] for index in first], values.tolist()


@torch.inference_mode()
def draw(folder: Path, output: Path) -> None:
    """Write the image: one column for each class, the input above its attention map."""
    model = OmniVisionForImageClassification.from_pretrained(CHECKPOINT).eval()
    images, truth = first_of_each_class(folder)
    pixels = AutoImageProcessor.from_pretrained(CHECKPOINT)(images, return_tensors="pt")["pixel_values"]
    best = model(pixels).logits.softmax(-1).max(-1)
    maps = model.base_model.attention_maps(pixels, layers=[-1])[:, 0].mean(1)  # (images, rows, columns)
    figure = Figure(figsize=(1.25 * len(images), 2.9), layout="constrained")
    for column, axes in enumerate(figure.subplots(2, len(images)).T):
        label, right = int(best.indices[column]), int(best.indices[column]) == truth[column]
        axes[0].imshow(images[column], cmap="gray")
        axes[0].set_title(model.config.id2label[label], fontsize=9, color="black" if right else "#c0392b")
        axes[1].imshow(images[column], cmap="gray")
        axes[1].imshow(maps[column], cmap="inferno", alpha=0.6, extent=(-0.5, 27.5, 27.5, -0.5))
        axes[1].set_xlabel(f"{best.values[column]:.0%}", fontsize=9)
        for one in axes:
            one.set_xticks([])
            one.set_yticks([])
    save(figure, output)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("docs/predictions.png"), help="PNG to write")
    arguments = parser.parse_args(argv)
    draw(arguments.images, arguments.output)


if __name__ == "__main__":
    main()
