"""timm's `VisionTransformer` becomes ours: a folder that timm saved, or a state dict and the name of an architecture.

transformers cannot open what timm 1.0.31 saves, so the folder is read here. timm itself builds the architecture,
without weights, and its modules say what the names do not: activation, norms, which biases there are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from .converted import Converted
from .encoder_names import TIMM, read_encoder
from .from_transformers import at_least_float, read_linear
from .weights_file import Weights, check_depth


# Weights that were trained with QuickGELU. timm has them under names with plain GELU too, and does not warn.
QUICK_GELU_TAGS = (
    "openai",
    "dfn2b",
    "dfn5b",
    "laion400m_e32",
    "metaclip_2pt5b",
    "metaclip_400m",
    "metaclip2_worldwide",
)
ACTIVATIONS = {
    "QuickGELU": "quick_gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}
POOLINGS = {"token": "cls", "avg": "mean", "map": "attention"}


def read_timm_config(folder: Path) -> dict[str, Any]:
    """Read the config.json that timm saves: `architecture`, `model_args` and `pretrained_cfg`, which older releases
    write without a level of its own.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = config.get("pretrained_cfg") or {name: config[name] for name in config if name != "architecture"}
    arguments = {
        "num_classes": config.get("num_classes", settings.get("num_classes", 0)),
        **config.get("model_args", {}),
    }
    return {**config, "pretrained_cfg": settings, "model_args": arguments}


def build_timm(config: dict[str, Any], **options: Any) -> Any:
    """Build the model of timm that a configuration describes, or raise `ValueError`."""
    import timm

    known = {**config["model_args"], **options}
    try:
        if not timm.is_model(config["architecture"]):  # the name of a repository would be looked up on the Hub
            raise ValueError("no such architecture")
        return timm.create_model(config["architecture"], pretrained=False, **known).eval()
    except (AttributeError, RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"timm {timm.__version__} must know the architecture, got {config['architecture']!r} with {known!r} "
            f"({type(error).__name__}: {error}). Correct the name, or install the release of timm that saved it."
        ) from error


def read_timm(
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    origin: str,
    head: bool = True,
    hidden_act: str | None = None,
) -> Converted:
    """
    Read an encoder, or with `head` a classifier where the checkpoint is one.

    Args:
        config: As `read_timm_config` returns it.
        state: The weights.
        origin: What messages call the checkpoint.
        head: Whether a head is read too.
        hidden_act: Activation in place of what the architecture and the tag of the weights say.

    Raises:
        `ValueError`: for a part or a weight that ours has no place for, and for weights that do not fit.
    """
    tag = config["pretrained_cfg"].get("tag")
    if hidden_act is None and tag in QUICK_GELU_TAGS and "act_layer" not in config["model_args"]:
        hidden_act = "quick_gelu"
    # timm calls tanh-approximated GELU otherwise.
    theirs = {"gelu_pytorch_tanh": "gelu_tanh"}.get(hidden_act or "", hidden_act)
    options = {"act_layer": theirs} if hidden_act else {}
    check_depth(config["model_args"].get("depth", 1), state, origin)
    with torch.device("meta"):
        model = build_timm(config, **options)
    refuse(model, config["architecture"])
    has_head = head and isinstance(model.head, nn.Linear)
    ours = OmniVisionConfig(**our_fields(model, has_head), **(class_names(config, model) if has_head else {}))
    weights = Weights(dict(state), origin)
    fold_prefix_positions(weights, model, ours)
    converted = read_encoder(weights, ours, names_of(model), without_bias(model))
    if has_head:
        converted = {f"omni_vision.{name}": value for name, value in converted.items()}
        converted |= read_linear(weights, "head", ours.num_labels or 0, ours.pooled_size)
        for kind in ("weight", "bias") if ours.pooled_norm else ():
            converted[f"pooled_norm.{kind}"] = weights.take(f"fc_norm.{kind}", (ours.hidden_size,))
    left_out = weights.finish("$" if has_head else r"head\.|fc_norm\.")
    notes = []
    if options and tag in QUICK_GELU_TAGS:
        notes.append(f"activation {hidden_act}: weights with the tag {tag!r} were trained with QuickGELU")
    if any(name.startswith("fc_norm.") for name in left_out):
        notes.append("the final norm belongs to the head in this architecture (fc_norm), so tokens are not normalised")
    model_class = OmniVisionForImageClassification if has_head else OmniVisionModel
    return Converted("timm", model_class, ours, converted, left_out=left_out, notes=notes, origin={"options": options})


def refuse(model: Any, architecture: str) -> None:
    """Raise a `ValueError` that names every part of a model which ours has no place for."""
    found = list(dict.fromkeys(without_place(model)))
    if found:
        raise ValueError(
            f"{architecture} of timm has what ours has no place for: {', '.join(found)}. Convert another architecture."
        )


