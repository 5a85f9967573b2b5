"""Our encoder and its peers, all of one size, and the steps that the benchmark times."""

import functools
import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Image
from torch import nn
from transformers import ViTConfig, ViTModel

from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.augmentation import Augmentation
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.interop.stock import shared_options
from modeling_omni_vision.modeling_omni_vision import OmniVisionModel


OURS, FUSED, COMPILED = "omni_vision", "omni_vision_fused", "omni_vision_compiled"
NUM_CLASSES = 10
RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Case:
    """One row of the table: `work` is "forward" or "training step"."""

    work: str
    batch_size: int
    dtype: str
    attention: str
    dropout: float = 0.0


class EncoderLayerViT(nn.Module):
    """The specification's own form: `nn.TransformerEncoderLayer` and a final RMSNorm; it chooses its attention."""

    def __init__(self, config: OmniVisionConfig, case: Case):
        super().__init__()
        width, patch = config.hidden_size, config.patch_size_hw
        self.proj = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        sizes = width, config.num_attention_heads, config.intermediate_size, case.dropout, "gelu"
        layer = nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True)
        norm = nn.RMSNorm(width, eps=config.layer_norm_eps)
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, norm, enable_nested_tensor=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images (batch, channels, height, width) to tokens (batch, 1 + patches, hidden)."""
        tokens = self.proj(pixel_values).flatten(2).transpose(1, 2)
        return self.encoder(torch.cat((self.cls.expand(len(tokens), -1, -1), tokens), dim=1) + self.pos)


def omni_vision(config: OmniVisionConfig, case: Case) -> nn.Module:
    model = OmniVisionModel(OmniVisionConfig(**config.to_diff_dict() | dict.fromkeys(RATES, case.dropout)))
    model.set_attn_implementation(case.attention)
    return model


def omni_vision_fused(config: OmniVisionConfig, case: Case) -> nn.Module:
    return omni_vision(config, case).eval().fuse_qkv_projections()  # type: ignore[operator]


def omni_vision_compiled(config: OmniVisionConfig, case: Case) -> nn.Module:
    return torch.compile(omni_vision(config, case), fullgraph=True)  # type: ignore[return-value]


def transformers_vit(config: OmniVisionConfig, case: Case) -> nn.Module:
    """Build the `ViTModel` of transformers without its pooler."""
    options = shared_options(config) | dict.fromkeys(RATES, case.dropout)
    model = ViTModel(ViTConfig(**options, intermediate_size=config.intermediate_size), add_pooling_layer=False)
    model.set_attn_implementation(case.attention)
    return model


def timm_vit(config: OmniVisionConfig, case: Case) -> nn.Module:
    """Build the `VisionTransformer` of timm that returns all tokens."""
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


BUILDERS: dict[str, Callable[[OmniVisionConfig, Case], nn.Module]] = {
    OURS: omni_vision,
    FUSED: omni_vision_fused,
    COMPILED: omni_vision_compiled,
    "transformers": transformers_vit,
    "timm": timm_vit,
    "TransformerEncoderLayer": EncoderLayerViT,
}


def benchmark_models(case: Case) -> list[str]:
    """List who can run a case: timm if installed, `TransformerEncoderLayer` unless attention must be eager.

    Fused projections are for inference, where sdpa decides nothing for them; our compiled model takes part in training
    where a C++ compiler is at hand.
    """
    absent = {"timm"} if util.find_spec("timm") is None else set()
    absent |= {"TransformerEncoderLayer"} if case.attention == "eager" else set()
    absent |= {FUSED} if case.work != "forward" or case.attention == "eager" else set()
    absent |= {COMPILED} if case.work == "forward" or case.dropout or shutil.which("g++") is None else set()
    return [name for name in BUILDERS if name not in absent]


def make_step(name: str, config: OmniVisionConfig, case: Case) -> Callable[[], torch.Tensor]:
    """Build one model and return the function that is timed.

    A forward step returns tokens (batch, 1 + patches, hidden), from weights in the precision of the case. A training
    step is zero_grad, forward, cross-entropy on CLS, backward and AdamW; bfloat16 is autocast over float32 weights.
    """
    torch.manual_seed(0)
    encoder, dtype = BUILDERS[name](config, case), getattr(torch, case.dtype)
    pixels = torch.randn(case.batch_size, config.num_channels, *config.image_size_hw)
    if case.work == "forward":
        return functools.partial(torch.inference_mode()(encode), encoder.to(dtype).eval(), pixels.to(dtype))
    labels = torch.arange(case.batch_size) % NUM_CLASSES
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(config.hidden_size, NUM_CLASSES)}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return functools.partial(training_step, model, optimizer, pixels, labels, dtype == torch.bfloat16)


def encode(encoder: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    found = encoder(pixels)
    return getattr(found, "last_hidden_state", found)


def training_step(model: nn.ModuleDict, optimizer: Any, pixels: torch.Tensor, labels: torch.Tensor, bf16: bool) -> Any:
    """Take one optimizer step and return the loss."""
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model["head"](encode(model["encoder"], pixels)[:, 0])
        loss = nn.functional.cross_entropy(logits.float(), labels)
    loss.backward()
    optimizer.step()
    return loss


def random_images(config: OmniVisionConfig, count: int) -> Dataset:
    """Return a dataset of noise, with labels, in the shape that a model takes."""
    channels = () if config.num_channels == 1 else (config.num_channels,)
    noise = torch.randint(0, 256, (count, *config.image_size_hw, *channels), dtype=torch.uint8).numpy()
    features = Features({"image": Image(decode=False), "label": ClassLabel(num_classes=NUM_CLASSES)})
    labels = [row % NUM_CLASSES for row in range(count)]
    return Dataset.from_dict({"image": list(noise), "label": labels}, features=features)


def batch_maker(
    config: OmniVisionConfig, dataset: Dataset, options: dict[str, Any], batch_size: int
) -> Callable[[], dict[str, torch.Tensor]]:
    """Return the function that makes the next batch of training, as a data loader without workers does."""
    height, width = config.image_size_hw
    processor = OmniVisionImageProcessor(size={"height": height, "width": width}, num_channels=config.num_channels)
    augmentation = Augmentation(len(dataset), (height, width), num_classes=NUM_CLASSES, **options)
    images, collate = ImageDataset(dataset, processor, augmentation), ImageCollator(processor)
    batches = itertools.cycle(torch.randperm(len(dataset)).view(-1, batch_size).tolist())
    return lambda: collate(images.__getitems__(next(batches)))
