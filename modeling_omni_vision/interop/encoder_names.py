"""What each family calls the weights of an encoder, and one function that reads all families by these names.

`{}` is the number of a layer. A table may also hold `qkv` (stacked in the file), `scale1` and `scale2` (LayerScale,
multiplied into the projections before it). Everything else is a renaming.
"""

import torch

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionModel
from .weights_file import Weights


EMBEDDINGS = {
    name: name
    for name in (
        "embeddings.patch_embeddings.projection",
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.register_tokens",
    )
}
VIT = {
    **EMBEDDINGS,
    "layers.{}.layernorm_before": "encoder.layer.{}.layernorm_before",
    "layers.{}.attention.q_proj": "encoder.layer.{}.attention.attention.query",
    "layers.{}.attention.k_proj": "encoder.layer.{}.attention.attention.key",
    "layers.{}.attention.v_proj": "encoder.layer.{}.attention.attention.value",
    "layers.{}.attention.o_proj": "encoder.layer.{}.attention.output.dense",
    "layers.{}.layernorm_after": "encoder.layer.{}.layernorm_after",
    "layers.{}.mlp.fc1": "encoder.layer.{}.intermediate.dense",
    "layers.{}.mlp.fc2": "encoder.layer.{}.output.dense",
    "norm": "layernorm",
}
DINOV2 = {
    **VIT,
    "layers.{}.layernorm_before": "encoder.layer.{}.norm1",
    "layers.{}.layernorm_after": "encoder.layer.{}.norm2",
    "layers.{}.mlp.fc1": "encoder.layer.{}.mlp.fc1",
    "layers.{}.mlp.fc2": "encoder.layer.{}.mlp.fc2",
    "scale1": "encoder.layer.{}.layer_scale1.lambda1",
    "scale2": "encoder.layer.{}.layer_scale2.lambda1",
}
# The layers of a text encoder of CLIP and SigLIP have these names too.
CLIP_LAYER = {
    "layers.{}.layernorm_before": "encoder.layers.{}.layer_norm1",
    "layers.{}.attention.q_proj": "encoder.layers.{}.self_attn.q_proj",
    "layers.{}.attention.k_proj": "encoder.layers.{}.self_attn.k_proj",
    "layers.{}.attention.v_proj": "encoder.layers.{}.self_attn.v_proj",
    "layers.{}.attention.o_proj": "encoder.layers.{}.self_attn.out_proj",
    "layers.{}.layernorm_after": "encoder.layers.{}.layer_norm2",
    "layers.{}.mlp.fc1": "encoder.layers.{}.mlp.fc1",
    "layers.{}.mlp.fc2": "encoder.layers.{}.mlp.fc2",
}
CLIP = {
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding.weight",
    "embeddings.norm": "pre_layrnorm",
    **CLIP_LAYER,
    "norm": "post_layernorm",
}
SIGLIP = {
    **CLIP,
    "pooler.probe": "head.probe",
    "pooler.qkv": "head.attention.in_proj_",
    "pooler.o_proj": "head.attention.out_proj",
    "pooler.layernorm": "head.layernorm",
    "pooler.mlp.fc1": "head.mlp.fc1",
    "pooler.mlp.fc2": "head.mlp.fc2",
}
TIMM = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.norm": "norm_pre",
    "layers.{}.layernorm_before": "blocks.{}.norm1",
    "layers.{}.attention.qkv": "blocks.{}.attn.qkv.",
    "layers.{}.attention.o_proj": "blocks.{}.attn.proj",
    "layers.{}.layernorm_after": "blocks.{}.norm2",
    "layers.{}.mlp.fc1": "blocks.{}.mlp.fc1",
    "layers.{}.mlp.fc2": "blocks.{}.mlp.fc2",
    "scale1": "blocks.{}.ls1.gamma",
    "scale2": "blocks.{}.ls2.gamma",
    "norm": "norm",
    "pooler.probe": "attn_pool.latent",
    "pooler.q_proj": "attn_pool.q",
    "pooler.kv": "attn_pool.kv.",
    "pooler.o_proj": "attn_pool.proj",
    "pooler.layernorm": "attn_pool.norm",
    "pooler.mlp.fc1": "attn_pool.mlp.fc1",
    "pooler.mlp.fc2": "attn_pool.mlp.fc2",
}
# The layers of a text encoder of open_clip have these names too.
OPEN_CLIP_LAYER = {
    "layers.{}.layernorm_before": "transformer.resblocks.{}.ln_1",
    "layers.{}.attention.qkv": "transformer.resblocks.{}.attn.in_proj_",
    "layers.{}.attention.o_proj": "transformer.resblocks.{}.attn.out_proj",
    "layers.{}.layernorm_after": "transformer.resblocks.{}.ln_2",
    "layers.{}.mlp.fc1": "transformer.resblocks.{}.mlp.c_fc",
    "layers.{}.mlp.fc2": "transformer.resblocks.{}.mlp.c_proj",
    "scale1": "transformer.resblocks.{}.ls_1.gamma",
    "scale2": "transformer.resblocks.{}.ls_2.gamma",
}
OPEN_CLIP = {
    "embeddings.patch_embeddings.projection": "conv1",
    "embeddings.cls_token": "class_embedding",
    "embeddings.position_embeddings": "positional_embedding",
    "embeddings.norm": "ln_pre",
    **OPEN_CLIP_LAYER,
    "norm": "ln_post",
}
STACKS = ("qkv", "kv")


