"""Open a checkpoint folder as a stranger does and compute what its proof holds.

This file runs in a process of its own, by path and with `python -I`, so it imports nothing of ours.
There our package cannot be imported, the Hub is offline and its cache empty, the network is refused and
the current directory is an empty one: what works here works without us. `open_in_clean_process` in
`proof.py` starts it; `outputs_of_folder` also runs in our own process, with the classes of the package.

Unusual: inputs are arithmetic, not random numbers, so that every version of every library draws the same.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PretrainedConfig


PACKAGE = "modeling_omni_vision"
NUM_PICTURES = 2
# Not square and not the native size: resizing is part of what is proven.
PICTURE_SIZE = (45, 60)
RECIPE = (
    "level(n, y, x, c) = (40 * n + 3 * y + 5 * x + (y * x) // 7 + 60 * c) % 256 for picture n, row y, column x, "
    f"channel c; {NUM_PICTURES} pictures; the processor gets them as 8-bit pictures of {PICTURE_SIZE} pixels, the "
    "model as level / 127.5 - 1 at its native size, in float32 on the CPU"
)


class NoPackage(importlib.abc.MetaPathFinder):
    """Makes our package impossible to import, installed or not."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        """Refuse our package by name, leave every other module to the other finders."""
        if fullname.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {fullname!r}: a stranger does not have it", name=fullname)


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: refuse to look up names or to connect."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise OSError(f"the network is not to be used here: {event} {arguments[1:]!r}")


def levels(num_channels: int, size: tuple[int, int]) -> np.ndarray:
    """Draw the fixed pictures of `RECIPE`: uint8 of shape (pictures, height, width, channels)."""
    n, y, x, c = np.meshgrid(*map(np.arange, (NUM_PICTURES, *size, num_channels)), indexing="ij")
    return ((40 * n + 3 * y + 5 * x + (y * x) // 7 + 60 * c) % 256).astype(np.uint8)


def pixels_for_model(config: PretrainedConfig) -> torch.Tensor:
    """Scale the fixed pictures to float32 (pictures, channels, height, width) of a model's native size."""
    size = (config.image_size, config.image_size) if isinstance(config.image_size, int) else tuple(config.image_size)
    return torch.from_numpy(levels(config.num_channels, size)).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures_for_processor(num_channels: int) -> list[Any]:
    """Wrap the fixed pictures as people pass them: PIL for grey and colour, arrays for other channel counts."""
    drawn = levels(num_channels, PICTURE_SIZE)
    if num_channels in (1, 3):
        return [Image.fromarray(picture.squeeze(-1) if num_channels == 1 else picture) for picture in drawn]
    return list(drawn)


@torch.inference_mode()
def outputs_of_folder(folder: str | Path, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    """
    Open a folder through the Auto classes and run it on the fixed pictures.

    Args:
        folder: Checkpoint folder.
        trust_remote_code: Whether Python files of the folder may run.

    Returns:
        Float32 tensors: `last_hidden_state` (pictures, tokens, hidden), for a classifier `logits` (pictures,
        labels), and for each backend of the image processor its pixels (pictures, channels, height, width).
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(folder, **options)
    pixels = pixels_for_model(config)
    is_classifier = any("ForImageClassification" in name for name in config.architectures or ())
    auto_class = AutoModelForImageClassification if is_classifier else AutoModel
    model = auto_class.from_pretrained(folder, dtype=torch.float32, **options).eval()
    outputs = {"last_hidden_state": model.base_model(pixels).last_hidden_state}
    if is_classifier:
        outputs["logits"] = model(pixels).logits
    for backend in ("pil", "torchvision"):
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **options)
        prepared = processor(pictures_for_processor(config.num_channels), return_tensors="pt")
        outputs[f"pixel_values_{backend}"] = prepared["pixel_values"].float()
    return {name: output.contiguous() for name, output in outputs.items()}


@torch.inference_mode()
def bare_hidden_state(folder: str | Path, trust_remote_code: bool) -> torch.Tensor:
    """Return the last hidden state of what `AutoModel` finds in the folder, a classifier's encoder too."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()
    return model(pixels_for_model(model.config)).last_hidden_state


def main() -> None:
    """Open the folder named by the first argument, write its outputs to the second; the third allows its code."""
    folder, answer, trust = sys.argv[1:]
    sys.meta_path.insert(0, NoPackage())
    sys.addaudithook(refuse_network)
    outputs = outputs_of_folder(folder, trust == "trust")
    if not torch.equal(bare_hidden_state(folder, trust == "trust"), outputs["last_hidden_state"]):
        raise SystemExit("AutoModel does not compute what the encoder of the saved model does")
    torch.save(outputs, answer)


__all__ = ["PACKAGE", "RECIPE", "outputs_of_folder"]


if __name__ == "__main__":
    main()
