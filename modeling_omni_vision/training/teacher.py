"""Teachers: any vision model as one function from images to an image vector, patch tokens and logits.

| kind | vector | tokens | logits |
|---|---|---|---|
| transformers | pooled output, CLS or mean | patches or feature map | of a classifier |
| timm (folder, or `timm:NAME`) | before the head | `forward_features` | of a classifier |
| open_clip folder | projected | patches | - |
| sentence_transformers | `sentence_embedding` | - | - |
| exported (`omni-vision export`) | pooled output, else logits | where the file has them | of a classifier |
| object | what it returns: a tensor, or `TeacherOutput` | | |
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image as PilImage
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from ..embedding.vision_encoder import RANDOM, classifies, own_vectors, refuse_other_inputs, tower_of
from ..interop.source import find_library
from ..interop.vision_tower import load_vision_tower, without_load_report
from ..records.weights_digest import weights_digest


logger = logging.getLogger(__name__)

BATCH, BATCH_ON_GPU = 16, 256
HALF = [0.5, 0.5, 0.5]


class TeacherOutput(NamedTuple):
    """What a teacher says about images: vectors (B, D), tokens (B, rows, columns, E), logits (B, classes)."""

    vectors: torch.Tensor
    tokens: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Teacher:
    """A function from normalised images to `TeacherOutput`, with how images are prepared for it.

    Args:
        name: For records.
        model: Called with `pixel_values` (B, 3, H, W) in float32.
        size: Side of the square images that it takes.
        mean: Of each channel, in 0..1.
        std: Likewise.
        folder: Folder with a text tower, of a CLIP-like teacher.
    """

    def __init__(
        self,
        name: str,
        model: Callable[[torch.Tensor], Any],
        size: int,
        mean: list[float],
        std: list[float],
        folder: str | None = None,
    ) -> None:
        self.name, self.model, self.size, self.folder = name, model, size, folder
        self._fastest: Teacher | None = None
        self.device = torch.device("cpu")
        self.mean, self.std = (torch.tensor(value).view(1, 3, 1, 1) for value in (mean, std))
        if isinstance(model, nn.Module):
            model.eval().requires_grad_(False)

    @property
    def parameters(self) -> int | None:
        """Number of parameters, None where the teacher holds none that can be counted."""
        own = sum(one.numel() for one in self.model.parameters()) if isinstance(self.model, nn.Module) else 0
        return own or None

    @cached_property
    def digest(self) -> str:
        """Digest of the weights, or the name of a function without any."""
        return weights_digest(self.model) if isinstance(self.model, nn.Module) else self.name

    @property
    def batch(self) -> int:
        """Images to ask about at once."""
        return BATCH if self.device.type == "cpu" else BATCH_ON_GPU

    def to(self, device: torch.device) -> "Teacher":
        """Move a teacher that has weights in torch to a device; any other stays on the CPU. Returns this object.

        It computes in float32 everywhere: only convolutions on an Nvidia GPU round their inputs to TF32, torch's
        default, which is as exact as the 16 bits in which outputs are kept.
        """
        if isinstance(self.model, nn.Module) and self.parameters and device != self.device:
            self.model.to(device)
            self.device, self._fastest = device, None
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> TeacherOutput:
        """Return what the teacher says about images (B, 3, H, W) in uint8; H and W may be of another size."""
        images = images.to(self.device, non_blocking=True)
        if images.shape[2:] != (self.size, self.size):
            from torchvision.transforms.v2 import functional

            images = functional.resize(images, [self.size, self.size], antialias=True)
        found = self.model((images.float() / 255 - self.mean) / self.std)
        found = found if isinstance(found, TeacherOutput) else TeacherOutput(found)
        if found.vectors.ndim != 2 or len(found.vectors) != len(images):
            raise ValueError(f"A teacher must return vectors (images, D), got {tuple(found.vectors.shape)}.")
        return found

    def fastest(self, threads: int | None = None) -> "Teacher":
        """Return the same teacher in OpenVINO where that is installed, can run it, and agrees; else itself."""
        if self._fastest is None:
            self._fastest = self
            is_module = isinstance(self.model, nn.Module) and self.device.type == "cpu"
            if is_module and importlib.util.find_spec("openvino"):
                self._fastest = _in_openvino(self, threads) or self
        return self._fastest


def check_finite(name: str, found: TeacherOutput) -> None:
    """Raise a `ValueError` for vectors that are no numbers."""
    if not found.vectors.isfinite().all():
        raise ValueError(f"A teacher must return numbers, got NaN or infinity from {name}. Its weights are broken.")


def _in_openvino(teacher: Teacher, threads: int | None) -> Teacher | None:
    import openvino

    class Tensors(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            found = teacher.model(pixel_values)
            found = found if isinstance(found, TeacherOutput) else TeacherOutput(found)
            return {name: value for name, value in found._asdict().items() if value is not None}

    # Compared on other images than it was traced with: what leaves torch would be a constant of these.
    generator = torch.Generator().manual_seed(0)
    draws, others = (torch.randn(BATCH, 3, teacher.size, teacher.size, generator=generator) for _ in range(2))
    try:
        with warnings.catch_warnings(), without_load_report(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of torch's tracer
            names = list(Tensors()(draws))
            graph = openvino.convert_model(Tensors(), example_input=draws, input=[list(draws.shape)])
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        options |= {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    except Exception as error:  # a runtime that cannot open this model is not used
        logger.info("OpenVINO cannot run %s: %s", teacher.name, " ".join(str(error).split())[:200])
        return None

    def run(pixel_values: torch.Tensor) -> TeacherOutput:
        """Run in batches of the one size that the graph has; a training step asks about more images at once."""
        parts = [part(one) for one in pixel_values.split(BATCH)]
        return TeacherOutput(**{name: torch.cat([getattr(one, name) for one in parts]) for name in names})

    def part(pixel_values: torch.Tensor) -> TeacherOutput:
        count = len(pixel_values)
        if count < BATCH:
            pixel_values = torch.cat((pixel_values, pixel_values[:1].expand(BATCH - count, -1, -1, -1)))
        outputs = request.infer([pixel_values.numpy()], share_inputs=True)
        found = [torch.from_numpy(outputs[number].copy())[:count].float() for number in range(len(names))]
        return TeacherOutput(**dict(zip(names, found, strict=True)))

    with torch.inference_mode():
        expected = teacher.model(others)
    expected = expected if isinstance(expected, TeacherOutput) else TeacherOutput(expected)
    check_finite(teacher.name, expected)
    pairs = zip(run(others), expected, strict=True)
    close = all(
        torch.allclose(one, other, atol=1e-2 * float(other.abs().max()))
        for one, other in pairs
        if one is not None and other is not None
    )
    if not close:
        logger.warning("OpenVINO gives other vectors of %s than torch: torch is used.", teacher.name)
        return None
    twin = Teacher(teacher.name, run, teacher.size, [0.0] * 3, [1.0] * 3)
    twin.mean, twin.std = teacher.mean, teacher.std
    return twin


def load_teacher(name: str | Any, kind: str = "auto", trust_remote_code: bool = False, size: int = 224) -> Teacher:
    """Open a teacher.

    Args:
        name: Folder or Hub id; a `Teacher`; or a function from (B, 3, `size`, `size`), normalised by 0.5, to vectors.
        kind: Library, `auto` for what the files of the folder say.
        trust_remote_code: Run the code that comes with a checkpoint.
        size: Side of the images of a function.

    Raises:
        ValueError: for a name that no library opens.
    """
    if isinstance(name, Teacher):
        return name
    if not isinstance(name, (str, Path)):
        return Teacher(type(name).__name__, name, size, HALF, HALF)
    kind = _kind(str(name)) if kind == "auto" else kind
    openers: dict[str, Callable[[str, bool], Teacher]] = {
        "transformers": _transformers,
        "timm": _timm,
        "open_clip": _open_clip,
        "sentence_transformers": _sentence_transformers,
        "exported": _exported,
    }
    try:
        return openers[kind](str(name), trust_remote_code)
    except (OSError, KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"Expected a teacher that {kind} opens, got {str(name)!r} ({' '.join(str(error).split())[:200]}). Name "
            "another, or set --teacher_kind."
        ) from error


def _kind(name: str) -> str:
    folder = Path(name)
    if name.startswith("timm:"):
        return "timm"
    if (folder / "export.json").is_file():
        return "exported"
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if (folder / "modules.json").is_file():
        return "sentence_transformers"
    config = folder / "config.json"
    if config.is_file() and find_library(folder) == "timm":
        return "timm"
    return "transformers"


def _grid(tokens: torch.Tensor, side: int) -> torch.Tensor | None:
    """Return patch tokens (B, rows, columns, E) of a square grid, out of tokens with a prefix, or a feature map."""
    if tokens.ndim == 4:
        return tokens.permute(0, 2, 3, 1)
    # Without a number of patches, or with fewer tokens than patches, which are merged, all tokens are the grid.
    found = int(tokens.shape[1])  # a tensor while it is traced
    count = side * side if 0 < side * side <= found else found
    root = round(count**0.5)
    if root * root != count or count < 4:
        return None
    return tokens[:, found - count :].unflatten(1, (root, root))


class _OfTransformers(nn.Module):
    def __init__(self, model: Any, size: int, order: list[int], classifies: bool) -> None:
        super().__init__()
        self.model, self.order, self.classifies = model, order, classifies
        own, parts = model.config, getattr(model.config, "vision_config", None)
        patch = getattr(own, "patch_size", None) or getattr(parts, "patch_size", None)
        self.side = size // patch if isinstance(patch, int) else 0

    def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
        model, logits = self.model, None
        if self.order != [0, 1, 2]:
            pixel_values = pixel_values[:, self.order]
        if hasattr(model, "get_image_features"):
            found, output = _with_output_of(model.vision_model, model.get_image_features, pixel_values)
            vectors = getattr(found, "pooler_output", found)
        else:
            tower = tower_of(model.base_model) if self.classifies else model
            found, output = _with_output_of(tower, model, pixel_values)
            logits = found.logits if self.classifies else None
            vectors = own_vectors(tower, output, pixel_values)
        tokens = getattr(output, "last_hidden_state", None)
        return TeacherOutput(vectors.flatten(1), None if tokens is None else _grid(tokens, self.side), logits)


def _with_output_of(tower: Any, model: Callable[..., Any], pixel_values: torch.Tensor) -> tuple[Any, Any]:
    """Return what a model says, and what the tower in it said on the way: the tower is most of the work."""
    kept: list[Any] = []
    with tower.register_forward_hook(lambda *event: kept.append(event[2])):
        found = model(pixel_values=pixel_values)
    # Some heads call parts of the tower and not the tower, or take a tuple of it.
    output = kept[-1] if kept and hasattr(kept[-1], "last_hidden_state") else tower(pixel_values=pixel_values)
    return found, output


def _transformers(name: str, trust_remote_code: bool) -> Teacher:
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    with_head = classifies(config)
    kind: Any = AutoModelForImageClassification if with_head else AutoModel
    if config.model_type in RANDOM:
        model: Any = load_vision_tower(name, dtype=torch.float32)
    else:
        with without_load_report():
            model = kind.from_pretrained(name, trust_remote_code=trust_remote_code, dtype=torch.float32)
    is_clip = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not is_clip and not with_head:
        model = tower_of(model)
    if not is_clip:
        refuse_other_inputs(model)
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    size, mean, std, order = _preparation(processor)
    is_timm = config.model_type == "timm_wrapper"
    teacher = _OfTimm(model.timm_model) if is_timm else _OfTransformers(model, size, order, with_head)
    return Teacher(name, teacher, size, mean, std, name if is_clip else None)


def _preparation(processor: Any) -> tuple[int, list[float], list[float], list[int]]:
    """Return side, mean and std of an image processor, and the channel that stands in each place, such as 2, 1, 0.

    It is asked with images of one colour: fields differ between processors, and some turn channels round.
    """
    size = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(size or getattr(processor, "size", None) or {})
    side = size.get("height") or size.get("shortest_edge") or 224
    colours = torch.stack([_prepared(processor, side, colour) for colour in ("black", "white", "red", "lime", "blue")])
    black, white = colours[:2].mean((2, 3))
    scale = white - black
    parts = (colours[2:].mean((2, 3)) - black) / scale  # of red, green and blue in each place
    order = parts.argmax(0).tolist()
    if len(black) == 1:  # grey
        black, scale, order = black.repeat(3), scale.repeat(3), [0, 1, 2]
    elif not torch.allclose(parts, torch.eye(3)[:, order], atol=0.01):
        raise ValueError(
            f"Expected a teacher whose {type(processor).__name__} scales red, green and blue, got one that mixes "
            "them. Name another."
        )
    mean, std = torch.empty(3), torch.empty(3)
    mean[order], std[order] = -black / scale, 1 / scale
    return (
        colours.shape[-1],
        *([float(f"{value:.6g}") for value in one.tolist()] for one in (mean, std)),
        order,
    )


def _prepared(processor: Any, side: int, colour: str) -> torch.Tensor:
    """Return what an image processor makes (C, H, W) of a square image of one colour."""
    found = processor(images=[PilImage.new("RGB", (side, side), colour)], return_tensors="pt")["pixel_values"][0]
    if found.ndim != 3 or found.shape[1] != found.shape[2]:
        raise ValueError(
            f"Expected a teacher whose {type(processor).__name__} makes square images (channels, side, side), got "
            f"{tuple(found.shape)}. Name another."
        )
    return found.float()


class _OfTimm(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
        features = self.model.forward_features(pixel_values)
        vectors = self.model.forward_head(features, pre_logits=True)
        logits = self.model.forward_head(features) if self.model.num_classes else None
        if features.ndim == 4 and features.shape[1] != self.model.num_features:
            features = features.permute(0, 3, 1, 2)  # channels last, as Swin's
        prefix = getattr(self.model, "num_prefix_tokens", 0) if features.ndim == 3 else 0
        return TeacherOutput(vectors.flatten(1), _grid(features[:, prefix:], 0), logits)


def _timm(name: str, trust_remote_code: bool) -> Teacher:
    import timm

    name = name.removeprefix("timm:")
    place = f"local-dir:{Path(name).absolute()}" if Path(name).is_dir() else name
    model = timm.create_model(place, pretrained=True)
    settings = timm.data.resolve_data_config({}, model=model)
    return Teacher(name, _OfTimm(model), settings["input_size"][-1], list(settings["mean"]), list(settings["std"]))


def _open_clip(name: str, trust_remote_code: bool) -> Teacher:
    from ..interop.source import read_source
    from ..interop.source_processor import source_image_processor

    converted = read_source(name)
    model: Any = converted.model("float32")
    processor = source_image_processor(converted)
    size = model.config.vision_config.image_size_hw[0]
    mean, std = (HALF, HALF) if processor is None else (list(processor.image_mean), list(processor.image_std))
    return Teacher(name, _OfRetrieval(model), size, mean, std, name)


class _OfRetrieval(nn.Module):
    """An `OmniVisionForRetrieval`, which open_clip's models become exactly."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
        output = self.model.vision_model(pixel_values)
        vectors = self.model.get_image_features(pixel_values=pixel_values)
        return TeacherOutput(getattr(vectors, "pooler_output", vectors), _grid(output.grid, 0))


def _sentence_transformers(name: str, trust_remote_code: bool) -> Teacher:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name, trust_remote_code=trust_remote_code, device="cpu")

    class OfSentenceTransformers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            # Its own processor prepares them: back to images in 8 bits.
            arrays = (pixel_values * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            images: Any = [PilImage.fromarray(one) for one in arrays]
            return self.model.encode(images, convert_to_tensor=True, show_progress_bar=False).float()

    return Teacher(name, OfSentenceTransformers(), 224, [0.0] * 3, [1.0] * 3)


def _exported(name: str, trust_remote_code: bool) -> Teacher:
    from ..interop.export.exported import load_exported

    model = load_exported(name)
    size, mean, std, _ = _preparation(model.processor)

    class OfExported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
            output = self.model(pixel_values=pixel_values)
            tokens = output.get("grid", output.get("last_hidden_state"))
            vectors = output.get("pooler_output", output.get("image_embeds", output.get("logits")))
            return TeacherOutput(
                vectors.flatten(1), None if tokens is None else _grid(tokens, 0), output.get("logits")
            )

    return Teacher(name, OfExported(), size, mean, std)


__all__ = ["Teacher", "TeacherOutput", "load_teacher"]
