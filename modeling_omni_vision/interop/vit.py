"""Native twin: our weights as a stock `ViTModel` or `ViTForImageClassification`, with no Python in the folder.

The residual stream has zero mean over channels, so RMSNorm is LayerNorm with a zero bias and the twin is
exact, not an approximation. That is measured, not believed: both models run on the same random pixels
before the folder appears.

Only inference is the same. In training a stock ViT drops tokens after the embeddings and nothing inside
the MLP, and it knows no drop-path.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from ..configuration_omni_vision import OmniVisionConfig
from ..modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from .folder import whole_folder


logger = logging.getLogger(__name__)

# Largest difference of any output, in float32, relative to the largest output where that exceeds 1.
TOLERANCE = 1e-5

# Names on disk, not those in memory: every release of transformers reads them.
LAYER_NAMES = {
    "norm_before": "layernorm_before",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "norm_after": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "num_channels",
)
PROCESSOR_FIELDS = (
    "do_resize",
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)

Ours = OmniVisionModel | OmniVisionForImageClassification
Twin = ViTModel | ViTForImageClassification


@dataclass(frozen=True)
class TwinReport:
    """What `convert_to_vit` made: the folder, the stock class in it, and the largest difference of any output."""

    folder: Path
    architecture: str
    difference: float
    has_processor: bool


def convert_to_vit(checkpoint: str | Path, output_dir: str | Path) -> TwinReport:
    """
    Write one of our checkpoints as a stock ViT checkpoint that plain transformers opens.

    A classifier becomes a `ViTForImageClassification`, an encoder a `ViTModel` whose pooler passes CLS
    through unchanged, so that `pooler_output` is ours. `AutoModel` on a *classifier* folder makes a random
    pooler, as with every stock ViT classifier: pass `add_pooling_layer=False` and read `last_hidden_state`.
    The twin takes the checkpoint's native size; for others pass `interpolate_pos_encoding=True` (square only).

    Args:
        checkpoint: Folder that `save_pretrained` of either of our models wrote.
        output_dir: New or empty folder to write; nothing is left in it after an error.

    Returns:
        A `TwinReport`, with the difference measured on random pixels in float32.

    Raises:
        `ValueError`: if the folder is not ours or lacks weights, uses an option that a stock ViT has no
            place for, or holds weights that are not centred (the message gives the difference).
    """
    model = load_ours(checkpoint)
    twin_class = ViTForImageClassification if isinstance(model, OmniVisionForImageClassification) else ViTModel
    config = vit_config(model.config)
    config.architectures, config.dtype = [twin_class.__name__], model.dtype
    with whole_folder(output_dir) as folder:
        config.save_pretrained(folder)
        save_file(vit_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
        has_processor = write_stock_processor(Path(checkpoint), folder, model.config.num_channels)
        difference = checked_difference(model, load_whole(twin_class, folder))
    return TwinReport(Path(output_dir), twin_class.__name__, difference, has_processor)


def load_ours(checkpoint: str | Path) -> Ours:
    """Load the model of a checkpoint folder of ours, in the precision it was saved in, or raise `ValueError`."""
    config_file = Path(checkpoint) / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"The checkpoint must be a folder with a config.json, got {str(checkpoint)!r}. "
            "Name a folder that `save_pretrained` wrote, for example the output of training."
        )
    written = json.loads(config_file.read_text(encoding="utf-8"))
    if written.get("model_type") != OmniVisionConfig.model_type:
        raise ValueError(
            f"The checkpoint must be of model_type {OmniVisionConfig.model_type!r}, got "
            f"{written.get('model_type')!r} in {str(config_file)!r}. Name one of our checkpoints."
        )
    is_classifier = OmniVisionForImageClassification.__name__ in (written.get("architectures") or [])
    return load_whole(OmniVisionForImageClassification if is_classifier else OmniVisionModel, checkpoint, "auto")


def load_whole(model_class: type, folder: str | Path, dtype: Any = torch.float32) -> Any:
    """Load a model in evaluation mode and refuse a folder whose weights are not exactly the model's."""
    model, report = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)  # type: ignore[attr-defined]
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys and kind.endswith("_keys")}
    if wrong:
        raise ValueError(
            f"The weights in {str(folder)!r} must be exactly those of {model_class.__name__}, got {wrong!r}. "
            "Save the checkpoint again."
        )
    return model.eval()


def vit_config(config: Any) -> ViTConfig:
    """Translate the configuration, or raise `ValueError` for an option that a stock ViT has no place for."""
    for name, stock in (("num_register_tokens", 0), ("pooling", "cls")):
        if getattr(config, name) != stock:
            raise ValueError(
                f"A stock ViT has no place for `{name}`, expected {stock!r}, got {getattr(config, name)!r}. "
                "Publish this checkpoint with its own code instead, or train one without the option."
            )
    if config.drop_path_rate:
        logger.warning(
            "`drop_path_rate` %s is left out: a stock ViT has none. It acts in training only.", config.drop_path_rate
        )
    return ViTConfig(
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        image_size=one_or_two(config.image_size_hw),
        patch_size=one_or_two(config.patch_size_hw),
        # Our patches stride by their size; masked image modelling in a stock ViT wants to know.
        encoder_stride=config.patch_size_hw[0],
        pooler_act="linear",
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    )


