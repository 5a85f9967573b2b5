"""Does CLS dominate late interaction, and do similarity maps point at the right object? Measured on drawn scenes.

    python -m experiments.cls_study --models "late interaction=runs/search" --output runs/cls

Each model is NAME=FOLDER, a retrieval checkpoint. Writes `cls.md` (tables), `cls.json` (all numbers) and `cls.png`
(margins and cosines) into the output folder.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import HfArgumentParser

from modeling_omni_vision.data.pairs import HELD_OUT_COMBINATIONS, seen_combinations
from modeling_omni_vision.data.synthetic.shapes import Scene
from modeling_omni_vision.interpretability.cls_dominance import (
    KINDS,
    Dominance,
    all_tokens,
    dominance,
    quantiles,
    simulate_mixtures,
    token_kinds,
)
from modeling_omni_vision.interpretability.grounding import MAPS, draw_test_scenes, ground, patch_cover, word_vectors
from modeling_omni_vision.interpretability.plots import save
from modeling_omni_vision.modeling_omni_vision_retrieval import OmniVisionForRetrieval
from modeling_omni_vision.processing_omni_vision_retrieval import OmniVisionRetrievalProcessor
from modeling_omni_vision.records.command import without_folder
from modeling_omni_vision.records.metrics_file import read_metrics, write_json


COLOURS = {"cls": "#c0392b", "register": "#8e44ad", "background": "#888888", "object": "#1f5fa8"}
TITLE_LETTERS = 70  # as wide as a plot
MIXTURES = (2, 4, 8)
CONTEXTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PAGE = """# Which token wins a word, and where similarity maps point

Measured on {scenes} freshly drawn scenes of two objects with seen combinations of colour and shape, and as many with \
combinations that no training image showed; {date}. All numbers are in `cls.json`.

## Share of words whose best token is CLS, on the background, on an object

Own image: each caption is compared with its own image. Every image: all captions with all images, as a search does. \
Chance is each kind's share of the tokens.

| model | compared with | CLS | registers | background | objects | median margin of CLS |
|---|---|---|---|---|---|---|
{dominance}

## Whether maps point at the object that a word names

Words are colours and shapes. Pointing: the highest patch is on the object. Mass: share of the map on it. Deletion: how \
far the word's best cosine falls when the highest patches are painted over, higher is better.

| model | nDCG@10 of test scenes, text to image and back | map | pointing | pointing, held-out combinations | mass \
| deletion |
|---|---|---|---|---|---|---|
{grounding}

## Simulated mixtures

Without any training: a word is its concept and, by the share above each column, the sentence; CLS is the sum of the \
image's concepts. Share of words that CLS wins:

{mixtures}

