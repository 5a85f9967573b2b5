"""Native files of open_clip become an `OmniVisionForRetrieval`: `open_clip_config.json` and weights.

Both layouts are read, with the text tower at the top level (`CLIP`) and under `text.` (`CustomTextCLIP`). Image towers
are open_clip's own ViT or a ViT of timm. A causal text tower becomes transformers' `CLIPTextModel`, one that sees all
tokens and reads the last one, as SigLIP's, a `SiglipTextModel`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, PreTrainedConfig, SiglipTextConfig

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionModel
from .converted import Converted
from .encoder_names import CLIP_LAYER, OPEN_CLIP, OPEN_CLIP_LAYER, read_encoder, read_weight
from .from_clip import as_retrieval, text_shapes
from .from_timm import read_timm
from .weights_file import Weights, check_depth


CONFIG_FILE = "open_clip_config.json"
# Options of open_clip's towers that change what is computed, with the values that ours has a place for.
VISION_PLACES = {"attentional_pool": (False,), "pool_type": ("tok", "avg")}
TEXT_PLACES = {"embed_cls": (False,), "pool_type": ("argmax", "eos", "last"), "proj_type": ("linear", "none")}
BLOCK_OPTIONS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
TEXT_NAMES = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
OURS_BY_CLIP_NAME = {theirs: ours for ours, theirs in CLIP_LAYER.items()}


def read_open_clip_config(folder: Path) -> dict[str, Any]:
    """Read the settings of the model, with those of its images as `preprocess_cfg`, None where the file says null."""
    written: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return {**written["model_cfg"], "preprocess_cfg": written.get("preprocess_cfg", {})}


def read_open_clip(
    config: dict[str, Any], state: dict[str, torch.Tensor], origin: str, whole: bool = True
) -> Converted:
    """
    Read a model, or without `whole` its image tower alone.

    Raises:
        `ValueError`: for an option or a weight that ours has no place for, and for weights that do not fit.
    """
    refuse(config)
    # Both layouts as one: the text tower under `text.`.
    state = {f"text.{name}" if name.startswith(TEXT_NAMES) else name: value for name, value in state.items()}
    image = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    vision, projection = read_image_tower(config, image, origin)
    vision.library = "open_clip"  # that of a timm tower too, without timm's files
    if not whole:
        return vision
    weights = Weights({name: value for name, value in state.items() if not name.startswith("visual.")}, origin)
    text, parts = read_text_tower(config, weights)
    parts["logit_scale"] = weights.take("logit_scale", ())
    sigmoid = config.get("init_logit_bias") is not None or "logit_bias" in weights.state
    options: dict[str, Any] = {"contrastive_loss": "sigmoid" if sigmoid else "softmax"}
    if sigmoid:
        parts["logit_bias"] = weights.take("logit_bias", ())
    if isinstance(text, SiglipTextConfig):
        options["fixed_text_length"] = text.max_position_embeddings
    if projection is not None:
        parts["visual_projection.weight"] = projection
    vision.left_out += weights.finish(r"(text\.)?attn_mask$")
    return as_retrieval(vision, text, parts, config["embed_dim"], options)


def refuse(config: dict[str, Any]) -> None:
    """Raise a `ValueError` that names every option which ours has no place for."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    found = [
        f"vision {name} {vision[name]!r}"
        for name, good in VISION_PLACES.items()
        if vision.get(name, good[0]) not in good
    ]
    found += [
        f"text {name} {text[name]!r}" for name, good in TEXT_PLACES.items() if text.get(name, good[0]) not in good
    ]
    found += [
        f"{part} {name}" for part in ("vision_cfg", "text_cfg") for name in BLOCK_OPTIONS if config[part].get(name)
    ]
    if isinstance(vision.get("layers"), list):
        found.append("a ResNet image tower")
    if text.get("hf_model_name"):
        found.append(f"the text tower {text['hf_model_name']!r}")
    if (vision.get("final_ln_after_pool") and vision.get("pool_type", "tok") == "avg") or text.get(
        "final_ln_after_pool"
    ):
        found.append("final_ln_after_pool")
    if bool(text.get("no_causal_mask")) != (text.get("pool_type", "argmax") == "last"):
        found.append("text pooling 'last' with a causal mask, or another one without")
    for tower in (vision, text):
        activation(tower, config)
    if found:
        raise ValueError(
            f"The model of open_clip has what ours has no place for: {', '.join(found)}. Convert another."
        )


