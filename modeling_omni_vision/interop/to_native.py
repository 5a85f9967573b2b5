"""Native twin: our weights as a stock model that plain transformers opens, with no Python in the folder.

The residual stream has zero mean over channels, so RMSNorm is LayerNorm with a zero bias and the twin is
exact, not an approximation. That is measured, not believed: both models run on the same random pixels
before the folder appears. Only inference is the same.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    Dinov2ForImageClassification,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTForImageClassification,
    ViTModel,
)

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from .clean_comparison import original_outputs, our_outputs
from .folder import atomic_output_dir, write_preprocess
from .stock import Ours, StockModel, luma, stock_channels
from .to_clip import as_clip_vision, as_whole_clip, fits_clip, fits_siglip
from .to_dinov2 import as_dinov2
from .to_vit import as_vit, without_place_in_vit
from .vision_tower import load_complete, read_model_type


logger = logging.getLogger(__name__)

# Largest difference of any output, in float32, relative to the largest output where that exceeds 1.
TOLERANCE = 1e-5
# The same for similarities times a learned scale.
LOGITS = 1e-4
KNOWN = (OmniVisionConfig.model_type, "omni_vision_retrieval")

# What the stock image processor shares with ours.
FIELDS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
CROP_FIELDS = ("do_center_crop", "crop_size")
STATISTICS = ("image_mean", "image_std")
# Every class that a twin can have.
NATIVE_CLASSES = (
    ViTModel,
    ViTForImageClassification,
    Dinov2ForImageClassification,
    Dinov2WithRegistersModel,
    Dinov2WithRegistersForImageClassification,
)


@dataclass(frozen=True)
class TwinReport:
    """What a conversion made: the folder, the stock class in it, and the largest difference of any output."""

    folder: Path
    architecture: str
    difference: float
    has_processor: bool


def convert_to_native(checkpoint: str | Path, output_dir: str | Path) -> TwinReport:
    """
    Write one of our checkpoints as the stock model that can hold it, which plain transformers opens.

    An encoder becomes a `ViTModel`, a classifier a `ViTForImageClassification`. What they have no place for
    becomes a DINOv2: a head that reads the patches a `Dinov2ForImageClassification`, and with registers a
    `Dinov2WithRegistersModel` or `Dinov2WithRegistersForImageClassification`.

    A grey model becomes one of three channels that sees of a colour image its luma, unrounded: equal to
    ours on grey images, and within half a grey level of it on colour ones.

    `pooler_output` of an encoder is ours, CLS. `AutoModel` on a ViT *classifier* folder makes a random pooler,
    as with every stock ViT classifier: pass `add_pooling_layer=False` and read `last_hidden_state`. Sizes other
    than the checkpoint's own: a ViT wants `interpolate_pos_encoding=True` (square only), a DINOv2 takes them as
    they are and without registers gives what ours does, with registers something else.

    Args:
        checkpoint: Folder that `save_pretrained` of either of our models wrote.
        output_dir: New or empty folder to write; nothing is left in it after an error.

    Returns:
        A `TwinReport`, with the difference measured on random pixels in float32.

    Raises:
        `ValueError`: if the folder is not ours or lacks weights, uses an option that no stock model here has a
            place for, or holds weights that are not centred (the message gives the difference).
    """
    if read_model_type(Path(checkpoint).absolute(), KNOWN) == KNOWN[1]:
        return convert_whole(checkpoint, output_dir)
    model = load_ours(checkpoint)
    if fits_clip(model.config) or fits_siglip(model.config):
        stock = as_clip_vision(model)
    else:
        stock = as_dinov2(model) if without_place_in_vit(model) else as_vit(model)
    return write_twin(model, stock, checkpoint, output_dir)


def convert_whole(checkpoint: str | Path, output_dir: str | Path) -> TwinReport:
    """Write a retrieval model as a stock CLIP or SigLIP with its tokenizer and image processor, and compare logits."""
    # Not at the top of the file: the encoder alone does without transformers 5.23, which this needs.
    from ..modeling_omni_vision_retrieval import OmniVisionForRetrieval
    from ..processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

    model = load_complete(OmniVisionForRetrieval, checkpoint, exact=True, dtype="auto")
    stock = as_whole_clip(model)
    processor = OmniVisionRetrievalProcessor.from_pretrained(checkpoint)
    with atomic_output_dir(output_dir) as folder:
        write_stock(stock, folder, model.dtype)
        processor.tokenizer.save_pretrained(folder)
        write_settings(processor.image_processor.to_dict(), folder, stock.stock_class.__name__.removesuffix("Model"))
        twin = load_complete(stock.stock_class, folder, exact=True, dtype=torch.float32)
        length, vision = stock.config.text_config.max_position_embeddings, model.config.vision_config
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(stock.config.text_config.vocab_size, (4, length), generator=generator)
        pixels = torch.randn(4, vision.num_channels, *vision.image_size_hw, generator=generator)
        difference = compared(our_outputs(model.float(), pixels, ids), original_outputs(twin, pixels, ids), LOGITS)
    return TwinReport(Path(output_dir), stock.stock_class.__name__, difference, True)


def convert_to_vit(checkpoint: str | Path, output_dir: str | Path) -> TwinReport:
    """Do as `convert_to_native`, but refuse with `ValueError` what a stock ViT has no place for."""
    model = load_ours(checkpoint)
    return write_twin(model, as_vit(model), checkpoint, output_dir)


def write_twin(model: Ours, stock: StockModel, checkpoint: str | Path, output_dir: str | Path) -> TwinReport:
    """Write a stock model and its image processor, open it again and compare; nothing is left after an error."""
    if model.config.drop_path_rate:
        logger.warning(
            "`drop_path_rate` %s is left out: no stock model drops paths as ours. It acts in training only.",
            model.config.drop_path_rate,
        )
    if model.config.position_antialias and not model.config.num_register_tokens:
        logger.warning(
            "`position_antialias` is left out: at smaller sizes than the native one the stock model interpolates "
            "positions without smoothing them, and differs."
        )
    with atomic_output_dir(output_dir) as folder:
        write_stock(stock, folder, model.dtype)
        has_processor = write_stock_processor(Path(checkpoint), folder, model.config.num_channels)
        difference = checked_difference(
            model, load_complete(stock.stock_class, folder, exact=True, dtype=torch.float32)
        )
    return TwinReport(Path(output_dir), stock.stock_class.__name__, difference, has_processor)


def write_stock(stock: StockModel, folder: Path, dtype: torch.dtype) -> None:
    """Write the configuration and the weights of a stock model."""
    stock.config.architectures, stock.config.dtype = [stock.stock_class.__name__], dtype
    stock.config.save_pretrained(folder)
    weights = {name: value.contiguous().clone() for name, value in stock.weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_ours(checkpoint: str | Path) -> Ours:
    """Load the model of a checkpoint folder of ours, in the precision it was saved in, or raise `ValueError`."""
    # Absolute: a folder, and never the name of a repository on the Hub.
    folder = Path(checkpoint).absolute()
    read_model_type(folder, [OmniVisionConfig.model_type])
    architectures = OmniVisionConfig.from_pretrained(folder).architectures or []
    is_classifier = OmniVisionForImageClassification.__name__ in architectures
    model_class = OmniVisionForImageClassification if is_classifier else OmniVisionModel
    return load_complete(model_class, folder, exact=True, dtype="auto")


def write_stock_processor(checkpoint: Path, folder: Path, num_channels: int) -> bool:
    """Write the settings of our image processor for the stock one; return whether the checkpoint had any."""
    source = checkpoint / "preprocessor_config.json"
    if not source.is_file():
        logger.warning(
            "%s has no preprocessor_config.json, so the twin has none: save the image processor too.", checkpoint
        )
        return False
    written = json.loads(source.read_text(encoding="utf-8"))
    if num_channels == 1:
        written |= {name: [*written[name]] * 3 for name in STATISTICS if len(written.get(name, ())) == 1}
    write_settings(written | {"do_convert_rgb": num_channels in (1, 3)}, folder)
    return True


def write_settings(settings: dict[str, Any], folder: Path, kind: str = "ViT") -> None:
    """Write settings of our image processor for a stock one (for a crop, which ViT's has not, BiT), and the module."""
    crops = bool(settings.get("do_center_crop"))
    fields = ("do_convert_rgb", *FIELDS, *(CROP_FIELDS if crops else ()))
    stock = {name: settings[name] for name in fields if settings.get(name) is not None}
    stock["image_processor_type"] = f"{'Bit' if crops and kind == 'ViT' else kind}ImageProcessor"
    text = json.dumps(stock, indent=2, sort_keys=True) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    write_preprocess(folder)


def checked_difference(model: Ours, twin: PreTrainedModel) -> float:
    """Return the largest difference of any output on random pixels, in float32, which ours is turned into.

    Raises:
        `ValueError`: if an output differs by more than `TOLERANCE` or another class would be predicted.
    """
    if fits_clip(model.config) or fits_siglip(model.config):
        pixels = torch.randn(4, model.config.num_channels, *model.config.image_size_hw)
        return compared(our_outputs(model.float(), pixels, None), original_outputs(twin, pixels, None), TOLERANCE)
    model = model.float()
    shape = (8, stock_channels(model.config), *model.config.image_size_hw)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = (pixels * luma(pixels)).sum(1, keepdim=True) if model.config.num_channels == 1 else pixels
        ours, theirs = outputs(model, seen), outputs(twin, pixels)
    # torch's max, unlike Python's, lets a NaN through.
    difference = float(torch.stack([(ours[name] - theirs[name]).abs().max() for name in ours]).max())
    scale = max(1.0, *(float(output.abs().max()) for output in ours.values()))
    same_class = "logits" not in ours or torch.equal(ours["logits"].argmax(-1), theirs["logits"].argmax(-1))
    # Written so that NaN is refused too.
    if difference <= TOLERANCE * scale and same_class:
        return difference
    raise ValueError(
        "The residual stream must have zero mean over channels for a stock model to hold these weights, got a mean "
        f"of up to {model.residual_mean():.1e}: the twin would differ by up to {difference:.1e} (at most "
        f"{TOLERANCE * scale:.0e} is let through). Train with centring on, in float32 weights. "
        "`model.center_residual_()` makes any checkpoint convertible but changes what it computes: train on after it."
    )


def outputs(model: Ours | PreTrainedModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the last hidden state of a model before any head, and its logits or the pooled token."""
    if hasattr(model, "classifier"):
        encoder = getattr(model, model.base_model_prefix)
        return {"hidden": encoder(pixels).last_hidden_state, "logits": model(pixels).logits}
    output = model(pixels)
    return {"hidden": output.last_hidden_state, "pooled": output.pooler_output}


def compared(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> float:
    """Return the largest difference of any output of a twin, or raise `ValueError`."""
    # torch's max, unlike Python's, lets a NaN through.
    difference = float(torch.stack([(ours[name] - theirs[name]).abs().max() for name in theirs]).max())
    scale = max(1.0, *(float(output.abs().max()) for output in theirs.values()))
    if not difference <= tolerance * scale:
        raise ValueError(f"The stock model must compute the same within {tolerance:.0e}, got {difference:.1e}.")
    return difference


__all__ = ["NATIVE_CLASSES", "TOLERANCE", "TwinReport", "convert_to_native", "convert_to_vit"]
