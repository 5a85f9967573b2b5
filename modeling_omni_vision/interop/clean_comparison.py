"""Open a foreign checkpoint with its own library, and what we made of it without this package, and compare them.

This file runs in a process of its own, by path and with `python -I`, so it imports nothing of ours. There our package
cannot be imported and the network is refused. The original is closed before ours is opened: one model at a time.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from transformers.image_processing_backends import TorchvisionBackend


PACKAGE = "modeling_omni_vision"
TEXTS = ["a photo of a red circle", "Two dogs, one of them asleep!"]
NUM_IMAGES = 20
BACKENDS = ("pil", "torchvision")
MAX_PATCHES = 3200
Outputs = dict[str, torch.Tensor]
# Models of transformers that interpolate positions unasked, and have no argument for it.
ALWAYS_INTERPOLATE = ("dinov2", "dinov2_with_registers")


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: refuse to look up names or to connect."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise OSError(f"the network is not to be used here: {event} {arguments[1:]!r}")


def sizes_of(native: tuple[int, int], patch: tuple[int, int], fixed: bool) -> list[tuple[int, int]]:
    """Return image sizes to compare at: the native one, and unless it is fixed half and twice, square and not.

    Instead of twice a size of very many patches, whose attention takes minutes, one patch more on each side.
    """
    height, width = native
    rows, columns = (max(side // 2 // one, 1) * one for side, one in zip(native, patch, strict=True))
    many = 4 * (height // patch[0]) * (width // patch[1]) > MAX_PATCHES
    larger = (height + patch[0], width + patch[1]) if many else (2 * height, 2 * width)
    others = [(rows, columns), larger, (rows, width), (height, columns)]
    return [native] if fixed else [native, *others]


def pixels_of(size: tuple[int, int], channels: int) -> torch.Tensor:
    """Compute a fixed image of about unit variance, float32 (1, channels, height, width)."""
    c, y, x = np.meshgrid(*map(np.arange, (channels, *size)), indexing="ij")
    values = ((3 * y + 5 * x + (y * x) // 7 + 60 * c) % 256) / 63.75 - 2
    return torch.from_numpy(values.astype(np.float32))[None]


def fixed_images(channels: int) -> Iterator[tuple[Any, Image.Image]]:
    """Yield images as they are brought, with what everybody means by them: upright, on white, in colour.

    For a model of one channel they are grey.

    Modes, EXIF orientations and odd sizes take turns; content is arithmetic.
    """
    for number in range(NUM_IMAGES):
        height, width = 90 + 37 * number % 211, 61 + 53 * number % 307
        y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(4), indexing="ij")
        values = (128 + 90 * np.sin(x / (5 + number) + c) + 37 * np.cos(y * (c + 1) / 9 + number)).clip(0, 255)
        mode = ("RGB", "L", "RGBA", "RGB")[number % 4]
        image = Image.fromarray(values.astype(np.uint8)[..., : len(mode)].squeeze(-1 if mode == "L" else ()))
        stream, exif = BytesIO(), Image.Exif()
        exif[0x0112] = 1 + number % 8
        image.save(stream, "PNG", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(BytesIO(stream.getvalue()))).convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        yield (
            stream.getvalue(),
            Image.alpha_composite(white, upright).convert("RGB").convert("L" if channels == 1 else "RGB"),
        )


# --- the original, opened with its library ---


def open_original(request: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Open the model of a foreign checkpoint with its own library, in evaluation mode."""
    model = {"transformers": _open_transformers, "timm": _open_timm, "open_clip": _open_open_clip}[request["library"]](
        request
    )
    return model.to(dtype).eval()


def _open_transformers(request: dict[str, Any]) -> Any:
    model_class = getattr(transformers, request["architecture"] or "AutoModel")
    # Never asked on the terminal: False is False.
    trust = {"trust_remote_code": request["trust_remote_code"]}
    return model_class.from_pretrained(request["source"], dtype=torch.float32, **trust)


def _open_timm(request: dict[str, Any]) -> Any:
    import timm

    config = request["config"]
    options = {**config["model_args"], **request["options"], "dynamic_img_size": True}
    model = timm.create_model(config["architecture"], pretrained=False, **options)
    timm.models.load_checkpoint(model, request["weights"], strict=True, filter_fn=None)
    return model