def read_image_tower(
    config: dict[str, Any], state: dict[str, torch.Tensor], origin: str
) -> tuple[Converted, torch.Tensor | None]:
    """Return the image tower, and its projection or None."""
    options, width = config["vision_cfg"], config["embed_dim"]
    if options.get("timm_model_name"):
        return read_timm_tower(options, state, origin, width)
    check_depth(options["layers"], state, origin)
    act = activation(options, config)
    hidden, size, patch = options["width"], options["image_size"], options["patch_size"]
    ours = OmniVisionConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=hidden,
        num_hidden_layers=options["layers"],
        num_attention_heads=hidden // options.get("head_width", 64),
        intermediate_size=int(hidden * options.get("mlp_ratio", 4.0)),
        hidden_act=act,
        layer_norm_eps=(options.get("norm_kwargs") or {}).get("eps", 1e-5),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        final_norm="layer_norm",
        embeddings_norm=not options.get("no_ln_pre", False),
        position_antialias=True,
        pooling="mean" if options.get("pool_type") == "avg" else "cls",
    )
    weights = Weights(state, origin)
    converted = read_encoder(weights, ours, scaled(OPEN_CLIP, options), ("patch_embeddings.projection",))
    projection = weights.take("proj", (hidden, width)).T.contiguous()
    weights.finish("$")
    return Converted("open_clip", OmniVisionModel, ours, converted), projection


def read_timm_tower(
    options: dict[str, Any], state: dict[str, torch.Tensor], origin: str, width: int
) -> tuple[Converted, torch.Tensor | None]:
    """Do as `read_image_tower` for a tower of timm."""
    projected = options.get("timm_proj", "linear")
    if projected not in ("linear", "none") or options.get("timm_proj_bias"):
        raise ValueError(f"The projection of a timm tower must be linear without bias or none, got {projected!r}.")
    # The size is that of the architecture: open_clip itself does not pass `image_size` on.
    arguments = {"num_classes": 0, "global_pool": options.get("timm_pool", "avg")}
    config = {"architecture": options["timm_model_name"], "pretrained_cfg": {}, "model_args": arguments}
    trunk = {name.removeprefix("trunk."): value for name, value in state.items() if name.startswith("trunk.")}
    weights = Weights({name: value for name, value in state.items() if not name.startswith("trunk.")}, origin)
    vision = read_timm(config, trunk, origin, head=False)
    if vision.config.final_norm == "none":
        raise ValueError(f"{options['timm_model_name']} normalises after pooling, which ours has no place for here.")
    hidden: int = vision.config.hidden_size
    projection = weights.take("head.proj.weight", (width, hidden)) if projected == "linear" else None
    weights.finish("$")
    return vision, projection


