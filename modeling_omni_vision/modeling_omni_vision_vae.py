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
"""A variational autoencoder: an OmniVision encoder, a latent vector, and a small decoder of the same layers.

Unusual here:
- The likelihood is that of 8-bit pixels, a discretised logistic distribution (https://huggingface.co/papers/1606.04934,
  equation 13, with one learned scale for each channel): a bound in nats is one of a probability, not of a density, and
  bits per dimension are those of lossless coding. For that the normalisation of the image processor is undone.
- Each position scales and shifts the vector that all tokens of the decoder start from. Shifted alone, as in a
  broadcast decoder, tokens would differ by nothing that depends on the image before the first MLP.
- Outside of training the latent vector is the mean, unless a generator or noise is passed.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .common_omni_vision import CompleteWeightsMixin, evaluating
from .configuration_omni_vision import OmniVisionConfig
from .configuration_omni_vision_vae import OmniVisionVAEConfig, OmniVisionVAEDecoderConfig
from .modeling_omni_vision import OmniVisionLayer, OmniVisionModel, OmniVisionPreTrainedModel, make_norm, pool


LEVELS = 255
# As in diffusers: beyond these, a variance is 0 or infinite in half precision.
LOG_VARIANCES = (-30.0, 20.0)


@dataclass
class OmniVisionVAEOutput(ModelOutput):
    """
    Output of [`OmniVisionVAE`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Mean over images of `reconstruction_loss + beta * kl_divergence`, unless `return_loss` is False.
        reconstruction_loss (`torch.FloatTensor` of shape `(batch,)`, *optional*):
            Negative log-likelihood of each image given its latent vector, summed over pixels and channels, in nats.
        kl_divergence (`torch.FloatTensor` of shape `(batch,)`):
            Divergence of the latent distribution of each image from the standard normal one, summed, in nats.
        latent_mean (`torch.FloatTensor` of shape `(batch, latent_size)`):
            Mean of the latent distribution.
        latent_log_variance (`torch.FloatTensor` of shape `(batch, latent_size)`):
            Logarithm of its variance.
        latents (`torch.FloatTensor` of shape `(batch, latent_size)`):
            The latent vectors that were decoded.
        reconstruction (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
            Decoded images, normalised as `pixel_values` are.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*):
            Those of the encoder.
        attentions (`tuple` of `torch.FloatTensor`, *optional*):
            Those of the encoder, with the eager implementation only.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    kl_divergence: torch.FloatTensor | None = None
    latent_mean: torch.FloatTensor | None = None
    latent_log_variance: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def standard_normal_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of diagonal normal distributions (batch, latent) from the standard one, (batch,)."""
    return (mean**2 + log_variance.exp() - log_variance - 1).sum(-1) / 2


def discretized_logistic(levels: torch.Tensor, location: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """
    Return log-probabilities of pixel values 0..255, each the mass of a logistic distribution between its neighbours.

    All that lies below 0 counts as 0, and all above 255 as 255.

    Args:
        levels: Pixel values 0..255.
        location: Of the distributions, on the same scale.
        scale: Likewise, positive.
    """
    above, below = (levels - location + 0.5) / scale, (levels - location - 0.5) / scale
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), without differences of nearly equal numbers.
    mass = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1(-1 / scale))
    mass = torch.where(levels < 0.5, logsigmoid(above), mass)
    return torch.where(levels > LEVELS - 0.5, logsigmoid(-below), mass)


class OmniVisionVAEDecoder(OmniVisionPreTrainedModel):
    """From a vector for each image to tokens with positions, through layers of the encoder's kind, to pixels."""

    config_class = OmniVisionVAEDecoderConfig
    main_input_name = "hidden_states"

    def __init__(self, config: OmniVisionVAEDecoderConfig):
        super().__init__(config)
        self.grid_size, self.patch_size, self.num_channels = (
            config.grid_size,
            config.patch_size_hw,
            config.num_channels,
        )
        # Both have to be learned for every position; scales are relative to 1, which weight decay leads them to.
        self.position_scales = nn.Parameter(torch.empty(1, config.num_patches, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, config.num_patches, config.hidden_size))
        self.layers = nn.ModuleList([OmniVisionLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = make_norm(config.final_norm, config)
        self.projection = nn.Linear(config.hidden_size, math.prod(self.patch_size) * config.num_channels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.position_scales, std=0.5)
            init.trunc_normal_(self.position_embeddings, std=self.config.initializer_range)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Decode vectors (batch, hidden) to images (batch, channels, height, width)."""
        hidden_states = hidden_states[:, None] * (1 + self.position_scales) + self.position_embeddings
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        patches = self.projection(self.norm(hidden_states)).unflatten(-1, (self.num_channels, *self.patch_size))
        # (batch, rows, columns, channels, patch height, patch width) to images.
        grid = patches.unflatten(1, self.grid_size).permute(0, 3, 1, 4, 2, 5)
        return grid.flatten(4).flatten(2, 3)


class OmniVisionVAE(CompleteWeightsMixin, OmniVisionPreTrainedModel):
    """A variational autoencoder (https://huggingface.co/papers/1312.6114) around the OmniVision encoder.

    Example:
    ```python
    >>> import torch
    >>> from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig

    >>> model = OmniVisionVAE(OmniVisionVAEConfig()).eval()
    >>> mean, log_variance = model.encode(torch.zeros(2, 3, 224, 224))
    >>> mean.shape, model.decode(mean).shape
    (torch.Size([2, 64]), torch.Size([2, 3, 224, 224]))
    ```
    """

    config_class = OmniVisionVAEConfig  # type: ignore[assignment]
    base_model_prefix = "omni_vision_vae"
    # The loss is a mean over the images of a batch: the Trainer divides by accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: OmniVisionVAEConfig):
        super().__init__(config)
        vision: OmniVisionConfig = config.vision_config  # type: ignore[assignment]
        decoder: OmniVisionVAEDecoderConfig = config.decoder_config  # type: ignore[assignment]
        self.vision_model = OmniVisionModel(vision)
        self.mean_head = nn.Linear(vision.pooled_size, config.latent_size)
        self.log_variance_head = nn.Linear(vision.pooled_size, config.latent_size)
        self.latent_projection = nn.Linear(config.latent_size, decoder.hidden_size)
        self.decoder = OmniVisionVAEDecoder(decoder)
        self.log_scale = nn.Parameter(torch.empty(vision.num_channels))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.log_scale, math.log(self.config.scale_init_value))

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch embeddings of the encoder."""
        return self.vision_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the patch embeddings of the encoder."""
        self.vision_model.set_input_embeddings(value)

    def encode(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return mean and log-variance of the latent distribution of images, each of shape (batch, latent_size).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor.
        """
        return self._latent_heads(self.vision_model(pixel_values, return_dict=True))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """
        Decode latent vectors (batch, latent_size) to images (batch, channels, height, width).

        They are locations of the distributions of the pixels, within black and white, normalised as `pixel_values`
        are; [`~OmniVisionVAE.unnormalize`] makes pixel values 0..255 of them.
        """
        return self._within_range(self._locations(latents))

    def unnormalize(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Undo the normalisation of the image processor: return pixel values 0..255, in float32."""
        mean, std = self._statistics(pixel_values)
        return (pixel_values.float() * std + mean) * LEVELS

    @torch.no_grad()
    def sample(self, num_images: int = 1, generator: torch.Generator | None = None) -> torch.Tensor:
        """Decode latent vectors drawn from the standard normal distribution, as `decode` does."""
        shape = num_images, self.config.latent_size
        with evaluating(self):
            return self.decode(self._noise(shape, generator).to(self.dtype))

    @torch.no_grad()
    def elbo(
        self, pixel_values: torch.Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """
        Estimate a lower bound of the log-probability of each image, in nats, whatever `beta` is.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor, of native size.
            samples (`int`, *optional*, defaults to 1):
                Latent vectors drawn for each image. One gives the evidence lower bound, with its KL divergence in
                closed form; more give the tighter, importance-weighted one (https://huggingface.co/papers/1509.00519).
            generator (`torch.Generator`, *optional*):
                Draws them; by default torch's own.

        Returns:
            `torch.FloatTensor` of shape `(batch,)`. Divided by minus [`~OmniVisionVAE.nats_per_bit`], bits per
            dimension.
        """
        if samples < 1:
            raise ValueError(f"`samples` must be at least 1, got {samples!r}. Draw at least one latent vector.")
        self._refuse_other_sizes(pixel_values)
        with evaluating(self):
            mean, log_variance = (part.float() for part in self.encode(pixel_values))
            bounds = [self._bound(pixel_values, mean, log_variance, generator, samples > 1) for _ in range(samples)]
        return torch.logsumexp(torch.stack(bounds), dim=0) - math.log(samples)

    @property
    def nats_per_bit(self) -> float:
        """Nats of an image that one bit for each pixel and channel makes."""
        vision: Any = self.config.vision_config
        return math.prod(vision.image_size_hw) * vision.num_channels * math.log(2)

    def log_likelihood(self, pixel_values: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each image (batch,) in nats, given the locations of its pixels."""
        scale = self.log_scale.float().exp()[:, None, None]
        found = discretized_logistic(self.unnormalize(pixel_values), self.unnormalize(locations), scale)
        return found.flatten(1).sum(-1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        latent_noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> OmniVisionVAEOutput:
        """
        Encode images, draw a latent vector for each, and decode it.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`):
                Images from the image processor, of native size.
            latent_noise (`torch.FloatTensor` of shape `(batch, latent_size)`, *optional*):
                Standard normal numbers that the latent vectors are made with.
            generator (`torch.Generator`, *optional*):
                Draws them where `latent_noise` is left out. Without either, training takes torch's own, and outside of
                it the latent vector is the mean.
            return_loss (`bool`, *optional*, defaults to `True`):
                Compute the loss.
            kwargs:
                `output_hidden_states` and `output_attentions` of the encoder, `return_dict`, and options of the
                attention backend.

        Raises:
            `ValueError`: for images of another size than the configured one, or an argument that does not exist.
        """
        self._refuse_other_sizes(pixel_values)
        output = self.vision_model(pixel_values, **kwargs | {"return_dict": True})
        mean, log_variance = self._latent_heads(output)
        if latent_noise is None and (generator is not None or self.training):
            latent_noise = self._noise(mean.shape, generator)
        latents = mean if latent_noise is None else mean + latent_noise.to(mean) * (log_variance / 2).exp()
        locations = self._locations(latents)
        fields: dict[str, Any] = {"latent_mean": mean, "latent_log_variance": log_variance, "latents": latents}
        fields["kl_divergence"] = standard_normal_divergence(mean.float(), log_variance.float())
        if return_loss:
            losses = -self.log_likelihood(pixel_values, locations)
            loss = (losses + self.config.beta * fields["kl_divergence"]).mean()
            fields |= {"loss": loss, "reconstruction_loss": losses}
        fields |= {"reconstruction": self._within_range(locations)}
        return OmniVisionVAEOutput(hidden_states=output.hidden_states, attentions=output.attentions, **fields)

    def _bound(
        self,
        pixel_values: torch.Tensor,
        mean: torch.Tensor,
        log_variance: torch.Tensor,
        generator: torch.Generator | None,
        weighted: bool,
    ) -> torch.Tensor:
        """Return the bound by one latent vector for each image; `weighted` with the densities of that vector."""
        noise = self._noise(mean.shape, generator).float()
        latents = mean + noise * (log_variance / 2).exp()
        found = self.log_likelihood(pixel_values, self._locations(latents.to(self.dtype)))
        if not weighted:
            return found - standard_normal_divergence(mean, log_variance)
        # log p(z) - log q(z): the constants of both densities cancel.
        return found + (noise**2 + log_variance - latents**2).sum(-1) / 2

    def _latent_heads(self, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = pool(output.pooler_output, output.grid, self.config.vision_config.pooling)
        return self.mean_head(pooled), self.log_variance_head(pooled).clamp(*LOG_VARIANCES)

    def _locations(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the locations of pixels (batch, channels, height, width), which may lie beyond black and white."""
        return self.decoder(self.latent_projection(latents))

    def _within_range(self, locations: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(locations)
        return torch.minimum(torch.maximum(locations, -mean / std), (1 - mean) / std)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the image processor as (channels, 1, 1)."""
        mean, std = (
            like.new_tensor(found)[:, None, None] for found in (self.config.image_means, self.config.image_deviations)
        )
        return mean, std

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
        drawn_on = self.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=drawn_on).to(self.device)

    def _refuse_other_sizes(self, pixel_values: torch.Tensor) -> None:
        native = self.config.vision_config.image_size_hw
        if pixel_values is not None and tuple(pixel_values.shape[-2:]) != native:
            raise ValueError(
                f"Expected images of {native} pixels, which the decoder makes, got {tuple(pixel_values.shape[-2:])}. "
                "Resize them; `encode` takes other sizes."
            )


__all__ = ["OmniVisionVAE", "OmniVisionVAEOutput"]
