"""Our weights as stock CLIP and SigLIP models: vision towers, and whole models with their text towers."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from .encoder_names import CLIP, SIGLIP, write_weights
from .stock import StockModel, is_classifier, shared_options


# Classifiers of CLIP and SigLIP know no dropout, and no fields of one.
LEFT_OUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "id2label", "label2id", "problem_type")
Tower = CLIPVisionConfig | SiglipVisionConfig


def fits_clip(config: Any) -> bool:
    """Return whether a tower is of CLIP's kind: a norm after the embeddings."""
    return bool(config.embeddings_norm)


def fits_siglip(config: Any) -> bool:
    """Return whether a tower is of SigLIP's kind: no CLS."""
    return not config.use_cls_token


def as_clip_vision(model: Any) -> StockModel:
    """Translate an encoder or a classifier of either kind, or raise `ValueError` for what has no place there."""
    config, weights = vision_part(model)
    if is_classifier(model):
        is_clip = isinstance(config, CLIPVisionConfig)
        head: Any = CLIPForImageClassification if is_clip else SiglipForImageClassification
        classes = {name: getattr(model.config, name) for name in ("id2label", "label2id", "problem_type")}
        whole = (CLIPConfig if is_clip else SiglipConfig)(vision_config=config.to_dict(), **classes)
        weights |= {name: value for name, value in model.state_dict().items() if name.startswith("classifier.")}
        return StockModel(head, whole, weights)
    stock_class = CLIPVisionModel if isinstance(config, CLIPVisionConfig) else SiglipVisionModel
    return StockModel(stock_class, config, weights)


def as_whole_clip(model: Any) -> StockModel:
    """Translate a retrieval model whose text tower is CLIP's or SigLIP's, or raise `ValueError`."""
    config, text = model.config, model.config.text_config
    if config.text_pooling != "pooler" or text.model_type not in ("clip_text_model", "siglip_text_model"):
        raise ValueError(
            f"A stock CLIP or SigLIP has a text tower of its own kind with its own pooling, got {text.model_type!r} "
            f"and `text_pooling` {config.text_pooling!r}. Convert the vision tower, or publish it with its code."
        )
    vision, weights = vision_part(model.vision_model)
    is_clip = isinstance(vision, CLIPVisionConfig)
    problems = list(misfits(model, is_clip))
    if problems:
        raise ValueError(f"A stock {'CLIP' if is_clip else 'SigLIP'} has no place for {'; '.join(problems)}.")
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("vision_model.")}
    if not is_clip:
        rest = {name: value for name, value in rest.items() if "_projection." not in name}
        rest |= {name: rest[name].reshape(1) for name in ("logit_scale", "logit_bias")}
    options = {"projection_dim": config.embedding_dim} if is_clip else {}
    stock_config = (CLIPConfig if is_clip else SiglipConfig)(
        vision_config=vision.to_dict(), text_config=text.to_dict(), **options
    )
    return StockModel(CLIPModel if is_clip else SiglipModel, stock_config, {**weights, **rest})


def misfits(model: Any, is_clip: bool) -> Iterator[str]:
    """Name what a whole model has that the stock one lacks."""
    sigmoid, vision, text = (
        model.config.contrastive_loss == "sigmoid",
        model.config.vision_config,
        model.config.text_config,
    )
    if is_clip == (text.model_type != "clip_text_model"):
        yield f"the text tower {text.model_type} beside this vision tower"
    if is_clip == sigmoid:
        yield f"`contrastive_loss` {model.config.contrastive_loss!r}"
    if vision.pooling != ("cls" if is_clip else "attention"):
        yield f"`pooling` {vision.pooling!r}"
    if not is_clip:
        yield from (
            f"`{name}` other than the identity"
            for name in ("visual_projection", "text_projection")
            if not torch.equal(getattr(model, name).weight, torch.eye(model.config.embedding_dim).to(model.dtype))
        )


def vision_part(model: Any) -> tuple[Tower, dict[str, torch.Tensor]]:
    """Return the stock configuration and weights of a tower, by their names in a whole model."""
    config, is_clip = model.config, fits_clip(model.config)
    expected: dict[str, Any] = {"final_norm": "layer_norm", "block_norm": "layer_norm", "num_register_tokens": 0}
    expected |= {"embeddings_norm": is_clip, "use_cls_token": is_clip}
    if is_classifier(model):  # it reads the mean of the patches, in CLIP before the final norm
        expected |= {"pooling": "mean", "pooled_norm": False, "final_norm": "none" if is_clip else "layer_norm"}
    problems = [
        f"`{name}` {getattr(config, name)!r}" for name, value in expected.items() if getattr(config, name) != value
    ]
    problems += [
        f"`{name}` that is not square"
        for name in ("image_size", "patch_size")
        if len({*getattr(config, f"{name}_hw")}) > 1
    ]
    state = dict(getattr(model, "omni_vision", model).state_dict())
    patch_bias = state["embeddings.patch_embeddings.projection.bias"]
    if config.final_norm == "none":  # a norm that the head does not read
        state |= {"norm.weight": torch.ones_like(patch_bias), "norm.bias": torch.zeros_like(patch_bias)}
    if is_clip:
        del state["embeddings.patch_embeddings.projection.bias"]
        if patch_bias.any():
            problems.append("a bias of the patch projection")
    if problems:
        kind = "CLIP" if is_clip else "SigLIP"
        raise ValueError(
            f"A stock vision tower of {kind} has no place for {', '.join(problems)}. Publish this checkpoint with its "
            "own code."
        )
    options = {name: value for name, value in shared_options(config).items() if name not in LEFT_OUT}
    options["intermediate_size"] = config.intermediate_size
    options["attention_dropout"] = config.attention_probs_dropout_prob
    if is_clip:
        stock: Tower = CLIPVisionConfig(**options)
    else:
        stock = SiglipVisionConfig(**options, vision_use_head=config.pooling == "attention")
    written = write_weights(state, CLIP if is_clip else SIGLIP)
    shapes = {"embeddings.class_embedding": (-1,), "embeddings.position_embedding.weight": (-1, config.hidden_size)}
    written |= {name: written[name].reshape(shape) for name, shape in shapes.items() if name in written}
    return stock, {f"vision_model.{name}": value.contiguous() for name, value in written.items()}


__all__ = ["as_clip_vision", "as_whole_clip", "fits_clip", "fits_siglip"]
