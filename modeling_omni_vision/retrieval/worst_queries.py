"""A sheet of the texts whose image is found worst, each with what is found instead."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import MultiVectorEncoder

from ..data.summary import evenly_spread
from ..interpretability.dataset_sheet import wrapped
from ..interpretability.plots import draw_sheet
from ..interpretability.style import OURS, TRUTH
from .evaluation import decoded, scorer


MAX_PAIRS, QUERIES, FOUND = 500, 6, 5


@torch.inference_mode()
def draw_worst_queries(model: Any, split: Dataset, path: Path) -> Path:
    """Draw up to `QUERIES` texts: the best of their images with its rank, then the first `FOUND` that are found.

    Args:
        model: Of sentence-transformers, for one vector or for late interaction.
        split: As of `load_pairs`; of more than `MAX_PAIRS` as many are taken, spread evenly.
        path: PNG to write.
    """
    split = split.select(evenly_spread(len(split), MAX_PAIRS))
    images, texts, concepts = decoded(split), [some[0] for some in split["texts"][:]], np.array(split["concept"][:])
    score = scorer(isinstance(model, MultiVectorEncoder), texts_are_queries=True)
    scores = torch.as_tensor(score(model.encode_query(texts), model.encode_document(images))).float().cpu().numpy()
    right = concepts[:, None] == concepts[None, :]
    best = np.where(right, scores, -np.inf).argmax(axis=1)
    own = scores[np.arange(len(texts)), best]
    ranks = 1 + ((scores > own[:, None]) & ~right).sum(axis=1)
    _, first = np.unique(texts, return_index=True)
    worst = sorted(first.tolist(), key=lambda row: (-ranks[row], row))[:QUERIES]
    drawn, above, below, colours = [], [], [], []
    for row in worst:
        near = np.argsort(-scores[row], kind="stable")[:FOUND]
        places = [(best[row], f"right image: rank {ranks[row]}", OURS)]
        places += [(one, f"found {place}", OURS if right[row, one] else TRUTH) for place, one in enumerate(near, 1)]
        for number, (index, said, colour) in enumerate(places):
            drawn.append(np.asarray(images[index].convert("RGB"), dtype=np.float32))
            above.append(wrapped(texts[row], 26) if number == 0 else "")
            below.append(said)
            colours.append(colour)
    title = f"Texts whose image is found worst among {len(split):,}; blue is right, red is not"
    return draw_sheet(drawn, above, below, colours, title, path, 1 + min(FOUND, len(split)), (1.9, 2.3))


__all__ = ["draw_worst_queries"]