def without_place(model: Any) -> Iterator[str]:
    """Name the parts of a model that ours has no place for."""
    if type(model).__name__ != "VisionTransformer":
        yield f"the class {type(model).__name__} instead of VisionTransformer"
        return
    block = model.blocks[0]
    expected = [(model.patch_embed, "PatchEmbed"), (block, "Block")]
    if type(block).__name__ == "Block":
        parts = (block.attn.q_norm, block.attn.k_norm, block.attn.norm, block.mlp.norm, model.patch_embed.norm)
        expected += [(block.attn, "Attention"), (block.mlp, "Mlp"), *((part, "Identity") for part in parts)]
        expected += [(norm, "LayerNorm") for norm in norms_of(model)]
    for part, name in expected:
        if type(part).__name__ != name:
            yield f"{type(part).__name__} instead of {name}"
    if len({getattr(norm, "eps", None) for norm in norms_of(model)}) > 1:
        yield "norms of several epsilons"
    if model.pos_embed is None:
        yield "no position embeddings"
    if model.global_pool not in (*POOLINGS, ""):
        yield f"global_pool {model.global_pool!r}"
    if model.pool_include_prefix and model.num_prefix_tokens and model.global_pool != "token":
        yield "pool_include_prefix"
    if model.attn_pool is not None and model.attn_pool.latent_len != 1:
        yield f"{model.attn_pool.latent_len} queries of the attention pool"


def norms_of(model: Any) -> list[nn.Module]:
    """Return the norms of a model that are there."""
    pool = [] if model.attn_pool is None else [model.attn_pool.norm]
    blocks = [getattr(block, name) for block in model.blocks for name in ("norm1", "norm2") if hasattr(block, name)]
    found = [*blocks, model.norm_pre, model.norm, model.fc_norm, *pool]
    return [norm for norm in found if not isinstance(norm, nn.Identity)]


def our_fields(model: Any, has_head: bool) -> dict[str, Any]:
    """Translate what the modules of a model say."""
    block, cls = model.blocks[0], model.has_class_token
    pooling = POOLINGS.get(model.global_pool, "cls" if cls else "mean")
    return {
        "image_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "num_channels": model.patch_embed.proj.in_channels,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": activation(block.mlp.act),
        "layer_norm_eps": block.norm1.eps,
        "final_norm": "none" if isinstance(model.norm, nn.Identity) else "layer_norm",
        "embeddings_norm": not isinstance(model.norm_pre, nn.Identity),
        "pooled_norm": has_head and not isinstance(model.fc_norm, nn.Identity),
        "use_cls_token": cls,
        "num_register_tokens": model.num_reg_tokens,
        "position_antialias": True,
        "pooling": pooling,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def activation(module: nn.Module) -> str:
    """Return transformers' name of an activation of timm."""
    name = type(module).__name__
    if name == "GELU" and getattr(module, "approximate", "none") == "tanh":
        name = "GELUTanh"
    if name not in ACTIVATIONS:
        raise ValueError(f"The activation must be one of {', '.join(ACTIVATIONS)}, got {name}. Convert another model.")
    return ACTIVATIONS[name]


def names_of(model: Any) -> dict[str, str]:
    """Return the table of names, without the LayerScale of a model that has none."""
    scaled = not isinstance(model.blocks[0].ls1, nn.Identity)
    return {ours: theirs for ours, theirs in TIMM.items() if scaled or not ours.startswith("scale")}


def without_bias(model: Any) -> tuple[str, ...]:
    """Return our names of the parts whose bias the model lacks; zeros are the same."""
    block = model.blocks[0]
    parts = {
        ("patch_embeddings.projection",): model.patch_embed.proj,
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"): block.attn.qkv,
        ("attention.o_proj",): block.attn.proj,
        ("layers.{}.mlp.fc1",): block.mlp.fc1,
        ("layers.{}.mlp.fc2",): block.mlp.fc2,
    }
    return tuple(name for names, part in parts.items() if part.bias is None for name in names)


def fold_prefix_positions(weights: Weights, model: Any, config: OmniVisionConfig) -> None:
    """Bring positions into our layout: CLS and patches have one, registers have theirs added.

    Where CLS has none in timm (`no_embed_class`), it gets zeros.
    """
    width, prefix = config.hidden_size, 0 if model.no_embed_class else model.num_prefix_tokens
    table = weights.take("pos_embed", (1, prefix + config.num_patches, width))
    cls, patches = table[:, : int(config.use_cls_token and prefix > 0)], table[:, prefix:]
    if config.use_cls_token and not prefix:
        cls = torch.zeros((1, 1, width), dtype=table.dtype)
    if config.num_register_tokens and prefix:
        registers = weights.take("reg_token", (1, config.num_register_tokens, width)).double()
        registers = registers + table[:, prefix - config.num_register_tokens : prefix].double()
        weights.replace("reg_token", registers.to(at_least_float(table)))
    weights.replace("pos_embed", torch.cat((cls, patches), dim=1))


def class_names(config: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the names of the classes, or numbers where timm has not saved any."""
    names = config["pretrained_cfg"].get("label_names") or config.get("label_names")
    if not names or len(names) != model.num_classes:
        return {"num_labels": model.num_classes}
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


__all__ = ["build_timm", "read_timm", "read_timm_config"]
