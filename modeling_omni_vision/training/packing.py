"""Attention masks of packed questions, for the kinds of decoders that can be packed, and the check that one can.

A packed question sees what it would see alone: earlier tokens of its own and what all questions share, in layers with
a sliding window only those that near. Convolutions, recurrent layers and ALiBi mix neighbours of the sequence instead:
no mask helps, and `check_packing` refuses them, by comparison, whatever their name.
"""

from collections.abc import Callable
from typing import Any

import torch


SHARED = 0  # the segment that all questions of a sequence attend to
IGNORED = -100
# Attention implementations that take a 4D mask; others ignore or refuse it.
PACKABLE = ("sdpa", "eager")
# Largest difference of logits, relative to the largest logit: sums in another order, on a CPU and elsewhere.
SAME = {"cpu": 1e-4}
SAME_ELSEWHERE = 1e-3


def packed_mask(segments: torch.Tensor, positions: torch.Tensor | None = None, window: int = 0) -> torch.Tensor:
    """Return the attention mask of packed questions: each token attends to earlier ones of its own question or shared.

    Args:
        segments: Questions of the tokens (batch, length), 0 for what is shared, -1 for padding.
        positions: Positions of the tokens in their questions (batch, length), needed for a window.
        window: Positions that a token attends to, itself among them; 0 for all.

    Returns:
        (batch, 1, length, length), to add to scores: 0 where a token attends, elsewhere the smallest number.
    """
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    earlier = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    seen = earlier & ((key == SHARED) | (key == query))
    if window and positions is not None:
        seen &= positions.unsqueeze(2) - positions.unsqueeze(1) < window
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)


def decoder_masks(
    segments: torch.Tensor, positions: torch.Tensor, decoder: Any = None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the mask of packed questions for a decoder, or one for each kind of layer that it has.

    Args:
        segments: See `packed_mask`.
        positions: See `packed_mask`.
        decoder: Configuration of the language model; by default all layers attend to everything before them.
    """
    window = getattr(decoder, "sliding_window", None) or 0
    kinds = set(getattr(decoder, "layer_types", None) or (["sliding_attention"] if window else []))
    if "sliding_attention" not in kinds or not window:
        return packed_mask(segments)
    if kinds == {"sliding_attention"}:
        return packed_mask(segments, positions, window)
    masks = {"full_attention": packed_mask(segments), "sliding_attention": packed_mask(segments, positions, window)}
    return {kind: masks[kind] for kind in masks if kind in kinds}


@torch.no_grad()
def check_packing(model: Any, collate: Callable[..., dict[str, Any]], data: Any) -> None:
    """Refuse to pack questions for a model that answers one of them in another way than alone.

    Args:
        model: The composite.
        collate: An `AnswerCollator`.
        data: `Conversations`, of which the longest sequence and that with the longest question are compared.

    Raises:
        ValueError: if attention takes no mask of packed questions, or answers differ.
    """
    attention = {part.config._attn_implementation for part in (model.language_model, model.vision_tower)}
    if not attention <= set(PACKABLE):
        raise ValueError(
            f"Packed questions need an attention of {', '.join(PACKABLE)}, got {sorted(attention)}. "
            "Set --max_questions_per_sequence 1."
        )
    packed = [number for number, sequence in enumerate(data.sequences) if len(sequence.kinds) > 1]
    if not packed:
        return
    longest = max(packed, key=lambda number: len(data.sequences[number].tokens))
    deepest = max(packed, key=lambda number: max(data.sequences[number].positions))
    was_training = model.training
    model.eval()
    try:
        reason = next(filter(None, (_differs(model, collate, data[number]) for number in {longest, deepest})), None)
    finally:
        model.train(was_training)
    if reason is not None:
        decoder = model.language_model
        raise ValueError(
            f"Packed questions need a decoder that answers them as alone, got {type(decoder).__name__} "
            f"({decoder.config.model_type}): {reason}. Set --max_questions_per_sequence 1."
        )


def _differs(model: Any, collate: Callable[..., dict[str, Any]], item: Any) -> str | None:
    """Return how answers in a packed sequence differ from those alone, None if they do not."""
    try:
        together = _answer_logits(model, collate, item)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"it takes no mask of packed questions ({str(error)[:100]})"
    count, last = len(item.kinds), [segment for segment, label in _said(item)]
    longest = max(range(1, count + 1), key=[*item.segments].count)
    for number in {1, longest, count}:
        places = [place for place, segment in enumerate(last) if segment == number]
        alone = _answer_logits(model, collate, item.only(number))
        apart = (together[places] - alone).abs().max() / alone.abs().max()
        if not apart <= SAME.get(alone.device.type, SAME_ELSEWHERE):
            return f"its layers mix questions, and logits differ by {float(apart):.1e} of the largest"
    return None


def _said(item: Any) -> list[tuple[int, int]]:
    """Return segment and label of each token with a label."""
    return [(segment, label) for segment, label in zip(item.segments, item.labels, strict=True) if label != IGNORED]


def _answer_logits(model: Any, collate: Callable[..., dict[str, Any]], item: Any) -> torch.Tensor:
    """Return the logits (tokens of answers, vocabulary) of one sequence."""
    batch = to_device(collate([item]), model.device)
    labels = batch.pop("labels")[0, 1:]
    return model(**batch, use_cache=False).logits[0, :-1][labels != IGNORED].float()


def to_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    """Move a batch, with a mask or one for each kind of layer."""
    return {
        name: to_device(value, device) if isinstance(value, dict) else value.to(device)
        for name, value in batch.items()
    }


__all__ = ["IGNORED", "SHARED", "check_packing", "decoder_masks", "packed_mask", "to_device"]
