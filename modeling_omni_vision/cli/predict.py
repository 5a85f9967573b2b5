"""Classify images with a checkpoint, with transformers only, as without this package.

    omni-vision predict --model runs/quickstart --images runs/quickstart/images --sheet predictions.png

`--model` is a folder or a Hub id; its code runs because of `trust_remote_code=True`, so pass a `--revision`
for checkpoints that are not yours. `--images` are files or folders. Where a folder above an image has the name of a
class of the model, the prediction is compared with it. Files that cannot be read are listed, also in skipped.jsonl
beside the JSON or the sheet; --on_error stop refuses them. `--sheet` draws a PNG of all images with their predictions.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import JSON, REVISION, option, parse, write_result
from .program import program


if TYPE_CHECKING:
    from ..data.image_files import FoundImage


@dataclass
class PredictArguments:
    """What to classify, and with what."""

    model: str = option("Folder or Hub id of a classifier.")
    images: list[str] = option("Files and folders of images.")
    revision: str | None = option(REVISION, None)
    batch_size: int = option("Images in one forward.", 32)
    sheet: str | None = option("PNG to draw.", None)
    on_error: str = option("stop or skip, for files that cannot be read.", "skip")
    json: str | None = option(JSON, None, bare="-")


@dataclass(frozen=True)
class Prediction:
    """The most probable label of an image file, its probability, and the class that a folder above the file names."""

    image: str
    label: str
    probability: float
    folder: str | None


def processor_input(file: Path, model: Any, processor: Any) -> Any:
    """Return the path, or a grey image for a stock processor of a grey model, which takes images as they are."""
    from PIL import Image, ImageOps

    if getattr(model.config, "num_channels", 3) != 1 or getattr(processor, "do_convert_rgb", False):
        return str(file.absolute())
    return ImageOps.exif_transpose(Image.open(file)).convert("L")


def predict(
    model: str, images: Sequence["FoundImage"], revision: str | None = None, batch_size: int = 32
) -> tuple[list[Prediction], list[tuple[Path, str]]]:
    """Classify what `find_images` found; return a prediction for each, and what cannot be read with the reason.

    Raises:
        ValueError: if not one of them can be read.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ..data.image_files import stored_path
    from ..data.integrity import read_each

    options = {"trust_remote_code": True, "revision": revision}
    classifier = AutoModelForImageClassification.from_pretrained(model, **options).eval()
    processor = AutoImageProcessor.from_pretrained(model, **options)
    names = classifier.config.id2label
    places = {one.file: one.place for one in images}

    def pixels(batch: Sequence[Path]) -> Sequence[torch.Tensor]:
        inputs = [processor_input(file, classifier, processor) for file in batch]
        return processor(inputs, return_tensors="pt")["pixel_values"]

    found, failed = list[Prediction](), list[tuple[Path, str]]()
    for start in range(0, len(places), batch_size):
        read, broken = read_each([*places][start : start + batch_size], pixels)
        failed += broken
        if not read:
            continue
        with torch.inference_mode():
            best = classifier(torch.stack([one for _, one in read])).logits.softmax(-1).max(-1)
        found += [
            Prediction(stored_path(file), names[label], probability, folder_class(file, places[file], names.values()))
            for (file, _), label, probability in zip(read, best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    if not found:
        raise ValueError(f"Expected readable images, got {len(failed)} that are not: {failed[0][0]} ({failed[0][1]}).")
    return found, failed


def folder_class(file: Path, place: Path, names: Collection[str]) -> str | None:
    """Return the nearest folder above a file, up to the place it was found in, that is called like a class."""
    for folder in file.parents:
        if folder.name in names:
            return folder.name
        if place in (folder, file):
            break
    return None


def draw_predictions(found: Sequence[Prediction], path: Path) -> Path:
    """Draw a sheet of images with their folders and predictions; those that differ are red."""
    from ..image_processing_omni_vision import read_image
    from ..interpretability.plots import OURS, TRUTH, draw_sheet, shortened

    return draw_sheet(
        [read_image(one.image, num_channels=3) for one in found],
        [shortened(one.folder or "", 14) for one in found],
        [f"{shortened(one.label, 14)}, {one.probability:.0%}" for one in found],
        [OURS if one.folder in (one.label, None) else TRUTH for one in found],
        "Folder of each image, and its prediction" if any(one.folder for one in found) else "Predictions",
        path,
        columns=10,
    )


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(PredictArguments, argv)
    from ..data.image_files import displayed, find_images, path_of, stored_path
    from ..data.image_folder import warn_of_left_out
    from ..data.integrity import check_on_error, find_unreadable, refuse_unreadable, write_skipped

    check_on_error(arguments.on_error)
    images, left_out = find_images(arguments.images)
    warn_of_left_out(left_out, ", ".join(map(displayed, arguments.images)))
    if not images:
        raise ValueError(f"Expected image files or folders that hold some in --images, got {arguments.images!r}.")
    if arguments.on_error == "stop" and (broken := find_unreadable([one.file for one in images])):
        refuse_unreadable([(name, reason) for _, name, reason in broken], len(images), "stop")
    found, failed = predict(arguments.model, images, arguments.revision, arguments.batch_size)
    if arguments.sheet:
        draw_predictions(found, Path(arguments.sheet))
    output = arguments.sheet or (arguments.json if arguments.json != "-" else None)
    if failed:
        refuse_unreadable([(displayed(file), why) for file, why in failed], len(images), "skip")
    if failed and output:
        write_skipped(Path(output).parent, ({"image": stored_path(file), "reason": why} for file, why in failed))
    if write_result([asdict(one) for one in found], arguments.json):
        return
    with_truth = [one for one in found if one.folder is not None]
    print(("folder        " if with_truth else "") + f"{'prediction':<14}{'probability':<13}image")
    for one in found:
        truth = f"{one.folder or '':<14}" if with_truth else ""
        print(f"{truth}{one.label:<14}{one.probability:<13.3f}{displayed(path_of(one.image))}")
    for file, _ in failed:
        print(f"{'' if not with_truth else ' ' * 14}{'cannot be read':<27}{displayed(file)}")
    if with_truth:
        right = sum(one.folder == one.label for one in with_truth)
        print(f"{right} of {len(with_truth)} images lie in a folder that has the name of their prediction")
    if arguments.sheet:
        print(f"Sheet: {arguments.sheet}")
