"""Our weights as a stock DINOv2, for what a stock ViT lacks: pooled patches and register tokens.

Its head reads CLS and the mean of the patches side by side; where ours reads one of them, the weights of
the other are zero. Its layer scale is one, its mask token is zero and never used.

Only inference is the same: in training it drops tokens after the embeddings only, and drops paths at the
same rate in every layer. Images of another size than the native one give the same without registers; with
them the stock code smooths the positions while it interpolates (`antialias`), and ours does not. Releases of
transformers 4 before huggingface/transformers#37836 take the registers into the mean of the patches.
"""

import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from .stock import ATTENTION_NAMES, Ours, StockModel, is_classifier, shared_options, stock_weights


LAYER_NAMES = {
    "layernorm_before": "norm1",
    **ATTENTION_NAMES,
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def as_dinov2(model: Ours) -> StockModel:
    """Translate a classifier, or an encoder with registers, or raise `ValueError` for what DINOv2 cannot hold."""
    check_dinov2(model)
    options = {**shared_options(model.config), "mlp_ratio": model.config.intermediate_size // model.config.hidden_size}
    config: PreTrainedConfig = Dinov2Config(**options)
    stock_class: type[PreTrainedModel] = Dinov2ForImageClassification
    if model.config.num_register_tokens:
        config = Dinov2WithRegistersConfig(**options, num_register_tokens=model.config.num_register_tokens)
        stock_class = Dinov2WithRegistersForImageClassification if is_classifier(model) else Dinov2WithRegistersModel
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    scales = [f"encoder.layer.{index}.layer_scale{part}.lambda1" for index in range(depth) for part in (1, 2)]
    neutral = {name: torch.ones(width, dtype=model.dtype) for name in scales}
    neutral["embeddings.mask_token"] = torch.zeros(1, width, dtype=model.dtype)
    weights = stock_weights(model, config.model_type, LAYER_NAMES, neutral)
    if is_classifier(model):
        head = weights["classifier.weight"]
        halves = {"cls": (head, torch.zeros_like(head)), "mean": (torch.zeros_like(head), head), "cls_mean": (head,)}
        weights["classifier.weight"] = torch.cat(halves[model.config.pooling], dim=1)
    return StockModel(stock_class, config, weights)


def check_dinov2(model: Ours) -> None:
    """Raise `ValueError` for what no stock DINOv2 has a place for."""
    config, problems = model.config, []
    problems += [f"no `{name}`" for name in ("embeddings_norm", "pooled_norm") if getattr(config, name)]
    if config.final_norm == "none" or not config.use_cls_token or config.pooling == "attention":
        problems.append("a CLS token and a final norm, and no pooling by attention")
    for name, (height, width) in (("image_size", config.image_size_hw), ("patch_size", config.patch_size_hw)):
        # It would take the positions of another grid for those of a square one, in silence.
        if height != width:
            problems.append(f"squares only, got `{name}` {(height, width)!r}")
    if config.intermediate_size % config.hidden_size:
        problems.append(
            f"an `intermediate_size` that `hidden_size` {config.hidden_size} divides, got {config.intermediate_size}"
        )
    if is_classifier(model) and not config.num_labels:
        problems.append(
            f"heads with classes, got `num_labels` {config.num_labels} (save the encoder alone, as OmniVisionModel)"
        )
    if problems:
        raise ValueError(
            f"A stock DINOv2 has a place for {'; for '.join(problems)}. Publish this checkpoint with its own code."
        )


__all__ = ["as_dinov2"]
