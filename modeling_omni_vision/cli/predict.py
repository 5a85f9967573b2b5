"""Classify images with a checkpoint, with transformers only, as without this package.

    omni-vision predict --model runs/quickstart --images runs/quickstart/images --sheet predictions.png
    omni-vision predict --model runs/quickstart --images a.png more_images --top_k 3 --csv predictions.csv

`--model` is a folder or a Hub id; its code runs because of `trust_remote_code=True`, so pass a `--revision`
for checkpoints that are not yours. `--images` are files and folders, mixed as you like. Where an image lies in a
folder that has the name of a class of the model, that class is its truth. `--sheet` draws a PNG of all images with
their predictions. Images that cannot be read are listed with the reason of each, also in skipped.jsonl beside what is
written, and the exit status is then 3; the others are predicted; --on_error stop refuses them.
"""

import csv
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import JSON, REVISION, option, parse, write_result
from .model_kind import CLASSIFIER, check_kind
from .program import SOME_UNREADABLE, program


if TYPE_CHECKING:
    from ..data.image_files import FoundImage


MAX_ON_SHEET = 200
MULTI_LABEL = "multi_label_classification"


@dataclass
class PredictArguments:
    """What to classify, and with what."""

    model: str = option("Folder or Hub id of a classifier.")
    images: list[str] = option("Files and folders of images.")
    revision: str | None = option(REVISION, None)
    batch_size: int = option("Images in one forward.", 32)
    top_k: int = option("Labels of each image, the most probable first.", 1)
    sheet: str | None = option("PNG to draw.", None)
    csv: str | None = option("CSV file to write: image, truth, and label and probability of each of --top_k.", None)
    on_error: str = option("stop or skip, for files that cannot be read.", "skip", choices=("stop", "skip"))
    json: str | None = option(JSON, None, bare="-")


@dataclass(frozen=True)
class Prediction:
    """The most probable label of an image file, its probability, its truth where that is known, and the first labels.

    `error` says why a file cannot be read; it has no label then.
    """

    image: str
    label: str | None = None
    probability: float | None = None
    truth: str | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def list_images(places: Sequence[str]) -> "list[FoundImage]":
    """Return the image files named and those below the folders named; what is left out is logged."""
    from ..data.image_files import displayed, find_images
    from ..data.image_folder import warn_of_left_out

    found, left_out = find_images(places)
    warn_of_left_out(left_out, ", ".join(map(displayed, places)))
    if not found:
        raise ValueError(f"Expected image files or folders that hold some in --images, got {list(places)!r}.")
    return found


def processor_input(file: Path, model: Any, processor: Any) -> Any:
    """Return the path, or a grey image for a stock processor of a grey model, which takes images as they are."""
    from PIL import Image, ImageOps

    if getattr(model.config, "num_channels", 3) != 1 or getattr(processor, "do_convert_rgb", False):
        return str(file.absolute())
    return ImageOps.exif_transpose(Image.open(file)).convert("L")


