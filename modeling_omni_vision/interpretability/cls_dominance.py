"""Whom late interaction listens to: how often a word's maximum falls on CLS, a register, background or an object.

The claim that CLS dominates (`late_interaction.md` of the specification) is measured here, not assumed. Everything
works on vectors, so that cases with known answers can be planted; `simulate_mixtures` is one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval


KINDS = ("cls", "register", "background", "object")
CLS, REGISTER, BACKGROUND, OBJECT = range(len(KINDS))


@dataclass(frozen=True)
class Dominance:
    """
    Who wins the words.

    Args:
        shares: Share of words won by each of `KINDS`.
        chance: Share of the tokens that are of each kind: what a word without meaning would give.
        margins: For each word, the best cosine of CLS less the best of all other tokens; above 0 CLS wins. Empty
            where there is no CLS.
        cosines: For each kind that occurs, the cosines of all words with all tokens of that kind.
    """

    shares: dict[str, float]
    chance: dict[str, float]
    margins: torch.Tensor
    cosines: dict[str, torch.Tensor]


def dominance(words: torch.Tensor, tokens: torch.Tensor, kinds: torch.Tensor, every_pair: bool = False) -> Dominance:
    """Count whose cosine is largest for each word.

    Args:
        words: Word vectors (texts, words, dim); all-zero rows are padding.
        tokens: Image vectors (images, tokens, dim), as many images as texts.
        kinds: What each token is, an index into `KINDS`, (images, tokens).
        every_pair: Ask every text of every image, not only of its own.

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
        asked = words[present] if every_pair else words[image][present[image]]
        found = asked @ tokens[image].T
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
    """Project and normalise every token of the image tower, CLS and registers too: (batch, tokens, dim)."""
    return normalize(model.visual_projection(model.vision_model(pixel_values).last_hidden_state), dim=-1)


def token_kinds(cover: torch.Tensor, registers: int, threshold: float = 0.25) -> torch.Tensor:
    """Tell what each token of `all_tokens` is.

    Args:
        cover: Share of each patch that objects cover, (images, patches).
        registers: Number of register tokens.
        threshold: From which share on a patch counts as object.
    """
    patches = torch.where(cover >= threshold, OBJECT, BACKGROUND)
    leading = torch.tensor([CLS, *[REGISTER] * registers]).expand(len(cover), -1)
    return torch.cat((leading, patches), dim=1)


def simulate_mixtures(
    concepts: int,
    context: float,
    images: int = 400,
    patches: int = 196,
    dim: int = 64,
    noise: float = 0.125,
    seed: int = 0,
) -> float:
    """Share of words that CLS wins where everything is known.

    Patches are a concept plus noise, CLS is the normalised sum of the image's concepts, and so is the sentence. A
    word is `(1 - context) * concept + context * sentence` plus noise.

    Args:
        concepts: Concepts in each image, and words in each sentence.
        context: How much of the sentence a word has taken up, from 0 to 1.
        images: Number of images.
        patches: Patches of each.
        dim: Width of all vectors.
        noise: Standard deviation of each coordinate of the noise.
        seed: Seed of everything.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    meaning = normalize(draw(images, concepts, dim), dim=-1)
    sentence = normalize(meaning.sum(1, keepdim=True), dim=-1)
    of = torch.randint(concepts, (images, patches), generator=generator)
    seen = meaning.gather(1, of[..., None].expand(-1, -1, dim)) + noise * draw(images, patches, dim)
    words = (1 - context) * meaning + context * sentence + noise * draw(images, concepts, dim)
    kinds = torch.cat((torch.full((images, 1), CLS), torch.full((images, patches), OBJECT)), dim=1)
    return dominance(words, torch.cat((sentence, seen), dim=1), kinds).shares["cls"]


def table(results: dict[str, Dominance]) -> str:
    """Write results as a Markdown table, one row for each."""
    lines = ["| state | " + " | ".join(f"{kind} (chance)" for kind in KINDS) + " | median margin of CLS |"]
    lines.append("|---" * (len(KINDS) + 2) + "|")
    for name, found in results.items():
        cells = [f"{found.shares[kind]:.1%} ({found.chance[kind]:.1%})" for kind in KINDS]
        margin = f"{found.margins.median().item():+.3f}" if len(found.margins) else "no CLS"
        lines.append(f"| {name} | {' | '.join(cells)} | {margin} |")
    return "\n".join(lines)


def quantiles(values: torch.Tensor, at: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> list[float]:
    """Give quantiles of many values, which `torch.quantile` refuses, from a regular sample of them."""
    step = max(1, len(values) // 1_000_000)
    return torch.quantile(values[::step], torch.tensor(at)).tolist()


__all__ = ["KINDS", "Dominance", "all_tokens", "dominance", "quantiles", "simulate_mixtures", "table", "token_kinds"]
