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

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, SiglipTextModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .common_omni_vision import CompleteWeightsMixin, refuse_unknown_arguments
from .configuration_omni_vision import OmniVisionConfig
from .configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
from .modeling_omni_vision import OmniVisionModel, pool


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
        text_embeds (`torch.FloatTensor` of shape `(texts, embedding_dim)`, *optional*):
            Normalised single-vector embeddings of the texts.
        image_embeds (`torch.FloatTensor` of shape `(images, embedding_dim)`, *optional*):
            Normalised single-vector embeddings of the images.
        text_model_output (`BaseModelOutputWithPooling`, *optional*):
            What `get_text_features` returns.
        vision_model_output (`BaseModelOutputWithPooling`, *optional*):
            What `get_image_features` returns.
        embeddings (`torch.FloatTensor` of shape `(batch, tokens, embedding_dim)`, *optional*):
            Normalised multi-vector embeddings of the images or, without images, of the texts. Last, so that a tuple
            has everything else in CLIP's places.
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    embeddings: torch.FloatTensor | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return all fields that are not None in order, the towers' outputs as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in super().to_tuple())


# Options that every model of transformers takes or passes on to its layers.
OPTIONS = {*TransformersKwargs.__annotations__, "return_dict"}
IMAGE_OPTIONS = OPTIONS - {"position_ids"}
PARAMETERS = ("pixel_values", "input_ids", "attention_mask", "interpolate_pos_encoding", "return_loss")
POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def _max_text_length(text_model: Any) -> int | None:
    """Return the number of tokens that a text encoder has learned positions for; None where it computes them."""
    for name, table in text_model.named_modules():
        if name.endswith(POSITION_TABLES) and isinstance(table, nn.Embedding):
            # RoBERTa and its like count positions from after that of padding.
            usable = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
            return min(usable, getattr(text_model.config, "max_position_embeddings", usable))
    return None


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


