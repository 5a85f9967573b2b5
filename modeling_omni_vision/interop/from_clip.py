"""Whole CLIP and SigLIP models of transformers become an `OmniVisionForRetrieval`: both towers, both projections, the
scale and the bias of the logits.

The text tower stays transformers' own. SigLIP has no projections: identities stand in their place.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

from .converted import Converted
from .from_transformers import read_transformers
from .weights_file import Weights


# What transformers' SigLIP processor pads to, whatever the tokenizer says.
SIGLIP_TEXT_LENGTH = 64


def read_clip(config: Any, state: dict[str, torch.Tensor], origin: str, tokenizer: Any) -> Converted:
    """Read a whole CLIP or SigLIP of transformers, with its tokenizer (None for one without)."""
    sigmoid, text = config.model_type == "siglip", config.text_config
    of_vision = {name: value for name, value in state.items() if name.startswith("vision_model.")}
    vision = read_transformers(config, of_vision, origin, head=False)
    weights = Weights({name: value for name, value in state.items() if name not in of_vision}, origin)
    parts = {name: weights.take(name, shape) for name, shape in text_shapes(text)}
    width = text.projection_size if sigmoid else config.projection_dim
    if sigmoid:
        text.pad_token_id = text.pad_token_id if tokenizer is None else tokenizer.pad_token_id
        options = {"contrastive_loss": "sigmoid", "fixed_text_length": min(SIGLIP_TEXT_LENGTH, text_length(text))}
        parts["logit_bias"] = weights.take("logit_bias", ())
    else:
        options = {}
        parts["visual_projection.weight"] = weights.take(
            "visual_projection.weight", (width, vision.config.hidden_size)
        )
        parts["text_projection.weight"] = weights.take("text_projection.weight", (width, text.hidden_size))
    parts["logit_scale"] = weights.take("logit_scale", ())
    vision.left_out += weights.finish(r".*position_ids$")
    return as_retrieval(vision, text, parts, width, options)


def text_length(text: PreTrainedConfig) -> int:
    """Return the number of positions of a text tower."""
    return int(text.max_position_embeddings)


def text_shapes(text: PreTrainedConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights of a text tower, by names as in a whole model, with their shapes."""
    # Not at the top of the file: the encoder alone does without transformers 5.23, which this needs.
    from ..modeling_omni_vision_retrieval import build_text_model

    with torch.device("meta"):
        model = build_text_model(text)
    yield from ((f"text_model.{name}", tuple(value.shape)) for name, value in model.state_dict().items())


def as_retrieval(
    vision: Converted, text: PreTrainedConfig, parts: dict[str, torch.Tensor], width: int, options: dict[str, Any]
) -> Converted:
    """Join a vision tower and everything else to a retrieval model; a missing projection is the identity."""
    # Not at the top of the file: the encoder alone does without transformers 5.23, which these need.
    from ..configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
    from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval

    tower: Any = vision.config
    config = OmniVisionRetrievalConfig(
        vision_config=tower.to_dict(),
        text_config=text.to_dict(),
        embedding_dim=width,
        text_pooling="pooler",
        logit_scale_init_value=float(parts["logit_scale"]),
        **options,
    )
    state = {f"vision_model.{name}": value for name, value in vision.state.items()} | parts
    dtype = next(iter(parts.values())).dtype
    sizes = {"visual_projection.weight": tower.hidden_size, "text_projection.weight": text.hidden_size}
    for name, size in sizes.items():
        if name not in state and size != width:
            raise ValueError(f"Without `{name}` vectors must have {width} numbers, got {size}. Name a complete model.")
        state.setdefault(name, torch.eye(width, dtype=dtype))
    vision.config, vision.state, vision.model_class = config, state, OmniVisionForRetrieval
    return vision


__all__ = ["SIGLIP_TEXT_LENGTH", "as_retrieval", "read_clip", "text_length"]
