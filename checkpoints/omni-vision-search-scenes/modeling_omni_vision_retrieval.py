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
"""An OmniVision vision tower and any text encoder with a joint embedding space, single-vector and multi-vector.

Unusual here:
- One checkpoint loads as `AutoModel` and in the zero-shot pipeline of transformers, as `SentenceTransformer` (one
  vector for each image and text) and as `MultiVectorEncoder` (one for each patch and text token). Class name,
  annotations and argument names are read by these libraries; tests hold them.
- CLS takes no part in late interaction unless the configuration selects it: most text tokens would match it best.
- Loading a checkpoint that lacks weights raises an error.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_omni_vision import OmniVisionConfig
from .configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
from .modeling_omni_vision import CompleteWeightsMixin, OmniVisionModel, pool


@dataclass
class OmniVisionRetrievalOutput(ModelOutput):
    """
    Output of [`OmniVisionForRetrieval`]; fields that need an input that was not passed are None.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Contrastive loss over the batch, in both directions, with `return_loss=True`.
        logits_per_image (`torch.FloatTensor` of shape `(images, texts)`, *optional*):
            Cosine similarities of the single-vector embeddings, times the learned scale.
        logits_per_text (`torch.FloatTensor` of shape `(texts, images)`, *optional*):
            The same, transposed.
        embeddings (`torch.FloatTensor` of shape `(batch, tokens, embedding_dim)`, *optional*):
            Normalised multi-vector embeddings of the images or, without images, of the texts.
        text_embeds (`torch.FloatTensor` of shape `(texts, embedding_dim)`, *optional*):
            Normalised single-vector embeddings of the texts.
        image_embeds (`torch.FloatTensor` of shape `(images, embedding_dim)`, *optional*):
            Normalised single-vector embeddings of the images.
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None


def contrastive_loss(logits: torch.Tensor, kind: str = "softmax") -> torch.Tensor:
    """
    Return the mean loss of logits (images, texts) with the matching pairs on the diagonal, a scalar.

    `"softmax"`: cross-entropy over rows and over columns, averaged (CLIP). `"sigmoid"`: binary cross-entropy of every
    pair, summed and divided by the number of images (SigLIP).

    Raises:
        `ValueError`: for fewer than two pairs, or another number of texts than images.
    """
    if logits.shape[0] != logits.shape[1] or len(logits) < 2:
        raise ValueError(
            f"A contrastive loss needs at least two pairs, as many texts as images, got {logits.shape[0]} images "
            f"and {logits.shape[1]} texts. Raise the batch size, or drop the last incomplete batch."
        )
    if kind == "softmax":
        truth = torch.arange(len(logits), device=logits.device)
        return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2
    sign = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -logsigmoid(sign * logits).sum() / len(logits)


class OmniVisionForRetrieval(CompleteWeightsMixin, PreTrainedModel):
    """The OmniVision retrieval model: images and texts as single vectors and as one vector for each patch and token.

    Example:
    ```python
    >>> import torch
    >>> from modeling_omni_vision import OmniVisionForRetrieval, OmniVisionRetrievalConfig

    >>> model = OmniVisionForRetrieval(OmniVisionRetrievalConfig()).eval()
    >>> model(pixel_values=torch.zeros(2, 3, 224, 224)).embeddings.shape
    torch.Size([2, 196, 64])
    ```
    """

    config_class = OmniVisionRetrievalConfig
    base_model_prefix = "omni_vision_retrieval"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["OmniVisionEmbeddings", "OmniVisionLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    # The loss is a mean over the pairs of a batch: the Trainer divides by accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: OmniVisionRetrievalConfig):
        super().__init__(config)
        vision: OmniVisionConfig = config.vision_config  # type: ignore[assignment]
        text: Any = config.text_config
        # Built directly, not with AutoModel: the class travels with the checkpoint and need not be registered.
        self.vision_model = OmniVisionModel(vision)
        self.text_model = AutoModel.from_config(text)
        self.visual_projection = nn.Linear(vision.hidden_size, config.embedding_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.embedding_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
        if config.contrastive_loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.empty(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.config.contrastive_loss == "sigmoid":
                # SigLIP's prior: few of all pairs match.
                init.constant_(self.logit_bias, -10.0)

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Encode images to tokens of the tower, and a projected `pooler_output` (images, embedding_dim)."""
        output = self.vision_model(pixel_values)
        pooled = pool(output.pooler_output, output.grid, self.config.vision_config.pooling)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state, pooler_output=self.visual_projection(pooled)
        )

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode texts to tokens of the tower, and their projected mean, `pooler_output` (texts, embedding_dim)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens = self.text_model(input_ids=input_ids, attention_mask=mask, **types).last_hidden_state
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=self.text_projection(mean))

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> OmniVisionRetrievalOutput:
        """
        Embed images, texts, or both.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                Images from the processor.
            input_ids (`torch.LongTensor` of shape `(texts, length)`, *optional*):
                Texts from the processor.
            attention_mask (`torch.LongTensor`, *optional*):
                1 for tokens, 0 for padding of the texts. Without texts it belongs to the images and is ignored.
            token_type_ids (`torch.LongTensor`, *optional*):
                For text encoders with token types.
            return_loss (`bool`, *optional*):
                Compute the contrastive loss of image i with text i against all others of the batch.
            kwargs:
                Arguments that libraries add, such as `return_dict`.

        Raises:
            `ValueError`: for neither images nor texts, or a loss without pairs.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("Expected `pixel_values`, `input_ids` or both, got neither. Use the processor.")
        images: Any = None if pixel_values is None else self.get_image_features(pixel_values)
        texts: Any = None if input_ids is None else self.get_text_features(input_ids, attention_mask, token_type_ids)
        output: Any = OmniVisionRetrievalOutput()
        if texts is not None and input_ids is not None:
            output.text_embeds = normalize(texts.pooler_output, dim=-1)
            output.embeddings = self.token_embeds(texts.last_hidden_state, input_ids, attention_mask)
        if images is not None:
            output.image_embeds = normalize(images.pooler_output, dim=-1)
            selected = self.select_image_tokens(images.last_hidden_state)
            output.embeddings = normalize(self.visual_projection(selected), dim=-1)
        if images is not None and texts is not None:
            logits = output.image_embeds @ output.text_embeds.T * self.logit_scale.exp()
            if self.config.contrastive_loss == "sigmoid":
                logits = logits + self.logit_bias
            output.logits_per_image, output.logits_per_text = logits, logits.T
        if return_loss:
            if output.logits_per_image is None:
                raise ValueError("A loss needs `pixel_values` and `input_ids`, got only one of them. Pass both.")
            output.loss = contrastive_loss(output.logits_per_image.float(), self.config.contrastive_loss)
        return output

    def token_embeds(
        self, tokens: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Project text tokens (texts, length, hidden) to normalised vectors; zero for padding and skipped tokens."""
        skipped = torch.tensor(self.config.skiplist_token_ids or [], device=input_ids.device, dtype=input_ids.dtype)
        kept = ~torch.isin(input_ids, skipped)
        if attention_mask is not None:
            kept = kept & attention_mask.bool()
        return normalize(self.text_projection(tokens), dim=-1) * kept.unsqueeze(-1)

    def select_image_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the image tokens for late interaction, of (images, 1 + registers + patches, hidden)."""
        grid = tokens[:, self.vision_model.num_prefix_tokens :]
        if self.config.vision_feature_select_strategy == "grid":
            return grid
        return torch.cat((tokens[:, :1], grid), dim=1)


__all__ = ["OmniVisionForRetrieval", "OmniVisionRetrievalOutput"]
