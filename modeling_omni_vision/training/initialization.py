"""New models: their image processors, and mimetic initialisation, for training on little data."""

from typing import Any

import torch
from torch import nn

from ..configuration_omni_vision import OmniVisionConfig
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionForMaskedImageModeling


# (identity, noise): of queries with keys in each head, and of values with outputs.
QUERIES_WITH_KEYS, VALUES_WITH_OUTPUTS = (0.7, 0.7), (-0.4, 0.4)
POSITION_SCALE = 0.1
LONGEST_WAVE = 10_000


def new_image_processor(config: OmniVisionConfig) -> OmniVisionImageProcessor:
    """Return an image processor that resizes to the model's `image_size`.

    Pixels are normalised by ImageNet's statistics for colour, the processor's own for grey, and by 0.5 for any other
    number of channels.
    """
    height, width = config.image_size_hw
    options: dict[str, Any] = {"size": {"height": height, "width": width}, "num_channels": config.num_channels}
    if config.num_channels not in (1, 3):
        options |= dict.fromkeys(("image_mean", "image_std"), [0.5] * config.num_channels)
    return OmniVisionImageProcessor(**options)


@torch.no_grad()
def mimetic_(model: OmniVisionForImageClassification | OmniVisionForMaskedImageModeling) -> None:
    """
    Initialise a new model in place so that its attention resembles that of trained transformers.

    After Trockman and Kolter 2023 (https://huggingface.co/papers/2305.09828): in each head the product of query and
    key weights is near the identity, the product of value and output weights near its negative; positions are waves
    along both axes. Beside that, the other linear layers keep the size of what they read, and the head starts at
    zero. Draws from torch's global generator.
    """
    encoder = model.omni_vision
    width = model.config.hidden_size
    layers: Any = encoder.layers
    for layer in layers:
        attention, mlp = layer.attention, layer.mlp
        for linear in (mlp.fc1, mlp.fc2):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
        for rows in torch.arange(width).split(attention.head_dim):
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = _factors(
                width, *QUERIES_WITH_KEYS, rank=len(rows)
            )
        values, outputs = _factors(width, *VALUES_WITH_OUTPUTS, rank=width)
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(outputs.T)
    rows, columns = model.config.grid_size
    encoder.embeddings.position_embeddings[0, -rows * columns :] = POSITION_SCALE * waves(rows, columns, width)
    head = getattr(model, "classifier", None)
    if isinstance(head, nn.Linear):
        nn.init.zeros_(head.weight)
    model.center_residual_()


def waves(rows: int, columns: int, width: int) -> torch.Tensor:
    """
    Sines and cosines of the place in the grid, as of Vaswani et al. 2017, half of them along each axis.

    Returns:
        Shape (rows * columns, width), row by row, from -1 to 1; the last `width % 4` channels are zero.
    """
    count = width // 4
    frequencies = LONGEST_WAVE ** (-torch.arange(count) / max(count, 1))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (column, row)]
    known = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return nn.functional.pad(known, (0, width - known.shape[1]))


def _factors(width: int, identity: float, noise: float, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw two matrices (rank, width), alike in size: first.T @ second is the best of its rank for what is wanted."""
    wanted = identity * torch.eye(width) + noise * torch.randn(width, width) / width**0.5
    left, size, right = torch.linalg.svd(wanted)
    root = size[:rank, None].sqrt()
    return root * left[:, :rank].T, root * right[:rank]


__all__ = ["mimetic_", "new_image_processor", "waves"]
