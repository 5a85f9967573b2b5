"""How a foreign checkpoint prepares images and texts, as settings of our processors."""

import math
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from ..image_processing_omni_vision import OmniVisionImageProcessor
from .converted import Converted
from .source import load_tokenizer


# What our image processor has in common with those of transformers.
FIELDS: tuple[str, ...] = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale")
FIELDS += ("rescale_factor", "do_normalize", "image_mean", "image_std")
STATISTICS = ("image_mean", "image_std")  # those of other channels than the model has do not serve the original either
# Pillow's numbers, by the names that timm and open_clip use.
RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5, "random": 3}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def source_image_processor(converted: Converted) -> OmniVisionImageProcessor | None:
    """Return our image processor with the settings of the original; None where it has none that ours can follow."""
    folder: Path = converted.origin["folder"]
    settings = converted.origin["config"]
    vision = getattr(converted.config, "vision_config", converted.config)
    if converted.library == "transformers":
        found = from_transformers(folder)
    elif converted.library == "timm":
        found = from_timm(settings["pretrained_cfg"], vision.image_size_hw)
    else:
        found = from_open_clip(settings["preprocess_cfg"], vision.image_size_hw)
    if found is None or any(len(found.get(name, ())) not in (0, vision.num_channels) for name in STATISTICS):
        converted.notes.append("no settings of images that ours can follow came along: it has no image processor")
        return None
    return OmniVisionImageProcessor(num_channels=vision.num_channels, **found)


def from_transformers(folder: Path) -> dict[str, Any] | None:
    """Read the settings of the image processor of a folder of transformers."""
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    found: dict[str, Any] = {name: getattr(processor, name, None) for name in FIELDS}
    for name in ("size", "crop_size"):
        if found[name] is not None:
            found[name] = {side: value for side, value in dict(found[name]).items() if value is not None}
    return {name: value for name, value in found.items() if value is not None}


def from_timm(settings: dict[str, Any], image_size: tuple[int, int]) -> dict[str, Any] | None:
    """Translate timm's settings: the short side is resized to the crop's, enlarged by `crop_pct`; then cropped."""
    height, width = image_size
    mode = settings.get("crop_mode") or "center"
    if height != width or mode not in ("center", "squash") or "mean" not in settings:
        return None
    side = math.floor(height / (settings.get("crop_pct") or 0.875))
    size = {"shortest_edge": side} if mode == "center" else {"height": side, "width": side}
    return {**_cropped(size, image_size), **_normalised(settings)}


def from_open_clip(settings: dict[str, Any] | None, image_size: tuple[int, int]) -> dict[str, Any] | None:
    """Translate open_clip's settings; `longest` fills up with a colour, which ours does not.

    Those that are left out are open_clip's defaults, even all of them; None says that there are none.
    """
    if settings is None:
        return None
    height, width = image_size
    mode = settings.get("resize_mode") or "shortest"
    if mode == "squash":
        return {"size": {"height": height, "width": width}, **_normalised(settings)}
    if height != width or mode != "shortest":
        return None
    return {**_cropped({"shortest_edge": height}, image_size), **_normalised(settings)}


def _cropped(size: dict[str, int], image_size: tuple[int, int]) -> dict[str, Any]:
    crop = dict(zip(("height", "width"), image_size, strict=True))
    # timm and open_clip crop with torchvision, which puts an odd margin elsewhere than transformers.
    return {"size": size, "do_center_crop": True, "crop_size": crop, "round_center_crop": True}


def _normalised(settings: dict[str, Any]) -> dict[str, Any]:
    statistics = settings.get("mean") or CLIP_MEAN, settings.get("std") or CLIP_STD
    # One number is of all channels, also for open_clip.
    mean, std = (list(one) if isinstance(one, list | tuple) else [one] * 3 for one in statistics)
    return {"resample": RESAMPLE[settings.get("interpolation") or "bicubic"], "image_mean": mean, "image_std": std}


def source_tokenizer(converted: Converted) -> Any:
    """Return the tokenizer of a whole model, or raise `ValueError` where there is none."""
    folder: Path = converted.origin["folder"]
    text = converted.origin["config"].get("text_cfg", {})
    tokenizer = load_tokenizer(folder)
    if tokenizer is None and converted.library == "open_clip" and not text.get("hf_tokenizer_name"):
        tokenizer = open_clip_tokenizer()
    if tokenizer is None:
        raise ValueError(
            f"A model with a text tower needs its tokenizer, got none in {str(folder)!r}. Download it too, or convert "
            "the vision tower alone: --encoder_only true."
        )
    if (text.get("tokenizer_kwargs") or {}).get("clean") == "canonicalize":
        canonicalise(tokenizer)
    tokenizer.model_max_length = converted.config.text_config.max_position_embeddings
    return tokenizer


def open_clip_tokenizer() -> Any:
    """Return open_clip's own tokenizer, of the vocabulary in its package, as transformers' `CLIPTokenizer`."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(word, word): number for word, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks))


def canonicalise(tokenizer: Any) -> None:
    """Make a tokenizer clean texts as open_clip does for SigLIP: no punctuation, lower case, single blanks."""
    from tokenizers import Regex, normalizers

    steps = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([*steps, *([backend.normalizer] if backend.normalizer else [])])


__all__ = ["source_image_processor", "source_tokenizer"]
