"""Does CLS dominate late interaction, and do similarity maps point at the right object? Measured on drawn scenes.

    python -m experiments.cls_study --models "late interaction=runs/search" --output runs/cls

Each model is NAME=FOLDER, a retrieval checkpoint. Writes `cls.json` (all numbers, of which `experiments.results` makes
the table) and `cls.png` (margins and cosines) into the output folder.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.synthetic.scenes import HELD_OUT_COMBINATIONS, seen_combinations
from modeling_omni_vision.data.synthetic.shapes import Scene
from modeling_omni_vision.interpretability import cls_dominance as dominance
from modeling_omni_vision.interpretability.grounding import MAPS, draw_test_scenes, ground, patch_cover, word_vectors
from modeling_omni_vision.interpretability.plots import save
from modeling_omni_vision.interpretability.style import GREY, OURS, THIRD, TRUTH
from modeling_omni_vision.modeling_omni_vision_retrieval import OmniVisionForRetrieval
from modeling_omni_vision.processing_omni_vision_retrieval import OmniVisionRetrievalProcessor
from modeling_omni_vision.records.command import without_folder
from modeling_omni_vision.records.metrics_file import read_metrics, write_json


COLOURS = {"cls": TRUTH, "register": THIRD, "background": GREY, "object": OURS}
TITLE_LETTERS = 70  # as wide as a plot
MIXTURES = (2, 4, 8)
CONTEXTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def study_cls(models: Mapping[str, str], folder: Path, scenes: int = 100, seed: int = 7) -> dict[str, Any]:
    """Measure models on freshly drawn scenes of two objects, with seen and with held-out combinations.

    Returns:
        What `cls.json` holds: for each model and kind of scene `dominance`, which kind of token wins the words, and
        `grounding`, whether maps point at the object that a word names; and `mixtures`, the share of words that CLS
        wins where a word is its concept and, by a share, the sentence, without training.
    """
    drawn = {
        "seen": draw_test_scenes(seen_combinations(), scenes, seed=seed),
        "held out": draw_test_scenes(HELD_OUT_COMBINATIONS, scenes, seed=seed + 1),
    }
    grounded = {"seen": MAPS, "held out": MAPS[:1]}
    plotted: dict[str, dominance.Dominance] = {}
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
            "grounding": {kind: ground(model, processor, drawn[kind], maps) for kind, maps in grounded.items()},
        }
    mixtures = {str(n): {str(share): dominance.simulate_mixtures(n, share) for share in CONTEXTS} for n in MIXTURES}
    record = {"date": datetime.now(UTC).date().isoformat(), "scenes": scenes, "seed": seed}
    record |= {"checkpoints": results, "mixtures": mixtures}
    write_json(folder / "cls.json", record)
    plot_dominance(plotted, folder / "cls.png")
    return record


def plot_dominance(found: Mapping[str, dominance.Dominance], path: Path) -> None:
    """Draw for each model by how much CLS wins or loses the words, and the cosines of each kind of token."""
    figure = Figure(figsize=(9, 2.3 * len(found)), layout="constrained")
    for (name, one), (left, right) in zip(found.items(), figure.subplots(len(found), 2, squeeze=False), strict=True):
        left.hist(one.margins.numpy(), bins=60, range=(-1.5, 1), color=COLOURS["cls"])
        left.axvline(0, color="black", linewidth=0.8)
        title = textwrap.fill(f"{name}: CLS wins {one.shares['cls']:.1%} of words", TITLE_LETTERS)
        left.set(title=title, xlabel="best cosine of CLS less the best of the others", ylabel="words")
        for kind, values in one.cosines.items():
            style = {"density": True, "histtype": "step", "color": COLOURS[kind], "label": kind}
            right.hist(values.numpy(), bins=80, range=(-1, 1), **style)
        right.set(title="cosines of words with tokens", xlabel="cosine", ylabel="density")
        right.legend(fontsize=7)
        for axes in (left, right):
            axes.title.set_fontsize(9)
            axes.tick_params(labelsize=7)
    save(figure, path)


def _dominance(model: Any, processor: Any, scenes: Sequence[Scene]) -> dict[str, dominance.Dominance]:
    pixels = processor(images=[scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    tokens = torch.cat([dominance.all_tokens(model, part) for part in pixels.split(32)])
    height, width = model.vision_model.config.patch_size_hw
    grid = pixels.shape[2] // height, pixels.shape[3] // width
    covers = [torch.stack([patch_cover(item, *grid) for item in scene.objects]).sum(0).flatten() for scene in scenes]
    vectors = [word_vectors(model, processor, scene.caption) for scene in scenes]
    words = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)
    kinds = dominance.token_kinds(torch.stack(covers), model.config.vision_config.num_register_tokens)
    found = {}
    for cls, first in (("kept", 0), ("dropped", model.vision_model.num_prefix_tokens)):
        for image, every_pair in (("own", False), ("every", True)):
            won = dominance.dominance(words, tokens[:, first:], kinds[:, first:], every_pair)
            found[f"{image} image, CLS {cls}"] = won
    return found


def _summary(found: dominance.Dominance) -> dict[str, Any]:
    return {
        "shares": found.shares,
        "chance": found.chance,
        "margin": dominance.quantiles(found.margins) if len(found.margins) else None,
        "cosines": {kind: dominance.quantiles(values) for kind, values in found.cosines.items()},
    }


@dataclass
class StudyArguments:
    """What to study."""

    models: list[str] = option("NAME=FOLDER of each retrieval checkpoint.")
    output: Path = option("Folder to write into.")
    scenes: int = option("Scenes of each kind, seen and held-out combinations.", 100)
    seed: int = option("Seed of the scenes.", 7)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(StudyArguments, argv)
    pairs = [text.partition("=")[::2] for text in args.models]
    if not all(map(all, pairs)):
        raise ValueError(f"Expected NAME=FOLDER for each model, got {args.models!r}. Correct --models.")
    for name, found in study_cls(dict(pairs), args.output, args.scenes, args.seed)["checkpoints"].items():
        won, pointing = found["dominance"]["seen"]["own image, CLS kept"], found["grounding"]["seen"]["MaxSim"]
        print(f"{name}: CLS wins {won['shares']['cls']:.1%} of words, pointing game {pointing['pointing']:.1%}")


if __name__ == "__main__":
    main()
