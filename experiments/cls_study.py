"""The truth about CLS and about maps for some search checkpoints: who wins the words, and do the maps point right."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from modeling_omni_vision.data.synthetic.scenes import HELD_OUT_COMBINATIONS, seen_combinations
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


def study_cls(checkpoints: Mapping[str, str], folder: Path, scenes: int = 100, seed: int = 7) -> dict[str, Any]:
    """Measure checkpoints on freshly drawn scenes of two objects, with seen and with held-out combinations.

    Args:
        checkpoints: Name for the table, and folder, of each [`OmniVisionForRetrieval`].
        folder: Where `cls.json`, `cls.png` and `cls.md` go.
        scenes: Scenes of each kind.
        seed: Seed of the scenes.

    Returns:
        What `cls.json` holds.
    """
    drawn = {
        "seen": draw_test_scenes(seen_combinations(), scenes, seed=seed),
        "held out": draw_test_scenes(HELD_OUT_COMBINATIONS, scenes, seed=seed + 1),
    }
    results: dict[str, Any] = {}
    plotted: dict[str, Dominance] = {}
    for name, path in checkpoints.items():
        model = OmniVisionForRetrieval.from_pretrained(path).eval()
        processor = OmniVisionRetrievalProcessor.from_pretrained(path)
        metrics = read_metrics(Path(path))
        tested = metrics.get("retrieval", {}).get("multi_vector", {}).get("test", {})
        results[name] = {
            "checkpoint": without_folder(str(path)),
            "trained_with_seed": metrics.get("training", {}).get("seed"),
            "vision_feature_select_strategy": model.config.vision_feature_select_strategy,
            "ndcg@10": {direction: found["ndcg@10"] for direction, found in tested.items()},
            "dominance": {},
            "grounding": {},
        }
        for kind, some in drawn.items():
            found = _dominance(model, processor, some)
            results[name]["dominance"][kind] = {state: _summary(one) for state, one in found.items()}
            results[name]["grounding"][kind] = ground(model, processor, some, MAPS if kind == "seen" else MAPS[:1])
            plotted.setdefault(name, found["own image, CLS kept"])
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "scenes": scenes,
        "seed": seed,
        "checkpoints": results,
        "mixtures": {
            str(concepts): {str(context): simulate_mixtures(concepts, context) for context in CONTEXTS}
            for concepts in MIXTURES
        },
    }
    write_json(folder / "cls.json", record)
    (folder / "cls.md").write_text(page(record), encoding="utf-8")
    plot_dominance(plotted, folder / "cls.png")
    return record


def page(record: Mapping[str, Any]) -> str:
    """Write the tables of a record as Markdown."""
    lines = [
        "# Who wins the words, and where maps point",
        "",
        f"Measured on {record['scenes']} freshly drawn scenes of two objects with seen combinations of colour and "
        f"shape, and as many with combinations that no training image showed; {record['date']}. All numbers are in "
        "`cls.json`.",
        "",
        "## Share of words whose best token is CLS, on the background, on an object",
        "",
        "Own image: each caption asks its own image. Every image: all captions ask all images, as a search "
        "does. Chance is each kind's share of the tokens.",
        "",
        "| checkpoint | asked of | CLS | registers | background | objects | median margin of CLS |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in record["checkpoints"].items():
        for state, found in result["dominance"]["seen"].items():
            cells = [f"{found['shares'][kind]:.1%} ({found['chance'][kind]:.1%})" for kind in KINDS]
            margin = "" if found["margin"] is None else f"{found['margin'][2]:+.3f}"
            lines.append(f"| {name} | {state} | {' | '.join(cells)} | {margin} |")
    lines += [
        "",
        "## Whether maps point at the object that a word names",
        "",
        "Words are colours and shapes. Pointing: the highest patch is on the object. Mass: share of the map on it. "
        "Deletion: how far the word's best cosine falls when the highest patches are painted over, higher is better.",
        "",
        "| checkpoint | nDCG@10 of test scenes, text to image and back | map | pointing | pointing, held-out "
        "combinations | mass | deletion |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in record["checkpoints"].items():
        ndcg = ", ".join(f"{value:.3f}" for value in result["ndcg@10"].values())
        for kind, found in result["grounding"]["seen"].items():
            held = result["grounding"]["held out"].get(kind)
            cells = [kind, f"{found['pointing']:.1%}", f"{held['pointing']:.1%}" if held else ""]
            lines.append(f"| {name} | {ndcg} | {' | '.join(cells)} | {found['mass']:.1%} | {found['deletion']:.3f} |")
    lines += [
        "",
        "## Where everything is known",
        "",
        "Mixtures without any training: a word is its concept and, by the share above each column, the sentence; "
        "CLS is the sum of the image's concepts. Share of words that CLS wins:",
        "",
        "| concepts | " + " | ".join(f"{context:g}" for context in CONTEXTS) + " |",
        "|---" * (len(CONTEXTS) + 1) + "|",
    ]
    for concepts, shares in record["mixtures"].items():
        lines.append(f"| {concepts} | " + " | ".join(f"{share:.3f}" for share in shares.values()) + " |")
    return "\n".join([*lines, "", "![margins and cosines](cls.png)", ""])


def plot_dominance(found: Mapping[str, Dominance], path: Path) -> Path:
    """Draw for each checkpoint by how much CLS wins or loses the words, and the cosines of each kind of token."""
    figure = Figure(figsize=(9, 2.3 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False)
    for (name, one), (left, right) in zip(found.items(), axes, strict=True):
        left.hist(one.margins.numpy(), bins=60, range=(-1.5, 1), color=COLOURS["cls"])
        left.axvline(0, color="black", linewidth=0.8)
        title = textwrap.fill(f"{name}: CLS wins {one.shares['cls']:.1%} of words", TITLE_LETTERS)
        left.set_title(title, fontsize=9)
        left.set_xlabel("best cosine of CLS less the best of the others", fontsize=8)
        left.set_ylabel("words", fontsize=8)
        for kind, values in one.cosines.items():
            options = {"density": True, "histtype": "step", "color": COLOURS[kind], "label": kind}
            right.hist(values.numpy(), bins=80, range=(-1, 1), **options)
        right.set_title("cosines of words with tokens", fontsize=9)
        right.set_xlabel("cosine", fontsize=8)
        right.set_ylabel("density", fontsize=8)
        right.legend(fontsize=7)
        for part in (left, right):
            part.tick_params(labelsize=7)
    return save(figure, path)


def _dominance(
    model: OmniVisionForRetrieval, processor: OmniVisionRetrievalProcessor, scenes: Sequence[Scene]
) -> dict[str, Dominance]:
    pixels = processor(images=[scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    tokens = torch.cat([all_tokens(model, part) for part in pixels.split(32)])
    height, width = model.vision_model.config.patch_size_hw
    grid = pixels.shape[2] // height, pixels.shape[3] // width
    cover = torch.stack(
        [torch.stack([patch_cover(item, *grid) for item in scene.objects]).sum(0).flatten() for scene in scenes]
    )
    words = torch.nn.utils.rnn.pad_sequence(
        [word_vectors(model, processor, scene.caption) for scene in scenes], batch_first=True
    )
    kinds = token_kinds(cover, model.config.vision_config.num_register_tokens)
    leading = model.vision_model.num_prefix_tokens
    return {
        "own image, CLS kept": dominance(words, tokens, kinds),
        "every image, CLS kept": dominance(words, tokens, kinds, every_pair=True),
        "own image, CLS dropped": dominance(words, tokens[:, leading:], kinds[:, leading:]),
        "every image, CLS dropped": dominance(words, tokens[:, leading:], kinds[:, leading:], every_pair=True),
    }


def _summary(found: Dominance) -> dict[str, Any]:
    return {
        "shares": found.shares,
        "chance": found.chance,
        "margin": quantiles(found.margins) if len(found.margins) else None,
        "cosines": {kind: quantiles(values) for kind, values in found.cosines.items()},
    }


__all__ = ["page", "plot_dominance", "study_cls"]
