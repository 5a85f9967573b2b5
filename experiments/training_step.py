"""What decides how fast our training step is: how long it waits for its data, and its attention.

Both are measured in the shapes of the recipes, in each precision, since not every processor is fast in bfloat16.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Image

from experiments.benchmark_models import NUM_CLASSES, OURS, TRAINING_BATCH, Case, make_step
from experiments.timing import time_in_turns
from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.augmentation import Augmentation
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


DTYPES = ("bfloat16", "float32")
ATTENTIONS = ("eager", "sdpa")
# As in the recipe for Fashion-MNIST.
RECIPE_SHAPE: dict[str, Any] = {"image_size": 28, "patch_size": 4, "num_channels": 1}
RECIPE_BATCH = 128
RECIPE_AUGMENTATION: dict[str, Any] = {"max_translate": 2, "flip": True, "random_erasing": 0.25}
AUGMENTATIONS: tuple[dict[str, Any], ...] = (
    {},
    RECIPE_AUGMENTATION,
    {**RECIPE_AUGMENTATION, "mixup": 0.2, "cutmix": 1.0},
    {**RECIPE_AUGMENTATION, "rand_augment": 9},
)
# 17, 50 and 197 tokens: scanned digits, Fashion-MNIST, the specification.
ATTENTION_SHAPES: tuple[dict[str, Any], ...] = (
    {"image_size": 16, "patch_size": 4, "num_channels": 1},
    RECIPE_SHAPE,
    {"image_size": 224, "patch_size": 16, "num_channels": 3},
)
BATCHES = 10  # different ones, so that their images do not wait in the processor's cache


def data_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """
    Measure, for each kind of augmentation, how much of a training step is making its batch.

    Batches are made in this process, without workers, from images in memory. CPU time decides, so that other
    programs do not count; a disk that is waited for would not either.

    Args:
        rounds: Samples of each.

    Yields:
        Medians of CPU milliseconds, and for each precision the median over rounds of data / (data + step).
    """
    config = OmniVisionConfig(**RECIPE_SHAPE)
    steps = {dtype: make_step(OURS, config, Case("training step", RECIPE_BATCH, dtype, "eager")) for dtype in DTYPES}
    dataset = random_images(config, RECIPE_BATCH * BATCHES)
    makers = {describe(options): batch_maker(config, dataset, options) for options in AUGMENTATIONS}
    samples = time_in_turns({**steps, **makers}, rounds)
    times = {name: timed["cpu_ms"] for name, timed in samples.items()}
    for name in makers:
        yield {
            "augmentation": name,
            "batch_size": RECIPE_BATCH,
            **RECIPE_SHAPE,
            "data_ms": statistics.median(times[name]),
            "step_ms": {dtype: statistics.median(times[dtype]) for dtype in DTYPES},
            "share_waiting": {dtype: share(times[name], times[dtype]) for dtype in DTYPES},
        }


def share(data: list[float], step: list[float]) -> float:
    """Median over rounds of the part of data and step together that is data, in [0, 1]."""
    return statistics.median(one / (one + other) for one, other in zip(data, step, strict=True))


def describe(options: dict[str, Any]) -> str:
    """Say which augmentation it is, in the words of the command line."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in options.items()) or "none"


def random_images(config: OmniVisionConfig, count: int) -> Dataset:
    """Make a dataset of noise in the shape that a model takes."""
    height, width = config.image_size_hw
    channels = () if config.num_channels == 1 else (config.num_channels,)
    noise = torch.randint(0, 256, (count, height, width, *channels), dtype=torch.uint8).numpy()
    names = [str(label) for label in range(NUM_CLASSES)]
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    labels = [row % NUM_CLASSES for row in range(count)]
    return Dataset.from_dict({"image": list(noise), "label": labels}, features=features)


def batch_maker(
    config: OmniVisionConfig, dataset: Dataset, options: dict[str, Any]
) -> Callable[[], dict[str, torch.Tensor]]:
    """Return the function that makes the next batch of training, as a data loader without workers does."""
    height, width = config.image_size_hw
    processor = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=config.num_channels)
    augmentation = Augmentation(len(dataset), (height, width), num_classes=NUM_CLASSES, **options)
    images, collate = ImageDataset(dataset, processor, augmentation), ImageCollator(processor)
    batches = itertools.cycle(torch.randperm(len(dataset)).view(-1, RECIPE_BATCH).tolist())
    return lambda: collate(images.__getitems__(next(batches)))


def attention_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """
    Measure, for each shape and precision, eager attention against sdpa in a training step.

    Args:
        rounds: Samples of each.

    Yields:
        Medians of CPU milliseconds, and the speed of eager relative to sdpa: above 1 eager is faster.
    """
    for shape, dtype in itertools.product(ATTENTION_SHAPES, DTYPES):
        config = OmniVisionConfig(**shape)
        cases = {attention: Case("training step", TRAINING_BATCH, dtype, attention) for attention in ATTENTIONS}
        samples = time_in_turns({name: make_step(OURS, config, case) for name, case in cases.items()}, rounds)
        times = {name: timed["cpu_ms"] for name, timed in samples.items()}
        ratios = [sdpa / eager for sdpa, eager in zip(times["sdpa"], times["eager"], strict=True)]
        yield {
            "tokens": 1 + config.num_patches,
            **shape,
            "batch_size": TRAINING_BATCH,
            "dtype": dtype,
            "cpu_ms": {name: statistics.median(timed) for name, timed in times.items()},
            "eager_relative_to_sdpa": statistics.median(ratios),
        }


DATA_HEAD = (
    "| augmentation | batch ready in ms | "
    + " | ".join(f"{dtype} step ms | waits for data" for dtype in DTYPES)
    + " |\n|---|--:|"
    + "--:|--:|" * len(DTYPES)
)
ATTENTION_HEAD = (
    "| tokens | batch | precision | "
    + " | ".join(f"{name} ms" for name in ATTENTIONS)
    + " | eager / sdpa |\n|--:|--:|---|"
    + "--:|" * len(ATTENTIONS)
    + "--:|"
)


def data_line(row: dict[str, Any]) -> str:
    """One line of the table of data: CPU milliseconds of batch and step, and the share of data in both."""
    pairs = " | ".join(f"{row['step_ms'][dtype]:.0f} | {row['share_waiting'][dtype]:.1%}" for dtype in DTYPES)
    return f"| {row['augmentation']} | {row['data_ms']:.1f} | {pairs} |"


def attention_line(row: dict[str, Any]) -> str:
    """One line of the table of attention: CPU milliseconds a step, and how many times sdpa's speed eager has."""
    times = " | ".join(f"{row['cpu_ms'][name]:.1f}" for name in ATTENTIONS)
    ratio = row["eager_relative_to_sdpa"]
    return f"| {row['tokens']} | {row['batch_size']} | {row['dtype']} | {times} | {ratio:.2f} |"


__all__ = ["ATTENTION_HEAD", "DATA_HEAD", "attention_line", "attention_rows", "data_line", "data_rows"]