def _open_open_clip(request: dict[str, Any]) -> Any:
    import open_clip

    model = open_clip.create_model(f"local-dir:{request['source']}", precision="fp32")
    if request["whole"]:
        return model
    return getattr(model.visual, "trunk", model.visual)  # a trunk is a model of timm, with a projection behind it


@torch.inference_mode()
def original_outputs(model: Any, pixels: torch.Tensor, ids: torch.Tensor | None, whole: bool = True) -> Outputs:
    """Return what the original computes, as `our_outputs` names it; `whole` is False for its encoder alone."""
    if hasattr(model, "get_logits"):
        return {"logits_per_image": model.get_logits(pixels, ids)[0]}
    if hasattr(model, "ln_post"):
        return _open_clip_tower_outputs(model, pixels)
    if hasattr(model, "forward_features"):
        tokens = model.forward_features(pixels)
        head = {"logits": model.forward_head(tokens)} if whole and model.num_classes else {}
        pooled = (
            {"pooled": model.attn_pool(tokens[:, model.num_prefix_tokens :])} if model.attn_pool is not None else {}
        )
        return {"tokens": tokens, **pooled, **head}
    options: dict[str, Any] = {"interpolate_pos_encoding": True}
    if model.config.model_type in ALWAYS_INTERPOLATE:
        options = {}
    if ids is not None:
        return {"logits_per_image": model(pixel_values=pixels, input_ids=ids, **options).logits_per_image}
    return _encoder_outputs(model, pixels, options, whole)


def _open_clip_tower_outputs(tower: Any, pixels: torch.Tensor) -> Outputs:
    # Called, it returns what it projected alone, for which an encoder has no place.
    options = {"normalize_intermediates": True, "output_fmt": "NLC", "output_extra_tokens": True}
    found = tower.forward_intermediates(pixels, indices=1, intermediates_only=True, **options)
    parts = [found[name][-1] for name in ("image_intermediates_prefix", "image_intermediates")]
    return {"tokens": torch.cat(parts, dim=1)}


def _encoder_outputs(model: Any, pixels: torch.Tensor, options: dict[str, Any], whole: bool) -> Outputs:
    kind, tower = model.config.model_type, getattr(model, "vision_model", model.base_model)
    if kind == "vit_mae":
        tower.config.mask_ratio = 0.0
        patch = tower.config.patch_size
        count = (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        # Patches would come in random order otherwise.
        options["noise"] = torch.arange(count).float().expand(len(pixels), -1)
    output = tower(pixels, **options)
    has_logits = whole and hasattr(model, "classifier")
    found = {"tokens": output.last_hidden_state}
    if hasattr(tower, "post_layernorm") and kind.startswith("clip") and not has_logits:
        found = {"tokens": tower.post_layernorm(output.last_hidden_state), "pooled": output.pooler_output}
    elif kind.startswith("siglip") and not has_logits and output.pooler_output is not None:
        found["pooled"] = output.pooler_output
    return found | ({"logits": model(pixels, **options).logits} if has_logits else {})


def original_ids(request: dict[str, Any]) -> torch.Tensor | None:
    """Return the token ids of `TEXTS` by the original's tokenizer, None where there are no texts."""
    if not request["texts"]:
        return None
    if request["library"] == "open_clip":
        import open_clip

        return open_clip.get_tokenizer(f"local-dir:{request['source']}")(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["source"])
    fixed = request["fixed_text_length"]
    options = {"padding": "max_length", "max_length": fixed, "truncation": True} if fixed else {"padding": True}
    return tokenizer(TEXTS, return_tensors="pt", **options)["input_ids"]


def original_transform(request: dict[str, Any]) -> tuple[Callable[[Image.Image], torch.Tensor], str]:
    """Return how the original turns an upright image into pixels (channels, height, width), and which of
    `BACKENDS` it resizes with.
    """
    if request["library"] == "timm":
        import timm

        settings = timm.data.resolve_data_config({}, pretrained_cfg=request["config"]["pretrained_cfg"])
        return timm.data.create_transform(**settings, is_training=False), "pil"
    if request["library"] == "open_clip":
        import open_clip

        return open_clip.create_model_and_transforms(f"local-dir:{request['source']}", precision="fp32")[2], "pil"
    processor = transformers.AutoImageProcessor.from_pretrained(request["source"])
    backend = "torchvision" if isinstance(processor, TorchvisionBackend) else "pil"
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0], backend


# --- ours ---


