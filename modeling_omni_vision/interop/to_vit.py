"""Our weights as a stock `ViTModel` or `ViTForImageClassification`.

Only inference is the same. In training a stock ViT drops tokens after the embeddings and nothing inside
the MLP, and it knows no drop-path.
"""

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from .stock import ATTENTION_NAMES, Ours, StockModel, is_classifier, shared_options, stock_weights


LAYER_NAMES = {
    "layernorm_before": "layernorm_before",
    **ATTENTION_NAMES,
    "layernorm_after": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def without_place_in_vit(model: Ours) -> dict[str, object]:
    """Name the options of a model that a stock ViT has no place for, each with the value that it expects."""
    # An encoder pools nothing, whatever its configuration says.
    expected = {"num_register_tokens": 0, **({"pooling": "cls"} if is_classifier(model) else {})}
    expected |= dict.fromkeys(("embeddings_norm", "pooled_norm"), False) | {"use_cls_token": True}
    found = {name: value for name, value in expected.items() if getattr(model.config, name) != value}
    return found | ({"final_norm": "layer_norm"} if model.config.final_norm == "none" else {})


def as_vit(model: Ours) -> StockModel:
    """Translate a model of ours, or raise `ValueError` for an option that a stock ViT has no place for."""
    for name, expected in without_place_in_vit(model).items():
        raise ValueError(
            f"A stock ViT has no place for `{name}`, expected {expected!r}, got {getattr(model.config, name)!r}. "
            "Convert with `--target native`: it takes a stock DINOv2, which has one."
        )
    config = ViTConfig(
        **shared_options(model.config),
        intermediate_size=model.config.intermediate_size,
        # Our patches stride by their size; masked image modelling in a stock ViT wants to know.
        encoder_stride=model.config.patch_size_hw[0],
        pooler_act="linear",
    )
    if is_classifier(model):
        return StockModel(ViTForImageClassification, config, stock_weights(model, "vit", LAYER_NAMES, {}))
    # `pooler_act` is linear, so an identity makes `pooler_output` the CLS token, as in ours.
    pooler = {
        "pooler.dense.weight": torch.eye(model.config.hidden_size, dtype=model.dtype),
        "pooler.dense.bias": torch.zeros(model.config.hidden_size, dtype=model.dtype),
    }
    return StockModel(ViTModel, config, stock_weights(model, "vit", LAYER_NAMES, pooler))


__all__ = ["as_vit", "without_place_in_vit"]
