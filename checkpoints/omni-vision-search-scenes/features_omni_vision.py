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
"""What only some uses of the encoder need: pooling by attention, maps of intermediate layers, a backbone.

`OmniVisionAttentionPooling` is the head of SigLIP. The two mixins work on the parts of [`OmniVisionModel`]; they stand
here so that its own file stays readable in one sitting.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from .configuration_omni_vision import OmniVisionConfig


class OmniVisionAttentionPooling(nn.Module):
    """One learned query attends to all patches; an MLP with a residual connection refines the result."""

    def __init__(self, config: OmniVisionConfig, mlp: nn.Module):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = mlp

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Pool patches (batch, patches, hidden) to (batch, hidden)."""
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (
                self.q_proj(self.probe.expand(len(grid), -1, -1)),
                self.k_proj(grid),
                self.v_proj(grid),
            )
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        pooled = self.o_proj(attended.transpose(1, 2).flatten(2))
        return (pooled + self.mlp(self.layernorm(pooled))).squeeze(1)


class OmniVisionIntermediatesMixin:
    """Feature maps of any layers, by the names that timm's users know."""

    config: Any
    embeddings: Any
    layers: Any
    norm: Any
    num_prefix_tokens: int

    def grid_of(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Return rows and columns of the patches of images (batch, channels, height, width)."""
        patch_height, patch_width = self.config.patch_size_hw
        return pixel_values.shape[2] // patch_height, pixel_values.shape[3] // patch_width

    def feature_map(self, tokens: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """View the patches of tokens (batch, tokens, hidden) as (batch, hidden, rows, columns)."""
        # Both sides are named: fewer patches, as in training, would make a narrower map of other places.
        grid = tokens[:, self.num_prefix_tokens :].unflatten(1, self.grid_of(pixel_values))
        return grid.permute(0, 3, 1, 2).contiguous()

    def forward_intermediates(
        self,
        pixel_values: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> tuple[torch.Tensor, list[torch.Tensor]] | list[torch.Tensor]:
        """
        Return the patches after chosen layers, without CLS and registers. In training no patches are dropped here.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor.
            indices (`int` or sequence of `int`, *optional*):
                Layers, from 0 or negative from the end; a number n stands for the last n, None for all.
            norm (`bool`, *optional*, defaults to `False`):
                Apply the final norm to each.
            output_fmt (`str`, *optional*, defaults to `"NCHW"`):
                `"NCHW"` for maps (batch, hidden, rows, columns), `"NLC"` for tokens (batch, patches, hidden).
            intermediates_only (`bool`, *optional*, defaults to `False`):
                Return the list alone, and compute no layer after the last one of it.

        Returns:
            All tokens after the final norm, and the list in the order of the layers.

        Raises:
            `ValueError`: for a layer that does not exist, or another format.
        """
        depth = len(self.layers)
        chosen = range(depth) if indices is None else indices
        chosen = range(-chosen, 0) if isinstance(chosen, int) else chosen
        if output_fmt not in ("NCHW", "NLC") or not all(-depth <= index < depth for index in chosen):
            raise ValueError(
                f"`indices` must be layers from {-depth} to {depth - 1} and `output_fmt` 'NCHW' or 'NLC', got "
                f"{indices!r} and {output_fmt!r}. Correct them."
            )
        wanted = {index % depth for index in chosen}
        tokens, found = self.embeddings(pixel_values), []
        for index, layer in enumerate(
            self.layers[: max(wanted, default=-1) + 1] if intermediates_only else self.layers
        ):
            tokens = layer(tokens)
            if index in wanted:
                normed = self.norm(tokens) if norm else tokens
                found.append(normed[:, self.num_prefix_tokens :] if output_fmt == "NLC" else normed)
        if output_fmt == "NCHW":
            found = [self.feature_map(one, pixel_values) for one in found]
        return found if intermediates_only else (self.norm(tokens), found)


class OmniVisionBackboneMixin(BackboneMixin):
    """Feature maps after the final norm as `BackboneOutput`, for the heads of transformers that take backbones."""

    config: Any
    omni_vision: Any

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BackboneOutput:
        """
        Compute the maps of `config.out_features`, of `"stem"` (the embeddings) and `"stage1"` to the last layer.

        In training no patches are dropped, whatever `patch_drop_rate` is.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images; sides must be multiples of the patch size.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict`, and options of the attention backend.

        Returns:
            `BackboneOutput` with `feature_maps`, each (batch, hidden, rows, columns).
        """
        encoder = self.omni_vision
        # transformers before 5.23 does not ask for hidden states itself.
        options = kwargs | {"output_hidden_states": True, "return_dict": True}
        output = encoder(pixel_values, keep_patches=True, **options)
        stages = zip(self.config.stage_names, output.hidden_states, strict=True)
        maps = (encoder.feature_map(encoder.norm(t), pixel_values) for name, t in stages if name in self.out_features)
        return BackboneOutput(
            feature_maps=tuple(maps), hidden_states=output.hidden_states, attentions=output.attentions
        )


__all__ = ["OmniVisionAttentionPooling", "OmniVisionBackboneMixin", "OmniVisionIntermediatesMixin"]
