"""Load a checkpoint folder without this package and compute what its proof holds.

This file runs in a process of its own, by path and with `python -I`, so it imports nothing of ours. There our package
cannot be imported, the Hub is offline and its cache empty, the network is refused and the current directory is empty.
`open_in_clean_process` in `proof.py` starts it; `outputs_of_folder` also runs in our own process, with our classes.

Unusual: inputs are arithmetic, not random numbers, so that every version of every library computes the same.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, PretrainedConfig


PACKAGE = "modeling_omni_vision"
# Models of several parts by `model_type`; every other one is an encoder or a classifier, ours or stock: "vision".
KINDS = {"omni_vision_retrieval": "retrieval", "omni_vision_language": "language", "omni_vision_vae": "vae"}
WITH_TEXT = ("retrieval", "language")  # which have a tokenizer beside the image processor
# The Auto class whose outputs are proven, and the one that pipelines use. By name: an older transformers lacks some.
AUTO_CLASSES = {
    "retrieval": ("AutoModel", "AutoModelForZeroShotImageClassification"),
    "language": ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"),
}
NUM_IMAGES = 2
# Not square and not the native size: resizing is part of what is proven.
IMAGE_SIZE = (45, 60)
RECIPE = (
    "value(n, y, x, c) = (40 * n + 3 * y + 5 * x + (y * x) // 7 + 60 * c) % 256 for image n, row y, column x, "
    f"channel c; {NUM_IMAGES} images; the processor gets them as 8-bit images of {IMAGE_SIZE} pixels, the "
    "model as value / 127.5 - 1 at its native size, in float32 on the CPU"
)
TEXTS = ["This is a red circle and a blue square", "A green triangle"]
QUESTION = "What is it?"
RECIPES = {
    "vision": RECIPE,
    "retrieval": f"{RECIPE}; texts, padded by the processor: {TEXTS!r}",
    "language": f"{RECIPE}; a user asks the shortest question that the processor learned, or {QUESTION!r}, in the "
    "chat template, about each image and about none",
    "vae": f"{RECIPE}; latent vectors to decode are ((3 * n + 5 * i) % 17) / 8 - 1 for vector n, number i",
}


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: refuse to look up names or to connect."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise OSError(f"the network is not to be used here: {event} {arguments[1:]!r}")


def fixed_images(num_channels: int, size: tuple[int, int]) -> np.ndarray:
    """Compute the images of `RECIPE`: uint8 of shape (images, height, width, channels)."""
    n, y, x, c = np.meshgrid(*map(np.arange, (NUM_IMAGES, *size, num_channels)), indexing="ij")
    return ((40 * n + 3 * y + 5 * x + (y * x) // 7 + 60 * c) % 256).astype(np.uint8)


def pixels_for_model(config: PretrainedConfig) -> torch.Tensor:
    """Scale the fixed images to float32 (images, channels, height, width) of a model's native size."""
    size = (config.image_size, config.image_size) if isinstance(config.image_size, int) else tuple(config.image_size)
    return torch.from_numpy(fixed_images(config.num_channels, size)).permute(0, 3, 1, 2).float() / 127.5 - 1


def images_for_processor(num_channels: int) -> list[Any]:
    """Wrap the fixed images as people pass them: PIL for grey and colour, arrays for other channel counts."""
    drawn = fixed_images(num_channels, IMAGE_SIZE)
    if num_channels in (1, 3):
        return [Image.fromarray(image.squeeze(-1) if num_channels == 1 else image) for image in drawn]
    return list(drawn)


