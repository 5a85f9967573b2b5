"""Optimizer groups: a learning rate per layer, no weight decay where it does harm."""

import re
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from .muon import Muon


TOKENS = ("cls_token", "mask_token", "register_tokens", "position_embeddings")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay acts on a parameter: on matrices, not on norms, biases, tokens and positions."""
    return parameter.ndim > 1 and not name.endswith(TOKENS)


def layer_of(name: str, num_layers: int) -> int:
    """Return the number of a parameter's layer: 0 for the embeddings, then the layers, last final norm and head."""
    if ".embeddings." in f".{name}":
        return 0
    match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return int(match[1]) + 1 if match else num_layers + 1


def parameter_groups(
    model: nn.Module,
    num_layers: int,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
    muon_learning_rate: float = 0.0,
    tower: str = "",
) -> list[dict[str, Any]]:
    """Group trainable parameters by layer, by weight decay, and by what steps them.

    Args:
        model: A model whose parameters are named like ours.
        num_layers: Number of its encoder layers, or of those of `tower`.
        learning_rate: Learning rate of the final norm and the head.
        weight_decay: Weight decay of matrices.
        layer_decay: Learning rate of each layer relative to the one above it.
        muon_learning_rate: Learning rate of the matrices in the layers, which Muon then steps; 0 leaves them to AdamW.
        tower: Prefix of the names of the encoder's parameters: layers of other parts are none of its own.

    Returns:
        Groups for a torch optimizer, lowest layer first; those for Muon say `muon=True`.
    """
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of(name, num_layers) if name.startswith(tower) else num_layers + 1
        decay = decays(name, parameter)
        muon = bool(muon_learning_rate) and parameter.ndim == 2 and 0 < layer <= num_layers
        group = groups.setdefault(
            (layer, decay, muon),
            {
                "params": [],
                **({"muon": True} if muon else {}),
                "lr": (muon_learning_rate if muon else learning_rate) * layer_decay ** (num_layers + 1 - layer),
                "weight_decay": weight_decay if decay else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def make_optimizer(groups: list[dict[str, Any]], args: TrainingArguments, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of `args.optim` for parameter groups; `Muon` where one of them asks for it.

    Raises:
        ValueError: if Muon is to run beside another optimizer than AdamW.
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
    if kind is not torch.optim.AdamW and any(group.get("muon") for group in groups):
        raise ValueError(
            f"Muon leaves other weights to AdamW, expected `optim` adamw_torch or adamw_torch_fused, got "
            f"{args.optim}. Leave out `optim` or the learning rates of Muon."
        )
    # Without matrices for Muon it is AdamW, with steps that a CUDA graph can hold.
    kind = Muon if kind is torch.optim.AdamW else kind
    return kind(groups, **options)


__all__ = ["decays", "layer_of", "make_optimizer", "parameter_groups"]
