"""What captions of drawn scenes name: the objects that are there, all of them, and nothing else.

    python -m experiments.captions --model runs/language_captions

Captions are generated without sampling for scenes that were not trained on. They are also compared with the objects of
the next scene, which shows how much a caption gets right by chance. An object is a colour and a shape together.
Figures are written into the `metrics.json` of the model, as `captions`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.stored_images import open_stored
from modeling_omni_vision.data.synthetic.scene_questions import draw_questions
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES
from modeling_omni_vision.evaluation.metrics import ratio_interval
from modeling_omni_vision.modeling_omni_vision_language import OmniVisionForConditionalGeneration
from modeling_omni_vision.processing_omni_vision_language import OmniVisionProcessor
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, recorded_versions
from modeling_omni_vision.records.metrics_file import merge_metrics
from modeling_omni_vision.records.weights_digest import weights_digest


OBJECT = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
QUESTION, TOKENS, BATCH = "What is in the picture?", 32, 32


@dataclass
class CaptionArguments:
    """The model that writes captions."""

    model: str = option("Folder of a vision-language model that was trained with `scenes:caption`.")
    images: int = option("Scenes of each split, from its beginning; 0 for all.", 0)


@dataclass(frozen=True)
class Named:
    """How many objects a caption names that are in the scene, of how many, and how many that are not in it."""

    right: int
    there: int
    invented: int


def named_objects(caption: str) -> list[str]:
    """Return the objects that a caption names, in its order: "red square"."""
    return [" ".join(pair) for pair in OBJECT.findall(caption)]


def compare(caption: str, truth: str) -> Named:
    """Compare the objects of a caption with those of the true one; one that is named twice is invented once."""
    said, there = named_objects(caption), named_objects(truth)
    right = len(set(said) & set(there))
    return Named(right, len(there), len(said) - right)


def caption_metrics(found: Sequence[Named]) -> dict[str, Any]:
    """Return shares with their intervals (95 %, bootstrap over scenes).

    Returns:
        `exact`: captions that name all objects and no other; `named`: objects that are named, of all; `invented`:
        captions with an object that is not there; the number of `images`.
    """
    right, there, invented = np.array([(one.right, one.there, one.invented) for one in found]).T
    shares = {
        "exact": ((right == there) & (invented == 0), np.ones_like(there)),
        "named": (right, there),
        "invented": (invented > 0, np.ones_like(there)),
    }
    measured: dict[str, Any] = {
        name: {"share": float(part.sum() / whole.sum()), "interval": list(ratio_interval(part, whole))}
        for name, (part, whole) in shares.items()
    }
    return {"images": len(found), **measured}


@torch.inference_mode()
def captions(model: Any, processor: Any, images: Sequence[Any]) -> Iterator[str]:
    """Yield the caption of each image, written without sampling."""
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    for start in range(0, len(images), BATCH):
        shown = [[image] for image in images[start : start + BATCH]]
        inputs = processor(text=[prompt] * len(shown), images=shown, return_tensors="pt").to(model.device)
        made = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        yield from processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(model: Any, processor: Any, rows: Dataset) -> dict[str, Any]:
    """Measure the captions of a split against its own scenes and against the next ones, with some that are wrong."""
    truths = [asked[0]["answer"] for asked in rows["questions"][:]]
    images = [open_stored(row[0]) for row in rows["images"][:]]
    written = list(captions(model, processor, images))
    own = [compare(*pair) for pair in zip(written, truths, strict=True)]
    others = [compare(*pair) for pair in zip(written, truths[1:] + truths[:1], strict=True)]
    wrong = [index for index, one in enumerate(own) if one.right < one.there or one.invented]
    examples = [{"said": written[index], "truth": truths[index]} for index in wrong[:5]]
    return {"own": caption_metrics(own), "of_another_scene": caption_metrics(others), "wrong": examples}


@program
def main(argv: Sequence[str]) -> None:
    """Measure the captions of a model, and write the record."""
    given = parse(CaptionArguments, argv)
    model: Any = OmniVisionForConditionalGeneration.from_pretrained(given.model, dtype=torch.float32).eval()
    processor, data = OmniVisionProcessor.from_pretrained(given.model), draw_questions(("caption",))
    found = {}
    for name in ("validation", "test", "held_out"):
        rows = data[name].select(range(min(given.images or len(data[name]), len(data[name]))))
        found[name] = measure(model, processor, rows)
        print(name, {key: found[name]["own"][key] for key in ("exact", "named", "invented")}, flush=True)
    about = {"machine": describe_machine(), "versions": recorded_versions(), "weights": weights_digest(model)}
    command = recorded_command("python", ["-m", "experiments.captions", *argv])
    merge_metrics(Path(given.model), {"captions": {"splits": found, **about, "command": command}})


if __name__ == "__main__":
    main()