def outputs_of_folder(folder: str | Path, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    """Load a folder through the Auto classes and run it on the fixed images.

    Returns:
        Tensors of float32: what the model computes, see `encoder_outputs`, `retrieval_outputs`, `language_outputs`,
        `vae_outputs`, and the pixels (images, channels, height, width) of each image processor backend. Token ids are
        integers.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    outputs = outputs_of_model(folder, auto_classes(config)[0], trust_remote_code)
    drawn = images_for_processor(vision_of(config).num_channels)
    for backend in ("pil", "torchvision"):
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=trust_remote_code)
        outputs[f"pixel_values_{backend}"] = processor(drawn, return_tensors="pt")["pixel_values"].float()
    return {name: output.contiguous() for name, output in outputs.items()}


def auto_classes(config: Any) -> tuple[str, str]:
    """Name the Auto class whose outputs are proven, and the other one of the folder, which pipelines or users open."""
    if any("ForImageClassification" in name for name in config.architectures or ()):
        return "AutoModelForImageClassification", "AutoModel"
    if any("ForMaskedImageModeling" in name for name in config.architectures or ()):
        return "AutoModelForMaskedImageModeling", "AutoModel"
    return AUTO_CLASSES.get(KINDS.get(config.model_type, ""), ("AutoModel", "AutoModel"))


@torch.inference_mode()
def outputs_of_model(folder: str | Path, auto_class: str, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    """Load the model of a folder by an Auto class and compute its outputs."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    model = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32, **options).eval()
    kind = KINDS.get(model.config.model_type)
    if kind not in WITH_TEXT:
        return encoder_outputs(model) if kind is None else vae_outputs(model)
    processor = transformers.AutoProcessor.from_pretrained(folder, **options)
    return (retrieval_outputs if kind == "retrieval" else language_outputs)(model, processor)


def vision_of(config: Any) -> Any:
    """Return the configuration of the vision tower, which an encoder is itself."""
    return config.vision_config if config.model_type in KINDS else config


def encoder_outputs(model: Any) -> dict[str, torch.Tensor]:
    """Compute `last_hidden_state` (images, tokens, hidden) and for a classifier `logits` (images, labels).

    For a model of masked images `reconstruction` (images, channels, height, width), with every second patch masked.
    """
    pixels = pixels_for_model(model.config)
    outputs = {"last_hidden_state": model.base_model(pixels).last_hidden_state}
    if model.base_model is model:
        return outputs
    if "ForMaskedImageModeling" in type(model).__name__:
        masks = torch.arange(model.config.num_patches).remainder(2).expand(len(pixels), -1)
        return outputs | {"reconstruction": model(pixels, bool_masked_pos=masks).reconstruction}
    return outputs | {"logits": model(pixels).logits}


def vae_outputs(model: Any) -> dict[str, torch.Tensor]:
    """Compute the latent distributions of images, their losses, their reconstructions, and images of fixed vectors."""
    found = model(pixels_for_model(vision_of(model.config)))
    n, i = np.meshgrid(np.arange(NUM_IMAGES), np.arange(model.config.latent_size), indexing="ij")
    decoded = model.decode(torch.from_numpy(((3 * n + 5 * i) % 17) / 8 - 1).float())
    names = ("latent_mean", "latent_log_variance", "reconstruction_loss", "kl_divergence", "reconstruction")
    return {"decoded": decoded, **{name: found[name] for name in names}}


def retrieval_outputs(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    """Compute vectors of patches, words, whole images and texts, `logits_per_image`, and the `input_ids` of texts."""
    texts = processor(text=TEXTS, padding=True, return_tensors="pt")
    pixels = pixels_for_model(vision_of(model.config))
    both = model(pixel_values=pixels, **texts)
    return {
        "patch_embeds": model(pixel_values=pixels).embeddings,
        "word_embeds": model(**texts).embeddings,
        "image_embeds": both.image_embeds,
        "text_embeds": both.text_embeds,
        "logits_per_image": both.logits_per_image,
        "input_ids": texts["input_ids"],
    }


def example_question(learned: dict[str, Any] | None) -> str:
    """Return a question that a model can be asked: the shortest example that it learned, if any."""
    return min(learned["examples"], key=len) if learned else QUESTION


def language_outputs(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    """Compute logits (prompts, length, vocabulary) of a question with each image and without, and `input_ids`."""
    vision, question = vision_of(model.config), example_question(getattr(processor, "learned_questions", None))
    outputs = {}
    for name, images in (("with_image", images_for_processor(vision.num_channels)), ("text_only", [])):
        content = [*([{"type": "image"}] if images else []), {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[prompt] * max(len(images), 1), images=images or None, return_tensors="pt")
        pixels = {"pixel_values": pixels_for_model(vision)} if images else {}
        tokens = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        outputs[f"logits_{name}"] = model(**tokens, **pixels).logits
        outputs[f"input_ids_{name}"] = inputs["input_ids"]
    return outputs


def main() -> None:
    """Load the folder named by the first argument, write its outputs to the second; the third allows its code."""
    folder, answer, trusted = sys.argv[1:]
    trust = trusted == "trust"
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # impossible to import, installed or not
    sys.addaudithook(refuse_network)
    outputs = outputs_of_folder(folder, trust)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    again = outputs_of_model(folder, auto_classes(config)[1], trust)
    if not all(torch.equal(outputs[name], output) for name, output in again.items()):
        raise SystemExit("Two Auto classes of this folder do not compute the same: AutoModel and that of its task")
    torch.save(outputs, answer)


__all__ = ["KINDS", "PACKAGE", "RECIPES", "WITH_TEXT", "outputs_of_folder"]


if __name__ == "__main__":
    main()
