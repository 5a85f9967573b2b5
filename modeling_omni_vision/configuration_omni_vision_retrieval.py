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
"""Configuration of an OmniVision image tower beside any text encoder, for search and zero-shot classification."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_omni_vision import OmniVisionConfig, value_errors


RETRIEVAL_AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision_retrieval.OmniVisionRetrievalConfig",
    "AutoModel": "modeling_omni_vision_retrieval.OmniVisionForRetrieval",
    "AutoModelForZeroShotImageClassification": "modeling_omni_vision_retrieval.OmniVisionForRetrieval",
}
SELECTIONS = ("grid", "cls+grid")
LOSSES = ("softmax", "sigmoid")


@value_errors
@strict
class OmniVisionRetrievalConfig(PreTrainedConfig):
    r"""
    Everything that shapes an [`OmniVisionForRetrieval`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The image tower; by default the specification's ViTTiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any text encoder that `AutoModel` builds, with its `model_type`; by default a BERT.
        embedding_dim (`int`, *optional*, defaults to 64):
            Width of what both towers are projected to, for a token and for a whole image or sentence.
        vision_feature_select_strategy (`str`, *optional*, defaults to `"grid"`):
            Which image tokens take part in late interaction: `"grid"`, the patches alone, or `"cls+grid"`.
        skiplist_token_ids (`list[int]`, *optional*):
            Tokens of a text that have no part in late interaction, such as those that open and close it: their
            vectors are zero. [`OmniVisionRetrievalProcessor.skiplist_token_ids`] tells those of a tokenizer.
        contrastive_loss (`str`, *optional*, defaults to `"softmax"`):
            `"softmax"`, over a batch in both directions (https://huggingface.co/papers/2103.00020), or
            `"sigmoid"`, each pair for itself (https://huggingface.co/papers/2303.15343).
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592):
            Logarithm of the initial factor of the cosines; 2.6592 is log(1 / 0.07).
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of the projections.

    Raises:
        `ValueError`: if a value has the wrong type or cannot work.
    """

    model_type = "omni_vision_retrieval"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=OmniVisionConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    embedding_dim: int = 64
    vision_feature_select_strategy: str = "grid"
    skiplist_token_ids: list[int] | None = None
    contrastive_loss: str = "softmax"
    logit_scale_init_value: float = 2.6592
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # One head serves tokens and wholes; both names are read by sentence-transformers.
        self.projection_dim = self.embedding_dim
        kwargs.pop("projection_dim", None)
        super().__post_init__(**kwargs)
        self.auto_map = {**RETRIEVAL_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        if self.embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1, got {self.embedding_dim!r}. 64 is usual.")
        for name, choices in (("vision_feature_select_strategy", SELECTIONS), ("contrastive_loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}."
                )
        vision: Any = self.vision_config
        if vision.pooling == "cls_mean":
            raise ValueError(
                "One projection serves tokens and wholes, so `pooling` of the image tower must be 'cls' or 'mean', "
                f"got {vision.pooling!r}. Choose one of them."
            )

    @property
    def image_seq_length(self) -> int:
        """Number of vectors that an image of native size has in late interaction."""
        return self.vision_config.num_patches + (self.vision_feature_select_strategy == "cls+grid")  # type: ignore[union-attr]


__all__ = ["OmniVisionRetrievalConfig"]
