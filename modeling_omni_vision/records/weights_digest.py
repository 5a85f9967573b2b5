"""The digest that identifies weights, whatever file they came from."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import nn


def weights_digest(weights: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over name, type, shape and bytes of every tensor of a model, or of tensors by name."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


__all__ = ["weights_digest"]
