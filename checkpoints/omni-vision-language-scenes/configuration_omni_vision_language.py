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
"""Configuration of a language model that sees: an OmniVision tower, a projector and any causal language model."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .configuration_omni_vision import OmniVisionConfig, value_errors


LANGUAGE_AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision_language.OmniVisionLanguageConfig",
    "AutoModelForImageTextToText": "modeling_omni_vision_language.OmniVisionForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_omni_vision_language.OmniVisionForConditionalGeneration",
}
FUSIONS = ("early", "late")
FEATURES = ("cls", "grid", "cls+grid")
PROJECTORS = ("linear", "mlp")
# What LLaVA lets one choose and we do not: images are always read after the tower's last layer and final norm.
FIXED = {"vision_feature_layer": -1}


@value_errors
@strict
class OmniVisionLanguageConfig(LlavaConfig):
    r"""
    Everything that shapes an [`OmniVisionForConditionalGeneration`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The image tower; by default the specification's ViTTiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any language model that `AutoModelForCausalLM` builds, with its `model_type`; by default a Llama.
        fusion (`str`, *optional*, defaults to `"early"`):
            `"early"`: the vectors of an image take the places of its tokens in the prompt, as in LLaVA. `"late"`:
            words attend to the images before them in gated layers between those of the language model, as in
            Flamingo (https://huggingface.co/papers/2204.14198).
        vision_feature_select_strategy (`str`, *optional*):
            What is shown of an image, taken after the tower's final norm: `"cls"`, the specification's one token,
            `"grid"`, its patches, or `"cls+grid"`. Defaults to `"cls"` for early and `"grid"` for late fusion, which
            refuses `"cls"`: attention over a single token has nothing to choose.
        projector (`str`, *optional*, defaults to `"linear"`):
            What brings image vectors to the width of the language model: `"linear"`, the specification's, or
            `"mlp"`, two layers with `projector_hidden_act` between them.
        scale_factor (`int`, *optional*, defaults to 1):
            Side of the squares of patches that are put side by side in one token: 2 makes 49 tokens of 196. Must
            divide rows and columns of the grid; needs a grid. With `"cls+grid"`, CLS is repeated to the same width.
        cross_attention_interval (`int`, *optional*, defaults to 4):
            Late fusion: words look at the images before every layer whose number, from 1, is a multiple of this.
        image_token_index (`int`, *optional*):
            Token of the vocabulary that stands for an image in the prompt: `image_seq_length` of them for one
            image. Defaults to the last one.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the `"mlp"` projector.
        multimodal_projector_bias (`bool`, *optional*, defaults to `True`):
            Whether the projector has biases.
        image_seq_length (`int`, *optional*):
            Derived, whatever is given: tokens that stand for an image in the prompt, as many as `num_image_tokens` in
            early fusion and one in late fusion.

    Raises:
        `ValueError`: if a value has the wrong type or cannot work together with the others.

    Example:
    ```python
    >>> from modeling_omni_vision import OmniVisionLanguageConfig

    >>> OmniVisionLanguageConfig(vision_feature_select_strategy="grid", scale_factor=2).image_seq_length
    49
    ```
    """

    model_type = "omni_vision_language"
    # The Trainer would otherwise gather these for every evaluated prompt.
    keys_to_ignore_at_inference = ["past_key_values", "hidden_states", "attentions", "image_hidden_states"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=OmniVisionConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_index: int | None = None  # type: ignore[assignment]
    image_seq_length: int = 1
    vision_feature_layer: int | list[int] = -1
    fusion: str = "early"
    # One of `FEATURES`, where LLaVA has "default" and "full": registers and CLS are told apart here.
    vision_feature_select_strategy: str | None = None  # type: ignore[assignment]
    projector: str = "linear"
    scale_factor: int = 1
    cross_attention_interval: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = {**LANGUAGE_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        vocabulary = self.text_config.get_text_config().vocab_size  # type: ignore[union-attr]
        if self.vision_feature_select_strategy is None:
            self.vision_feature_select_strategy = "grid" if self.fusion == "late" else "cls"
        if self.image_token_index is None:
            self.image_token_index = vocabulary - 1
        if not 0 <= self.image_token_index < vocabulary:
            raise ValueError(
                f"`image_token_index` must be a token of the vocabulary, 0 to {vocabulary - 1}, got "
                f"{self.image_token_index}. Add the token and resize the embeddings of the text model."
            )
        self._check_choices()
        self._check_features()
        self.image_seq_length = self.num_image_tokens if self.fusion == "early" else 1

    @property
    def num_image_tokens(self) -> int:
        """Number of vectors that the language model sees of an image of native size."""
        patches = self.vision_config.num_patches // self.scale_factor**2  # type: ignore[union-attr]
        return {"cls": 1, "grid": patches, "cls+grid": 1 + patches}[self.vision_feature_select_strategy or "cls"]

    def _check_choices(self) -> None:
        choices = {"fusion": FUSIONS, "vision_feature_select_strategy": FEATURES, "projector": PROJECTORS}
        for name, allowed in {**choices, "projector_hidden_act": tuple(ACT2FN)}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}."
                )
        for name, only in FIXED.items():
            if getattr(self, name) != only:
                raise ValueError(
                    f"`{name}` must be {only!r}, got {getattr(self, name)!r}: images are read after the final "
                    "norm, so that nothing in the tower lacks a gradient."
                )
        for name in ("scale_factor", "cross_attention_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {getattr(self, name)!r}.")

    def _check_features(self) -> None:
        vision: Any = self.vision_config
        if vision.model_type != OmniVisionConfig.model_type:
            raise ValueError(
                f"`vision_config` must be of model type {OmniVisionConfig.model_type!r}, got {vision.model_type!r}. "
                "Other towers fit transformers' LlavaForConditionalGeneration."
            )
        if self.vision_feature_select_strategy == "cls":
            if self.fusion == "late":
                raise ValueError(
                    "Late fusion needs `vision_feature_select_strategy` 'grid' or 'cls+grid', got 'cls': one token."
                )
            if self.scale_factor > 1:
                raise ValueError(f"`scale_factor` needs patches, got {self.scale_factor} with 'cls'. Select the grid.")
            return
        if any(side % self.scale_factor for side in vision.grid_size):
            raise ValueError(
                f"`scale_factor` must divide rows and columns of the grid, got {self.scale_factor} for "
                f"{vision.grid_size}. 1 leaves all patches."
            )
        if vision.patch_drop_rate:
            raise ValueError(
                f"Each patch has its place in the language model: `patch_drop_rate` of the tower must be 0, got "
                f"{vision.patch_drop_rate}. Set it to 0; the weights stay the same."
            )


__all__ = ["OmniVisionLanguageConfig"]
