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
"""Configuration of an OmniVision vision tower and any text encoder, for search and zero-shot classification."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_omni_vision import ChecksOverrides, OmniVisionConfig, check_choices, check_field, value_errors


RETRIEVAL_AUTO_MAP = {
    "AutoConfig": "configuration_omni_vision_retrieval.OmniVisionRetrievalConfig",
    "AutoModel": "modeling_omni_vision_retrieval.OmniVisionForRetrieval",
    "AutoModelForZeroShotImageClassification": "modeling_omni_vision_retrieval.OmniVisionForRetrieval",
}
# In place of the stock pipeline, which loses transparency before the image processor sees an image.
PIPELINES = {
    "zero-shot-image-classification": {
        "impl": "processing_omni_vision_retrieval.OmniVisionZeroShotPipeline",
        "pt": ["AutoModelForZeroShotImageClassification"],
        "type": "multimodal",
    }
}


@value_errors
@strict
class OmniVisionRetrievalConfig(ChecksOverrides, PreTrainedConfig):
    r"""
    Configuration of an [`OmniVisionForRetrieval`].

    Args:
        vision_config ([`OmniVisionConfig`] or `dict`, *optional*):
            The vision tower; by default the specification's ViTTiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any text encoder that `AutoModel` builds, with its `model_type`; by default a BERT.
        embedding_dim (`int`, *optional*, defaults to 64):
            Width of the space that both towers are projected to, for multi-vector and single-vector embeddings.
        vision_feature_select_strategy (`str`, *optional*, defaults to `"grid"`):
            Image tokens in the multi-vector embedding: `"grid"`, the patches alone, or `"cls+grid"`.
        skiplist_token_ids (`list[int]`, *optional*):
            Text tokens that late interaction ignores, such as `[CLS]` and `[SEP]`: their vectors are zero.
            [`OmniVisionRetrievalProcessor.skiplist_token_ids`] returns those of a tokenizer.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            Single vector of a text before its projection: the mean of its tokens, or what the text encoder itself
            calls `pooler_output` (`"pooler"`), as in CLIP and SigLIP.
        fixed_text_length (`int`, *optional*):
            Number of tokens that every text is padded to with `text_config.pad_token_id`; padding is attended to.
            SigLIP was trained that way, with 64.
        contrastive_loss (`str`, *optional*, defaults to `"softmax"`):
            `"softmax"`, over a batch in both directions (CLIP, https://huggingface.co/papers/2103.00020), or
            `"sigmoid"`, over single pairs (SigLIP, https://huggingface.co/papers/2303.15343).
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592):
            Logarithm of the initial scale of the cosine similarities; 2.6592 is log(1 / 0.07).
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of the projections.

    Raises:
        `ValueError`: if a value has the wrong type or is not supported.
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
    text_pooling: str = "mean"
    fixed_text_length: int | None = None
    contrastive_loss: str = "softmax"
    logit_scale_init_value: float = 2.6592
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # One projection serves multi-vector and single-vector embeddings; sentence-transformers reads both names.
        self.projection_dim = self.embedding_dim
        kwargs.pop("projection_dim", None)
        super().__post_init__(**kwargs)
        self.auto_map = {**RETRIEVAL_AUTO_MAP, **(getattr(self, "auto_map", None) or {})}
        check_field(self, "embedding_dim", self.embedding_dim >= 1, "at least 1", advice="64 is usual.")
        check_choices(self, vision_feature_select_strategy=("grid", "cls+grid"))
        check_choices(self, contrastive_loss=("softmax", "sigmoid"), text_pooling=("mean", "pooler"))
        vision: Any = self.vision_config
        # The projection of patches, which are half as wide, serves the pooled output too.
        check_field(
            vision, "pooling", vision.pooling != "cls_mean", "'cls', 'mean' or 'attention' in a retrieval model"
        )
        has_cls = vision.use_cls_token or self.vision_feature_select_strategy == "grid"
        check_field(self, "vision_feature_select_strategy", has_cls, "'grid' for a tower without CLS")

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved, with the pipelines. No attribute: folders saved without them have no code for them."""
        return {"custom_pipelines": PIPELINES} | super().to_dict()

    @property
    def image_seq_length(self) -> int:
        """Number of vectors in the multi-vector embedding of an image of native size."""
        return self.vision_config.num_patches + (self.vision_feature_select_strategy == "cls+grid")  # type: ignore[union-attr]


__all__ = ["OmniVisionRetrievalConfig"]