def predict(
    model: str, images: "Sequence[FoundImage]", revision: str | None = None, batch_size: int = 32, top_k: int = 1
) -> list[Prediction]:
    """Classify what `list_images` found and return a prediction for each, in their order.

    Raises:
        ValueError: if not one of them can be read.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ..data.image_files import stored_path
    from ..data.integrity import read_each
    from ..interop.export.exported import is_exported, load_exported
    from ..interop.vision_tower import load_complete

    if batch_size < 1 or top_k < 1:
        raise ValueError(f"Expected --batch_size and --top_k of at least 1, got {batch_size} and {top_k}.")
    options: dict[str, Any] = {"trust_remote_code": True, "revision": revision}
    if is_exported(model):
        classifier: Any = load_exported(model)
        if (kind := classifier.record["kind"]) != CLASSIFIER:
            raise ValueError(f"Expected a classifier in {model!r}, got an exported {kind}, which returns vectors.")
        processor = classifier.processor
    else:
        classifier = load_complete(AutoModelForImageClassification, model, **options)
        processor = AutoImageProcessor.from_pretrained(model, **options)
    names, places = classifier.config.id2label, {one.file: one.place for one in images}

    def pixels(batch: Sequence[Path]) -> Sequence[torch.Tensor]:
        inputs = [processor_input(file, classifier, processor) for file in batch]
        return processor(inputs, return_tensors="pt")["pixel_values"]

    found: dict[Path, Prediction] = {}
    for start in range(0, len(places), batch_size):
        read, failed = read_each([*places][start : start + batch_size], pixels)
        found |= {file: Prediction(stored_path(file), error=reason) for file, reason in failed}
        if not read:
            continue
        with torch.inference_mode():
            stacked = torch.stack([one for _, one in read]).to(classifier.device, classifier.dtype)
            logits = classifier(stacked).logits.float()
        if not logits.isfinite().all():
            raise ValueError(
                f"Expected a number for each class from {model!r}, got NaN or infinity. Its weights are broken: train "
                "or copy it again."
            )
        lists = classifier.config.problem_type == MULTI_LABEL
        best = (logits.sigmoid() if lists else logits.softmax(-1)).topk(min(top_k, len(names)))
        for row, ((file, _), numbers, shares) in enumerate(
            zip(read, best.indices.tolist(), best.values.tolist(), strict=True)
        ):
            top = tuple((names[one], share) for one, share in zip(numbers, shares, strict=True))
            truth = folder_class(file, places[file], names.values())
            label, share = above_thresholds(classifier.config, logits[row].sigmoid().tolist()) if lists else top[0]
            found[file] = Prediction(stored_path(file), label, share, None if lists else truth, top)
    if all(one.error for one in found.values()):
        first = found[images[0].file]
        raise ValueError(f"Expected readable images, got {len(found)} that are not: {first.image} ({first.error}).")
    return [found[file] for file in places]


def folder_class(file: Path, place: Path, names: Collection[str]) -> str | None:
    """Return the nearest folder above a file, up to the place it was found in, that is called like a class."""
    for folder in file.parents:
        if folder.name in names:
            return folder.name
        if place in (folder, file):
            break
    return None


def above_thresholds(config: Any, probabilities: Sequence[float]) -> tuple[str, float]:
    """Return the labels above the thresholds of a model, joined by commas, and the smallest probability of them."""
    chosen = getattr(config, "label_thresholds", None) or {}
    named = [(config.id2label[number], share) for number, share in enumerate(probabilities)]
    found = [(name, share) for name, share in named if share >= chosen.get(name, 0.5)]
    # Without any label, how sure that is.
    return ", ".join(name for name, _ in found), min((s for _, s in found), default=1 - max(probabilities))


def draw_predictions(found: Sequence[Prediction], path: Path) -> Path:
    """Draw a sheet of images with their predictions and, where it is known, their truth: what differs is red."""
    import numpy as np

    from ..data.image_files import displayed, path_of
    from ..embedding.embedded import thumbnail
    from ..interpretability.plots import draw_sheet, shortened
    from ..interpretability.style import OURS, TRUTH

    readable = [one for one in found if one.label is not None]
    drawn = readable[:MAX_ON_SHEET]
    known = any(one.truth for one in drawn)
    more = f", the first {len(drawn)} of {len(readable)}" if len(drawn) < len(readable) else ""
    return draw_sheet(
        [np.asarray(thumbnail(path_of(one.image), 512)) for one in drawn],
        [shortened(displayed(path_of(one.image).name), 18) for one in drawn],
        [f"{shortened(str(one.label), 16)}\n{one.probability:.0%}{_not(one)}" for one in drawn],
        [TRUTH if one.truth not in (None, one.label) else OURS for one in drawn],
        f"Predictions{', red where the folder names another class' if known else ''}{more}",
        path,
        columns=min(10, len(drawn)),
    )


def _not(one: Prediction) -> str:
    from ..interpretability.plots import shortened

    return f", not {shortened(str(one.truth), 10)}" if one.truth not in (None, one.label) else ""


def write_csv(found: Sequence[Prediction], path: str) -> None:
    """Write a row for each image: its path, truth and error, and label and probability of each of the first labels."""
    count = max((len(one.top) for one in found), default=1)
    ends = ["", *(f"_{number}" for number in range(2, count + 1))]
    heads = [f"{name}{end}" for end in ends for name in ("label", "probability")]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "truth", *heads, "error"])
        for one in found:
            values = [value for pair in one.top for value in pair]
            writer.writerow([one.image, one.truth or "", *values, *[""] * (len(heads) - len(values)), one.error or ""])


def print_table(found: Sequence[Prediction]) -> None:
    """Print a line for each image, with the truth in a column of its own where one is known."""
    from ..data.image_files import displayed, path_of

    known = any(one.truth for one in found)
    width = max([14, *(len(label) + 2 for one in found for label, _ in one.top)])
    print((f"{'truth':<{width}}" if known else "") + f"{'prediction':<{width}}{'probability':<13}image")
    for one in found:
        for place, (label, share) in enumerate(one.top):
            truth = f"{one.truth or '' if place == 0 else '':<{width}}" if known else ""
            print(
                f"{truth}{label:<{width}}{share:<13.3f}{displayed(path_of(one.image)) if place == 0 else ''}".rstrip()
            )
    right = [one.label == one.truth for one in found if one.truth is not None]
    if right:
        print(f"{sum(right)} of {len(right)} images have the class that their folder names")


def end_unreadable(failed: Sequence[tuple[str, str]], total: int, folder: Path | None) -> None:
    """Name the images that could not be read, in skipped.jsonl of a folder too, and end with a status that says so."""
    from ..data.image_files import displayed, path_of
    from ..data.integrity import write_skipped

    if not failed:
        return
    if folder is not None:
        write_skipped(folder, ({"image": image, "reason": reason} for image, reason in failed))
    for image, reason in failed:
        print(f"{displayed(path_of(image))}: {reason}", file=sys.stderr)
    print(f"{len(failed)} of {total} files cannot be read", file=sys.stderr)
    raise SystemExit(SOME_UNREADABLE)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(PredictArguments, argv)
    check_kind(arguments.model, CLASSIFIER, revision=arguments.revision)
    from ..data.integrity import find_unreadable, refuse_unreadable

    images = list_images(arguments.images)
    if arguments.on_error == "stop" and (broken := find_unreadable([one.file for one in images])):
        refuse_unreadable([(name, reason) for _, name, reason in broken], len(images), "stop")
    found = predict(arguments.model, images, arguments.revision, arguments.batch_size, arguments.top_k)
    if arguments.csv:
        write_csv(found, arguments.csv)
    if not write_result([asdict(one) for one in found], arguments.json):
        print_table(found)
    if arguments.sheet:
        draw_predictions(found, Path(arguments.sheet))
        print(f"Sheet: {arguments.sheet}", file=sys.stderr if arguments.json == "-" else sys.stdout)
    failed = [(one.image, one.error) for one in found if one.error is not None]
    written = arguments.sheet or arguments.csv or (arguments.json if arguments.json != "-" else None)
    end_unreadable(failed, len(found), Path(written).parent if written else None)
