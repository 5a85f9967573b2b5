# Copyright 2026 The OmniVision authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The ViTTiny encoder: patches -> tokens -> layers -> final norm -> (CLS, grid).

Unusual here:
- Everything that writes into the residual stream has zero mean over channels, from initialisation
  on (`center_residual_`). LayerNorm and RMSNorm are then the same function up to a bias, so the
  specification's two descriptions agree and a stock `ViTModel` can hold the same weights.
- Positions are interpolated for any image whose sides are multiples of the patch size.
- `attention_maps` returns the attention of CLS over the patches with every attention backend.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN, GELUActivation
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .common_omni_vision import (
    WithoutHeadMixin,
    classification_loss,
    evaluating,
    refuse_unknown_arguments,
    run_in_parts,
)
from .configuration_omni_vision import OmniVisionConfig
from .features_omni_vision import OmniVisionAttentionPooling, OmniVisionBackboneMixin, OmniVisionIntermediatesMixin
from .masked_omni_vision import OmniVisionMaskedImageModelingMixin, drop_patches, drop_path, make_decoder, mask_patches


RECORDED_OUTPUTS = ("output_hidden_states", "output_attentions")
FORWARD_OPTIONS = frozenset((*TransformersKwargs.__annotations__, *RECORDED_OUTPUTS, "return_dict", "use_cache"))
OTHER_ARGUMENTS = ("labels", "attention_mask", "pixel_values")


@dataclass
class OmniVisionModelOutput(BaseModelOutputWithPooling):
    """
    Output of [`OmniVisionModel`]. All tokens are taken after the final norm.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + registers + patches, hidden)`):
            All tokens: CLS, then registers, then the patches row by row.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden)`):
            The CLS token; with `pooling="attention"` the patches pooled by attention; else, in a model without CLS,
            their mean.
        cls (`torch.FloatTensor` of shape `(batch, 1, hidden)`):
            The CLS token, first of the pair that the specification returns; None in a model without CLS.
        grid (`torch.FloatTensor` of shape `(batch, patches, hidden)`):
            The patch tokens, row by row, second of that pair.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*):
            The input of the first layer and the output of each layer, before the final norm.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, tokens, tokens)`, *optional*):
            Attention weights of each layer, with the eager implementation only.
    """

    # Fields, not properties: they survive torch.export, DataParallel and `return_dict=False`.
    cls: torch.FloatTensor | None = None
    grid: torch.FloatTensor | None = None


class OmniVisionPatchEmbeddings(nn.Module):
    """Splits images into patches and projects each to a token: unfold + linear, as one convolution."""

    def __init__(self, config: OmniVisionConfig):
        super().__init__()
        self.config = config
        # Read once: reading an attribute of a configuration takes microseconds, noticeable at batch size 1.
        self.num_channels, self.patch_size = config.num_channels, config.patch_size_hw
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )
        self.projection.writes_residual = True  # type: ignore[assignment]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Project images (batch, channels, height, width) to patch tokens (batch, hidden, rows, columns)."""
        channels, (patch_height, patch_width) = self.num_channels, self.patch_size
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(
                f"`pixel_values` must hold images, got {type(pixel_values).__name__}. Pass the tensor of the image "
                "processor: `model(**processor(images, return_tensors='pt'))`."
            )
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or not pixel_values.is_floating_point():
            raise ValueError(
                f"`pixel_values` must be floating point of shape (batch, {channels}, height, width), got "
                f"{pixel_values.dtype} of shape {tuple(pixel_values.shape)}. Prepare them with the image processor."
            )
        height, width = pixel_values.shape[2:]
        if height % patch_height or width % patch_width or not height or not width:
            raise ValueError(
                f"The sides of `pixel_values` must be multiples of the patch size {(patch_height, patch_width)}, got "
                f"(height, width) = {(height, width)}. Resize the images, e.g. to {self.config.image_size_hw}."
            )
        return self.projection(pixel_values.to(self.projection.weight.dtype))


