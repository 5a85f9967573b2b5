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
"""Configuration of a vision-language model: an OmniVision tower, a projector and any causal language model."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .configuration_omni_vision import ChecksOverrides, OmniVisionConfig, check_choices, check_field, value_errors


LANGUAGE_AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision_language.OmniVisionLanguageConfig",
    "AutoModel": "modeling_omni_vision_language.OmniVisionLanguageModel",
    "AutoModelForImageTextToText": "modeling_omni_vision_language.OmniVisionForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_omni_vision_language.OmniVisionForConditionalGeneration",
}


@value_errors
@strict
class OmniVisionLanguageConfig(ChecksOverrides, LlavaConfig):
    r"""
    Configuration of an [`OmniVisionForConditionalGeneration`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The vision tower; by default the specification's ViTTiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any language model that `AutoModelForCausalLM` builds, with its `model_type`; by default a Llama.
        fusion (`str`, *optional*, defaults to `"early"`):
            `"early"`: image features replace the embeddings of the image tokens in the prompt, as in LLaVA. `"late"`:
            text tokens attend to the images before them in gated cross-attention between the layers of the language
            model, as in Flamingo (https://huggingface.co/papers/2204.14198).
        vision_feature_select_strategy (`str`, *optional*):
            Which tokens of the tower, after its final norm, are the features of an image: `"cls"`, the specification's
            one token, `"grid"`, the patches, or `"cls+grid"`. Defaults to `"cls"` for early and `"grid"` for late
            fusion, which refuses `"cls"`: attention over a single token is constant.
        projector (`str`, *optional*, defaults to `"linear"`):
            How image features are projected to the width of the language model: `"linear"`, as in the specification,
            or `"mlp"`, two layers with `projector_hidden_act` between them.
        scale_factor (`int`, *optional*, defaults to 1):
            Side of the squares of patches that pixel shuffle concatenates into one token: 2 makes 49 tokens of 196.
            Must divide rows and columns of the grid. With `"cls+grid"`, CLS is repeated to the same width.
        cross_attention_interval (`int`, *optional*, defaults to 4):
            Late fusion: cross-attention precedes every layer whose number, counted from 1, is a multiple of this.
        image_token_index (`int`, *optional*):
            Vocabulary id of the image token; a prompt has `image_seq_length` of them for each image. Defaults to the
            last id.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the `"mlp"` projector.
        multimodal_projector_bias (`bool`, *optional*, defaults to `True`):
            Whether the projector has biases.
        image_seq_length (`int`, *optional*):
            Computed, whatever is passed: image tokens in the prompt for each image, `num_image_tokens` in early and
            one in late fusion.

    Raises:
        `ValueError`: if a value has the wrong type or contradicts another one.

    Example:
    ```python
    >>> from modeling_omni_vision import OmniVisionLanguageConfig

    >>> OmniVisionLanguageConfig(vision_feature_select_strategy="grid", scale_factor=2).image_seq_length
    49
    ```
    """

    model_type = "omni_vision_language"
    # The Trainer would otherwise gather these for every evaluated prompt.
    keys_to_ignore_at_inference = ["cache", "past_key_values", "hidden_states", "attentions", "image_hidden_states"]
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
    # Not LLaVA's "default" and "full", which do not distinguish CLS from registers.
    vision_feature_select_strategy: str | None = None  # type: ignore[assignment]
    projector: str = "linear"
    scale_factor: int = 1
    cross_attention_interval: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = {**LANGUAGE_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        vocabulary = self.text_config.get_text_config().vocab_size  # type: ignore[union-attr]
        has_cls = getattr(self.vision_config, "use_cls_token", True)
        if self.vision_feature_select_strategy is None:
            self.vision_feature_select_strategy = "grid" if self.fusion == "late" or not has_cls else "cls"
        if self.image_token_index is None:
            self.image_token_index = vocabulary - 1
        self._check_fields(vocabulary)
        self._check_features()
        self.image_seq_length = self.num_image_tokens if self.fusion == "early" else 1

    @property
    def num_image_tokens(self) -> int:
        """Number of feature vectors of an image of native size."""
        patches = self.vision_config.num_patches // self.scale_factor**2  # type: ignore[union-attr]
        return {"cls": 1, "grid": patches, "cls+grid": 1 + patches}[self.vision_feature_select_strategy or "cls"]

    def _check_fields(self, vocabulary: int) -> None:
        valid = 0 <= (self.image_token_index or 0) < vocabulary
        advice = "Add the token and resize the embeddings of the text model."
        check_field(self, "image_token_index", valid, f"a token of the vocabulary, 0 to {vocabulary - 1}", advice)
        check_choices(self, fusion=("early", "late"), vision_feature_select_strategy=("cls", "grid", "cls+grid"))
        check_choices(self, projector=("linear", "mlp"), projector_hidden_act=tuple(ACT2FN))
        last = self.vision_feature_layer == -1
        check_field(self, "vision_feature_layer", last, "-1, since features are taken after the final norm")
        for name in ("scale_factor", "cross_attention_interval"):
            check_field(self, name, getattr(self, name) >= 1, "an integer of at least 1")

    def _check_features(self) -> None:
        vision: Any = self.vision_config
        known, expected = vision.model_type == "omni_vision", "'omni_vision' in `vision_config`"
        check_field(vision, "model_type", known, expected, "Use transformers' Llava classes for other vision towers.")
        has_cls = vision.use_cls_token or self.vision_feature_select_strategy == "grid"
        check_field(self, "vision_feature_select_strategy", has_cls, "'grid' for a tower without CLS")
        if self.vision_feature_select_strategy == "cls":
            if self.fusion == "late":
                raise ValueError(
                    "Late fusion needs `vision_feature_select_strategy` 'grid' or 'cls+grid', got 'cls', one token. "
                    "Select the grid."
                )
            if self.scale_factor > 1:
                raise ValueError(f"`scale_factor` needs patches, got {self.scale_factor} with 'cls'. Select the grid.")
            return
        if any(side % self.scale_factor for side in vision.grid_size):
            raise ValueError(
                f"`scale_factor` must divide rows and columns of the grid, got {self.scale_factor} for "
                f"{vision.grid_size}. 1 disables pixel shuffle."
            )
        expected = "0 in `vision_config`, since every patch is a feature of the image"
        check_field(vision, "patch_drop_rate", not vision.patch_drop_rate, expected, "The weights stay the same.")


__all__ = ["OmniVisionLanguageConfig"]
