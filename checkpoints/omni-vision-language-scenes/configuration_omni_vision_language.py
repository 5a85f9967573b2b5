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
# What LLaVA lets one choose and we do not: pictures are always read after the tower's last layer and final norm.
FIXED = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}


@value_errors
@strict
class OmniVisionLanguageConfig(LlavaConfig):
    r"""
    Everything that shapes an [`OmniVisionForConditionalGeneration`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The picture tower; by default the specification's ViTTiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any language model that `AutoModelForCausalLM` builds, with its `model_type`; by default a Llama.
        fusion (`str`, *optional*, defaults to `"early"`):
            `"early"`: the vectors of a picture take the places of its tokens in the prompt, as in LLaVA. `"late"`:
            words attend to the pictures before them in gated layers between those of the language model, as in
            Flamingo (https://huggingface.co/papers/2204.14198).
        select_feature (`str`, *optional*):
            What is shown of a picture, taken after the tower's final norm: `"cls"`, the specification's one token,
            `"grid"`, its patches, or `"cls+grid"`. Defaults to `"cls"` for early and `"grid"` for late fusion, which
            refuses `"cls"`: attention over a single token has nothing to choose.
        projector (`str`, *optional*, defaults to `"linear"`):
            What brings picture vectors to the width of the language model: `"linear"`, the specification's, or
            `"mlp"`, two layers with `projector_hidden_act` between them.
        pixel_shuffle (`int`, *optional*, defaults to 1):
            Side of the squares of patches that are put side by side in one token: 2 makes 49 tokens of 196. Must
            divide rows and columns of the grid; needs a grid. With `"cls+grid"`, CLS is repeated to the same width.
        cross_attention_every (`int`, *optional*, defaults to 4):
            Late fusion: words look at the pictures before every layer whose number, from 1, is a multiple of this.
        image_token_index (`int`, *optional*):
            Token of the vocabulary that stands for a picture in the prompt: `image_seq_length` of them for one
            picture. Defaults to the last one.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the `"mlp"` projector.
        multimodal_projector_bias (`bool`, *optional*, defaults to `True`):
            Whether the projector has biases.
        image_seq_length (`int`, *optional*):
            Derived, whatever is given: tokens that stand for a picture in the prompt, as many as `picture_length` in
            early fusion and one in late fusion.

    Raises:
        `ValueError`: if a value has the wrong type or cannot work together with the others.

    Example:
    ```python
    >>> from modeling_omni_vision import OmniVisionLanguageConfig

    >>> OmniVisionLanguageConfig(select_feature="grid", pixel_shuffle=2).image_seq_length
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
    vision_feature_select_strategy: str = "full"  # type: ignore[assignment]
    vision_feature_layer: int | list[int] = -1
    fusion: str = "early"
    select_feature: str | None = None
    projector: str = "linear"
    pixel_shuffle: int = 1
    cross_attention_every: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = {**LANGUAGE_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        vocabulary = self.text_config.get_text_config().vocab_size  # type: ignore[union-attr]
        if self.select_feature is None:
            self.select_feature = "grid" if self.fusion == "late" else "cls"
        if self.image_token_index is None:
            self.image_token_index = vocabulary - 1
        if not 0 <= self.image_token_index < vocabulary:
            raise ValueError(
                f"`image_token_index` must be a token of the vocabulary, 0 to {vocabulary - 1}, got "
                f"{self.image_token_index}. Add the token and resize the embeddings of the text model."
            )
        self._check_choices()
        self._check_features()
        self.image_seq_length = self.picture_length if self.fusion == "early" else 1

    @property
    def picture_length(self) -> int:
        """Number of vectors that the language model sees of a picture of native size."""
        patches = self.vision_config.num_patches // self.pixel_shuffle**2  # type: ignore[union-attr]
        return {"cls": 1, "grid": patches, "cls+grid": 1 + patches}[self.select_feature or "cls"]

    def _check_choices(self) -> None:
        choices = {"fusion": FUSIONS, "select_feature": FEATURES, "projector": PROJECTORS}
        for name, allowed in {**choices, "projector_hidden_act": tuple(ACT2FN)}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}."
                )
        for name, only in FIXED.items():
            if getattr(self, name) != only:
                raise ValueError(
                    f"`{name}` must be {only!r}, got {getattr(self, name)!r}: pictures are read after the final "
                    "norm, so that nothing in the tower lacks a gradient. `select_feature` chooses the tokens."
                )
        for name in ("pixel_shuffle", "cross_attention_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {getattr(self, name)!r}.")

    def _check_features(self) -> None:
        vision: Any = self.vision_config
        if vision.model_type != OmniVisionConfig.model_type:
            raise ValueError(
                f"`vision_config` must be of model type {OmniVisionConfig.model_type!r}, got {vision.model_type!r}. "
                "Other towers fit transformers' LlavaForConditionalGeneration."
            )
        if self.select_feature == "cls":
            if self.fusion == "late":
                raise ValueError("Late fusion needs a `select_feature` of 'grid' or 'cls+grid', got 'cls': one token.")
            if self.pixel_shuffle > 1:
                raise ValueError(
                    f"`pixel_shuffle` needs patches, got {self.pixel_shuffle} with 'cls'. Select the grid."
                )
            return
        if any(side % self.pixel_shuffle for side in vision.grid_size):
            raise ValueError(
                f"`pixel_shuffle` must divide rows and columns of the grid, got {self.pixel_shuffle} for "
                f"{vision.grid_size}. 1 leaves all patches."
            )
        if vision.patch_drop_rate:
            raise ValueError(
                f"Each patch has its place in the language model: `patch_drop_rate` of the tower must be 0, got "
                f"{vision.patch_drop_rate}. Set it to 0; the weights stay the same."
            )


__all__ = ["OmniVisionLanguageConfig"]
