"""Classify images with a checkpoint, with transformers only, as without this package.

    omni-vision predict --model runs/quickstart --images runs/quickstart/images --sheet predictions.png

`--model` is a folder or a Hub id; its code runs because of `trust_remote_code=True`, so pass a `--revision`
for checkpoints that are not yours. `--images` are files or folders; the label of an image is compared with the name of
its folder. `--sheet` draws a PNG of all images with their predictions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .arguments import JSON, REVISION, option, parse, write_result
from .program import program


@dataclass
class PredictArguments:
    """What to classify, and with what."""

    model: str = option("Folder or Hub id of a classifier.")
    images: list[str] = option("Files and folders of images.")
    revision: str | None = option(REVISION, None)
    batch_size: int = option("Images in one forward.", 32)
    sheet: str | None = option("PNG to draw.", None)
    json: str | None = option(JSON, None, bare="-")


@dataclass(frozen=True)
class Prediction:
    """The most probable label of an image file, its probability, and the name of the folder that holds the file."""

    image: str
    label: str
    probability: float
    folder: str


def find_images(places: Sequence[str]) -> list[Path]:
    """Return the files named, and all files below the folders named, sorted."""
    files = [file for place in map(Path, places) for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    files = [file for file in files if not file.is_dir()]
    if not files:
        raise ValueError(f"Expected image files or folders that hold some in --images, got {list(places)!r}.")
    return files


def processor_input(file: Path, model: Any, processor: Any) -> Any:
    """Return the path, or a grey image for a stock processor of a grey model, which takes images as they are."""
    from PIL import Image, ImageOps

    if getattr(model.config, "num_channels", 3) != 1 or getattr(processor, "do_convert_rgb", False):
        return str(file)
    return ImageOps.exif_transpose(Image.open(file)).convert("L")


def predict(model: str, files: Sequence[Path], revision: str | None = None, batch_size: int = 32) -> list[Prediction]:
    """Classify files and return a prediction for each."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    options = {"trust_remote_code": True, "revision": revision}
    classifier = AutoModelForImageClassification.from_pretrained(model, **options).eval()
    processor = AutoImageProcessor.from_pretrained(model, **options)
    found = []
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        images = [processor_input(file, classifier, processor) for file in batch]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            best = classifier(pixels).logits.softmax(-1).max(-1)
        found += [
            Prediction(str(file), classifier.config.id2label[label], probability, file.parent.name)
            for file, label, probability in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    return found


def draw_predictions(found: Sequence[Prediction], path: Path) -> Path:
    """Draw a sheet of images with their folders and predictions; those that differ are red."""
    from ..image_processing_omni_vision import read_image
    from ..interpretability.plots import OURS, TRUTH, draw_sheet, shortened

    return draw_sheet(
        [read_image(one.image, num_channels=3) for one in found],
        [shortened(one.folder, 14) for one in found],
        [f"{shortened(one.label, 14)}, {one.probability:.0%}" for one in found],
        [OURS if one.label == one.folder else TRUTH for one in found],
        "Folder of each image, and its prediction",
        path,
        columns=10,
    )


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(PredictArguments, argv)
    files = find_images(arguments.images)
    found = predict(arguments.model, files, arguments.revision, arguments.batch_size)
    if arguments.sheet:
        draw_predictions(found, Path(arguments.sheet))
    if write_result([asdict(one) for one in found], arguments.json):
        return
    print(f"{'folder':<14}{'prediction':<14}{'probability':<13}image")
    for one in found:
        print(f"{one.folder:<14}{one.label:<14}{one.probability:<13.3f}{one.image}")
    right = sum(one.folder == one.label for one in found)
    print(f"{right} of {len(found)} images lie in a folder that has the name of their prediction")
    if arguments.sheet:
        print(f"Sheet: {arguments.sheet}")