def one_or_two(sides: tuple[int, int]) -> int | list[int]:
    """Write a square as one number, which every reader of a ViT configuration understands."""
    return sides[0] if sides[0] == sides[1] else list(sides)


def vit_state_dict(model: Ours) -> dict[str, torch.Tensor]:
    """Rename our weights to a stock ViT's names on disk and add the biases that are zero in ours."""
    encoder = getattr(model, "omni_vision", model)
    renamed = {twin_name(name): tensor for name, tensor in encoder.state_dict().items()}
    for name in [name for name in renamed if "layernorm" in name and name.endswith(".weight")]:
        renamed.setdefault(name.removesuffix("weight") + "bias", torch.zeros_like(renamed[name]))
    if encoder is model:
        # `pooler_act` is linear, so an identity makes `pooler_output` the CLS token, as in ours.
        width = model.config.hidden_size
        renamed["pooler.dense.weight"] = torch.eye(width, dtype=model.dtype)
        renamed["pooler.dense.bias"] = torch.zeros(width, dtype=model.dtype)
    else:
        renamed = {f"vit.{name}": tensor for name, tensor in renamed.items()}
        renamed |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier.")}
    return {name: tensor.contiguous().clone() for name, tensor in renamed.items()}


def twin_name(name: str) -> str:
    """Name on disk of one weight of our encoder in a stock ViT."""
    if name.startswith("layers."):
        _, index, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        return f"encoder.layer.{index}.{LAYER_NAMES[part]}.{kind}"
    return name.replace("norm.", "layernorm.", 1) if name.startswith("norm.") else name


def write_stock_processor(checkpoint: Path, folder: Path, num_channels: int) -> bool:
    """Write the settings of our image processor for the stock one, and say whether the checkpoint had any."""
    source = checkpoint / "preprocessor_config.json"
    if not source.is_file():
        logger.warning(
            "%s has no preprocessor_config.json, so the twin has none: save the image processor too.", checkpoint
        )
        return False
    written = json.loads(source.read_text(encoding="utf-8"))
    stock = {name: written[name] for name in PROCESSOR_FIELDS if name in written}
    # A stock processor would make three channels of every picture: grey models take grey pictures as they are.
    stock |= {"do_convert_rgb": num_channels == 3, "image_processor_type": "ViTImageProcessor"}
    text = json.dumps(stock, indent=2, sort_keys=True) + "\n"
    (folder / source.name).write_text(text, encoding="utf-8")
    return True


def checked_difference(model: Ours, twin: Twin) -> float:
    """
    Return the largest difference of any output on random pixels, in float32, or raise `ValueError`.

    Args:
        model: Ours; it is turned into float32.
        twin: The stock model, as loaded from the folder it will be opened from.

    Raises:
        `ValueError`: if an output differs by more than `TOLERANCE` or another class would be predicted.
    """
    model = model.float()
    shape = (8, model.config.num_channels, *model.config.image_size_hw)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = outputs(model, pixels), outputs(twin, pixels)
    # torch's max, unlike Python's, lets a NaN through.
    difference = float(torch.stack([(ours[name] - theirs[name]).abs().max() for name in ours]).max())
    scale = max(1.0, *(float(output.abs().max()) for output in ours.values()))
    same_class = "logits" not in ours or torch.equal(ours["logits"].argmax(-1), theirs["logits"].argmax(-1))
    # Written so that NaN is refused too.
    if difference <= TOLERANCE * scale and same_class:
        return difference
    raise ValueError(
        f"The residual stream must have zero mean over channels for a stock ViT to hold these weights, got a mean of "
        f"up to {model.residual_mean():.1e}: the twin would differ by up to {difference:.1e} (at most "
        f"{TOLERANCE * scale:.0e} is let through). Train with centring on, in float32 weights. "
        "`model.center_residual_()` makes any checkpoint convertible but changes what it computes: train on after it."
    )


def outputs(model: Ours | Twin, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run a model; give its last hidden state before any head, and logits or the pooled token."""
    if hasattr(model, "classifier"):
        encoder = getattr(model, model.base_model_prefix)
        return {"hidden": encoder(pixels).last_hidden_state, "logits": model(pixels).logits}
    output = model(pixels)
    return {"hidden": output.last_hidden_state, "pooled": output.pooler_output}


__all__ = ["TOLERANCE", "TwinReport", "convert_to_vit", "vit_config", "vit_state_dict"]
