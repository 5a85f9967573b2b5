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
"""Configuration of a variational autoencoder: an OmniVision encoder, and a decoder of the same layers."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_omni_vision import ChecksOverrides, OmniVisionConfig, check_field, value_errors


VAE_AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision_vae.OmniVisionVAEConfig",
    "AutoModel": "modeling_omni_vision_vae.OmniVisionVAE",
}
# What the decoder has of the encoder, and what it is without.
SHARED_FIELDS = ("image_size", "patch_size", "num_channels")
DECODER_FIELDS = {"use_cls_token": False, "pooling": "mean", "num_register_tokens": 0, "embeddings_norm": False}


@value_errors
@strict
class OmniVisionVAEDecoderConfig(OmniVisionConfig):
    """
    Configuration of the decoder of an [`OmniVisionVAE`]: that of an encoder, by default of two layers without dropout.

    It has no CLS token and no registers, whatever is passed.
    """

    model_type = "omni_vision_vae_decoder"
    base_config_key = "decoder_config"

    num_hidden_layers: int = 2
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    use_cls_token: bool = False
    pooling: str = "mean"


@value_errors
@strict
class OmniVisionVAEConfig(ChecksOverrides, PreTrainedConfig):
    r"""
    Configuration of an [`OmniVisionVAE`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The encoder; by default the specification's ViTTiny. The heads of the latent distribution read its pooled
            output (`pooling`).
        decoder_config ([`OmniVisionVAEDecoderConfig`] or `dict`, *optional*):
            Width, depth, heads, MLP, norms and dropout of the decoder; by default two layers without dropout. The
            size of images and patches and the channels are those of `vision_config`, whatever is passed.
        latent_size (`int`, *optional*, defaults to 64):
            Numbers of a latent vector.
        beta (`float`, *optional*, defaults to 1.0):
            Weight of the KL divergence in the loss. With 1 the loss is the negative evidence lower bound; above 1 it
            is that of the beta-VAE (https://openreview.net/forum?id=Sy2fzU9gl).
        image_means (`list[float]`, *optional*):
            Means of the channels that the image processor subtracts, by default 0.5. The likelihood is that of 8-bit
            pixels, for which the normalisation is undone: it has to be that of the processor.
        image_deviations (`list[float]`, *optional*):
            Standard deviations that it divides by, by default 0.5.
        scale_init_value (`float`, *optional*, defaults to 16.0):
            Initial scale of the logistic distribution of a pixel, in levels of 255. One is learned for each channel.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of the heads and of the projection of latent vectors.

    Raises:
        `ValueError`: if a value has the wrong type or is not supported.
    """

    model_type = "omni_vision_vae"
    # The Trainer would otherwise gather these for every evaluated image.
    keys_to_ignore_at_inference = ["reconstruction", "hidden_states", "attentions"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=OmniVisionConfig),
        "decoder_config": SubConfigSpec(config_class=OmniVisionVAEDecoderConfig),
    }

    vision_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | None = None
    latent_size: int = 64
    beta: float | int = 1.0
    image_means: list[float] | None = None
    image_deviations: list[float] | None = None
    scale_init_value: float | int = 16.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = {**VAE_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        vision: Any = self.vision_config
        shared = {name: getattr(vision, name) for name in SHARED_FIELDS}
        for name, value in {**shared, **DECODER_FIELDS}.items():
            setattr(self.decoder_config, name, value)
        self.image_means = [0.5] * vision.num_channels if self.image_means is None else list(self.image_means)
        self.image_deviations = (
            [0.5] * vision.num_channels if self.image_deviations is None else list(self.image_deviations)
        )
        check_field(self, "latent_size", self.latent_size >= 1, "at least 1", advice="64 is usual.")
        check_field(self, "beta", 0 <= self.beta < math.inf, "at least 0", advice="1 gives the bound itself.")
        check_field(self, "scale_init_value", 0 < self.scale_init_value < math.inf, "a positive number")
        valid = len(self.image_means) == vision.num_channels
        check_field(self, "image_means", valid, f"one number for each of {vision.num_channels} channels")
        valid = len(self.image_deviations) == vision.num_channels and min(self.image_deviations) > 0
        check_field(self, "image_deviations", valid, f"a positive number for each of {vision.num_channels} channels")


__all__ = ["OmniVisionVAEConfig", "OmniVisionVAEDecoderConfig"]
