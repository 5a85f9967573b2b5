r"""Measure students of EfficientNet-Lite0 on the images that docs/distillation holds out, beside their teacher.

    python -m experiments.distillation_proof --data distillation --output record.json \
        --models student=checkpoints/omni-vision-distilled

Each NAME=FOLDER is written to `agreement` of the record, such as docs/runs/distillation.json; what that says of other
names stays. Speed is that of `student`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_omni_vision import OmniVisionModel
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.evaluation.agreement import agreement, recall_at_1
from modeling_omni_vision.interop import load_image_processor, load_vision_tower
from modeling_omni_vision.records.metrics_file import write_json
from modeling_omni_vision.training.distillation_data import read_images, vectors_of
from modeling_omni_vision.training.distillation_measures import (
    compare_speed,
    encode_pixels,
    label_accuracies,
    read_labels,
)
from modeling_omni_vision.training.teacher import load_teacher

from .distillation_images import PLACES


SIZE = 224
QUERIES, GALLERY = "fluent", "noto"  # the style that is asked with, and the one in which the same emoji is looked for


def style_recall(vectors: np.ndarray, names: Sequence[str]) -> tuple[float, int]:
    """Return how often the nearest of emoji in one style is the query, drawn in another; and of how many."""
    where: dict[str, dict[str, int]] = {QUERIES: {}, GALLERY: {}}
    for row, name in enumerate(names):
        style, _, file = name.partition("/")
        if style in where:
            where[style][file.partition(".")[0].replace("-fe0f", "")] = row
    gallery, queries = where[GALLERY], where[QUERIES]
    both = [emoji for emoji in queries if emoji in gallery]
    # The gallery begins with what the queries show, in their order; the rest can only mislead.
    places = [*(gallery[emoji] for emoji in both), *(row for emoji, row in gallery.items() if emoji not in queries)]
    found = recall_at_1(vectors[[queries[emoji] for emoji in both]], vectors[places])
    return found * len(both) / len(queries), len(queries)


def measure(folder: Path, place: Path, models: dict[str, str]) -> None:
    """Measure and write."""
    held = set((folder / "held_out.txt").read_text().splitlines())
    names = (folder / "images.txt").read_text().splitlines()
    wanted = folder / "measured.txt"
    wanted.write_text("\n".join(name for name in names if name in held or name.partition("/")[0] in PLACES))
    processor = load_image_processor(models["student"])
    images = read_images([str(wanted)], processor, SIZE, folder / "measured")
    rows = [row for row, name in enumerate(images.ids) if name in held]
    others = [row for row, name in enumerate(images.ids) if name not in held]
    labels = read_labels(folder / "labels.csv", images.ids)
    teacher = load_teacher(str(folder / "teacher"))
    said = vectors_of(teacher.fastest(), images.pixels, range(len(images.ids)))
    encoders: dict[str, Any] = {
        name: load_vision_tower(source, dtype=torch.float32).eval() for name, source in models.items()
    }
    encoders["random_weights"] = OmniVisionModel(encoders["student"].config).eval()
    vectors = {
        name: encode_pixels(encoder, processor, images.pixels, range(len(images.ids)), SIZE)
        for name, encoder in encoders.items()
    } | {"teacher": said}
    record = json.loads(place.read_text()) if place.is_file() else {}
    section = record.setdefault("agreement", {"labels": {}, "style_recall_at_1": {}})
    section["images"] = len(rows)
    encoded = {name: found.__getitem__ for name, found in vectors.items()}
    section["labels"] |= label_accuracies(encoded, labels, others, rows)
    for name, found in vectors.items():
        recall, concepts = style_recall(found[rows], [images.ids[row] for row in rows])
        section["style_recall_at_1"] |= {name: recall, "concepts": concepts}
        if name != "teacher":
            overlap = agreement(found[rows], said[rows], shared_space=False)["overlap"]
            section["overlap" if name == "student" else f"overlap_of_{name}"] = overlap
    section["speed"] = compare_speed(encoders["student"], teacher)
    write_json(place, record)
    print(json.dumps({name: section[name] for name in ("overlap", "style_recall_at_1", "labels")}, indent=2))


@dataclass
class ProofArguments:
    """What to measure."""

    data: Path = option("Folder that experiments.distillation_images laid out.")
    output: Path = option("Record to write into.")
    models: list[str] = option("NAME=FOLDER of each checkpoint; one of them is named student.")


@program
def main(argv: Sequence[str]) -> None:
    args = parse(ProofArguments, argv)
    models = dict(text.partition("=")[::2] for text in args.models)
    if "student" not in models or not all(models.values()):
        raise ValueError(f"Expected NAME=FOLDER for each model, one of them student, got {args.models!r}.")
    torch.manual_seed(0)
    measure(args.data, args.output, models)


if __name__ == "__main__":
    main()
