"""An untrained vision-language model of two checkpoints: a vision tower and a language model.

Without an image the composite is the language model, to the bit. New are the projector, in late fusion the gated
cross-attention, and one token for images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .folder import atomic_output_dir
from .vision_tower import load_complete, load_image_processor, load_vision_tower


@dataclass
class Composite:
    """What was composed: its folder, its parameters, those of them that are new, and image tokens for an image."""

    folder: Path
    num_parameters: int
    num_new_parameters: int
    image_seq_length: int


def compose_language_model(
    vision: str,
    text: str,
    output: str | Path,
    fusion: str = "early",
    dtype: str = "float32",
    image_token: str = "<image>",
    **options: Any,
) -> Composite:
    """
    Build an untrained `OmniVisionForConditionalGeneration` and its processor, and save both.

    Args:
        vision: Folder or Hub name of an OmniVision checkpoint, whose images are prepared as it was trained on them;
            of a composite, its vision tower is taken.
        text: Folder or Hub name of a language model that `AutoModelForCausalLM` and `AutoTokenizer` open, or of
            another composite, whose language model is taken.
        output: New or empty folder.
        fusion: `"early"` or `"late"`.
        dtype: What all weights are kept in: `"float32"`, `"bfloat16"` or `"float16"`.
        image_token: What stands for an image in prompts; added to the vocabulary if it is not there.
        options: Of `OmniVisionLanguageConfig`, such as `vision_feature_select_strategy`.

    Raises:
        `ValueError`: for a vision checkpoint of another kind, weights that are missing, another dtype, or options that
            cannot work.
    """
    # Not at the top of the file: the encoder alone does without transformers 5.23, which these need.
    from ..configuration_omni_vision_language import OmniVisionLanguageConfig
    from ..modeling_omni_vision_language import OmniVisionForConditionalGeneration
    from ..processing_omni_vision_language import OmniVisionProcessor

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`dtype` must be 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    with atomic_output_dir(output) as folder:
        tower = load_vision_tower(vision, dtype)
        words = _open_words(text, dtype)
        # Dropped patches would leave image tokens without a vector.
        tower.config.patch_drop_rate = 0.0
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(text), image_token)
        if len(tokenizer) > words.get_input_embeddings().num_embeddings:
            words.resize_token_embeddings(len(tokenizer))
        config = OmniVisionLanguageConfig(
            vision_config=tower.config,
            text_config=words.config,
            image_token_index=tokenizer.convert_tokens_to_ids(image_token),
            fusion=fusion,
            **options,
        )
        model = OmniVisionForConditionalGeneration(config).to(getattr(torch, dtype))
        model.vision_tower.load_state_dict(tower.state_dict())
        model.language_model.load_state_dict(words.state_dict())
        model.generation_config = words.generation_config
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        # The image token is input only.
        never = model.generation_config.suppress_tokens or []
        model.generation_config.suppress_tokens = [*never, config.image_token_id]
        images = load_image_processor(vision)
        processor = OmniVisionProcessor(
            images, tokenizer, image_seq_length=config.image_seq_length, image_token=image_token
        )
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    known = tower.num_parameters() + words.num_parameters()
    return Composite(Path(output), model.num_parameters(), model.num_parameters() - known, config.image_seq_length)


def prepare_tokenizer(tokenizer: Any, image_token: str) -> Any:
    """Add to a tokenizer what prompts with images need: the image token and a padding token."""
    if tokenizer.convert_tokens_to_ids(image_token) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens(image_token, special_tokens=True)
    if tokenizer.pad_token is None:
        # Padding is masked, so any token will do; generation ends with this one anyway.
        tokenizer.add_special_tokens({"pad_token": tokenizer.eos_token or "<pad>"})
    return tokenizer


def _open_words(text: str, dtype: str) -> Any:
    from ..configuration_omni_vision_language import OmniVisionLanguageConfig
    from ..modeling_omni_vision_language import OmniVisionForConditionalGeneration

    if AutoConfig.from_pretrained(text, trust_remote_code=False).model_type == OmniVisionLanguageConfig.model_type:
        return OmniVisionForConditionalGeneration.from_pretrained(text, dtype=dtype).language_model
    return load_complete(AutoModelForCausalLM, text, dtype=dtype)


__all__ = ["Composite", "compose_language_model", "prepare_tokenizer"]
