"""mu-Omni's `vision.pt` becomes a checkpoint folder of ours, exactly.

Its blocks are `torch.nn.TransformerEncoderLayer`s: LayerNorm inside, one stacked matrix for query, key
and value, RMSNorm at the end. Everything but the number of heads stands in the shapes. Its images are
resized to a square and scaled to [0, 1], nothing else, and the folder's image processor does the same.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..configuration_omni_vision import OmniVisionConfig
from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..modeling_omni_vision import OmniVisionModel
from .folder import atomic_output_dir
from .weights_file import pickle_refusal


# The specification's names and ours, as in its `configs/vision_tiny.json`.
SPECIFICATION_NAMES = {
    "img_size": "image_size",
    "patch": "patch_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
# mu-Omni's two sizes: its configuration file and the defaults of its class.
HEADS_BY_WIDTH = {128: 2, 192: 3}

FIXED_NAMES = {
    "proj.weight": "embeddings.patch_embeddings.projection.weight",
    "proj.bias": "embeddings.patch_embeddings.projection.bias",
    "cls": "embeddings.cls_token",
    "pos": "embeddings.position_embeddings",
    "norm.weight": "norm.weight",
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "self_attn.out_proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
}


@dataclass(frozen=True)
class MuOmniReport:
    """What `convert_from_muomni` made: the folder, its configuration, and how far the weights are from centred."""

    folder: Path
    config: OmniVisionConfig
    num_parameters: int
    residual_mean: float


def convert_from_muomni(
    checkpoint: str | Path, output_dir: str | Path, num_heads: int | None = None, spec_config: str | Path | None = None
) -> MuOmniReport:
    """
    Write a mu-Omni vision checkpoint as a folder of ours: the same tokens for the same pixels.

    The weights are taken as they are, not centred, so there is no native twin of the folder until it has
    been trained on with centring.

    Args:
        checkpoint: `vision.pt`: `{"vit": state_dict}` or a bare state dict; `_orig_mod.` prefixes of
            `torch.compile` are taken off. Read with `weights_only=True`: no code of it is run.
        output_dir: New or empty folder to write; nothing is left in it after an error.
        num_heads: Attention heads, which no shape gives. Where None, `spec_config` says it, or it is 2 for a
            width of 128 and 3 for 192, mu-Omni's own two sizes.
        spec_config: JSON file with the specification's names (`img_size`, `patch`, ...), which must agree
            with the shapes.

    Raises:
        `ValueError`: if the file cannot be read, a key is unknown, missing or of a wrong shape (all are
            named at once), the number of heads is not known, or `spec_config` does not agree.
    """
    state = read_vision_state(checkpoint)
    spec = read_spec_config(spec_config) if spec_config is not None else {}
    config = infer_config(state, spec.get("num_attention_heads") if num_heads is None else num_heads)
    both = {name: (value, getattr(config, name)) for name, value in spec.items()}
    disagreeing = {name: (written, shaped) for name, (written, shaped) in both.items() if written != shaped}
    if disagreeing:
        raise ValueError(
            f"{str(spec_config)!r} must agree with the weights, got (file, weights) = {disagreeing!r}. "
            "Name the configuration that the checkpoint was trained with, or none."
        )
    model = OmniVisionModel(config)
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    model.to(dtype=dtype)  # type: ignore[call-arg]
    model.load_state_dict(our_state_dict(state))
    processor = OmniVisionImageProcessor(
        size={"height": config.image_size_hw[0], "width": config.image_size_hw[1]},
        do_normalize=False,
        num_channels=config.num_channels,
    )
    with atomic_output_dir(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return MuOmniReport(Path(output_dir), config, model.num_parameters(), model.residual_mean())


def read_vision_state(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """Read the vision weights of a file, their names cleaned of `_orig_mod.`, or raise `ValueError`."""
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for what is no checkpoint
        said = pickle_refusal(error) or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"The checkpoint must be a file that `torch.load(..., weights_only=True)` reads, got {str(checkpoint)!r}: "
            f"{said} Name mu-Omni's vision.pt."
        ) from error
    state = loaded.get("vit", loaded) if isinstance(loaded, dict) else loaded
    items = state.items() if isinstance(state, dict) else [(type(state).__name__, state)]
    wrong = [name for name, tensor in items if not (torch.is_tensor(tensor) and tensor.is_floating_point())]
    cleaned = {} if wrong else {str(name).replace("_orig_mod.", ""): tensor for name, tensor in items}
    if not cleaned or len(cleaned) != len(items):
        raise ValueError(
            "The checkpoint must hold a state dict of real numbers, bare or under the key 'vit', with each name once, "
            f"got {len(items)} entries in {str(checkpoint)!r}, not weights: {wrong[:8]!r}. Name mu-Omni's vision.pt."
        )
    return cleaned


def read_spec_config(spec_config: str | Path) -> dict[str, int]:
    """Read a file with the specification's names into ours; names that are not of the encoder are left out."""
    try:
        written = json.loads(Path(spec_config).read_text(encoding="utf-8"))
        found = {ours: int(written[theirs]) for theirs, ours in SPECIFICATION_NAMES.items() if theirs in written}
        if not found:
            raise ValueError(f"none of these names in {str(written)[:80]!r}")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"`spec_config` must be a JSON file with integers for {', '.join(SPECIFICATION_NAMES)}, got "
            f"{str(spec_config)!r}: {error}. Correct the file, or leave it out."
        ) from error
    return found


