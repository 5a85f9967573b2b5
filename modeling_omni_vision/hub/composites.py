"""What a card may say of models of several parts: how well search finds, how often a language model is right."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .numbers import METRICS_NAME, amount, inside, share
from .spelling import cell, number, spelled


# What `metrics.json` calls the vectors that were compared, and what readers do.
VECTORS = {"multi_vector": "patches and words", "single_vector": "one vector each"}
RANKS = {"recall@1": "{:.2%}", "recall@5": "{:.2%}", "ndcg@10": "{:.4f}"}
# Sentences and whole pages of a vocabulary say little on a card.
MAX_WORDS = 300


def retrieval(metrics: dict[str, Any]) -> dict[str, Any]:
    """
    Spell how well images and texts find each other.

    Returns:
        The `header` and the `rows` of a table, and for the metadata as `results` (split, measure, name, value).
    """
    found = inside(metrics, "retrieval")
    if not set(found) <= set(VECTORS):
        raise ValueError(
            f"{METRICS_NAME}: retrieval must hold {list(VECTORS)}, each with splits and directions, got "
            f"{sorted(found)!r}. Train or measure again with scripts/train_retrieval.py."
        )
    rows, results = [], []
    for split in dict.fromkeys(split for vectors in found for split in inside(found, vectors)):
        for vectors in found:
            directions = inside(inside(found, vectors), split)
            for direction in directions:
                measures, name = inside(directions, direction), f"retrieval.{vectors}.{split}.{direction}"
                values = {rank: share(measures.get(rank), name, rank) for rank in RANKS}
                candidates = amount(measures.get("candidates"), name, "candidates")
                shown = [cell(part.replace("_", " ")) for part in (split, direction)]
                rows.append(
                    [
                        VECTORS[vectors],
                        *shown,
                        *(spelling.format(values[rank]) for rank, spelling in RANKS.items()),
                        spelled(int(candidates)),
                    ]
                )
                results += [
                    (split, rank, f"{rank}, {VECTORS[vectors]}, {shown[1]}", values[rank])
                    for rank in ("recall@1", "ndcg@10")
                ]
    header = ["vectors", "split", "direction", "recall@1", "recall@5", "nDCG@10", "candidates"]
    return {"header": header, "rows": rows, "results": results}


def answers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Spell every accuracy of the section `answers`, at whatever depth, with its interval and count where it has them.

    Returns:
        The `header` and the `rows` of a table.
    """
    rows = []
    for path, found in _accuracies(inside(metrics, "answers"), ()):
        name = ".".join(("answers", *path))
        interval = found.get("accuracy_interval")
        if interval is not None and (not isinstance(interval, list) or len(interval) != 2):
            raise ValueError(f"{METRICS_NAME}: {name}.accuracy_interval must be [low, high], got {interval!r}.")
        ends = [f"{share(end, name, 'accuracy_interval'):.2%}" for end in interval or ()]
        count = next((found[key] for key in ("num_examples", "questions", "n") if number(found.get(key))), None)
        label = ": ".join(cell(part.replace("_", " ")) for part in path) or "all"
        accuracy = f"{share(found['accuracy'], name, 'accuracy'):.2%}"
        rows.append([label, accuracy, " to ".join(ends) or "-", "-" if count is None else spelled(count)])
    return {"header": ["questions", "accuracy", "interval", "number"], "rows": rows}


def _accuracies(section: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Go through nested objects in their order; give each that has an accuracy, with the names that lead to it."""
    if "accuracy" in section:
        yield path, section
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _accuracies(value, (*path, name))


def known_words(folder: Path) -> list[str]:
    """List the words of a tokenizer that has one token for each, without special ones; empty for any other."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"].get("type") != "WordLevel" or len(tokenizer["model"]["vocab"]) > MAX_WORDS:
        return []
    special = {token["content"] for token in tokenizer["added_tokens"]}
    return sorted(cell(word) for word in tokenizer["model"]["vocab"] if word not in special)


__all__ = ["answers", "known_words", "retrieval"]
