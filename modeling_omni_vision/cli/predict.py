"""Classify images with a checkpoint, exactly as a stranger would: transformers only, none of our package.

    python scripts/predict.py --model runs/quickstart --images runs/quickstart/images

`--model` is a folder or a Hub id; its code runs because `trust_remote_code=True`, so pass a `--revision`
for checkpoints that are not yours. `--images` are files or folders; an image in a folder that is called
like a label is compared with that truth.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification


def images_in(places: Sequence[str]) -> list[Path]:
    """List the files named, and all files below the folders named, sorted."""
    files = [file for place in map(Path, places) for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    files = [file for file in files if not file.is_dir()]
    if not files:
        raise ValueError(f"Expected image files or folders that hold some, got {list(places)!r}.")
    return files


def as_processor_wants(file: Path, model: Any, processor: Any) -> Any:
    """Give a file by its path; grey to a stock processor of a grey model, which takes images as they are."""
    if getattr(model.config, "num_channels", 3) != 1 or getattr(processor, "do_convert_rgb", False):
        return str(file)
    return ImageOps.exif_transpose(Image.open(file)).convert("L")


@torch.inference_mode()
def predict(
    checkpoint: str, files: Sequence[Path], revision: str | None = None, batch_size: int = 32
) -> list[tuple[Path, str, float]]:
    """Return (file, label, probability) for each file."""
    options = {"trust_remote_code": True, "revision": revision}
    model = AutoModelForImageClassification.from_pretrained(checkpoint, **options).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint, **options)
    print(f"opened {checkpoint} as {type(model).__module__.split('.')[0]}...{type(model).__name__}")
    rows = []
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        images = [as_processor_wants(file, model, processor) for file in batch]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        best = model(pixels).logits.softmax(-1).max(-1)
        rows += [
            (file, model.config.id2label[label], probability)
            for file, label, probability in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, nargs="+")
    parser.add_argument("--revision")
    arguments = parser.parse_args(argv)
    rows = predict(arguments.model, images_in(arguments.images), arguments.revision)
    print(f"{'truth':<14}{'prediction':<14}{'probability':<13}image")
    for file, label, probability in rows:
        print(f"{file.parent.name:<14}{label:<14}{probability:<13.3f}{file}")
    right = sum(file.parent.name == label for file, label, _ in rows)
    print(f"{right} of {len(rows)} images lie in a folder that is called like their prediction")


if __name__ == "__main__":
    main()
