"""The images and texts that the user names: what int8 is calibrated on, and what every export is compared on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.hold_out import read_splits
from ...data.image_files import find_images
from ...data.pairs import load_pairs
from ...data.sources import load_images
from ...image_processing_omni_vision import read_image
from ...records.command import without_folder
from ...records.metrics_file import read_metrics
from .runtimes import Arrays
from .towers import CLASSIFIER, RETRIEVAL, TEXTS, Checkpoint, TowerModule, sides


CALIBRATION_SAMPLES = 300
BATCH = 32


@dataclass(frozen=True)
class Samples:
    """Images, with labels or texts where the source has them; others than these are calibrated on."""

    images: Any
    calibration_images: Any
    labels: np.ndarray | None = None
    texts: Sequence[str] = ()
    calibration_texts: Sequence[str] = ()


def load_samples(
    checkpoint: Checkpoint, dataset: str | None, split: str | None, images: Sequence[str], count: int
) -> Samples:
    """Load up to `count` samples of a split, by default validation, and calibration samples of train.

    Files and folders of images have neither labels nor splits: every second one is calibrated on.

    Raises:
        `ValueError`: if not exactly one source is named, it lacks what the kind of model needs, or its classes are
            not those of the model.
    """
    if bool(dataset) == bool(images):
        raise ValueError("Expected images to compare the export on: exactly one of --dataset and --images.")
    if dataset is None:
        if checkpoint.kind == RETRIEVAL:
            raise ValueError("A retrieval model is compared on images and texts: name a --dataset of pairs.")
        files = [one.file for one in find_images(images)[0]]
        if len(files) < 2:
            raise ValueError(f"Expected at least two image files in --images, got {len(files)} in {list(images)!r}.")
        return Samples(files[1::2][:count], files[::2][:CALIBRATION_SAMPLES])
    load: Any = load_pairs if checkpoint.kind == RETRIEVAL else load_images
    splits = load(dataset, **held_out_options(checkpoint, dataset))
    split = split or "validation"
    if split not in splits:
        raise ValueError(f"Expected a split of {dataset!r}, {', '.join(splits)}, got {split!r}.")
    # Shuffled: folders are in the order of their classes.
    rows, others = splits[split].shuffle(seed=0), splits["train"].shuffle(seed=0)
    rows, others = (
        rows.select(range(min(count, len(rows)))),
        others.select(range(min(CALIBRATION_SAMPLES, len(others)))),
    )
    if checkpoint.kind == RETRIEVAL:
        return Samples(rows["image"], others["image"], None, first_texts(rows), first_texts(others))
    if checkpoint.kind == CLASSIFIER:
        expected, found = list(checkpoint.model.config.id2label.values()), rows.features["label"].names
        if expected != found:
            raise ValueError(
                f"Expected the classes of the model, {expected[:6]!r}, in {dataset!r}, got {found[:6]!r}."
            )
    return Samples(rows["image"], others["image"], np.asarray(rows["label"]))


def held_out_options(checkpoint: Checkpoint, dataset: str) -> dict[str, Any]:
    """Return what a run that trained on this data held out, so that no image is compared on that it was trained on."""
    training = read_metrics(checkpoint.folder).get("training") or {}
    arguments = {**(training.get("recipe") or {}), **(training.get("arguments") or {})}
    name = (training.get("dataset") or {}).get("name") or without_folder(str(arguments.get("dataset")))
    if name != without_folder(dataset):
        return {}
    known = ("validation_fraction",) if checkpoint.kind == RETRIEVAL else ("validation_fraction", "test_fraction")
    found = {one: arguments[one] for one in known if arguments.get(one) is not None}
    return found if checkpoint.kind == RETRIEVAL else {**found, "held_out": read_splits(checkpoint.folder)}


def first_texts(rows: Any) -> list[str]:
    """Return the text of each row, of several the first."""
    return [texts[0] for texts in rows["texts"]]


def image_arrays(checkpoint: Checkpoint, sources: Sequence[Any], raw: bool = False) -> Arrays:
    """Return pixel values of images by our policy of reading; `raw` ones are uint8 and not normalised."""
    channels = checkpoint.vision_config.num_channels
    options = {"do_rescale": False, "do_normalize": False} if raw else {}
    images = [read_image(source, channels) for source in sources]
    pixels = checkpoint.image_processor(images, return_tensors="np", input_data_format="channels_last", **options)
    values = np.asarray(pixels["pixel_values"])
    return {"pixel_values": np.rint(values).astype(np.uint8) if raw else values.astype(np.float32)}


def text_arrays(checkpoint: Checkpoint, texts: Sequence[str]) -> Arrays:
    """Return token ids and mask of texts, padded to the longest."""
    tokens = checkpoint.tokenizer(list(texts), padding=True, truncation=True, return_tensors="np")
    return {name: tokens[name].astype(np.int64) for name in TEXTS}


class Batches(Sequence[tuple[Arrays, Arrays]]):
    """The samples of a tower in batches, prepared when they are asked for: inputs for torch and for the export."""

    def __init__(
        self, checkpoint: Checkpoint, tower: TowerModule, samples: Samples, size: int = BATCH, raw: bool = False
    ):
        self.checkpoint, self.is_text, self.size, self.raw = checkpoint, tower.inputs == TEXTS, size, raw
        self.sources = samples.texts if self.is_text else samples.images

    def __len__(self) -> int:
        return -(-len(self.sources) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sources = self.sources[index * self.size : (index + 1) * self.size]
        if self.is_text:
            return (text_arrays(self.checkpoint, sources),) * 2
        inputs = image_arrays(self.checkpoint, sources)
        return inputs, image_arrays(self.checkpoint, sources, True) if self.raw else inputs


def of_other_sizes(checkpoint: Checkpoint, batches: Batches, count: int) -> list[tuple[Arrays, Arrays]]:
    """Return the first `count` images tiled and cut to two sizes, smaller in one direction, larger in the other."""
    patch = sides(checkpoint.vision_config.patch_size)
    # Of the image processor, which need not be the size of the model.
    height, width = batches[0][0]["pixel_values"].shape[2:]
    rows, columns = height // patch[0], width // patch[1]
    found = []
    for down, across in ((max(2, rows // 2), columns + 3), (rows + 3, max(2, columns // 2))):
        wanted = (down * patch[0], across * patch[1])
        # Tiled, since that is the same for normalised pixels and for bytes.
        axes = [np.arange(side) % own for side, own in zip(wanted, (height, width), strict=True)]
        inputs, exported = (
            {name: array[:count, :, axes[0][:, None], axes[1]] for name, array in one.items()} for one in batches[0]
        )
        found.append((inputs, exported))
    return found


def calibration_batches(
    checkpoint: Checkpoint, tower: TowerModule, samples: Samples, size: int | None, raw: bool
) -> list[Arrays]:
    """Return the calibration samples of a tower, one by one, or in whole batches of a fixed size."""
    others = Samples(samples.calibration_images, (), texts=samples.calibration_texts)
    batches = Batches(checkpoint, tower, others, size or 1, raw)
    whole = len(batches.sources) // batches.size
    if not whole:
        raise ValueError(
            f"Expected at least {size} images to calibrate int8 on, got {len(batches.sources)}. Name more."
        )
    return [batches[index][1] for index in range(whole)]


__all__ = [
    "Batches",
    "Samples",
    "calibration_batches",
    "image_arrays",
    "load_samples",
    "of_other_sizes",
    "text_arrays",
]
