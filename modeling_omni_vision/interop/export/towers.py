"""What of a checkpoint is exported: each tower as one module with named inputs and outputs.

Inputs and outputs are positional in a graph, so that `TowerModule` fixes their order; their names are those that
transformers.js reads.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from ...modeling_omni_vision import OmniVisionEmbeddings, OmniVisionModel
from ..vision_tower import load_complete, load_vision_tower


# Beside our own, what `convert --target native` writes.
VAE = "omni_vision_vae"  # of which the encoder is exported
MODEL_TYPES = ("omni_vision", "omni_vision_retrieval", VAE, "vit", "dinov2", "dinov2_with_registers")
CLASSIFIER, ENCODER, RETRIEVAL = "classifier", "encoder", "retrieval model"
# Of each tower: the output whose vectors are compared, first, and the others.
OUTPUTS = {
    CLASSIFIER: ("logits",),
    ENCODER: ("pooler_output", "last_hidden_state"),
    "vision_model": ("image_embeds", "embeddings"),
    "text_model": ("text_embeds", "embeddings"),
}
TOKENS = {"last_hidden_state", "embeddings"}  # outputs that hold more than a vector for each image or text
TEXTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its model in float32, its kind, and its processors."""

    folder: Path
    kind: str
    model: Any
    image_processor: Any
    tokenizer: Any = None

    @property
    def vision_config(self) -> Any:
        """Configuration of the tower that takes images."""
        return getattr(self.model.config, "vision_config", self.model.config)

    def towers(self) -> dict[str, "TowerModule"]:
        """Return the towers by the names of their files."""
        if self.kind != RETRIEVAL:
            return {"model": TowerModule(self.model, OUTPUTS[self.kind], ("pixel_values",))}
        inputs = {"vision_model": ("pixel_values",), "text_model": TEXTS}
        return {name: TowerModule(self.model, OUTPUTS[name], inputs[name]) for name in inputs}


class TowerModule(nn.Module):
    """A model as a function of `inputs`, in their order, that returns the tuple of its `outputs`."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...], inputs: tuple[str, ...]):
        super().__init__()
        self.model, self.outputs, self.inputs = model, outputs, inputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the model for a batch."""
        found = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(found[name] for name in self.outputs)

    def vector_alone(self) -> "TowerModule":
        """Return the tower with its first output alone, the vector."""
        return TowerModule(self.model, self.outputs[:1], self.inputs)


class BytesModule(TowerModule):
    """A vision tower that takes pixel values 0..255 as uint8."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the model for a batch of uint8."""
        return super().forward(*(one.to(torch.float32) for one in inputs))


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Open a checkpoint folder, without its code.

    Raises:
        `ValueError`: if there is none, it is of another kind, lacks weights, or has no processor.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"Expected the folder of a checkpoint, got {str(model)!r} without a config.json. Name another."
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in MODEL_TYPES:
        raise ValueError(
            f"Expected a model of type {', '.join(MODEL_TYPES)}, got {config.model_type!r} in {str(model)!r}. Export "
            "its vision tower, or convert it: omni-vision convert --source auto."
        )
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ValueError(f"Expected the image processor in {str(model)!r}, got none. Save it into this folder.")
    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False}
    if config.model_type == "omni_vision_retrieval":
        # Not at the top of the file: the encoder alone does without transformers 5.23, which these need.
        from ...modeling_omni_vision_retrieval import OmniVisionForRetrieval
        from ...processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

        processor = OmniVisionRetrievalProcessor.from_pretrained(folder)
        opened = load_complete(OmniVisionForRetrieval, folder, dtype=torch.float32)
        return Checkpoint(folder, RETRIEVAL, opened, processor.image_processor, processor.tokenizer)
    is_classifier = any("ForImageClassification" in name for name in config.architectures or ())
    if config.model_type == VAE:
        opened = load_vision_tower(folder, dtype=torch.float32)
    else:
        opened = load_complete(AutoModelForImageClassification if is_classifier else AutoModel, folder, **options)
    image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return Checkpoint(folder, CLASSIFIER if is_classifier else ENCODER, opened, image_processor)


def fold_bytes(checkpoint: Checkpoint, tower: TowerModule) -> BytesModule:
    """Return a copy of a vision tower that takes uint8: rescaling and normalisation are part of its patch weights."""
    folded = copy.deepcopy(tower.model)
    patches = next(module for module in folded.modules() if isinstance(module, nn.Conv2d))
    black, white = (constant_pixels(checkpoint, level) for level in (0, 255))
    slope = (white - black) / 255
    weight = patches.weight.double()
    with torch.no_grad():
        offset = (weight * black[:, None, None]).sum((1, 2, 3))
        patches.bias = nn.Parameter((offset if patches.bias is None else patches.bias.double() + offset).float())
        patches.weight.copy_((weight * slope[:, None, None]).float())
    return BytesModule(folded, tower.outputs, tower.inputs)


def constant_pixels(checkpoint: Checkpoint, level: int) -> torch.Tensor:
    """Return what the image processor makes of images of one grey level: a value for each channel (channels,)."""
    channels = checkpoint.vision_config.num_channels
    # Rescaling and normalising are one line through two points, whatever settings and class they come from.
    image = np.full((32, 48, channels), level, dtype=np.uint8)
    pixels = checkpoint.image_processor([image], return_tensors="pt", input_data_format="channels_last")
    return pixels["pixel_values"][0].double().flatten(1).mean(1)