def read_text_tower(config: dict[str, Any], weights: Weights) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """Return the configuration of transformers' text tower, and its weights and projection under our names."""
    options, width = config["text_cfg"], config["embed_dim"]
    hidden, own = options.get("width", 512), bool(options.get("no_causal_mask"))
    fields = {
        "vocab_size": options.get("vocab_size", 49408),
        "hidden_size": hidden,
        "intermediate_size": int(hidden * options.get("mlp_ratio", 4.0)),
        "num_hidden_layers": options.get("layers", 12),
        "num_attention_heads": options.get("heads", 8),
        "max_position_embeddings": options.get("context_length", 77),
        "hidden_act": activation(options, config),
        "layer_norm_eps": (options.get("norm_kwargs") or {}).get("eps", 1e-5),
        "pad_token_id": options.get("pad_id", 0),
        "bos_token_id": None,
    }
    if own:
        text: PreTrainedConfig = SiglipTextConfig(**fields, projection_size=width, eos_token_id=None)
    else:
        # 2 makes `CLIPTextModel` read the token with the highest id, as open_clip does.
        eos = options.get("eos_id", 2) if options.get("pool_type", "argmax") == "eos" else 2
        text = CLIPTextConfig(**fields, eos_token_id=eos, projection_dim=width)
    names = scaled(OPEN_CLIP_LAYER, options)
    parts = {name: text_weight(weights, name, shape, names, options) for name, shape in text_shapes(text)}
    if not own and options.get("proj_type", "linear") != "none":
        theirs = "text.text_projection.weight" if options.get("proj_bias") else "text.text_projection"
        projection = weights.take(theirs, (width, hidden) if options.get("proj_bias") else (hidden, width))
        parts["text_projection.weight"] = projection if options.get("proj_bias") else projection.T.contiguous()
    return text, parts


def text_weight(
    weights: Weights, name: str, shape: tuple[int, ...], names: dict[str, str], options: dict[str, Any]
) -> torch.Tensor:
    """Return one weight of transformers' text tower, `text_model.` and its name there."""
    inner = name.removeprefix("text_model.")
    fixed = {
        "embeddings.token_embedding.weight": "text.token_embedding.weight",
        "embeddings.position_embedding.weight": "text.positional_embedding",
        "final_layer_norm.weight": "text.ln_final.weight",
        "final_layer_norm.bias": "text.ln_final.bias",
    }
    if inner in fixed:
        return weights.take(fixed[inner], shape)
    if inner.startswith("head."):
        return text_head(weights, inner.removeprefix("head."), shape, options)
    _, _, index, rest = inner.split(".", 3)
    part, _, kind = rest.rpartition(".")
    generic = OURS_BY_CLIP_NAME[f"encoder.layers.{{}}.{part}"]
    prefixed = {ours: f"text.{theirs}" for ours, theirs in names.items()}
    return read_weight(weights, f"{generic.format(index)}.{kind}", shape, prefixed)


def text_head(weights: Weights, kind: str, shape: tuple[int, ...], options: dict[str, Any]) -> torch.Tensor:
    """Return the projection of a text tower like SigLIP's, which is a layer of the tower in transformers."""
    if options.get("proj_type", "linear") == "none":
        return torch.eye(shape[0]) if kind == "weight" else torch.zeros(shape)
    if options.get("proj_bias"):
        return weights.take(f"text.text_projection.{kind}", shape)
    return weights.take("text.text_projection", shape[::-1]).T.contiguous() if kind == "weight" else torch.zeros(shape)


def activation(options: dict[str, Any], config: dict[str, Any]) -> str:
    """Return transformers' name of the activation of a tower; refuse arguments that are not known."""
    arguments = options.get("act_kwargs") or {}
    if arguments not in ({}, {"approximate": "tanh"}) or (arguments and config.get("quick_gelu")):
        raise ValueError(f"The activation must be GELU, its tanh form or QuickGELU, got act_kwargs {arguments!r}.")
    return "quick_gelu" if config.get("quick_gelu") else "gelu_pytorch_tanh" if arguments else "gelu"


def scaled(names: dict[str, str], options: dict[str, Any]) -> dict[str, str]:
    """Return a table of names, without LayerScale for a tower that has none."""
    has_scale = options.get("ls_init_value") is not None
    return {ours: theirs for ours, theirs in names.items() if has_scale or not ours.startswith("scale")}


__all__ = ["CONFIG_FILE", "read_open_clip", "read_open_clip_config"]