@torch.inference_mode()
def our_outputs(model: Any, pixels: torch.Tensor, ids: torch.Tensor | None) -> Outputs:
    """Return tokens and pooled vector of an encoder, also logits of a classifier, or a retrieval model's logits."""
    if ids is not None:
        return {"logits_per_image": model(pixel_values=pixels, input_ids=ids).logits_per_image}
    output = model.base_model(pixels)
    found = {"tokens": output.last_hidden_state, "pooled": output.pooler_output}
    return found if model.base_model is model else found | {"logits": model(pixels).logits}


def difference(theirs: Outputs, ours: Outputs) -> float:
    """Return the largest difference of any output of the original, relative to its size where that exceeds 1."""
    found = [0.0]
    for name, expected in theirs.items():
        same = name in ours and ours[name].shape == expected.shape
        size = float((ours[name].double() - expected.double()).abs().max()) if same else float("inf")
        found.append(size / max(1.0, float(expected.abs().max())))
    return max(found) if all(value == value for value in found) else float("inf")


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Compare at each size; return the largest difference, those of pixels, and whether ids agree."""
    ids = original_ids(request)
    model = open_original(request)
    theirs = [
        original_outputs(model, pixels_of(size, request["channels"]), ids, request["whole"])
        for size in map(tuple, request["sizes"])
    ]
    del model
    gc.collect()
    options = {"trust_remote_code": True}
    auto_class = getattr(transformers, request["auto_class"])
    ours = auto_class.from_pretrained(request["ours"], dtype=torch.float32, **options).eval()
    texts: Any = {"input_ids": None}
    if ids is not None:
        processor = transformers.AutoProcessor.from_pretrained(request["ours"], **options)
        texts = processor(text=TEXTS, return_tensors="pt", padding=True)
    found = [
        our_outputs(ours, pixels_of(size, request["channels"]), texts["input_ids"])
        for size in map(tuple, request["sizes"])
    ]
    return {
        "differences": [difference(*pair) for pair in zip(theirs, found, strict=True)],
        "ids_equal": ids is None or same_ids(ids, texts),
        "pixels": pixel_differences(request) if request["pixels"] else None,
    }


def same_ids(theirs: torch.Tensor, ours: dict[str, torch.Tensor]) -> bool:
    """Return whether texts have the same ids, up to padding that ours masks."""
    ids = ours["input_ids"]
    if torch.equal(theirs, ids):
        return True
    mask = ours["text_attention_mask"] if "text_attention_mask" in ours else ours["attention_mask"]
    rows = zip(theirs, ids, mask.sum(1).tolist(), strict=True)
    return all(torch.equal(a[:end], b[:end]) and len(a[end:].unique()) <= 1 for a, b, end in rows)


def our_processors(folder: str) -> dict[str, Any]:
    """Return our image processor with each of `BACKENDS`."""
    options = {"trust_remote_code": True}
    return {
        backend: transformers.AutoImageProcessor.from_pretrained(folder, backend=backend, **options)
        for backend in BACKENDS
    }


def pixel_differences(request: dict[str, Any]) -> dict[str, Any]:
    """Compare the image processors on twenty images.

    Returns:
        Which of `BACKENDS` the original resizes with, and for each of ours the largest difference to it in levels of
        0 to 255, and the share of values that are more than one level off.
    """
    transform, backend = original_transform(request)
    images = [(brought, transform(meant)) for brought, meant in fixed_images(request["channels"])]
    found: dict[str, Any] = {"backend": backend, "grey_levels": {}, "strayed": {}}
    for name, processor in our_processors(request["ours"]).items():
        level = processor.rescale_factor if processor.do_rescale else 1 / 255
        scale = torch.tensor(processor.image_std if processor.do_normalize else [1.0]).reshape(-1, 1, 1) / level
        levels, strayed = 0.0, 0.0
        for brought, theirs in images:
            ours = processor(brought, return_tensors="pt")["pixel_values"][0]
            if ours.shape != theirs.shape:
                levels, strayed = float("inf"), 1.0
                break
            off = (ours - theirs).abs() * scale
            levels = max(levels, float(off.max()))
            strayed += float((off > 1.01).double().mean()) / NUM_IMAGES
        found["grey_levels"][name], found["strayed"][name] = levels, strayed
    return found


def main() -> None:
    """Read the request from the first argument, write the answer to the second."""
    request_file, answer_file = map(Path, sys.argv[1:])
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # impossible to import, installed or not
    sys.addaudithook(refuse_network)
    answer = compare(json.loads(request_file.read_text(encoding="utf-8")))
    answer_file.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
