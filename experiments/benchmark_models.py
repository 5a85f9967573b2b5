"""Our encoder and its peers, all of one size, and the two steps that the benchmark times."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util

import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel


OURS = "omni_vision"
PEERS = ("transformers", "timm", "TransformerEncoderLayer")
NUM_CLASSES = 10
TRAINING_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One row of the table: what is run, on how many images, in which precision, with which attention."""

    work: str
    batch_size: int
    dtype: str
    attention: str
    dropout: float = 0.0


class EncoderLayerViT(nn.Module):
    """The specification's own form: `nn.TransformerEncoderLayer` blocks and a final RMSNorm."""

    def __init__(self, config: OmniVisionConfig, dropout: float):
        super().__init__()
        width, patch = config.hidden_size, config.patch_size_hw
        self.proj = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.num_attention_heads,
                config.intermediate_size,
                dropout=dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images (batch, channels, height, width) to tokens (batch, 1 + patches, hidden)."""
        tokens = self.proj(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls.expand(len(tokens), -1, -1), tokens), dim=1) + self.pos
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class LastHiddenState(nn.Module):
    """A transformers model that gives its tokens, as the other peers do."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images (batch, channels, height, width) to tokens (batch, 1 + patches, hidden)."""
        return self.model(pixel_values).last_hidden_state


class WithHead(nn.Module):
    """Any encoder with the same linear head on CLS, for the training step."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Classify images (batch, channels, height, width) to logits (batch, classes)."""
        return self.head(self.encoder(pixel_values)[:, 0])


def build_omni_vision(config: OmniVisionConfig, case: Case) -> nn.Module:
    """Our encoder, as `from_config` makes it."""
    rates = {"hidden_dropout_prob": case.dropout, "attention_probs_dropout_prob": case.dropout}
    model = OmniVisionModel(OmniVisionConfig(**config.to_diff_dict() | rates))
    model.set_attn_implementation(case.attention)
    return LastHiddenState(model)


def build_transformers(config: OmniVisionConfig, case: Case) -> nn.Module:
    """Stock `ViTModel`, without the pooler that nobody asked for."""
    vit = ViTConfig(
        image_size=list(config.image_size_hw),
        patch_size=list(config.patch_size_hw),
        num_channels=config.num_channels,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=case.dropout,
    )
    model = ViTModel(vit, add_pooling_layer=False)
    model.set_attn_implementation(case.attention)
    return LastHiddenState(model)


def build_timm(config: OmniVisionConfig, case: Case) -> nn.Module:
    """`VisionTransformer` of timm, giving all tokens."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=config.image_size_hw,
        patch_size=config.patch_size_hw,
        in_chans=config.num_channels,
        num_classes=0,
        global_pool="",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        pos_drop_rate=case.dropout,
        proj_drop_rate=case.dropout,
        attn_drop_rate=case.dropout,
    )
    for block in model.blocks.children():
        block.attn.fused_attn = case.attention == "sdpa"  # type: ignore[union-attr]
    return model


def build_encoder_layer(config: OmniVisionConfig, case: Case) -> nn.Module:
    """The specification's form; it chooses its attention itself."""
    return EncoderLayerViT(config, case.dropout)


BUILDERS: dict[str, Callable[[OmniVisionConfig, Case], nn.Module]] = {
    OURS: build_omni_vision,
    "transformers": build_transformers,
    "timm": build_timm,
    "TransformerEncoderLayer": build_encoder_layer,
}


def contestants(case: Case) -> list[str]:
    """Who can run a case: timm where installed, `TransformerEncoderLayer` only where attention is not chosen."""
    absent = {"timm"} if util.find_spec("timm") is None else set()
    if case.attention == "eager":
        absent.add("TransformerEncoderLayer")
    return [name for name in BUILDERS if name not in absent]


def make_step(name: str, config: OmniVisionConfig, case: Case) -> Callable[[], torch.Tensor]:
    """
    Build one contestant and return the function that is timed.

    A forward step gives tokens from the weights in the precision of the case. A training step is zero_grad,
    forward, cross-entropy on CLS, backward and AdamW; bfloat16 is autocast over float32 weights.
    """
    torch.manual_seed(0)
    encoder = BUILDERS[name](config, case)
    dtype = getattr(torch, case.dtype)
    pixels = torch.randn(case.batch_size, config.num_channels, *config.image_size_hw)
    if case.work == "forward":
        encoder, pixels = encoder.to(dtype).eval(), pixels.to(dtype)
        return functools.partial(forward_step, encoder, pixels)
    labels = torch.arange(case.batch_size) % NUM_CLASSES
    model = WithHead(encoder, config.hidden_size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return functools.partial(training_step, model, optimizer, pixels, labels, dtype)


def forward_step(encoder: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Encode once, as in use."""
    with torch.inference_mode():
        return encoder(pixels)


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Take one optimizer step and return the loss."""
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = nn.functional.cross_entropy(model(pixels).float(), labels)
    loss.backward()
    optimizer.step()
    return loss


__all__ = ["BUILDERS", "NUM_CLASSES", "OURS", "PEERS", "TRAINING_BATCH", "Case", "contestants", "make_step"]
