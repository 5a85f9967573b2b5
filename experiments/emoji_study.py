"""Emoji of three vendors: held-out concepts found by text, and concepts found in a drawing style never trained on.

    python -m experiments.emoji_study --dataset emoji --output runs/emoji_pairs
    python -m experiments.emoji_study --dataset emoji --model runs/emoji

`--dataset` is the folder of the packages that `experiments.emoji_data` names. `--output` writes the pairs to train on,
for train_retrieval.py. `--model` measures a retrieval checkpoint, beside pixels and chance, and adds `emoji` to its
metrics.json. `style_recall` measures any encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.util import cos_sim, maxsim

from experiments.emoji_data import load_emoji
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.records.metrics_file import merge_metrics
from modeling_omni_vision.retrieval.evaluation import decoded, retrieval_metrics


STYLE = "google"
# Which split asks which: the vendor never trained on asks the same concepts in a trained style.
STYLE_SPLITS = {
    "trained concepts": ("unseen_style", "train"),
    "validation concepts": ("validation_unseen_style", "validation"),
    "held-out concepts": ("test_unseen_style", "test"),
}
TIE = 1e-6

Scorer = Callable[[Sequence[Image.Image], Sequence[Image.Image]], torch.Tensor]


def study_emoji(folder: Path, data: DatasetDict) -> dict[str, Any]:
    """Measure a checkpoint and peers on the splits of `load_emoji`, and write `emoji` into its metrics.json.

    Returns:
        `texts`: both directions on each held-out split, by names and by names with keywords; and `styles`.
    """
    models: dict[str, Any] = {
        "single_vector": SentenceTransformer(str(folder), trust_remote_code=True),
        "multi_vector": MultiVectorEncoder(str(folder), trust_remote_code=True),
    }
    texts: dict[str, Any] = {}
    for split in ("validation", "validation_unseen_style", "test", "test_unseen_style"):
        worded = data[split].map(lambda row: {"texts": [", ".join(row["texts"])]})
        texts[split] = {kind: retrieval_metrics(model, data[split]) for kind, model in models.items()}
        texts[split] |= {f"{kind}, keywords": retrieval_metrics(model, worded) for kind, model in models.items()}
    scorers: dict[str, Scorer] = {kind: model_scorer(model) for kind, model in models.items()}
    scorers |= {"pixels": pixel_scores, "chance": lambda asked, found: torch.zeros(len(asked), len(found))}
    found = {"texts": texts, "styles": style_recall(scorers, data)}
    merge_metrics(folder, {"emoji": found})
    return found


def style_recall(scorers: dict[str, Scorer], data: DatasetDict) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for each of `STYLE_SPLITS` and each scorer, the recall of the same concept in another drawing style.

    A scorer returns the scores (questions, answers) of images with images, by any encoder.
    """
    found: dict[str, Any] = {}
    for name, (asking, asked) in STYLE_SPLITS.items():
        answers = data[asked].filter(lambda vendor: vendor == STYLE, input_columns="vendor")
        known = set(answers["concept"][:])
        questions = data[asking].filter(known.__contains__, input_columns="concept")
        concepts = questions["concept"][:], answers["concept"][:]
        images = decoded(questions), decoded(answers)
        found[name] = {kind: ranked(score(*images), *concepts) for kind, score in scorers.items()}
    return found


def ranked(scores: torch.Tensor, questions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Recall at 1, 5 and 10 of scores (questions, answers), right where the concepts are equal.

    Ties count as what they would give on average in random order.

    Raises:
        ValueError: if a question has no answer, or sizes do not fit.
    """
    right = torch.tensor([[question == answer for answer in answers] for question in questions])
    if scores.shape != right.shape or not right.any(1).all():
        raise ValueError(
            f"Expected scores {tuple(right.shape)} and an answer to each question, got {tuple(scores.shape)} and "
            f"{int((~right.any(1)).sum())} questions without one. Leave those out."
        )
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    above = ((scores > best + TIE) & ~right).sum(1)
    ties = (((scores - best).abs() <= TIE) & ~right).sum(1)
    # Of `ties` wrong answers as good as the right one, how many come first is uniform.
    chance = {rank: ((rank - above).clamp(min=0).float() / (ties + 1)).clamp(max=1) for rank in (1, 5, 10)}
    recall = {f"recall@{rank}": float(values.mean()) for rank, values in chance.items()}
    return {**recall, "candidates": len(answers), "questions": len(questions)}


def model_scorer(model: Any) -> Scorer:
    """Score images with images by the cosine of vectors or, for a `MultiVectorEncoder`, by MaxSim of patches."""

    def score(*sides: Sequence[Image.Image]) -> torch.Tensor:
        first, second = (model.encode_document(list(side), batch_size=64, show_progress_bar=False) for side in sides)
        is_multi_vector = isinstance(model, MultiVectorEncoder)
        return (maxsim(first, second, length_normalize=True) if is_multi_vector else cos_sim(first, second)).cpu()

    return score


def pixel_scores(questions: Sequence[Image.Image], answers: Sequence[Image.Image]) -> torch.Tensor:
    """Score by the correlation of small images on white."""
    sides = (on_white(images, 16).flatten(1) for images in (questions, answers))
    return cos_sim(*(pixels - pixels.mean(1, keepdim=True) for pixels in sides))


def on_white(images: Sequence[Image.Image], side: int) -> torch.Tensor:
    """Return the pixel values 0 to 255 of images on white, made square: (images, side, side, 3), float32."""
    pixels = []
    for image in images:
        layered = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
        pixels.append(np.asarray(flat.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32))
    return torch.from_numpy(np.stack(pixels))


@dataclass
class EmojiArguments:
    """What to write or to measure."""

    dataset: Path = option("Folder with the packages.")
    model: Path | None = option("Folder of a retrieval checkpoint to measure.", None)
    output: str | None = option("Folder to write the pairs into.", None)


@program
def main(argv: Sequence[str]) -> None:
    args = parse(EmojiArguments, argv)
    data = load_emoji(args.dataset.expanduser())
    if args.output:
        pairs = {name: data[name].select_columns(["image", "texts"]) for name in ("train", "validation", "test")}
        DatasetDict(pairs).save_to_disk(args.output)
    for name, scores in (study_emoji(args.model, data)["styles"] if args.model else {}).items():
        for kind, recall in scores.items():
            print(f"{name:20} {kind:28} recall@1 {recall['recall@1']:.3f} of {recall['candidates']}")


if __name__ == "__main__":
    main()
