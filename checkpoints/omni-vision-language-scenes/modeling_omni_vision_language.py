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
"""A language model that sees: an OmniVision tower, a projector, and any causal language model of transformers.

Unusual here:
- LLaVA's class, with a whole `AutoModelForCausalLM` inside in place of a body and a head of ours: whatever it does to
  its logits (biases, soft caps, scales), it does here too, and without an image it is the same function.
- Images are read after the tower's last layer and final norm: nothing that is trained lacks a gradient.
- Late fusion is the same class with gated cross-attention in front of every k-th layer of the decoder. Its weights lie
  beside the language model, whose own keep their names. Keys and values of the images are computed once and travel
  with the KV cache.
- Weights that are missing from a checkpoint are an error: a random tower is no model.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration, LlavaPreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .configuration_omni_vision import OmniVisionConfig
from .configuration_omni_vision_language import OmniVisionLanguageConfig
from .modeling_omni_vision import OmniVisionModel, OmniVisionModelOutput


# Where a KV cache keeps the images of its conversation.
MEMORY = "omni_vision_images"
LLAVA_ONLY = ("vision_feature_layer", "vision_feature_select_strategy", "image_sizes")


def shuffle_pixels(grid: torch.Tensor, rows: int, factor: int) -> torch.Tensor:
    """
    Put squares of `factor` by `factor` patches side by side.

    Args:
        grid: Patches (images, rows * columns, hidden), row by row.
        rows: Number of rows.
        factor: Side of a square.

    Returns:
        Tokens (images, rows * columns / factor**2, factor**2 * hidden), row by row; a token holds the patches of its
        square, row by row.

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
    """Chooses what is shown of an image and brings it to the width of the language model."""

    def __init__(self, config: OmniVisionLanguageConfig):
        super().__init__()
        vision: Any = config.vision_config
        self.vision_feature_select_strategy, self.factor = config.vision_feature_select_strategy, config.scale_factor
        self.patch_height = vision.patch_size_hw[0]
        narrow, wide = vision.hidden_size * self.factor**2, config.text_config.get_text_config().hidden_size  # type: ignore[union-attr]
        bias = config.multimodal_projector_bias
        self.linear_1 = nn.Linear(narrow, wide, bias=bias)
        # CODEPATH: the specification projects linearly; LLaVA and checkpoints that ask for it with two layers.
        if config.projector == "mlp":
            self.act = ACT2FN[config.projector_hidden_act]
            self.linear_2 = nn.Linear(wide, wide, bias=bias)

    def forward(self, output: OmniVisionModelOutput, height: int) -> torch.Tensor:
        """Map what the tower says of images of this height in pixels to (images, num_image_tokens, text hidden)."""
        tokens: Any = output.cls
        # CODEPATH: the specification's checkpoints show CLS alone, others the grid, or both.
        if self.vision_feature_select_strategy != "cls":
            grid: Any = output.grid
            grid, cls = (
                shuffle_pixels(grid, height // self.patch_height, self.factor),
                tokens.repeat(1, 1, self.factor**2),
            )
            tokens = grid if self.vision_feature_select_strategy == "grid" else torch.cat((cls, grid), dim=1)
        tokens = self.linear_1(tokens)
        return self.linear_2(self.act(tokens)) if hasattr(self, "linear_2") else tokens


class OmniVisionCrossAttention(nn.Module):
    """Gated cross-attention: words look at images; the gate is shut at first, the language model then unchanged."""

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
        """Map image vectors (batch, vectors, hidden) to keys and values (batch, heads, vectors, head_dim)."""
        return self._heads(self.k_proj(images)), self._heads(self.v_proj(images))

    def forward(
        self, hidden_states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """
        Add to words what they see.

        Args:
            hidden_states: Words (batch, length, hidden).
            keys: Of images (batch, heads, vectors, head_dim).
            values: Of the same shape.
            visible: Which word may look at which vector, boolean (batch, 1, length, vectors). A word that may look at
                none is left as it is, to the bit.
        """
        query = self._heads(self.q_proj(self.norm(hidden_states)))
        blind = ~visible.any(-1, keepdim=True)
        # A row of a softmax cannot be empty: the blind look at everything, then forget it.
        seen = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible | blind)
        seen = seen.masked_fill(blind, 0).transpose(1, 2).flatten(2)
        return hidden_states + self.gate.tanh() * self.o_proj(seen)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """Split (batch, tokens, heads * head_dim) into (batch, heads, tokens, head_dim)."""
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def cross_attention_hook(
    index: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Run before decoder layer `index`, as a hook: let its words look; the layer itself never sees the keyword."""
    looks = kwargs.pop("cross_attention_calls", {})
    if index in looks:
        # Taken out: what is left at the end was never looked at.
        args = (looks.pop(index)(args[0]), *args[1:])
    return args, kwargs


@dataclass
class ImageKVCache:
    """
    The images of a batch of conversations, for late fusion.

    Args:
        keys_values: For each cross-attention, keys and values (batch, heads, vectors, head_dim).
        filled: Which vectors are of an image and not padding, boolean (batch, vectors).
    """

    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    filled: torch.Tensor

    def __add__(self, later: "ImageKVCache") -> "ImageKVCache":
        pairs = zip(self.keys_values, later.keys_values, strict=True)
        joined = [(torch.cat((k, n), dim=2), torch.cat((v, m), dim=2)) for (k, v), (n, m) in pairs]
        return ImageKVCache(joined, torch.cat((self.filled, later.filled), dim=1))


def group_images_by_prompt(
    images: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Give each row of a batch its images.

    Args:
        images: All of them, in the order of their tokens: (images, tokens, hidden).
        places: Where their tokens stand, boolean (batch, length), one for each image.

    Returns:
        Vectors (batch, most * tokens, hidden), where `most` is the largest number of images in a row and others are
        padded with zeros; which of them are filled (batch, most * tokens); which are visible (batch, length, most *
        tokens): a word sees the images whose token stands at or before it.
    """
    counts = places.sum(1)
    number = torch.arange(int(counts.max()), device=places.device)
    filled = number < counts[:, None]
    visible = number < places.cumsum(1).unsqueeze(-1)
    rows = images.new_zeros(*filled.shape, *images.shape[1:])
    rows = rows.masked_scatter(filled[..., None, None], images).flatten(1, 2)
    tokens = images.shape[1]
    return rows, filled.repeat_interleave(tokens, dim=-1), visible.repeat_interleave(tokens, dim=-1)


def decoder_layers(language_model: Any) -> nn.ModuleList:
    """
    Find the list of layers of a language model.

    Raises:
        `ValueError`: if its decoder has no list called `layers`, as those of the Llama kind have.
    """
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"Late fusion needs a decoder with a list of `layers`, as Llama has, got {type(language_model).__name__}. "
            "Use early fusion, or transformers' VisionEncoderDecoderModel where it has cross-attention of its own."
        )
    return layers


class OmniVisionForConditionalGeneration(LlavaForConditionalGeneration):
    """A language model that sees, by early or late fusion (`config.fusion`).

    Early: image vectors take the places of the image tokens. Late: one image token marks where an image stands, and
    words from there on look at it through gated cross-attention, which needs a decoder with a list of `layers`.

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

    config_class = OmniVisionLanguageConfig
    # There is no body of its own: the parts lie side by side, and the language model ties its own embeddings.
    base_model_prefix = ""
    _tied_weights_keys = None  # type: ignore[assignment]
    _tp_plan = None  # type: ignore[assignment]
    # Counting images waits for numbers from the device.
    _can_compile_fullgraph = False

    def __init__(self, config: OmniVisionLanguageConfig):
        # Not LLaVA's own: it would build its body and its head.
        LlavaPreTrainedModel.__init__(self, config)
        vision: OmniVisionConfig = config.vision_config  # type: ignore[assignment]
        # Built directly, not through AutoModel: this folder brings the class along, nothing need be registered.
        self.vision_tower = OmniVisionModel(vision)
        self.multi_modal_projector = OmniVisionProjector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if "past_key_values" not in inspect.signature(self.language_model.forward).parameters:
            raise ValueError(
                f"The language model must take its cache as `past_key_values`, got "
                f"{type(self.language_model).__name__}, which does not. Choose another one."
            )
        # CODEPATH: checkpoints of late fusion only.
        if config.fusion == "late":
            layers = decoder_layers(self.language_model)
            self.cross_attention_layers = range(
                config.cross_attention_interval - 1, len(layers), config.cross_attention_interval
            )
            if not self.cross_attention_layers:
                raise ValueError(
                    f"`cross_attention_interval` must be at most the number of decoder layers, {len(layers)}, got "
                    f"{config.cross_attention_interval}. Lower it."
                )
            self.cross_attention = nn.ModuleList(
                [OmniVisionCrossAttention(config) for _ in self.cross_attention_layers]
            )
            for index, layer in enumerate(layers):
                layer.register_forward_pre_hook(partial(cross_attention_hook, index), with_kwargs=True)
        # An image is shown, never said.
        self.generation_config.suppress_tokens = [config.image_token_id]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniVisionCrossAttention):
            init.zeros_(module.gate)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Transformers reads this file and finds an attention without a choice: to images, whose mask only torch's
        # own takes. Tower and language model have the choice.
        return True

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """
        Load as every model of transformers does, but refuse a checkpoint that lacks weights.

        Raises:
            `ValueError`: naming the missing weights, for instance those of a whole tower.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"A checkpoint of {cls.__name__} must hold all of its weights, got none for {len(missing)} of them, "
                f"such as {missing[:3]!r}. Publish the merged model if these are an adapter's."
            )
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> OmniVisionModelOutput:
        """
        Encode and project images (images, channels, height, width).

        Returns:
            What the tower returns, its `pooler_output` a list with the vectors of each image: (num_image_tokens, text
            hidden) in early fusion, (1, num_image_tokens, text hidden) in late; as long as its tokens are many.
        """
        ignored = sorted(name for name in LLAVA_ONLY if kwargs.pop(name, None) is not None)
        if ignored:
            raise ValueError(
                f"Expected none of LLaVA's options of its towers, got {ignored!r}. Set the configuration's."
            )
        output = self.vision_tower(pixel_values, **{**kwargs, "return_dict": True})
        vectors = self.multi_modal_projector(output, pixel_values.shape[-2])
        # CODEPATH: as in `forward`. `generate` repeats images for beams by the lengths of these.
        output.pooler_output = list(vectors.unsqueeze(1) if self.config.fusion == "late" else vectors)
        return output

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """
        Predict the next tokens.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`):
                Prompts from the processor.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                All images of the batch, in the order of their tokens.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                1 for tokens, 0 for padding, on either side.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Places of the tokens; those of `generate` leave padding out.
            past_key_values (`Cache`, *optional*):
                What came before; it knows its images, give only new ones.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden)`, *optional*):
                In place of `input_ids`; image tokens are found by their embedding.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                The tokens themselves, -100 where no loss is wanted: at least at image tokens.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of last positions to compute logits for, or the positions; 0 for all.
            mm_encoder_outputs (`dict`, *optional*):
                In place of `pixel_values`: `{"image": model.get_image_features(pixel_values)}`.
            kwargs:
                What the language model takes, such as `use_cache`.

        Raises:
            `ValueError`: for image tokens that are not as many as the vectors of the images.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected either `input_ids` or `inputs_embeds`, got both or neither. Give one of them.")
        encoded = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            encoded = self.get_image_features(pixel_values)
        text, memory, vectors = self.fuse(encoded, input_ids, inputs_embeds, past_key_values)
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        given |= {"labels": labels, "logits_to_keep": logits_to_keep}
        output = self.language_model(**text, **given, **kwargs, return_dict=True)
        if unseen := sorted(text.get("cross_attention_calls", {})):
            raise ValueError(
                f"Late fusion needs a decoder that passes keywords on to all of its layers, got "
                f"{type(self.language_model).__name__}, where layers {unseen} got none. Use early fusion."
            )
        if memory is not None and output.past_key_values is not None:
            setattr(output.past_key_values, MEMORY, memory)
        return LlavaCausalLMOutputWithPast(
            loss=output.loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            image_hidden_states=vectors,
        )

    def fuse(
        self,
        encoded: OmniVisionModelOutput | None,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        past_key_values: Any,
    ) -> tuple[dict[str, Any], ImageKVCache | None, torch.Tensor | None]:
        """
        Bring images and words together.

        Args:
            encoded: What `get_image_features` returned, or None.
            input_ids: Prompts (batch, length), or None.
            inputs_embeds: In place of them (batch, length, hidden), or None.
            past_key_values: What came before, or None.

        Returns:
            Arguments for the language model, the same as without images where there are none; in late fusion the
            images that its cache is to keep; the vectors of new images.
        """
        text: dict[str, Any] = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        begins = past_key_values is None or not past_key_values.get_seq_length()
        vectors = places = None
        # A prompt is checked even where it comes without images; what is generated after it is only text.
        if encoded is not None or begins:
            vectors, places = self.match_images(encoded, **text)
        # CODEPATH: checkpoints say in their configuration which fusion they were trained with.
        if self.config.fusion == "late":
            earlier = None if begins else getattr(past_key_values, MEMORY, None)
            memory, text["cross_attention_calls"] = self.prepare_cross_attention(vectors, places, earlier)
            return text, memory, vectors
        if vectors is not None and places is not None:
            embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
            text = {"inputs_embeds": embeds.masked_scatter(places.unsqueeze(-1), vectors)}
        return text, None, vectors

    def match_images(
        self, encoded: Any, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """
        Find where images go.

        Args:
            encoded: What `get_image_features` returned, or None.
            input_ids: Prompts (batch, length), or None.
            inputs_embeds: In place of them (batch, length, hidden).

        Returns:
            All vectors of the images, (image tokens, text hidden) in early and (image tokens, num_image_tokens, text
            hidden) in late fusion, or None; and where the image tokens stand, boolean (batch, length).

        Raises:
            `ValueError`: if there is another number of image tokens than the images have.
        """
        embedding: Any = self.get_input_embeddings()
        token = torch.tensor(self.config.image_token_id, device=embedding.weight.device)
        if inputs_embeds is None:
            ids: Any = input_ids
            places: torch.Tensor = ids == token.to(ids.device)
        else:
            places = (inputs_embeds == embedding(token)).all(-1)
        vectors = (
            None if encoded is None else torch.cat(encoded.pooler_output).to(places.device, embedding.weight.dtype)
        )
        expected, got = 0 if vectors is None else len(vectors), int(places.sum())
        if expected != got:
            images = 0 if encoded is None else len(encoded.pooler_output)
            raise ValueError(
                f"Expected {expected} image tokens in the prompts for {images} images, got {got}. The processor "
                f"writes {self.config.image_seq_length} for each image; give it images and prompts together."
            )
        return vectors, places

    def prepare_cross_attention(
        self, vectors: torch.Tensor | None, places: torch.Tensor | None, memory: ImageKVCache | None
    ) -> tuple[ImageKVCache | None, dict[int, Callable[[torch.Tensor], torch.Tensor]]]:
        """
        Prepare late fusion for one call of the language model.

        Args:
            vectors: New images (images, num_image_tokens, text hidden), or None.
            places: Where their tokens stand, boolean (batch, length), or None.
            memory: Earlier images of the conversations, or None.

        Returns:
            Earlier and new images together, and for each layer that looks at them what to run before it.
        """
        visible = None if memory is None else memory.filled.unsqueeze(1)
        if vectors is not None and places is not None:
            rows, filled, seen = group_images_by_prompt(vectors, places)
            new = ImageKVCache([block.keys_values(rows) for block in self.cross_attention], filled)  # type: ignore[operator]
            if memory is not None and visible is not None:
                seen = torch.cat((visible.expand(-1, seen.shape[1], -1), seen), dim=-1)
                new = memory + new
            memory, visible = new, seen
        if memory is None or visible is None:
            return None, {}
        blocks = zip(self.cross_attention_layers, self.cross_attention, memory.keys_values, strict=True)
        return memory, {
            layer: partial(block, keys=keys, values=values, visible=visible.unsqueeze(1))
            for layer, block, (keys, values) in blocks
        }


__all__ = ["OmniVisionForConditionalGeneration"]