def traced(
    checkpoint: Checkpoint, tower: TowerModule, batch_size: int | None, dynamic_size: bool
) -> torch.export.ExportedProgram:
    """Trace a tower by torch.export, for any batch size or a fixed one, its own image size or any."""
    example, axes = examples(checkpoint, tower, batch_size, dynamic_size)
    # Eager attention: as SDPA the graph would have twice the operations, with checks for rows without any key.
    tower.model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        with cls_alone(tower), positions_of_any_size(tower) if dynamic_size else contextlib.nullcontext():
            # Strict, sizes would be no symbols to the model, which then takes them for its own.
            return torch.export.export(tower.eval(), example, dynamic_shapes={"inputs": axes}, strict=False)
    finally:
        tower.model.set_attn_implementation("sdpa")  # type: ignore[operator]


@contextlib.contextmanager
def positions_of_any_size(tower: TowerModule) -> Iterator[None]:
    """Have positions interpolated in operations that all runtimes compute alike."""
    embeddings = [module for module in tower.modules() if isinstance(module, OmniVisionEmbeddings)]
    for module in embeddings:
        if module.position_antialias:
            # OpenVINO 2026.4.1 reads `Resize` of ONNX without its `antialias` (findings/openvino_drops_antialias.sh).
            module.positions = partial(smoothed_positions, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in embeddings:
            module.__dict__.pop("positions", None)


def smoothed_positions(embeddings: OmniVisionEmbeddings, rows: int, columns: int) -> torch.Tensor:
    """Return positions (1, CLS + rows * columns, hidden) as with `antialias`, by two products of matrices."""
    count = embeddings.num_cls_tokens
    prefix, patches = embeddings.position_embeddings[:, :count], embeddings.position_embeddings[:, count:]
    down, across = (cubic_weights(*one) for one in zip((rows, columns), embeddings.grid_size, strict=True))
    table = torch.einsum("rR,RCh->rCh", down, patches[0].unflatten(0, embeddings.grid_size))
    return torch.cat((prefix, torch.einsum("cC,rCh->rch", across, table).flatten(0, 1)[None]), dim=1)


def cubic_weights(size: int, full: int) -> torch.Tensor:
    """Return weights (size, full) of bicubic interpolation with antialiasing: Pillow's kernel (a = -0.5), widened."""
    scale = full / torch.scalar_tensor(size)
    centers = (torch.arange(size) + 0.5)[:, None] * scale
    away = ((torch.arange(full) + 0.5 - centers) / scale.clamp_min(1)).abs()
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, torch.zeros_like(away)))
    return weights / weights.sum(1, keepdim=True)


@contextlib.contextmanager
def cls_alone(tower: TowerModule) -> Iterator[None]:
    """Have the last layer compute CLS alone where no output reads other tokens, which saves most of that layer."""
    model, has_tokens = tower.model, TOKENS & set(tower.outputs)
    encoders = [
        one for one in model.modules() if isinstance(one, OmniVisionModel) and one.pools_cls and not has_tokens
    ]
    hooks = [
        one.register_forward_pre_hook(lambda _, args, named: (args, {**named, "cls_only": True}), with_kwargs=True)
        for one in encoders
        # What an encoder itself returns is CLS even if `pooling` has heads read the mean.
        if one is model or one.config.pooling == "cls"
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def examples(
    checkpoint: Checkpoint, tower: TowerModule, batch_size: int | None, dynamic_size: bool
) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Return inputs to trace a tower with, and their axes of any length."""
    count, batch = batch_size or 2, {} if batch_size else {0: torch.export.Dim("batch", max=4096)}
    if tower.inputs == TEXTS:
        length = torch.export.Dim("length", max=checkpoint.model.config.text_config.max_position_embeddings)
        ones = torch.ones((count, 7), dtype=torch.int64)
        # A copy: torch.export makes one input of a tensor that is given twice.
        return (ones, ones.clone()), ({**batch, 1: length}, {**batch, 1: length})
    height, width = sides(checkpoint.vision_config.image_size)
    axes: dict[int, Any] = dict(batch)
    if dynamic_size:
        if checkpoint.model.config.model_type not in ("omni_vision", "omni_vision_retrieval"):
            raise ValueError("`dynamic_size` needs a model of ours, which interpolates its positions. Leave it out.")
        patch = sides(checkpoint.vision_config.patch_size)
        axes |= {2 + i: patch[i] * torch.export.Dim(("rows", "columns")[i], min=2, max=1024) for i in (0, 1)}
        height, width = height + 2 * patch[0], width + 4 * patch[1]
    pixels = torch.rand(count, checkpoint.vision_config.num_channels, height, width)
    return (pixels.mul(255).to(torch.uint8) if isinstance(tower, BytesModule) else pixels,), (axes,)


def sides(size: Any) -> tuple[int, int]:
    """Return (height, width) of one number or a pair."""
    return (size, size) if isinstance(size, int) else tuple(size)


Reference = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def reference(tower: TowerModule) -> Reference:
    """Return a tower as a function of arrays by name, run by torch."""

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = tower(*(torch.from_numpy(inputs[name]) for name in tower.inputs))
        return {name: tensor.numpy() for name, tensor in zip(tower.outputs, found, strict=True)}

    return run


__all__ = [
    "CLASSIFIER",
    "ENCODER",
    "OUTPUTS",
    "RETRIEVAL",
    "Checkpoint",
    "Reference",
    "TowerModule",
    "fold_bytes",
    "open_checkpoint",
    "reference",
    "sides",
    "traced",
]