def build_text_model(config: PreTrainedConfig) -> Any:
    """Build a text encoder without weights; transformers has SigLIP's, but does not know it as an `AutoModel`."""
    if config.model_type == "siglip_text_model":
        return SiglipTextModel._from_config(config)
    return AutoModel.from_config(config)


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
        self.text_model = build_text_model(text)
        self.visual_projection = nn.Linear(vision.hidden_size, config.embedding_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.embedding_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
        if config.contrastive_loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.empty(()))
        self.max_text_length = _max_text_length(self.text_model)
        self._text_options = {*OPTIONS, *inspect.signature(self.text_model.forward).parameters} - {"kwargs"}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.config.contrastive_loss == "sigmoid":
                # SigLIP's prior: few of all pairs match.
                init.constant_(self.logit_bias, -10.0)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """
        Encode images to tokens of the tower, and a projected `pooler_output` (images, embedding_dim).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`):
                Images from the processor.
            attention_mask (`torch.LongTensor`, *optional*):
                Ignored: ones that the processor adds for `MultiVectorEncoder`.
            interpolate_pos_encoding (`bool`, *optional*):
                False refuses images of another size than the configured one; otherwise positions are interpolated.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict`, and options of the attention backend.
        """
        if pixel_values is None:
            raise ValueError("Expected `pixel_values`, got None. Make them with the processor.")
        size, native = tuple(pixel_values.shape[-2:]), self.config.vision_config.image_size_hw
        if interpolate_pos_encoding is False and size != native:
            raise ValueError(f"Expected images of {native} pixels, got {size}. Leave out `interpolate_pos_encoding`.")
        refuse_unknown_arguments(kwargs, IMAGE_OPTIONS, PARAMETERS)
        output = self.vision_model(pixel_values, **kwargs | {"return_dict": True})
        pooled = pool(output.pooler_output, output.grid, self.config.vision_config.pooling)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self.visual_projection(pooled),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """
        Encode texts to tokens of the tower, and their projected mean, `pooler_output` (texts, embedding_dim).

        Args:
            input_ids (`torch.LongTensor` of shape `(texts, length)`):
                Texts from the processor.
            attention_mask (`torch.LongTensor`, *optional*):
                1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor`, *optional*):
                For text encoders with token types.
            text_attention_mask (`torch.LongTensor`, *optional*):
                In place of `attention_mask`, where that leaves out tokens without a vector of their own that the
                text encoder attends to all the same, as `[CLS]`: the processor gives both.
            kwargs:
                As for `get_image_features`, and whatever the text encoder takes, such as `position_ids`.
        """
        if input_ids is None:
            raise ValueError("Expected `input_ids`, got None. Make them with the processor.")
        self._refuse_long_texts(input_ids.shape[1])
        refuse_unknown_arguments(kwargs, self._text_options, PARAMETERS)
        mask = attention_mask if text_attention_mask is None else text_attention_mask
        mask = torch.ones_like(input_ids) if mask is None else mask
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        inputs = self._at_fixed_length(input_ids, mask)
        output = self.text_model(**inputs, **kwargs | {"return_dict": True})
        tokens = output.last_hidden_state[:, : input_ids.shape[1]]
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)
        pooled = output.pooler_output if self.config.text_pooling == "pooler" else mean
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=self.text_projection(pooled),
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
        )

    def _at_fixed_length(self, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the text encoder gets: texts and mask, or texts padded to its fixed length, without a mask."""
        fixed = self.config.fixed_text_length
        if not fixed:
            return {"input_ids": input_ids, "attention_mask": mask}
        padding: int = self.config.text_config.pad_token_id
        missing = (0, max(fixed - input_ids.shape[1], 0))
        return {"input_ids": nn.functional.pad(input_ids.masked_fill(mask == 0, padding), missing, value=padding)}

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        text_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
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
            text_attention_mask (`torch.LongTensor`, *optional*):
                See `get_text_features`.
            interpolate_pos_encoding (`bool`, *optional*):
                See `get_image_features`.
            kwargs:
                As for `get_image_features` and `get_text_features`.

        Raises:
            `ValueError`: for neither images nor texts, a loss without pairs, texts too long for the text encoder, or
                an argument that neither tower knows.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("Expected `pixel_values`, `input_ids` or both, got neither. Use the processor.")
        refuse_unknown_arguments(kwargs, self._text_options, PARAMETERS)
        images: Any = None
        texts: Any = None
        fields: dict[str, Any] = {}
        if input_ids is not None:
            texts = self.get_text_features(
                input_ids, attention_mask, token_type_ids, text_attention_mask, **kwargs | {"return_dict": True}
            )
            fields["text_embeds"] = normalize(texts.pooler_output, dim=-1)
            fields["embeddings"] = self.token_embeds(texts.last_hidden_state, input_ids, attention_mask)
        if pixel_values is not None:
            options = {name: value for name, value in kwargs.items() if name in IMAGE_OPTIONS} | {"return_dict": True}
            images = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **options
            )
            fields["image_embeds"] = normalize(images.pooler_output, dim=-1)
            selected = self.select_image_tokens(images.last_hidden_state)
            fields["embeddings"] = normalize(self.visual_projection(selected), dim=-1)
        if images is not None and texts is not None:
            logits = fields["image_embeds"] @ fields["text_embeds"].T * self.logit_scale.exp()
            if self.config.contrastive_loss == "sigmoid":
                logits = logits + self.logit_bias
            fields |= {"logits_per_image": logits, "logits_per_text": logits.T}
        if return_loss:
            if "logits_per_image" not in fields:
                raise ValueError("A loss needs `pixel_values` and `input_ids`, got only one of them. Pass both.")
            fields["loss"] = contrastive_loss(fields["logits_per_image"].float(), self.config.contrastive_loss)
        # In one call: assigned one by one, fields would come in that order, and the loss last.
        return OmniVisionRetrievalOutput(text_model_output=texts, vision_model_output=images, **fields)

    def _refuse_long_texts(self, length: int) -> None:
        most = self.max_text_length
        if most is not None and length > most:
            raise ValueError(
                f"Expected texts of at most {most} tokens, which the text encoder has positions for, got {length}. "
                f"Cut them with the processor or tokenizer: truncation=True, max_length={most}."
            )

    def token_embeds(
        self, tokens: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Project text tokens (texts, length, hidden) to normalised vectors; zero for padding and skipped tokens."""
        skipped = torch.tensor(self.config.skiplist_token_ids or [], device=input_ids.device, dtype=input_ids.dtype)
        # Not `isin`, which has no counterpart in ONNX.
        kept = ~(input_ids.unsqueeze(-1) == skipped).any(-1)
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