def infer_config(state: dict[str, torch.Tensor], num_heads: int | None = None) -> OmniVisionConfig:
    """Read the geometry from the shapes, or raise one `ValueError` that names every key that does not fit."""
    depth = len({found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}) or 1
    width, channels, patch, _ = sizes(state, "proj.weight", 4)
    side = round(max(sizes(state, "pos", 3)[1] - 1, 0) ** 0.5)
    hidden, _ = sizes(state, "blocks.0.linear1.weight", 2)
    expected = expected_shapes(width, channels, patch, side, hidden, depth)
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unknown {name}" for name in state if name not in expected]
    problems += [
        f"{name} of shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and not fits(state[name].shape, shape)
    ]
    if problems:
        raise ValueError(
            f"The weights must be those of mu-Omni's ViTTiny with {depth} blocks, got: {'; '.join(problems)}. "
            "Name the checkpoint of its vision encoder."
        )
    heads = HEADS_BY_WIDTH.get(width) if num_heads is None else num_heads
    if heads is None:
        raise ValueError(
            f"The number of attention heads must be given for a width of {width}: it cannot be inferred from shapes. "
            f"Pass `--num_heads` (mu-Omni's own: {HEADS_BY_WIDTH!r} by width)."
        )
    return OmniVisionConfig(
        image_size=side * patch,
        patch_size=patch,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden,
    )


def expected_shapes(
    width: int, channels: int, patch: int, side: int, mlp: int, depth: int
) -> dict[str, tuple[int, ...]]:
    """Return every key of mu-Omni's ViTTiny with its shape."""
    weights = {
        "self_attn.in_proj_": (3 * width, width),
        "self_attn.out_proj.": (width, width),
        "linear1.": (mlp, width),
        "linear2.": (width, mlp),
        "norm1.": (width,),
        "norm2.": (width,),
    }
    block = {
        name + kind: shape[:rank] for name, shape in weights.items() for kind, rank in (("weight", 2), ("bias", 1))
    }
    return {
        "proj.weight": (width, channels, patch, patch),
        "proj.bias": (width,),
        "cls": (1, 1, width),
        "pos": (1, 1 + side * side, width),
        **{f"blocks.{index}.{name}": shape for index in range(depth) for name, shape in block.items()},
        "norm.weight": (width,),
    }


def sizes(state: dict[str, torch.Tensor], name: str, rank: int) -> tuple[int, ...]:
    """Return the first `rank` sizes of a tensor, 0 for each one that it does not have and if it is missing."""
    return (*(state[name].shape if name in state else ()), *[0] * rank)[:rank]


def fits(shape: Sequence[int], expected: tuple[int, ...]) -> bool:
    """Compare shapes; zeros in the expected one stand for sizes that are not known."""
    same_rank = len(shape) == len(expected)
    return same_rank and all(wanted in (0, size) for size, wanted in zip(shape, expected, strict=True))


def our_state_dict(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename mu-Omni's weights to ours and cut the stacked query, key and value apart."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in FIXED_NAMES:
            renamed[FIXED_NAMES[name]] = tensor
            continue
        _, index, rest = name.split(".", 2)
        if rest.startswith("self_attn.in_proj_"):
            kind = rest.removeprefix("self_attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"layers.{index}.attention.{letter}_proj.{kind}"] = third
        else:
            part, kind = rest.rsplit(".", 1)
            renamed[f"layers.{index}.{BLOCK_NAMES[part]}.{kind}"] = tensor
    return renamed


__all__ = ["SPECIFICATION_NAMES", "MuOmniReport", "convert_from_muomni", "infer_config"]
