"""A checkpoint of the demo: each part is opened once, when a tab first needs it."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download

from ..interop.vision_tower import (
    load_classifier_weights,
    load_image_processor,
    load_vision_config,
    load_vision_tower,
)


class OpenedCheckpoint:
    """Parts of a checkpoint by what tabs do with them.

    Args:
        model: Folder or Hub id. The code of retrieval and vision-language checkpoints runs.
        revision: Commit, branch or tag on the Hub.
        classifies: Whether it is a classifier, whose tower is opened with its head.
    """

    def __init__(self, model: str, revision: str | None = None, classifies: bool = False) -> None:
        self.name = Path(model).name if Path(model).exists() else model
        self.folder = model if Path(model).exists() else snapshot_download(model, revision=revision)
        self.classifies = classifies

    @cached_property
    def image_processor(self) -> Any:
        """What prepares images."""
        return load_image_processor(self.folder)

    @cached_property
    def classifier(self) -> Any:
        """The classifier, ours or a converted one."""
        return load_classifier_weights(self.folder, load_vision_config(self.folder)).eval()

    @cached_property
    def tower(self) -> Any:
        """The vision tower."""
        return self.classifier.omni_vision if self.classifies else load_vision_tower(self.folder)

    @cached_property
    def encoder(self) -> Any:
        """The encoder of images and texts of a retrieval checkpoint."""
        from ..embedding.encoder import ImageTextEncoder

        return ImageTextEncoder(self.folder)

    @cached_property
    def language(self) -> tuple[Any, Any]:
        """Processor and model of a vision-language checkpoint."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        trust = {"trust_remote_code": True}
        processor = AutoProcessor.from_pretrained(self.folder, **trust)
        return processor, AutoModelForImageTextToText.from_pretrained(self.folder, **trust).eval()

    def pixels(self, image: Any) -> tuple[torch.Tensor, np.ndarray]:
        """Return the pixel values (1, channels, height, width) of an image, and 0..255 what the model sees of it
        (height, width, channels).
        """
        if image is None:
            raise ValueError("Expected an image, got none. Upload one or choose an example.")
        (opened,) = self.image_processor.fetch_images([image])
        values = self.image_processor([opened], return_tensors="pt")["pixel_values"]
        plain = self.image_processor([opened], do_normalize=False, return_tensors="pt")["pixel_values"][0]
        seen = (plain * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return values.to(self.tower.dtype), seen


__all__ = ["OpenedCheckpoint"]