def read_encoder(
    weights: Weights, config: OmniVisionConfig, names: dict[str, str], without_bias: tuple[str, ...] = ()
) -> dict[str, torch.Tensor]:
    """Return the state dict of our encoder; `without_bias` are those of our parts whose bias is filled with zeros."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in OmniVisionModel(config).state_dict().items()}
    return {name: read_weight(weights, name, tuple(shape), names, without_bias) for name, shape in shapes.items()}


def read_weight(
    weights: Weights, name: str, shape: tuple[int, ...], names: dict[str, str], without_bias: tuple[str, ...] = ()
) -> torch.Tensor:
    """Return one weight of ours, `name` of `shape`, by a table of names."""
    start, index, rest = ("layers.", *name.split(".", 2)[1:]) if name.startswith("layers.") else ("", "", name)
    generic = f"{start}{{}}.{rest}" if start else rest
    if generic in names:
        return weights.take(names[generic].format(index), shape)
    part, _, kind = generic.rpartition(".")
    if kind == "bias" and part.endswith(without_bias or ("\n",)):
        return torch.zeros(shape, dtype=weights.dtype)
    if part in names:
        value = weights.take(f"{names[part].format(index)}.{kind}", shape)
        scale = {"attention.o_proj": "scale1", "mlp.fc2": "scale2"}.get(part.removeprefix("layers.{}."))
        return _scaled(weights, value, names[scale].format(index)) if start and scale in names else value
    room, _, projection = part.rpartition(".")
    for stack in STACKS:
        if f"{room}.{stack}" in names and projection[0] in stack:
            number, rows = stack.index(projection[0]), shape[0]
            whole = weights.take(f"{names[f'{room}.{stack}'].format(index)}{kind}", (len(stack) * rows, *shape[1:]))
            return whole[number * rows : (number + 1) * rows].clone()
    weights.missing.append(f"(our) {name}")
    return torch.zeros(shape)


def write_weights(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return weights of ours by a table of names, the reverse of `read_encoder`, stacked where the table says so."""
    written: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        start, index, rest = ("layers.", *name.split(".", 2)[1:]) if name.startswith("layers.") else ("", "", name)
        generic = f"{start}{{}}.{rest}" if start else rest
        part, _, kind = generic.rpartition(".")
        room, _, projection = part.rpartition(".")
        if generic in names:
            written[names[generic].format(index)] = value
        elif part in names:
            written[f"{names[part].format(index)}.{kind}"] = value
        elif projection == "q_proj":  # the other two come with it
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            written[f"{names[f'{room}.qkv'].format(index)}{kind}"] = torch.cat(parts)
    return written


def _scaled(weights: Weights, value: torch.Tensor, name: str) -> torch.Tensor:
    """Multiply what LayerScale would multiply afterwards, rounded once, in float32 at least."""
    scale = weights.take(name, value.shape[:1]).double()
    product = value.double() * (scale[:, None] if value.ndim == 2 else scale)
    return product.to(torch.promote_types(value.dtype, torch.float32))


__all__ = ["CLIP", "CLIP_LAYER", "DINOV2", "OPEN_CLIP", "OPEN_CLIP_LAYER", "SIGLIP", "TIMM", "VIT"]
__all__ += ["read_encoder", "read_weight", "write_weights"]