class OmniVisionEmbeddings(nn.Module):
    """CLS, registers and patch tokens; CLS and patches have position embeddings, registers have none."""

    def __init__(self, config: OmniVisionConfig, use_mask_token: bool = False):
        super().__init__()
        self.grid_size, self.num_register_tokens = config.grid_size, config.num_register_tokens
        self.num_cls_tokens, self.position_antialias = int(config.use_cls_token), config.position_antialias
        num_positions = self.num_cls_tokens + config.num_patches
        self.patch_embeddings = OmniVisionPatchEmbeddings(config)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size)) if use_mask_token else None
        self.position_embeddings = nn.Parameter(torch.empty(1, num_positions, config.hidden_size))
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, config.hidden_size))
        self.norm = make_norm("layer_norm" if config.embeddings_norm else "none", config)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Return positions (1, CLS + rows * columns, hidden): learned, or interpolated to another grid."""
        learned: torch.Tensor = self.position_embeddings
        # In an export for any size these are symbols: a comparison would fix them to the size of its example.
        symbols = isinstance(rows, torch.SymInt) or isinstance(columns, torch.SymInt)
        if not symbols and (rows, columns) == self.grid_size:
            return learned
        prefix, patches = learned.split((self.num_cls_tokens, learned.shape[1] - self.num_cls_tokens), dim=1)
        # Contiguous: ExecuTorch (1.5.1) mixes up the axes of what it enlarges otherwise, without a word.
        native = patches.unflatten(1, self.grid_size).permute(0, 3, 1, 2).contiguous()
        resized = nn.functional.interpolate(
            native.to(torch.promote_types(native.dtype, torch.float32)),  # half precision would round twice
            size=(rows, columns),
            mode="bicubic",
            align_corners=False,
            antialias=self.position_antialias,
        )
        return torch.cat((prefix, resized.to(learned.dtype).flatten(2).transpose(1, 2)), dim=1)

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None) -> torch.Tensor:
        """Embed images (batch, channels, height, width) as tokens (batch, 1 + registers + patches, hidden)."""
        patches = self.patch_embeddings(pixel_values)
        batch, _, rows, columns = patches.shape
        tokens = patches.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            tokens = mask_patches(tokens, self.mask_token, bool_masked_pos)
        if self.num_cls_tokens:
            # Joined first: positions are then added to one contiguous tensor.
            tokens = torch.cat((self.cls_token.expand(batch, -1, -1).to(patches.dtype), tokens), dim=1)
        tokens = tokens + self.positions(rows, columns)
        if self.num_register_tokens:
            registers = self.register_tokens.expand(batch, -1, -1).to(tokens.dtype)
            tokens = torch.cat((tokens[:, : self.num_cls_tokens], registers, tokens[:, self.num_cls_tokens :]), dim=1)
        return self.norm(tokens)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax attention (batch, tokens, heads, head_dim) and its weights (batch, heads, tokens, tokens)."""
    # Scaling the query instead of the scores touches head_dim numbers of each token instead of all its scores.
    weights = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        weights = weights + attention_mask
    # The kernel accumulates in float32 for every input type; dtype=float32 would only add copies.
    weights = nn.functional.softmax(weights, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module does more than the `forward` of its class: by hooks, or accelerate's offloading."""
    if module._forward_pre_hooks or "forward" in module.__dict__:
        return True
    # Those of `capture_outputs` stay once outputs were recorded, and do nothing where none are.
    own = capture_outputs.__module__
    return any(getattr(hook, "__module__", "") != own for hook in module._forward_hooks.values())


class OmniVisionAttention(nn.Module):
    """Bidirectional multi-head self-attention."""

    def __init__(self, config: OmniVisionConfig):
        super().__init__()
        self.config = config
        self.is_causal = False
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj.writes_residual = True  # type: ignore[assignment]
        # Copies of the three projections as one, see `fuse_qkv_projections`; never saved.
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def fuse_projections(self, fuse: bool = True) -> None:
        """Make one product of three out of copies of the weights, or drop the copies."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        # An adapter in place of a projection, such as LoRA's, cannot be copied: it keeps its own product.
        fuse = fuse and all(type(part) is nn.Linear for part in parts)
        self.qkv_weight = torch.cat([part.weight for part in parts]) if fuse else None
        self.qkv_bias = torch.cat([part.bias for part in parts]) if fuse else None

    def train(self, mode: bool = True) -> "OmniVisionAttention":
        """Drop the copies before training changes the weights."""
        if mode:
            self.fuse_projections(False)
        return super().train(mode)

    def __setattr__(self, name: str, value: Any) -> None:
        """Drop the copies where an adapter takes the place of a projection, which may come back with other weights."""
        if isinstance(value, nn.Module) and self.__dict__.get("_buffers", {}).get("qkv_weight") is not None:
            self.fuse_projections(False)
        super().__setattr__(name, value)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.fuse_projections(False)
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def is_fused(self) -> bool:
        """Whether the copies are used: not for gradients, nor if a projection has been replaced or has hooks."""
        if self.qkv_weight is None or torch.is_grad_enabled():
            return False
        return all(type(part) is nn.Linear and not is_hooked(part) for part in (self.q_proj, self.k_proj, self.v_proj))

    def _project(self, hidden_states: torch.Tensor, num_queries: int | None) -> tuple[torch.Tensor, ...]:
        """Return queries, keys and values (batch, heads, tokens, head_dim)."""
        if self.is_fused and num_queries is None:
            projected = nn.functional.linear(hidden_states, self.qkv_weight, self.qkv_bias)  # type: ignore[arg-type]
            return projected.unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        queries = self.q_proj(hidden_states[:, :num_queries])
        return tuple(map(self._heads, (queries, self.k_proj(hidden_states), self.v_proj(hidden_states))))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the outputs of all tokens or the first `num_queries`, and the weights if the backend has them."""
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if not hidden_states.shape[0]:
            # SDPA of transformers cannot view an empty batch, whose mask says nothing.
            attend, attention_mask = eager_attention_forward, None
        attended, weights = attend(
            self,
            *self._project(hidden_states, num_queries),
            attention_mask,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.flatten(2)), weights

    def cls_weights(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the attention weights of CLS over tokens (batch, tokens, hidden) as (batch, heads, tokens)."""
        query, key = self._heads(self.q_proj(hidden_states[:, :1])), self._heads(self.k_proj(hidden_states))
        scores = torch.matmul(query, key.transpose(2, 3)).squeeze(2) * self.scaling
        return nn.functional.softmax(scores, dim=-1, dtype=torch.float32)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """Split (batch, tokens, hidden) into (batch, heads, tokens, head_dim)."""
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class OmniVisionMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: OmniVisionConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.fc2.writes_residual = True  # type: ignore[assignment]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map tokens (batch, tokens, hidden) to tokens of the same shape."""
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))