![margins and cosines](cls.png)
"""


def study_cls(models: Mapping[str, str], folder: Path, scenes: int = 100, seed: int = 7) -> dict[str, Any]:
    """Measure models on freshly drawn scenes of two objects, with seen and with held-out combinations.

    Args:
        models: Name for the table, and folder, of each [`OmniVisionForRetrieval`].
        folder: Where `cls.json`, `cls.png` and `cls.md` are written.
        scenes: Scenes of each kind.
        seed: Seed of the scenes.

    Returns:
        What `cls.json` holds.
    """
    drawn = {
        "seen": draw_test_scenes(seen_combinations(), scenes, seed=seed),
        "held out": draw_test_scenes(HELD_OUT_COMBINATIONS, scenes, seed=seed + 1),
    }
    plotted: dict[str, Dominance] = {}
    results: dict[str, Any] = {}
    for name, path in models.items():
        model = OmniVisionForRetrieval.from_pretrained(path).eval()
        processor = OmniVisionRetrievalProcessor.from_pretrained(path)
        metrics = read_metrics(Path(path))
        tested = metrics.get("retrieval", {}).get("multi_vector", {}).get("test", {})
        found = {kind: _dominance(model, processor, some) for kind, some in drawn.items()}
        plotted[name] = found["seen"]["own image, CLS kept"]
        results[name] = {
            "checkpoint": without_folder(str(path)),
            "trained_with_seed": metrics.get("training", {}).get("seed"),
            "vision_feature_select_strategy": model.config.vision_feature_select_strategy,
            "ndcg@10": {direction: scores["ndcg@10"] for direction, scores in tested.items()},
            "dominance": {kind: {state: _summary(one) for state, one in some.items()} for kind, some in found.items()},
            "grounding": {
                kind: ground(model, processor, some, MAPS if kind == "seen" else MAPS[:1])
                for kind, some in drawn.items()
            },
        }
    mixtures = {str(n): {str(share): simulate_mixtures(n, share) for share in CONTEXTS} for n in MIXTURES}
    record = {"date": datetime.now(UTC).date().isoformat(), "scenes": scenes, "seed": seed, "checkpoints": results}
    record["mixtures"] = mixtures
    write_json(folder / "cls.json", record)
    (folder / "cls.md").write_text(page(record), encoding="utf-8")
    plot_dominance(plotted, folder / "cls.png")
    return record


def page(record: Mapping[str, Any]) -> str:
    """Return the tables of a record as Markdown."""
    dominance_rows, grounding_rows = [], []
    for name, result in record["checkpoints"].items():
        for state, found in result["dominance"]["seen"].items():
            cells = [f"{found['shares'][kind]:.1%} ({found['chance'][kind]:.1%})" for kind in KINDS]
            margin = "" if found["margin"] is None else f"{found['margin'][2]:+.3f}"
            dominance_rows.append(_row(name, state, *cells, margin))
        ndcg = ", ".join(f"{value:.3f}" for value in result["ndcg@10"].values())
        for kind, found in result["grounding"]["seen"].items():
            held = result["grounding"]["held out"].get(kind)
            cells = [f"{found['pointing']:.1%}", f"{held['pointing']:.1%}" if held else ""]
            grounding_rows.append(_row(name, ndcg, kind, *cells, f"{found['mass']:.1%}", f"{found['deletion']:.3f}"))
    mixtures = [_row("concepts", *(f"{context:g}" for context in CONTEXTS)), "|---" * (len(CONTEXTS) + 1) + "|"]
    for concepts, shares in record["mixtures"].items():
        mixtures.append(_row(concepts, *(f"{share:.3f}" for share in shares.values())))
    tables = {"dominance": dominance_rows, "grounding": grounding_rows, "mixtures": mixtures}
    lines = {name: "\n".join(rows) for name, rows in tables.items()}
    return PAGE.format(scenes=record["scenes"], date=record["date"], **lines)


def plot_dominance(found: Mapping[str, Dominance], path: Path) -> Path:
    """Draw for each model by how much CLS wins or loses the words, and the cosines of each kind of token."""
    figure = Figure(figsize=(9, 2.3 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False)
    for (name, one), (left, right) in zip(found.items(), axes, strict=True):
        left.hist(one.margins.numpy(), bins=60, range=(-1.5, 1), color=COLOURS["cls"])
        left.axvline(0, color="black", linewidth=0.8)
        title = textwrap.fill(f"{name}: CLS wins {one.shares['cls']:.1%} of words", TITLE_LETTERS)
        _label(left, title, "best cosine of CLS less the best of the others", "words")
        for kind, values in one.cosines.items():
            right.hist(values.numpy(), 80, (-1, 1), density=True, histtype="step", color=COLOURS[kind], label=kind)
        _label(right, "cosines of words with tokens", "cosine", "density")
        right.legend(fontsize=7)
    return save(figure, path)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _label(axes: Any, title: str, below: str, left: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(left, fontsize=8)
    axes.tick_params(labelsize=7)


def _dominance(
    model: OmniVisionForRetrieval, processor: OmniVisionRetrievalProcessor, scenes: Sequence[Scene]
) -> dict[str, Dominance]:
    pixels = processor(images=[scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    tokens = torch.cat([all_tokens(model, part) for part in pixels.split(32)])
    height, width = model.vision_model.config.patch_size_hw
    grid = pixels.shape[2] // height, pixels.shape[3] // width
    covers = [torch.stack([patch_cover(item, *grid) for item in scene.objects]).sum(0).flatten() for scene in scenes]
    vectors = [word_vectors(model, processor, scene.caption) for scene in scenes]
    words = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)
    kinds = token_kinds(torch.stack(covers), model.config.vision_config.num_register_tokens)
    found = {}
    for cls, first in (("kept", 0), ("dropped", model.vision_model.num_prefix_tokens)):
        for image, every_pair in (("own", False), ("every", True)):
            asked = dominance(words, tokens[:, first:], kinds[:, first:], every_pair)
            found[f"{image} image, CLS {cls}"] = asked
    return found


def _summary(found: Dominance) -> dict[str, Any]:
    return {
        "shares": found.shares,
        "chance": found.chance,
        "margin": quantiles(found.margins) if len(found.margins) else None,
        "cosines": {kind: quantiles(values) for kind, values in found.cosines.items()},
    }


@dataclass
class StudyArguments:
    """What to study."""

    models: list[str] = field(metadata={"help": "NAME=FOLDER of each retrieval checkpoint."})
    output: str = field(metadata={"help": "Folder to write into."})
    scenes: int = field(default=100, metadata={"help": "Scenes of each kind, seen and held-out combinations."})
    seed: int = field(default=7, metadata={"help": "Seed of the scenes."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(StudyArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    named = dict(text.split("=", 1) if all(text.partition("=")) else (text, "") for text in args.models)
    wrong = [name for name, path in named.items() if not path]
    if wrong:
        raise ValueError(f"Expected NAME=FOLDER for each model, got {wrong!r}. Correct --models.")
    study_cls(named, Path(args.output), args.scenes, args.seed)
    print((Path(args.output) / "cls.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
