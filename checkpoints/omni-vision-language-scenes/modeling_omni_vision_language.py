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
"""A vision-language model: an OmniVision tower, a projector, and any causal language model of transformers.

Unusual here:
- LLaVA's class around a whole `AutoModelForCausalLM`, head included: biases, soft caps and scales of its logits apply
  here too, and without an image it is the same function.
- Image features are taken after the tower's last layer and final norm, so every weight gets a gradient.
- Late fusion is the same class with gated cross-attention before every k-th decoder layer. Its weights are stored
  beside those of the language model, which keep their names. Keys and values of the images are computed once and kept
  with the KV cache.
- Loading a checkpoint that lacks weights raises an error.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlavaForConditionalGeneration, LlavaPreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import WeightRenaming, register_checkpoint_conversion_mapping
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .common_omni_vision import CompleteWeightsMixin, refuse_unknown_arguments
from .configuration_omni_vision import OmniVisionConfig
from .configuration_omni_vision_language import OmniVisionLanguageConfig
from .modeling_omni_vision import OmniVisionModel, OmniVisionModelOutput


# What transformers calls the KV cache: `cache` from 5.24 on.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
# Attribute of a KV cache that holds the `ImageKVCache` of its conversations.
IMAGE_CACHE = "omni_vision_images"
LLAVA_ONLY = ("vision_feature_layer", "vision_feature_select_strategy", "image_sizes")
# Encoder outputs of a draft model in assisted decoding: it proposes tokens without its images, as a LLaVA does.
BLIND: dict[str, Any] = {"image": None}


def pixel_shuffle(grid: torch.Tensor, rows: int, factor: int) -> torch.Tensor:
    """
    Concatenate squares of `factor` by `factor` patches into one token each.

    Args:
        grid: Patches (images, rows * columns, hidden), row by row.
        rows: Number of rows.
        factor: Side of a square in patches.

    Returns:
        Tokens (images, rows * columns / factor**2, factor**2 * hidden), row by row, as are the patches in each token.

    Raises:
        `ValueError`: if the factor does not divide rows and columns.
    """
    columns = grid.shape[1] // rows
    if rows % factor or columns % factor:
        raise ValueError(
            f"`scale_factor` must divide rows and columns of the grid, got {factor} for {rows} rows and {columns} "
            "columns. Resize the images to the native size of the tower."
        )
    squares = grid.unflatten(1, (rows // factor, factor, columns // factor, factor))
    return squares.transpose(2, 3).flatten(3).flatten(1, 2)


class OmniVisionProjector(nn.Module):
    """Selects image features and projects them to the width of what reads them, by default of the decoder layers."""

    def __init__(self, config: OmniVisionLanguageConfig, width: int | None = None):
        super().__init__()
        vision: Any = config.vision_config
        self.vision_feature_select_strategy, self.factor = config.vision_feature_select_strategy, config.scale_factor
        self.patch_height = vision.patch_size_hw[0]
        narrow, wide = vision.hidden_size * self.factor**2, width or config.text_config.get_text_config().hidden_size  # type: ignore[union-attr]
        bias, self.width = config.multimodal_projector_bias, wide
        self.linear_1 = nn.Linear(narrow, wide, bias=bias)
        if config.projector == "mlp":
            self.act = ACT2FN[config.projector_hidden_act]
            self.linear_2 = nn.Linear(wide, wide, bias=bias)

    def forward(self, output: OmniVisionModelOutput, height: int) -> torch.Tensor:
        """Project the tower's output for images of `height` pixels to (images, num_image_tokens, text hidden)."""
        tokens: Any = output.cls
        if self.vision_feature_select_strategy != "cls":
            grid: Any = output.grid
            grid = pixel_shuffle(grid, height // self.patch_height, self.factor)
            with_cls = self.vision_feature_select_strategy != "grid"
            tokens = torch.cat((tokens.repeat(1, 1, self.factor**2), grid), dim=1) if with_cls else grid
        tokens = self.linear_1(tokens)
        return self.linear_2(self.act(tokens)) if hasattr(self, "linear_2") else tokens


class OmniVisionCrossAttention(nn.Module):
    """Gated cross-attention of text tokens to images; the gate starts at zero, which leaves the tokens unchanged."""

    def __init__(self, config: OmniVisionLanguageConfig):
        super().__init__()
        text: Any = config.text_config.get_text_config()  # type: ignore[union-attr]
        self.num_heads = text.num_attention_heads
        self.head_dim = getattr(text, "head_dim", None) or text.hidden_size // self.num_heads
        inner = self.num_heads * self.head_dim
        self.norm = nn.RMSNorm(text.hidden_size, eps=1e-6)
        self.q_proj = nn.Linear(text.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(text.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(text.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, text.hidden_size, bias=False)
        self.gate = nn.Parameter(torch.empty(1))

    def keys_values(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project image features (batch, features, hidden) to keys and values (batch, heads, features, head_dim)."""
        return self._heads(self.k_proj(images)), self._heads(self.v_proj(images))

    def forward(
        self, hidden_states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """
        Add the cross-attention output to hidden states.

        Args:
            hidden_states: Text tokens (batch, length, hidden).
            keys: Of images (batch, heads, features, head_dim).
            values: Of the same shape.
            visible: Mask of the image features that each text token attends to, boolean (batch, 1, length, features).
                A token that attends to none is returned unchanged, to the bit.
        """
        query = self._heads(self.q_proj(self.norm(hidden_states)))
        unattended = ~visible.any(-1, keepdim=True)
        # A softmax over an empty row is NaN: these tokens attend to everything, and their output is zeroed.
        mask = visible | unattended
        attended = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        attended = attended.masked_fill(unattended, 0).transpose(1, 2).flatten(2)
        return hidden_states + self.gate.tanh() * self.o_proj(attended)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """Split (batch, tokens, heads * head_dim) into (batch, heads, tokens, head_dim)."""
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def cross_attention_hook(
    index: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Apply the cross-attention of decoder layer `index` to its input and remove the keyword argument."""
    calls = kwargs.pop("cross_attention_calls", {})
    if index in calls:
        # Removed: calls that remain after the forward pass were never made.
        args = (calls.pop(index)(args[0]), *args[1:])
    return args, kwargs


@dataclass
class ImageKVCache:
    """
    Cross-attention keys and values of the images of a batch of conversations, for late fusion.

    Args:
        keys_values: For each cross-attention, keys and values (batch, heads, features, head_dim).
        filled: True for features of an image, False for padding, boolean (batch, features).
    """

    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    filled: torch.Tensor

    def __add__(self, later: "ImageKVCache") -> "ImageKVCache":
        pairs = zip(self.keys_values, later.keys_values, strict=True)
        joined = [(torch.cat((k, n), dim=2), torch.cat((v, m), dim=2)) for (k, v), (n, m) in pairs]
        return ImageKVCache(joined, torch.cat((self.filled, later.filled), dim=1))


def group_images_by_prompt(
    images: torch.Tensor, image_positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Assign images to the rows of a batch.

    Args:
        images: Features of all images in the order of their tokens, (images, features, hidden).
        image_positions: Mask of image tokens, one for each image, boolean (batch, length).

    Returns:
        Features (batch, most * features, hidden), where `most` is the largest number of images in a row, other rows
        padded with zeros; the mask of filled ones (batch, most * features); the visible mask (batch, length, most *
        features): a text token attends to the images whose token is at or before it.
    """
    counts = image_positions.sum(1)
    number = torch.arange(int(counts.max()), device=image_positions.device)
    filled = number < counts[:, None]
    visible = number < image_positions.cumsum(1).unsqueeze(-1)
    rows = images.new_zeros(*filled.shape, *images.shape[1:])
    rows = rows.masked_scatter(filled[..., None, None], images).flatten(1, 2)
    features = images.shape[1]
    return rows, filled.repeat_interleave(features, dim=-1), visible.repeat_interleave(features, dim=-1)


def decoder_layers(language_model: Any) -> nn.ModuleList:
    """Return the decoder layers of a language model; a decoder without a list `layers` is a `ValueError`."""
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"Late fusion needs a decoder with a list of `layers`, as Llama has, got {type(language_model).__name__}. "
            "Use early fusion, or transformers' VisionEncoderDecoderModel for decoders with their own cross-attention."
        )
    return layers


def cache_argument(decoder: Any) -> str:
    """Return the name of a decoder's argument for its KV cache; a decoder without such a cache is a `ValueError`."""
    arguments = inspect.signature(decoder.forward).parameters
    # Code that comes with weights may have the name of an older transformers. XLM's `cache` is a dictionary.
    named = [name for name in (CACHE, "past_key_values") if name in arguments]
    found = [name for name in named if "dict" not in str(arguments[name].annotation)]
    # Recurrent decoders call their states so too; those that also have attention take positions.
    if not found or (getattr(decoder, "_is_stateful", False) and "position_ids" not in arguments):
        raise ValueError(
            f"The language model must have a KV cache, an argument `{CACHE}`, got {type(decoder).__name__}, which has "
            "none. Choose another one."
        )
    return found[0]


def either_cache(cache: Any, past_key_values: Any) -> Any:
    """Return the KV cache, whichever of its names it was given by; both are a `ValueError`."""
    if cache is not None and past_key_values is not None:
        raise ValueError("Expected `cache` or `past_key_values`, got both. They are names of the same: pass one.")
    return past_key_values if cache is None else cache


@dataclass
class OmniVisionCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Output of the vision-language model; the KV cache is `cache`, before transformers 5.24 `past_key_values`.

    Args:
        image_hidden_states (`torch.Tensor`, *optional*):
            Projected features of the images of this call, (image tokens, text hidden) in early and (images,
            num_image_tokens, text hidden) in late fusion.
    """

    image_hidden_states: torch.Tensor | None = None


class OmniVisionLanguagePreTrainedModel(CompleteWeightsMixin, LlavaPreTrainedModel):
    """What the model with its head and the one without have in common: image features for the decoder's embeddings."""

    config_class = OmniVisionLanguageConfig
    # Counting images reads numbers from the device.
    _can_compile_fullgraph = False
    vision_tower: OmniVisionModel
    multi_modal_projector: OmniVisionProjector
    language_model: Any

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the language model first: PEFT takes the first child for the one whose words its prompts resemble."""
        yield "language_model", self.language_model
        yield from ((name, part) for name, part in super().named_children() if name != "language_model")

    def children(self) -> Iterator[nn.Module]:
        """Yield the parts in the order in which they are initialised."""
        return iter(self._modules.values())  # type: ignore[arg-type]

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool | None = None, **kwargs: Any
    ) -> OmniVisionModelOutput:
        """
        Encode and project images (images, channels, height, width).

        Args:
            pixel_values: Images from the processor.
            interpolate_pos_encoding: Whether images of another than the native size are taken, as they are by default.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`.

        Returns:
            The tower's output, its `pooler_output` a list with the features of each image: (num_image_tokens, width of
            the embeddings) in early fusion, (1, num_image_tokens * text hidden) in late; as many rows as it has image
            tokens.

        Raises:
            `ValueError`: for no images, options that only LLaVA has, or names that are none of an option.
        """
        ignored = sorted(name for name in LLAVA_ONLY if kwargs.pop(name, None) is not None)
        if ignored:
            raise ValueError(
                f"Expected none of LLaVA's options for features, got {ignored!r}. Set them in the configuration."
            )
        unknown = sorted(set(kwargs) - TransformersKwargs.__optional_keys__ - {"return_dict"})
        if unknown or pixel_values is None:
            raise ValueError(
                f"Expected `pixel_values` and options of the vision tower, got {unknown or None!r}. Pass what the "
                "processor makes of images alone: get_image_features(**processor(images=...))."
            )
        vision: Any = self.config.vision_config
        native, size = tuple(vision.image_size_hw), tuple(pixel_values.shape[-2:])
        if interpolate_pos_encoding is False and size != native:
            raise ValueError(
                f"Expected images of {native} without `interpolate_pos_encoding`, got {size}. Resize them, or leave "
                "the option out."
            )
        output = self.vision_tower(pixel_values, **{**kwargs, "return_dict": True})
        features = self.multi_modal_projector(output, pixel_values.shape[-2])
        # `generate` repeats images for beams, and divides a long prompt, by the rows of these.
        output.pooler_output = list(features.flatten(1).unsqueeze(1) if self.config.fusion == "late" else features)
        return output

    def _encode(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        mm_encoder_outputs: dict[str, Any] | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Check the arguments of `forward` and return the output of `get_image_features`, or None without images."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected either `input_ids` or `inputs_embeds`, got both or neither. Pass one of them.")
        self._refuse_misspelt(kwargs)
        if pixel_values is not None:
            return self.get_image_features(pixel_values, return_dict=True)
        return (mm_encoder_outputs or {}).get("image")

    def _refuse_misspelt(self, kwargs: dict[str, Any]) -> None:
        """Refuse names that nearly are those of arguments; others are the language model's own."""
        if not kwargs:
            return
        known = {*inspect.signature(self.forward).parameters, *TransformersKwargs.__optional_keys__, "return_dict"}
        known |= {*inspect.signature(self.language_model.forward).parameters, "shift_labels"}
        refuse_unknown_arguments(kwargs, known, only_similar=True)

    def match_images(
        self, encoded: Any, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """
        Locate the image tokens and check their number.

        Args:
            encoded: Output of `get_image_features`, or None.
            input_ids: Prompts (batch, length), or None.
            inputs_embeds: Instead of them (batch, length, hidden).

        Returns:
            The features of all images, (image tokens, text hidden) in early and (image tokens, num_image_tokens, text
            hidden) in late fusion, or None; and the mask of image tokens, boolean (batch, length).

        Raises:
            `ValueError`: if the numbers of image tokens and image features differ.
        """
        embedding: Any = self.get_input_embeddings()
        token = torch.tensor(self.config.image_token_id, device=embedding.weight.device)
        if inputs_embeds is None:
            ids: Any = input_ids
            positions: torch.Tensor = ids == token.to(ids.device)
        else:
            positions = (inputs_embeds == embedding(token)).all(-1)
        features = None
        if encoded is not None:
            features = torch.cat(encoded.pooler_output).to(positions.device, embedding.weight.dtype)
            features = self._at_width(features, embedding.weight.shape[-1])
        expected, got = 0 if features is None else len(features), int(positions.sum())
        if expected != got:
            images = 0 if encoded is None else len(encoded.pooler_output)
            raise ValueError(
                f"Expected {expected} image tokens in the prompts for {images} images, got {got}. The processor "
                f"inserts {self.config.image_seq_length} for each image; pass it images and prompts together."
            )
        return features, positions

    def insert_features(
        self,
        features: torch.Tensor,
        image_positions: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embeddings of prompts (batch, length, hidden) with features in place of the image tokens."""
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        return embeds.masked_scatter(image_positions.unsqueeze(-1), features)

    def _at_width(self, features: torch.Tensor, embedded: int) -> torch.Tensor:
        """Check the width of features, one row for each image token; in late fusion a row holds those of an image."""
        late, got = self.config.fusion == "late", features.shape[-1]
        width: int = self.multi_modal_projector.width if late else embedded
        if got % width if late else got != width:
            raise ValueError(
                f"Expected image features of {width} channels, got {got}. Take them from `get_image_features` of this "
                "model."
            )
        return features.unflatten(-1, (-1, width)) if late else features


class OmniVisionForConditionalGeneration(OmniVisionLanguagePreTrainedModel, LlavaForConditionalGeneration):
    """The OmniVision vision-language model, with early or late fusion (`config.fusion`).

    Early: image features replace the embeddings of the image tokens. Late: one image token marks the position of an
    image, and text tokens from there on attend to it in gated cross-attention; needs a decoder with a list `layers`.

    Example:
    ```python
    >>> import torch
    >>> from transformers import LlamaConfig
    >>> from modeling_omni_vision import OmniVisionForConditionalGeneration, OmniVisionLanguageConfig

    >>> text = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    >>> model = OmniVisionForConditionalGeneration(OmniVisionLanguageConfig(text_config=text)).eval()
    >>> prompt = torch.tensor([[5, model.config.image_token_id, 6]])
    >>> model(input_ids=prompt, pixel_values=torch.zeros(1, 3, 224, 224)).logits.shape
    torch.Size([1, 3, 99])
    ```
    """

    # No base model of its own: tower, projector and language model are siblings; the latter ties its own embeddings.
    _tied_weights_keys = None  # type: ignore[assignment]
    _tp_plan = None  # type: ignore[assignment]

    def __init__(self, config: OmniVisionLanguageConfig):
        # Not LLaVA's own, which would build its base model and head.
        LlavaPreTrainedModel.__init__(self, config)
        vision: OmniVisionConfig = config.vision_config  # type: ignore[assignment]
        # Built directly, not with AutoModel: the class travels with the checkpoint and need not be registered.
        self.vision_tower = OmniVisionModel(vision)
        self.multi_modal_projector = OmniVisionProjector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.cache_argument = cache_argument(self.language_model)
        if config.fusion == "late":
            self._add_cross_attention(config)
        embedding: Any = self.get_input_embeddings()
        width = embedding.weight.shape[-1]
        if config.fusion == "early" and width != self.multi_modal_projector.width:
            # Some decoders embed words in fewer dimensions than their layers have, such as OPT-350m.
            self.multi_modal_projector = OmniVisionProjector(config, width)
        # The image token is input only, never generated.
        self.generation_config.suppress_tokens = [config.image_token_id]
        self.post_init()

    def _add_cross_attention(self, config: OmniVisionLanguageConfig) -> None:
        layers, interval = decoder_layers(self.language_model), config.cross_attention_interval
        self.cross_attention_layers = range(interval - 1, len(layers), interval)
        if not self.cross_attention_layers:
            raise ValueError(
                f"`cross_attention_interval` must be at most the number of decoder layers, {len(layers)}, got "
                f"{interval}. Lower it."
            )
        self.cross_attention = nn.ModuleList([OmniVisionCrossAttention(config) for _ in self.cross_attention_layers])
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(cross_attention_hook, index), with_kwargs=True)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniVisionCrossAttention):
            init.zeros_(module.gate)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Transformers scans this file and finds only torch's attention, in the cross-attention, whose mask needs it.
        # Tower and language model support every implementation.
        return True

    def generate(self, inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Generate as [`~GenerationMixin.generate`]; as the draft of another model, without the images."""
        if getattr(generation_config, "is_assistant", False):
            kwargs["mm_encoder_outputs"] = BLIND
        # By the name that this version knows: beside a cache of another name it would begin one of its own.
        given = either_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if given is not None:
            kwargs[CACHE] = given
        # None is no image here too; transformers would encode it.
        absent = [name for name in ("pixel_values", "mm_encoder_outputs") if kwargs.get(name) is None]
        kwargs = {name: value for name, value in kwargs.items() if name not in absent}
        return super().generate(inputs, generation_config, *args, **kwargs)

    # Transformers takes embeddings only where it finds their name here.
    def prepare_inputs_for_generation(
        self, input_ids: Any, *args: Any, inputs_embeds: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepare the arguments of `forward`; a draft has no first iteration of its own, which would pass these on."""
        prepare: Any = super().prepare_inputs_for_generation
        inputs = prepare(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        if CACHE == "cache" and "cache" in inputs:
            # PEFT (0.21.2) finds the KV cache by this name alone, and else inserts its prompts again at each token.
            inputs["past_key_values"] = inputs.pop("cache")
        return {**inputs, "mm_encoder_outputs": BLIND} if kwargs.get("mm_encoder_outputs") == BLIND else inputs

    def get_output_embeddings(self) -> nn.Module:
        """Return the head of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> OmniVisionCausalLMOutputWithPast:
        """
        Compute logits of the next tokens and, given labels, the loss.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`):
                Prompts from the processor.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                All images of the batch, in the order of their tokens.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                1 for tokens, 0 for padding, on either side.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Positions of the tokens; `generate` skips padding.
            cache (`Cache`, *optional*):
                KV cache of earlier tokens and their images; pass only new images with it.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden)`, *optional*):
                Instead of `input_ids`; image tokens are recognised by their embedding.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Token ids, -100 for positions without a loss, image tokens among them.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of last positions to compute logits for, or the positions; 0 for all.
            mm_encoder_outputs (`dict`, *optional*):
                Instead of `pixel_values`: `{"image": model.get_image_features(pixel_values)}`. With `{"image": None}`
                the prompts are read without their images.
            past_key_values (`Cache`, *optional*):
                What `cache` was called before transformers 5.24.
            kwargs:
                Arguments of the language model, such as `use_cache`.

        Raises:
            `ValueError`: if the numbers of image tokens and image features differ, or an argument is misspelt.
        """
        cache = either_cache(cache, past_key_values)
        encoded = self._encode(input_ids, inputs_embeds, pixel_values, mm_encoder_outputs, kwargs)
        blind = mm_encoder_outputs == BLIND and encoded is None
        text, image_cache, features = self.fuse(encoded, input_ids, inputs_embeds, cache, blind)
        text |= {"attention_mask": attention_mask, "position_ids": position_ids, self.cache_argument: cache}
        text |= {"labels": labels, "logits_to_keep": logits_to_keep}
        output = self.language_model(**text, **kwargs, return_dict=True)
        if skipped := sorted(text.get("cross_attention_calls", {})):
            raise ValueError(
                f"Late fusion needs a decoder that passes keyword arguments to all of its layers, got "
                f"{type(self.language_model).__name__}, where layers {skipped} got none. Use early fusion."
            )
        if not hasattr(output, CACHE):
            raise ValueError(
                f"The language model must return its KV cache, got none from {type(self.language_model).__name__}. "
                "Choose another one."
            )
        cache = output.get(CACHE)
        if self.config.fusion == "late" and cache is not None:
            # Also None: a cache that was reset has no images.
            setattr(cache, IMAGE_CACHE, image_cache)
        return OmniVisionCausalLMOutputWithPast(
            loss=output.loss,
            logits=output.logits,
            **{CACHE: cache},
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            image_hidden_states=features,
        )

    def fuse(
        self,
        encoded: OmniVisionModelOutput | None,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        cache: Any,
        blind: bool = False,
    ) -> tuple[dict[str, Any], ImageKVCache | None, torch.Tensor | None]:
        """
        Combine image features and text.

        Args:
            encoded: Output of `get_image_features`, or None.
            input_ids: Prompts (batch, length), or None.
            inputs_embeds: Instead of them (batch, length, hidden), or None.
            cache: KV cache of earlier tokens, or None.
            blind: Whether image tokens without features are read as any other token.

        Returns:
            Arguments for the language model, those of plain text if there are no images; in late fusion the images to
            keep with its KV cache; the features of new images.
        """
        text: dict[str, Any] = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        begins = cache is None or not cache.get_seq_length()
        features = image_positions = None
        # A prompt without images is checked too; tokens generated after it are only text.
        if encoded is not None or (begins and not blind):
            features, image_positions = self.match_images(encoded, **text)
        if self.config.fusion == "late":
            earlier = None if begins else getattr(cache, IMAGE_CACHE, None)
            image_cache, calls = self.prepare_cross_attention(features, image_positions, earlier)
            return {**text, "cross_attention_calls": calls}, image_cache, features
        if features is not None and image_positions is not None:
            text = {"inputs_embeds": self.insert_features(features, image_positions, **text)}
        return text, None, features

    def prepare_cross_attention(
        self,
        features: torch.Tensor | None,
        image_positions: torch.Tensor | None,
        image_cache: ImageKVCache | None,
    ) -> tuple[ImageKVCache | None, dict[int, Callable[[torch.Tensor], torch.Tensor]]]:
        """
        Prepare late fusion for one call of the language model.

        Args:
            features: Of new images (images, num_image_tokens, text hidden), or None.
            image_positions: Mask of their tokens, boolean (batch, length), or None.
            image_cache: Earlier images of the conversations, or None.

        Returns:
            Earlier and new images together, and the function to apply before each layer with cross-attention.
        """
        visible = None if image_cache is None else image_cache.filled.unsqueeze(1)
        if features is not None and image_positions is not None:
            rows, filled, new_visible = group_images_by_prompt(features, image_positions)
            new = ImageKVCache([block.keys_values(rows) for block in self.cross_attention], filled)  # type: ignore[operator]
            if image_cache is not None and visible is not None:
                new_visible = torch.cat((visible.expand(-1, new_visible.shape[1], -1), new_visible), dim=-1)
                new = image_cache + new
            image_cache, visible = new, new_visible
        if image_cache is None or visible is None:
            return None, {}
        blocks = zip(self.cross_attention_layers, self.cross_attention, image_cache.keys_values, strict=True)
        return image_cache, {
            layer: partial(block, keys=keys, values=values, visible=visible.unsqueeze(1))
            for layer, block, (keys, values) in blocks
        }


class OmniVisionLanguageModel(OmniVisionLanguagePreTrainedModel):
    """The early-fusion model without its head: tower, projector and decoder, whose hidden states it returns.

    Opens the folders of [`OmniVisionForConditionalGeneration`] with `AutoModel`, as engines such as vLLM do, which put
    the head on themselves. Late fusion has no such form: these engines keep no images beside their KV cache.

    Raises:
        `ValueError`: for a configuration with late fusion.
    """

    def __init__(self, config: OmniVisionLanguageConfig):
        super().__init__(config)
        if config.fusion != "early":
            raise ValueError(
                f"Expected `fusion` 'early' for a model without its head, got {config.fusion!r}. Open it with "
                "AutoModelForImageTextToText."
            )
        self.vision_tower = OmniVisionModel(config.vision_config)  # type: ignore[arg-type]
        self.language_model = AutoModel.from_config(config.text_config)
        self.cache_argument = cache_argument(self.language_model)
        embedding: Any = self.get_input_embeddings()
        self.multi_modal_projector = OmniVisionProjector(config, embedding.weight.shape[-1])
        # Folders name the weights of the decoder as the model with its head does. Engines read the renaming too.
        headed: Any = AutoModelForCausalLM._model_mapping[type(config.text_config)]  # type: ignore[index]
        renaming = WeightRenaming(rf"^language_model\.{headed.base_model_prefix}\.", "language_model.")
        register_checkpoint_conversion_mapping(type(self).__name__, [renaming], overwrite=True)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """
        Compute hidden states (batch, length, hidden), as the decoder returns them.

        Arguments are those of [`OmniVisionForConditionalGeneration.forward`], as far as they do not concern logits.
        Embeddings without images are taken as they are: engines put image features into them beforehand, and read
        nothing from the device meanwhile.

        Raises:
            `ValueError`: if the numbers of image tokens and image features differ, or an argument is misspelt.
        """
        cache = either_cache(cache, past_key_values)
        encoded = self._encode(input_ids, inputs_embeds, pixel_values, mm_encoder_outputs, kwargs)
        begins = cache is None or not cache.get_seq_length()
        text: dict[str, Any] = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if encoded is not None or (begins and inputs_embeds is None):
            features, image_positions = self.match_images(encoded, **text)
            if features is not None:
                text = {"inputs_embeds": self.insert_features(features, image_positions, **text)}
        text |= {"attention_mask": attention_mask, "position_ids": position_ids, self.cache_argument: cache}
        return self.language_model(**text, **kwargs)


__all__ = ["OmniVisionForConditionalGeneration", "OmniVisionLanguageModel"]
