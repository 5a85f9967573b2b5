"""Trained classifiers that teach another one beside the labels, each asked about the same changed images.

That teacher and student see one and the same view is what makes long training pay (Beyer et al. 2022,
https://arxiv.org/abs/2106.05237). `omni-vision distill` needs no labels and teaches vectors; here answers are taught.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..evaluation.evaluate import class_names, load_classifier
from ..records.weights_digest import weights_digest


# What decides the pixels of an image, of the fields of an image processor.
OF_PIXELS: tuple[str, ...] = ("size", "num_channels", "do_convert_rgb", "background_color", "do_rescale")
OF_PIXELS += ("rescale_factor", "do_normalize", "image_mean", "image_std")


class ClassifierTeachers:
    """The mean of what some classifiers answer.

    Args:
        folders: Of the classifiers, with their image processors.
        processor: Image processor of the student.
        classes: Names of the student's classes, in their order.
        temperature: Divides the logits: above 1 wrong classes count for more.
        device: Where they compute.

    Raises:
        ValueError: for a teacher of other classes, or one that sees other pixels than the student.
    """

    def __init__(
        self, folders: Sequence[str], processor: Any, classes: list[str], temperature: float, device: torch.device
    ) -> None:
        self.temperature, self.models = temperature, [self._open(one, processor, classes) for one in folders]
        for model in self.models:
            model.to(device).eval().requires_grad_(False)

    def _open(self, folder: str, processor: Any, classes: list[str]) -> nn.Module:
        model, own = load_classifier(Path(folder))
        names = class_names(model.config)
        if names != classes:
            raise ValueError(
                f"A teacher must know the classes {classes} in this order, got {names} in {folder!r}. Train it on the "
                "same data."
            )
        different = [name for name in OF_PIXELS if getattr(own, name, None) != getattr(processor, name, None)]
        if different:
            raise ValueError(
                f"A teacher must see the pixels of the student, got other {', '.join(different)} in {folder!r}. "
                "Choose a student of the same size and channels, or teach it by omni-vision distill."
            )
        return model

    @property
    def digests(self) -> list[str]:
        """Digests of the weights."""
        return [weights_digest(model) for model in self.models]

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return class probabilities (B, classes) of images (B, C, H, W), in float32."""
        answers = [model(pixel_values).logits.float() for model in self.models]
        return torch.stack([(one / self.temperature).softmax(-1) for one in answers]).mean(0)

    def loss(self, logits: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the divergence from the teachers' answers, times the squared temperature (Hinton et al. 2015)."""
        found = (logits.float() / self.temperature).log_softmax(-1)
        divergence = nn.functional.kl_div(found, self(pixel_values), reduction="batchmean")
        return self.temperature**2 * divergence


__all__ = ["ClassifierTeachers"]