def make_norm(kind: str, config: OmniVisionConfig) -> nn.Module:
    """Return a normalization layer: `"layer_norm"`, `"rms_norm"`, or for `"none"` the identity."""
    if kind == "none":
        return nn.Identity()
    norm_class = nn.RMSNorm if kind == "rms_norm" else nn.LayerNorm
    return norm_class(config.hidden_size, eps=config.layer_norm_eps)


class OmniVisionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer: tokens + attention(norm(tokens)), then the same with the MLP."""

    def __init__(self, config: OmniVisionConfig, layer_index: int = 0):
        super().__init__()
        # The specification's code has LayerNorm, its text RMSNorm.
        self.layernorm_before = make_norm(config.block_norm, config)
        self.attention = OmniVisionAttention(config)
        self.layernorm_after = make_norm(config.block_norm, config)
        self.mlp = OmniVisionMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path_rate = config.drop_path_rate * layer_index / max(config.num_hidden_layers - 1, 1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map tokens (batch, tokens, hidden) to tokens; only the first `num_queries` are returned if it is given."""
        normed = self.layernorm_before(hidden_states)
        attended, _ = self.attention(normed, attention_mask, num_queries=num_queries, **kwargs)
        hidden_states = hidden_states[:, :num_queries] + drop_path(
            self.dropout(attended), self.drop_path_rate, self.training
        )
        refined = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + drop_path(self.dropout(refined), self.drop_path_rate, self.training)

    def is_plain(self) -> bool:
        """Whether `fused` computes the layer: no part was replaced or has hooks, and the projections are fused."""
        # Read from the dictionaries: attributes by name and `modules()` would take a multiple of the time.
        own = self._modules
        attention: Any = own["attention"]
        mlp: Any = own["mlp"]
        parts: Any = (self, *own.values(), *attention._modules.values(), *mlp._modules.values())
        if (*map(type, parts),) != PLAIN_PARTS or attention._buffers["qkv_weight"] is None:
            return False
        # The first question is `is_hooked` without a call, which takes longer than its answer.
        asked = [p for p in parts if p._forward_hooks or p._forward_pre_hooks or "forward" in p.__dict__]
        return not any(map(is_hooked, asked))

    def fused(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the layer by torch's own operator for `nn.TransformerEncoderLayer`; see `is_plain`."""
        before: Any = self.layernorm_before
        attention, mlp, after = self.attention, self.mlp, self.layernorm_after
        compute: Any = torch._transformer_encoder_layer_fwd
        return compute(
            hidden_states,
            hidden_states.shape[-1],
            hidden_states.shape[-1] // attention.head_dim,
            *(attention.qkv_weight, attention.qkv_bias, attention.o_proj.weight, attention.o_proj.bias),
            *(True, True, before.eps),  # GELU, norms first
            *(before.weight, before.bias, after.weight, after.bias),
            *(mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias),
        )

    def cls_weights(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the attention weights of CLS over this layer's input tokens, (batch, heads, tokens)."""
        return self.attention.cls_weights(self.layernorm_before(hidden_states))


# A layer, its parts, those of its attention, and those of its MLP.
PLAIN_PARTS = (
    *(OmniVisionLayer, nn.LayerNorm, OmniVisionAttention, nn.LayerNorm, OmniVisionMLP, nn.Dropout),
    *(nn.Linear, nn.Linear, nn.Linear, nn.Linear),
    *(GELUActivation, nn.Dropout, nn.Linear, nn.Linear),
)


class OmniVisionPreTrainedModel(PreTrainedModel):
    """Base class of the encoder and its heads: loading, saving, initialisation, zero-mean residual stream."""

    config_class = OmniVisionConfig
    base_model_prefix = "omni_vision"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OmniVisionEmbeddings", "OmniVisionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embeddings"
    _can_record_outputs = {"hidden_states": OmniVisionLayer, "attentions": OmniVisionAttention}
    # What only masked-image pre-training needs.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.mask_token$", r"^decoder\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniVisionEmbeddings | OmniVisionAttentionPooling):
            for token in module.parameters(recurse=False):
                init.trunc_normal_(token, std=self.config.initializer_range)
        for parameter, channels in _residual_writers(module):
            # Loaded weights are kept, centred or not.
            if not getattr(parameter, "_is_hf_initialized", False):
                _center_(parameter, channels)

    @torch.no_grad()
    def center_residual_(self) -> "OmniVisionPreTrainedModel":
        """
        Project every weight that writes into the residual stream onto zero mean over channels, in place.

        These are the patch projection, CLS, registers, positions, and in each layer the attention output
        and the second MLP projection, weights and biases. In a model with LayerNorm blocks this changes
        only the input of the final RMSNorm. Initialisation calls it; call it after each optimizer step to
        keep the property (the training callback does). Returns the model.
        """
        alike: dict[Any, list[torch.Tensor]] = {}
        for module in self.modules():
            for parameter, channels in _residual_writers(module):
                key = channels % parameter.ndim, parameter.shape, parameter.dtype, parameter.device
                alike.setdefault(key, []).append(parameter)
        for (channels, *_), parameters in alike.items():
            # All of a shape at once: on a GPU each launch takes as long as centring them all.
            stacked = torch.stack(parameters)
            _center_(stacked, channels + 1)
            torch._foreach_copy_(parameters, list(stacked.unbind()))
        return self

    def fuse_qkv_projections(self) -> "OmniVisionPreTrainedModel":
        """
        Compute queries, keys and values in one product at inference, from copies of the weights; returns the model.

        Where torch's own operator for encoder layers fits, it computes whole layers. State dicts and saved folders
        keep the three projections; training, loading, and adapters on the projections drop the copies. With an adapter
        or a forward hook on any part of a layer, the parts are called one by one. Call it again after changing weights
        in another way, and after merging adapters.
        """
        return self._fuse(True)

    def unfuse_qkv_projections(self) -> "OmniVisionPreTrainedModel":
        """Undo `fuse_qkv_projections`; returns the model."""
        return self._fuse(False)

    def _fuse(self, fuse: bool) -> "OmniVisionPreTrainedModel":
        for module in self.modules():
            if isinstance(module, OmniVisionAttention):
                module.fuse_projections(fuse)
        return self

    @torch.no_grad()
    def residual_mean(self) -> float:
        """Return the largest absolute channel mean of the weights that `center_residual_` centres; 0 if centred."""
        writers = [writer for module in self.modules() for writer in _residual_writers(module)]
        return max(float(parameter.float().mean(channels).abs().max()) for parameter, channels in writers)


def _residual_writers(module: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield parameter and channel axis for what this module, without children, adds to the residual stream."""
    if isinstance(module, OmniVisionEmbeddings):
        yield from ((token, -1) for token in module.parameters(recurse=False))
    elif getattr(module, "writes_residual", False):
        yield from ((parameter, 0) for parameter in module.parameters(recurse=False))


def _center_(parameter: torch.Tensor, channels: int) -> None:
    parameter.sub_(parameter.float().mean(channels, keepdim=True).to(parameter.dtype))


class OmniVisionModel(WithoutHeadMixin, OmniVisionIntermediatesMixin, OmniVisionPreTrainedModel):
    """The bare OmniVision encoder, which outputs CLS and grid tokens without a head on top.

    Example:
    ```python
    >>> import torch
    >>> from modeling_omni_vision import OmniVisionConfig, OmniVisionModel

    >>> model = OmniVisionModel(OmniVisionConfig()).eval()
    >>> output = model(torch.zeros(1, 3, 224, 224))
    >>> output.cls.shape, output.grid.shape
    (torch.Size([1, 1, 128]), torch.Size([1, 196, 128]))
    ```
    """

    def __init__(self, config: OmniVisionConfig, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = OmniVisionEmbeddings(config, use_mask_token)
        self.layers = nn.ModuleList([OmniVisionLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = make_norm(config.final_norm, config)
        if config.pooling == "attention":
            self.pooler = OmniVisionAttentionPooling(config, OmniVisionMLP(config))
            self.pooler.mlp.fc2.writes_residual = False  # type: ignore[union-attr]
        self.num_prefix_tokens = config.num_prefix_tokens
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cls_only: bool = False,
        interpolate_pos_encoding: bool | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        keep_patches: bool = False,
        **kwargs: Any,
    ) -> OmniVisionModelOutput:
        """
        Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor; sides must be multiples of the patch size.
            attention_mask (`torch.Tensor` of shape `(batch, 1 + registers + patches)`, *optional*):
                1 for tokens to attend to, 0 for masked tokens. With a mask no patches are dropped.
            cls_only (`bool`, *optional*, defaults to `False`):
                Compute the last layer for CLS alone, at a sixth of its cost. CLS is the same, `grid` is empty.
            interpolate_pos_encoding (`bool`, *optional*):
                `False` refuses images of another size than the configuration's, which are interpolated otherwise.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch, patches)`, *optional*):
                Patches that a mask token replaces (1), for a model made with `use_mask_token=True`. None are dropped.
            keep_patches (`bool`, *optional*, defaults to `False`):
                Drop no patches in training either, whatever `patch_drop_rate` is: for what needs the whole grid.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict`, and options of the attention backend.

        Raises:
            `ValueError`: for a wrong number of channels, a side that is no multiple of the patch size,
                integer pixel values, a mask that does not cover every token, `cls_only` with a mask or in a model
                whose pooled output is not CLS, or an argument that does not exist.
        """
        # None is what callers pass on for arguments that other models have.
        passed = [name for name, value in kwargs.items() if value is not None]
        refuse_unknown_arguments(passed, FORWARD_OPTIONS, OTHER_ARGUMENTS)
        hidden_states = self.embeddings(pixel_values, bool_masked_pos)
        if interpolate_pos_encoding is False and tuple(pixel_values.shape[2:]) != self.config.image_size_hw:
            raise ValueError(
                f"`pixel_values` must be of size {self.config.image_size_hw} without `interpolate_pos_encoding`, got "
                f"{tuple(pixel_values.shape[2:])}. Resize the images, or leave the argument out."
            )
        if attention_mask is not None and attention_mask.ndim == 2 and attention_mask.shape != hidden_states.shape[:2]:
            raise ValueError(
                f"`attention_mask` must cover CLS, registers and patches, expected shape "
                f"{tuple(hidden_states.shape[:2])}, got {tuple(attention_mask.shape)}. Prepend the missing ones."
            )
        if attention_mask is not None and cls_only:
            raise ValueError("`cls_only` must be False with an `attention_mask`, got True. Drop one of them.")
        if cls_only and not self.pools_cls:
            raise ValueError("`cls_only` needs a model whose pooled output is CLS, got True. Leave it out.")
        if attention_mask is None and bool_masked_pos is None and not keep_patches:
            rate = self.config.patch_drop_rate
            hidden_states = drop_patches(hidden_states, self.num_prefix_tokens, rate, self.training)
        mask = None
        if attention_mask is not None:
            # Without one, transformers before 5.23 make a mask under torch.compile, 1.7 times slower on an H100.
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
            )
        run: Callable = partial(self._run_layers, mask=mask, cls_only=cls_only, **kwargs)
        apart = mask is None and not kwargs
        hidden_states = run_in_parts(run, hidden_states, self.layers, self.config) if apart else run(hidden_states)
        hidden_states = self.norm(hidden_states)
        grid = hidden_states[:, self.num_prefix_tokens :]
        return OmniVisionModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, 0] if self.pools_cls else self.pool_patches(grid),
            cls=hidden_states[:, :1] if self.config.use_cls_token else None,
            grid=grid,
        )

    def _run_layers(self, tokens: torch.Tensor, mask: Any, cls_only: bool, **kwargs: Any) -> torch.Tensor:
        if mask is None and not cls_only and not kwargs and self._runs_fused(tokens):
            for layer in self.layers:
                tokens = layer.fused(tokens)
            return tokens
        for layer in self.layers[:-1]:
            tokens = layer(tokens, mask, **kwargs)
        return self.layers[-1](tokens, mask, num_queries=1 if cls_only else None, **kwargs)

    def _runs_fused(self, hidden_states: torch.Tensor) -> bool:
        """Whether torch's operator for encoder layers computes the same here, in a third of the launches."""
        config, device = self.config, hidden_states.device.type
        first: Any = self.layers[0]
        return bool(
            first.attention.qkv_weight is not None
            and not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled(device))
            and not torch.compiler.is_compiling()
            and not any(getattr(config, name) for name in RECORDED_OUTPUTS)
            and (config._attn_implementation, config.hidden_act) == ("sdpa", "gelu")
            # On a GPU it takes the tanh form of GELU, which only half precision cannot tell from the exact one.
            and (device == "cpu" or hidden_states.dtype in (torch.bfloat16, torch.float16))
            and hasattr(torch, "_transformer_encoder_layer_fwd")
            # Last, since it takes longest.
            and all(type(layer) is OmniVisionLayer and layer.is_plain() for layer in self.layers)
        )

    @property
    def pools_cls(self) -> bool:
        """Whether `pooler_output` is CLS."""
        return self.config.use_cls_token and self.config.pooling != "attention"

    def pool_patches(self, grid: torch.Tensor) -> torch.Tensor:
        """Pool patches (batch, patches, hidden) to (batch, hidden), by attention or as their mean."""
        return self.pooler(grid) if self.config.pooling == "attention" else grid.mean(dim=1)

    @torch.no_grad()
    def attention_maps(self, pixel_values: torch.Tensor, layers: Sequence[int] = (-1,)) -> torch.Tensor:
        """
        Compute the attention of CLS over the patches, with any attention backend and without gradients.

        Nothing is dropped, whether the model trains or not. Layers after the last one in `layers` are not computed.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor.
            layers (sequence of `int`, *optional*, defaults to `(-1,)`):
                Layer indices, from 0 or negative from the end.

        Returns:
            `torch.Tensor` of shape `(batch, layers, heads, rows, columns)`: attention weights of CLS over the patches.
            They sum to less than 1: the rest is the attention to CLS itself and the registers.

        Raises:
            `ValueError`: for a layer that does not exist, no layer at all, or a model without CLS.
        """
        depth = len(self.layers)
        if not self.config.use_cls_token:
            raise ValueError("Attention maps are those of CLS, got a model with `use_cls_token` False. Use its grid.")
        if not layers or not all(-depth <= layer < depth for layer in layers):
            raise ValueError(
                f"`layers` must hold layer indices from {-depth} to {depth - 1}, got {layers!r}. Pass at least one."
            )
        wanted = [layer % depth for layer in layers]
        hidden_states, maps = self.embeddings(pixel_values), {}
        with evaluating(self):
            for index, layer in enumerate(self.layers[: max(wanted) + 1]):
                if index in wanted:
                    maps[index] = layer.cls_weights(hidden_states)
                if index < max(wanted):
                    hidden_states = layer(hidden_states)
        stacked = torch.stack([maps[index] for index in wanted], dim=1)
        return stacked[..., self.num_prefix_tokens :].unflatten(-1, self.grid_of(pixel_values))


def pool(cls: torch.Tensor, grid: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool `pooler_output` and grid to one vector (batch, hidden), or (batch, 2 * hidden) for `"cls_mean"`."""
    if pooling in ("cls", "attention"):
        return cls
    mean = grid.mean(dim=1)
    return mean if pooling == "mean" else torch.cat((cls, mean), dim=-1)


class OmniVisionForImageClassification(OmniVisionPreTrainedModel):
    """The OmniVision encoder with a linear classification head on its pooled output (`config.pooling`).

    Example:
    ```python
    >>> import torch
    >>> from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification

    >>> config = OmniVisionConfig(num_labels=10)
    >>> model = OmniVisionForImageClassification(config).eval()
    >>> model(torch.zeros(1, 3, 224, 224), labels=torch.tensor([3])).logits.shape
    torch.Size([1, 10])
    ```
    """

    # All losses here are means over the images of a batch: the Trainer divides by accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: OmniVisionConfig):
        super().__init__(config)
        self.omni_vision = OmniVisionModel(config)
        self.pooled_norm = make_norm("layer_norm" if config.pooled_norm else "none", config)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """
        Classify images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor.
            labels (`torch.Tensor`, *optional*):
                Targets of the loss; see `classification_loss` for their shapes.
            attention_mask (`torch.Tensor` of shape `(batch, 1 + registers + patches)`, *optional*):
                1 for tokens to attend to, 0 for masked tokens.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict`, and options of the attention backend.

        Returns:
            `ImageClassifierOutput` with `logits` (batch, num_labels) and, given labels, `loss`.
        """
        # Other tokens are not used then. Evaluation computes them, since forward hooks may read them.
        recorded = [kwargs.get(name, getattr(self.config, name, False)) for name in RECORDED_OUTPUTS]
        cls_only = self.training and self.config.pooling == "cls" and attention_mask is None and not any(recorded)
        kwargs |= {"return_dict": True}  # also where the configuration says otherwise
        output = self.omni_vision(pixel_values, attention_mask=attention_mask, cls_only=cls_only, **kwargs)
        pooled = pool(output.pooler_output, output.grid, self.config.pooling)
        logits = self.classifier(self.pooled_norm(pooled))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

    def attention_maps(self, pixel_values: torch.Tensor, layers: Sequence[int] = (-1,)) -> torch.Tensor:
        """Compute the attention of CLS over the patches; see [`OmniVisionModel.attention_maps`]."""
        return self.omni_vision.attention_maps(pixel_values, layers)


class OmniVisionBackbone(WithoutHeadMixin, OmniVisionBackboneMixin, OmniVisionPreTrainedModel):
    """The encoder as a backbone of detection and segmentation models, with maps of `config.out_features`."""

    def __init__(self, config: OmniVisionConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.omni_vision = OmniVisionModel(config)
        self.post_init()


class OmniVisionForMaskedImageModeling(OmniVisionMaskedImageModelingMixin, OmniVisionPreTrainedModel):
    """The encoder with a decoder of masked patches, as in SimMIM (https://huggingface.co/papers/2111.09886)."""

    accepts_loss_kwargs = False

    def __init__(self, config: OmniVisionConfig):
        super().__init__(config)
        self.omni_vision = OmniVisionModel(config, use_mask_token=True)
        self.decoder = make_decoder(config)
        self.post_init()


__all__ = ["OmniVisionBackbone", "OmniVisionForImageClassification", "OmniVisionForMaskedImageModeling"]
__all__ += ["OmniVisionModel", "OmniVisionModelOutput", "OmniVisionPreTrainedModel"]
