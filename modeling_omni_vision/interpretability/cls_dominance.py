"""CLS dominance in late interaction: how often a word is closest to CLS, a register, background or an object.

The specification (`late_interaction.md`) claims that CLS dominates; this measures it. All functions work on vectors,
so that cases with known answers can be simulated, as `simulate_mixtures` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import normalize

from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval


KINDS = ("cls", "register", "background", "object")
CLS, REGISTER, BACKGROUND, OBJECT = range(len(KINDS))
NOISE = 0.125  # standard deviation in `simulate_mixtures`


@dataclass(frozen=True)
class Dominance:
    """Which kind of token has the highest cosine with each word."""

    shares: dict[str, float]  # fraction of words, for each of `KINDS`
    chance: dict[str, float]  # fraction of tokens of each kind: what random words would give
    margins: torch.Tensor  # for each word, the cosine of CLS less the best of all other tokens; empty without CLS
    cosines: dict[str, torch.Tensor]  # of all words with all tokens of each kind that occurs


def dominance(words: torch.Tensor, tokens: torch.Tensor, kinds: torch.Tensor, every_pair: bool = False) -> Dominance:
    """Count which kind of token has the highest cosine with each word.

    Args:
        words: Word vectors (texts, words, dim); all-zero rows are padding.
        tokens: Image vectors (images, tokens, dim), as many images as texts.
        kinds: Kind of each token, an index into `KINDS`, (images, tokens).
        every_pair: Compare every text with every image, not only with its own.

    Raises:
        ValueError: if the numbers of texts, images and kinds do not fit.
    """
    if len(words) != len(tokens) or kinds.shape != tokens.shape[:2]:
        raise ValueError(
            f"Expected as many texts as images and a kind for each token, got {len(words)} texts, images "
            f"{tuple(tokens.shape)} and kinds {tuple(kinds.shape)}."
        )
    words, tokens = normalize(words.float(), dim=-1), normalize(tokens.float(), dim=-1)
    present = words.norm(dim=-1) > 0.5
    wins = torch.zeros(len(KINDS))
    margins, cosines = [], {kind: [] for kind in KINDS}  # type: ignore[var-annotated]
    for image in range(len(tokens)):
        queries = words[present] if every_pair else words[image][present[image]]
        found = queries @ tokens[image].T
        wins += torch.bincount(kinds[image][found.argmax(1)], minlength=len(KINDS))
        is_cls = kinds[image] == CLS
        if is_cls.any() and not is_cls.all():
            margins.append(found[:, is_cls].max(1).values - found[:, ~is_cls].max(1).values)
        for number, kind in enumerate(KINDS):
            if (kinds[image] == number).any():
                cosines[kind].append(found[:, kinds[image] == number].flatten())
    chance = torch.bincount(kinds.flatten(), minlength=len(KINDS)).float()
    return Dominance(
        shares=dict(zip(KINDS, (wins / wins.sum().clamp_min(1)).tolist(), strict=True)),
        chance=dict(zip(KINDS, (chance / chance.sum()).tolist(), strict=True)),
        margins=torch.cat(margins) if margins else torch.empty(0),
        cosines={kind: torch.cat(values) for kind, values in cosines.items() if values},
    )


@torch.no_grad()
def all_tokens(model: OmniVisionForRetrieval, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return all tokens of the vision tower, CLS and registers too, projected, of norm 1: (batch, tokens, dim)."""
    return normalize(model.visual_projection(model.vision_model(pixel_values).last_hidden_state), dim=-1)


def token_kinds(cover: torch.Tensor, registers: int, threshold: float = 0.25) -> torch.Tensor:
    """Return the kind of each token of `all_tokens`, (images, tokens), from the fraction of each patch that objects
    cover (images, patches); from `threshold` on a patch counts as object.
    """
    patches = torch.where(cover >= threshold, OBJECT, BACKGROUND)
    leading = torch.tensor([CLS, *[REGISTER] * registers]).expand(len(cover), -1)
    return torch.cat((leading, patches), dim=1)


def simulate_mixtures(concepts: int, context: float, images: int = 400, patches: int = 196, dim: int = 64) -> float:
    """Return the fraction of words whose highest cosine is with CLS, on simulated vectors of width `dim`.

    Each image has `concepts` concepts. Patches are a concept plus noise, CLS is the normalised sum of the image's
    concepts, and so is the sentence. A word is `(1 - context) * concept + context * sentence` plus noise.
    """
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    meaning = normalize(draw(images, concepts, dim), dim=-1)
    sentence = normalize(meaning.sum(1, keepdim=True), dim=-1)
    of = torch.randint(concepts, (images, patches), generator=generator)
    seen = meaning.gather(1, of[..., None].expand(-1, -1, dim)) + NOISE * draw(images, patches, dim)
    words = (1 - context) * meaning + context * sentence + NOISE * draw(images, concepts, dim)
    kinds = torch.tensor([CLS, *[OBJECT] * patches]).expand(images, -1)
    return dominance(words, torch.cat((sentence, seen), dim=1), kinds).shares["cls"]


def quantiles(values: torch.Tensor, at: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> list[float]:
    """Return quantiles of more values than `torch.quantile` accepts, from a regular sample of them."""
    step = max(1, len(values) // 1_000_000)
    return torch.quantile(values[::step], torch.tensor(at)).tolist()


__all__ = ["KINDS", "Dominance", "all_tokens", "dominance", "quantiles", "simulate_mixtures", "token_kinds"]
