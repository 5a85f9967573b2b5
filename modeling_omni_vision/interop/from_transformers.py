"""Encoders and classifiers of transformers become ours: ViT, ViT-MAE, ViT-MSN, DeiT, DINOv2, and the vision towers of
CLIP and SigLIP.

Names are those on disk, which every release of transformers writes; the prefix that only some of them have is taken
off. What ours has no place for is folded where that is exact, and refused where it is not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from .converted import Converted
from .encoder_names import CLIP, DINOV2, SIGLIP, VIT, read_encoder
from .weights_file import Weights, check_depth


# Weights that no encoder and no linear head needs: pre-training decoders, mask tokens, unused poolers, tables.
NOT_NEEDED = (
    r".*(mask_token|position_ids)$|pooler\.|decoder\.|(visual|text)_projection\.|logit_(scale|bias)$|text_model\."
)
HEAD = r"classifier\.|(cls|distillation)_classifier\."
QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
PATCHES = ("patch_embeddings.projection",)


@dataclass(frozen=True)
class Family:
    """How one architecture of transformers differs from the others."""

    names: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)  # of our configuration
    head: dict[str, Any] = field(default_factory=dict)  # the same, where there is a classifier
    prepare: Callable[[Weights, OmniVisionConfig], None] | None = None
    without_bias: tuple[str, ...] = ()


def fold_distillation_token(weights: Weights, config: OmniVisionConfig) -> None:
    """Turn DeiT's distillation token with its position into a register, which has none."""
    width, positions = config.hidden_size, "embeddings.position_embeddings"
    token = weights.take("embeddings.distillation_token", (1, 1, width))
    table = weights.take(positions, (1, 2 + config.num_patches, width))
    weights.replace("embeddings.register_tokens", (token.double() + table[:, 1:2].double()).to(at_least_float(token)))
    weights.replace(positions, torch.cat((table[:, :1], table[:, 2:]), dim=1))


def at_least_float(value: torch.Tensor) -> torch.dtype:
    """Return the precision of what is computed from a weight: float32, or float64 for float64."""
    return torch.promote_types(value.dtype, torch.float32)


FAMILIES = {
    "vit": Family(VIT),
    "vit_mae": Family(VIT),
    "vit_msn": Family(VIT),
    "deit": Family(VIT, {"num_register_tokens": 1}, prepare=fold_distillation_token),
    "dinov2": Family(DINOV2, head={"pooling": "cls_mean"}),
    "dinov2_with_registers": Family(DINOV2, {"position_antialias": True}, head={"pooling": "cls_mean"}),
    "clip_vision_model": Family(
        CLIP, {"embeddings_norm": True}, {"final_norm": "none", "pooling": "mean"}, without_bias=PATCHES
    ),
    "siglip_vision_model": Family(SIGLIP, {"use_cls_token": False, "pooling": "attention"}, {"pooling": "mean"}),
}
# Both parts of a whole model have configurations of their own.
WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.", "vision_model.")
FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "num_channels")


def read_transformers(
    config: PreTrainedConfig, state: dict[str, torch.Tensor], origin: str, head: bool = True
) -> Converted:
    """Read an encoder, or with `head` a classifier where the checkpoint is one.

    Raises:
        `ValueError`: for an option or a weight that ours has no place for, and for weights that do not fit.
    """
    architecture = (config.architectures or [""])[0]
    has_head = head and architecture.endswith("ForImageClassification")
    if head and architecture.endswith("WithTeacher"):
        raise ValueError(
            f"The average of two heads, on CLS and on the distillation token, has no place in ours, got "
            f"{architecture} in {origin!r}. Convert the encoder alone, which is exact: `--encoder_only true`."
        )
    kind = WHOLE.get(config.model_type, config.model_type)
    family, vision = FAMILIES[kind], getattr(config, "vision_config", config)
    check_depth(vision.num_hidden_layers, state, origin)
    fields = {**our_fields(vision, family, has_head), **(class_labels(config) if has_head else {})}
    ours = OmniVisionConfig(**fields)
    weights = Weights({_bare_name(name): value for name, value in state.items()}, origin)
    if family.prepare is not None:
        family.prepare(weights, ours)
    without = family.without_bias if getattr(vision, "qkv_bias", True) else (*family.without_bias, *QKV)
    converted = read_encoder(weights, ours, family.names, without)
    if has_head:
        converted = {f"omni_vision.{name}": value for name, value in converted.items()}
        converted |= read_linear(weights, "classifier", ours.num_labels or 0, ours.pooled_size)
    unused_norm = r"|post_layernorm\." if ours.final_norm == "none" else ""
    unused_pooler = r"|head\." if kind.startswith("siglip") and ours.pooling != "attention" else ""
    left_out = weights.finish(NOT_NEEDED + unused_norm + unused_pooler + ("" if has_head else "|" + HEAD))
    model_class = OmniVisionForImageClassification if has_head else OmniVisionModel
    return Converted("transformers", model_class, ours, converted, left_out=left_out)


def our_fields(config: Any, family: Family, has_head: bool) -> dict[str, Any]:
    """Translate the options of a vision tower, or raise `ValueError` for one that ours has no place for."""
    if getattr(config, "use_swiglu_ffn", False):
        raise ValueError("A gated MLP (`use_swiglu_ffn`) has no place in ours, expected False, got True.")
    ratio = getattr(config, "mlp_ratio", None)
    width = int(config.hidden_size * ratio) if ratio is not None else config.intermediate_size
    registers = getattr(config, "num_register_tokens", 0)
    pooling = {} if getattr(config, "vision_use_head", True) else {"pooling": "mean"}
    return {
        **{name: getattr(config, name) for name in FIELDS},
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "intermediate_size": width,
        "num_register_tokens": registers,
        "hidden_dropout_prob": getattr(config, "hidden_dropout_prob", 0.0),
        "attention_probs_dropout_prob": getattr(config, "attention_probs_dropout_prob", 0.0),
        "drop_path_rate": getattr(config, "drop_path_rate", 0.0),
        "final_norm": "layer_norm",
        **family.fields,
        **(family.head if has_head else pooling),
    }


def class_labels(config: Any) -> dict[str, Any]:
    """Return what a classifier knows of its classes; raise `ValueError` where some number has no name."""
    names = config.id2label or {}  # a classifier without a head has none
    if sorted(names) != [*range(len(names))]:
        raise ValueError(
            f"`id2label` must name the classes 0 to {len(names) - 1}, got {names!r}. Correct it in config.json."
        )
    return {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}


def read_linear(weights: Weights, name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Return weight and bias of a head, as our `classifier`."""
    weight, bias = weights.take(f"{name}.weight", (rows, columns)), weights.take(f"{name}.bias", (rows,))
    return {"classifier.weight": weight, "classifier.bias": bias}


def _bare_name(name: str) -> str:
    """Take off the prefix that a model with a head gives to the names of its encoder."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


__all__ = ["FAMILIES", "WHOLE", "at_least_float", "class_labels", "read_linear", "read_transformers"]
