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
"""Patches that the encoder does not see in training: dropped ones, masked ones, and the decoder of these.

`OmniVisionMaskedImageModelingMixin` is the `forward` of [`OmniVisionForMaskedImageModeling`], which computes what
transformers' `ViTForMaskedImageModeling` does, beside that for images of any size and patches that are not square.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.utils.generic import can_return_tuple

from .configuration_omni_vision import OmniVisionConfig


def drop_path(branch: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Drop a residual branch for a fraction `rate` of the images in training; keep the expected value."""
    if rate == 0.0 or not training:
        return branch
    keep = branch.new_empty((branch.shape[0], 1, 1)).bernoulli_(1 - rate)
    return branch * (keep / (1 - rate))


def drop_patches(tokens: torch.Tensor, num_prefix_tokens: int, rate: float, training: bool) -> torch.Tensor:
    """Drop a random fraction `rate` of the patches of each image in training."""
    if rate == 0.0 or not training:
        return tokens
    prefix, patches = tokens[:, :num_prefix_tokens], tokens[:, num_prefix_tokens:]
    num_kept = max(1, round(patches.shape[1] * (1 - rate)))
    # In any order: positions are added already, and attention does not depend on the order.
    kept = torch.rand(patches.shape[:2], device=patches.device).topk(num_kept).indices
    return torch.cat((prefix, patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, patches.shape[2]))), dim=1)


def mask_patches(
    patches: torch.Tensor, mask_token: torch.Tensor | None, bool_masked_pos: torch.Tensor
) -> torch.Tensor:
    """Replace the masked ones of patches (batch, patches, hidden) by the mask token."""
    if mask_token is None:
        raise ValueError(
            "`bool_masked_pos` needs a model with a mask token, got one without. Make it with `use_mask_token=True`, "
            "or use `OmniVisionForMaskedImageModeling`."
        )
    shape = tuple(getattr(bool_masked_pos, "shape", ()))
    if not isinstance(bool_masked_pos, torch.Tensor) or shape != tuple(patches.shape[:2]):
        raise ValueError(
            f"`bool_masked_pos` must be a tensor with 1 for masked patches of shape (batch, patches) = "
            f"{tuple(patches.shape[:2])}, got {type(bool_masked_pos).__name__} of shape {shape}. Flatten the masks of "
            "the grid row by row, one for each image."
        )
    return torch.where(bool_masked_pos.bool().unsqueeze(-1), mask_token.to(patches.dtype), patches)


class OmniVisionPixelShuffle(nn.Module):
    """`nn.PixelShuffle` for patches of any sides: maps (batch, channels * height * width, rows, columns) to images."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return images (batch, channels, rows * height, columns * width)."""
        pixels = maps.unflatten(1, (-1, self.height, self.width)).permute(0, 1, 4, 2, 5, 3)
        return pixels.flatten(4, 5).flatten(2, 3)


def make_decoder(config: OmniVisionConfig) -> nn.Sequential:
    """Return the decoder, which makes the pixels of each patch out of its token by one linear map."""
    height, width = config.encoder_stride_hw
    pixels = nn.Conv2d(config.hidden_size, height * width * config.num_channels, kernel_size=1)
    return nn.Sequential(pixels, OmniVisionPixelShuffle(height, width))


def masked_pixels(bool_masked_pos: torch.Tensor, image_size: Sequence[int], patch: Sequence[int]) -> torch.Tensor:
    """Return which pixels are masked (batch, 1, height, width) for masked patches (batch, patches)."""
    grid = bool_masked_pos.bool().unflatten(1, (image_size[0] // patch[0], image_size[1] // patch[1]))
    return grid.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2).unsqueeze(1)


class OmniVisionMaskedImageModelingMixin:
    """Reconstructs masked patches."""

    config: Any
    omni_vision: Any
    decoder: Any

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedImageModelingOutput:
        """
        Reconstruct images. In training no patches are dropped, whatever `patch_drop_rate` is.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor; sides must be multiples of the patch size.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch, patches)`, *optional*):
                1 for patches that are masked: the model sees their place alone.
            interpolate_pos_encoding (`bool`, *optional*):
                `False` refuses images of another size than the configuration's, which are interpolated otherwise.
            attention_mask (`torch.Tensor` of shape `(batch, 1 + registers + patches)`, *optional*):
                1 for tokens to attend to, 0 for others.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict`, and options of the attention backend.

        Returns:
            `MaskedImageModelingOutput` with `reconstruction` (batch, channels, height, width) and, given
            `bool_masked_pos`, `loss`: the mean absolute difference of masked pixels.

        Raises:
            `ValueError`: as the encoder, and for `bool_masked_pos` where `encoder_stride` is not the patch size.
        """
        patch = self.config.patch_size_hw
        if bool_masked_pos is not None and self.config.encoder_stride_hw != patch:
            raise ValueError(
                f"`bool_masked_pos` needs an `encoder_stride` of the patch size {patch}, so that the reconstruction "
                f"has the size of the image, got {self.config.encoder_stride_hw}. Correct the configuration."
            )
        output = self.omni_vision(
            pixel_values,
            attention_mask=attention_mask,
            interpolate_pos_encoding=interpolate_pos_encoding,
            bool_masked_pos=bool_masked_pos,
            keep_patches=True,
            **kwargs | {"return_dict": True},
        )
        maps = output.grid.unflatten(1, self.omni_vision.grid_of(pixel_values)).permute(0, 3, 1, 2)
        reconstruction, loss = self.decoder(maps), None
        if bool_masked_pos is not None:
            mask = masked_pixels(bool_masked_pos, pixel_values.shape[2:], patch)
            difference = nn.functional.l1_loss(pixel_values, reconstruction, reduction="none")
            loss = (difference * mask).sum() / (mask.sum() + 1e-5) / self.config.num_channels
        return MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


__all__ = ["OmniVisionMaskedImageModelingMixin", "drop_patches", "drop_path", "mask_patches", "masked_pixels"]
__all__ += ["make_decoder"]
