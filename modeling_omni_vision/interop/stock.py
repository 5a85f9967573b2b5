"""What every stock architecture has in common with ours: the same options, the same weights under other names.

A grey model becomes one of three channels that weighs colours as Pillow's `L` does: stock image processors, browsers
among them, give three channels of every image, and take palette indices for grey levels where they must not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..image_processing_omni_vision import LUMA
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel


# Names on disk, not those in memory: every release of transformers reads them.
ATTENTION_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "num_channels",
    "id2label",
    "label2id",
    "problem_type",
)

Ours = OmniVisionModel | OmniVisionForImageClassification


@dataclass(frozen=True)
class StockModel:
    """A stock model to be written: its class, its configuration, its weights under their names on disk."""

    stock_class: type[PreTrainedModel]
    config: PreTrainedConfig
    weights: dict[str, torch.Tensor]


def is_classifier(model: Ours) -> bool:
    """Return whether a model of ours has a head."""
    return isinstance(model, OmniVisionForImageClassification)


def shared_options(config: Any) -> dict[str, Any]:
    """Translate the options of ours that every stock architecture has."""
    options = {name: getattr(config, name) for name in SHARED_FIELDS}
    options["num_channels"] = stock_channels(config)
    for name in ("image_size", "patch_size"):
        height, width = getattr(config, f"{name}_hw")
        # One number for a square, which every reader of a stock configuration understands.
        options[name] = height if height == width else [height, width]
    return options


def stock_channels(config: Any) -> int:
    """Return the channels of the stock model: three for a grey one."""
    return 3 if config.num_channels == 1 else config.num_channels


def stock_weights(
    model: Ours, prefix: str, layer_names: dict[str, str], added: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Rename the weights of a model to a stock model's names on disk and add what is neutral in ours.

    `prefix` is what the stock classifier calls its encoder, `layer_names` maps parts of our layers to its own, `added`
    are weights of its encoder that ours has not, by names without prefix. Biases of norms, zero in ours, are always
    added.
    """
    encoder = getattr(model, "omni_vision", model)
    weights = {stock_name(name, layer_names): tensor for name, tensor in encoder.state_dict().items()}
    for name in [name for name in weights if "norm" in name and name.endswith(".weight")]:
        weights.setdefault(name.removesuffix("weight") + "bias", torch.zeros_like(weights[name]))
    weights |= added
    if encoder.config.num_channels == 1:
        grey = weights["embeddings.patch_embeddings.projection.weight"]
        weights["embeddings.patch_embeddings.projection.weight"] = grey * luma(grey)
    if encoder is not model:
        weights = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier.")}
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def luma(like: torch.Tensor) -> torch.Tensor:
    """Return the weights of red, green and blue in grey, (3, 1, 1)."""
    return torch.from_numpy(LUMA).to(like)[:, None, None]


def stock_name(name: str, layer_names: dict[str, str]) -> str:
    """Name on disk of one weight of our encoder in a stock one."""
    if name.startswith("layers."):
        _, index, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        return f"encoder.layer.{index}.{layer_names[part]}.{kind}"
    return name.replace("norm.", "layernorm.", 1) if name.startswith("norm.") else name


__all__ = [
    "ATTENTION_NAMES",
    "Ours",
    "StockModel",
    "is_classifier",
    "luma",
    "shared_options",
    "stock_channels",
    "stock_weights",
]
