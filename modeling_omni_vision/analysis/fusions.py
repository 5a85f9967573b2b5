"""Which way to show a picture to a language model: tokens per picture against exact answers against speed, as a table.

Accuracies are those that `scripts/train_language.py` wrote into `metrics.json`; times are measured here, all models
taking turns in one process.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from .benchmark import machine
from .timing import time_in_turns


QUESTION = "What colour is the square?"
SPLITS = ("test", "held_out")
GENERATED = 16  # tokens, of which the first comes with the prompt
HEAD = (
    "| model | fusion | shown | vectors | LM positions | test | held out | prefill | prefill, no picture | a token "
    "| a token, no picture |"
)
RULE = "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
# Name in the file, and in the table by these columns: what a prompt costs, and each token after the first.
TIMES = ("prefill_ms", "prefill_without_picture_ms", "decode_ms", "decode_without_picture_ms")


def compare_fusions(runs: Mapping[str, Path], rounds: int = 9) -> dict[str, Any]:
    """
    Read what models answered and measure how long they take, in CPU milliseconds (medians).

    Args:
        runs: Name and folder of each, from `scripts/train_language.py`.
        rounds: Samples of each time.

    Returns:
        `rows`: for each model its `fusion`, `select_feature`, `picture_length` (vectors that a picture has),
        `image_tokens` (places that they take in the language model), `answers` by split and kind, and `prefill_ms`
        (one question about one picture), `prefill_without_picture_ms` (the question alone), `decode_ms` (each token
        after the first, picture in the cache) and `decode_without_picture_ms`.

    Raises:
        ValueError: for a run without measured answers.
    """
    rows = []
    steps: dict[str, Callable[[], Any]] = {}
    for name, folder in runs.items():
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if "answers" not in record:
            raise ValueError(f"Expected measured answers in {folder}/metrics.json, got none. Train it to the end.")
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        rows.append(
            {
                "name": name,
                "fusion": model.config.fusion,
                "select_feature": model.config.select_feature,
                "pixel_shuffle": model.config.pixel_shuffle,
                "picture_length": model.config.picture_length,
                "image_tokens": model.config.image_seq_length,
                "parameters": model.num_parameters(),
                "steps": record["training"]["steps"],
                "answers": {
                    split: {
                        shown: {kind: value["accuracy"] for kind, value in {"all": found, **found["kinds"]}.items()}
                        for shown, found in controls.items()
                    }
                    for split, controls in record["answers"].items()
                },
            }
        )
        steps |= {f"{name} {what}": step for what, step in timed_steps(model, processor).items()}
    samples = time_in_turns(steps, rounds)
    for row in rows:
        for suffix, (prompt, answer) in {
            "": ("seeing", "answer"),
            "_without_picture": ("blind", "blind answer"),
        }.items():
            first, whole = (float(np.median(samples[f"{row['name']} {what}"]["cpu_ms"])) for what in (prompt, answer))
            row[f"prefill{suffix}_ms"] = round(first, 2)
            row[f"decode{suffix}_ms"] = round((whole - first) / (GENERATED - 1), 2)
    return {"rows": rows, "rounds": rounds, "machine": machine(), "question": QUESTION}


def timed_steps(model: Any, processor: Any) -> dict[str, Callable[[], Any]]:
    """Give what is timed: the prompt with its picture and alone, and after each an answer of `GENERATED` tokens."""
    height, width = model.config.vision_config.image_size_hw
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = {"type": "image", "image": PilImage.fromarray(pixels)}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    text = {"type": "text", "text": QUESTION}
    seeing = processor.apply_chat_template([{"role": "user", "content": [picture, text]}], **options)
    blind = processor.apply_chat_template([{"role": "user", "content": [text]}], **options)
    lengths = {"max_new_tokens": GENERATED, "min_new_tokens": GENERATED}

    @torch.inference_mode()
    def run(step: Callable[..., Any], inputs: Any, **given: Any) -> None:
        step(**inputs, **given)

    return {
        "seeing": lambda: run(model, seeing, use_cache=True, logits_to_keep=1),
        "blind": lambda: run(model, blind, use_cache=True, logits_to_keep=1),
        "answer": lambda: run(model.generate, seeing, do_sample=False, **lengths),
        "blind answer": lambda: run(model.generate, blind, do_sample=False, **lengths),
    }


def fusion_table(record: Mapping[str, Any]) -> str:
    """Write the table as Markdown."""
    lines = [HEAD, RULE]
    for row in record["rows"]:
        shown = row["select_feature"] + (
            f", {row['pixel_shuffle']} x {row['pixel_shuffle']}" * (row["pixel_shuffle"] > 1)
        )
        accuracies = [
            f"{row['answers'][split]['pictures']['all']:.1%}" if split in row["answers"] else "" for split in SPLITS
        ]
        times = [f"{row[key]:.1f} ms" for key in TIMES]
        counts = [f"{row['picture_length']}", f"{row['image_tokens']}"]
        lines.append("| " + " | ".join([row["name"], row["fusion"], shown, *counts, *accuracies, *times]) + " |")
    return "\n".join(lines)


__all__ = ["compare_fusions", "fusion_table"]
