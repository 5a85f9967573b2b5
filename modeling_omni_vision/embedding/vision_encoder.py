"""Any vision model of transformers as one function from `pixel_values` to vectors, in torch, OpenVINO or ONNX Runtime.

`pool` decides what the vector of an image is: `cls`, the model's own pooled output, without one CLS, without that the
mean of its patches; `mean`, the mean of its patches; `grid`, its patches. Registers and other prefix tokens are not
patches. A folder that `omni-vision export` wrote runs in the runtime that it was made for.
"""

import copy
import functools
import importlib.util
import inspect
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..interop.export.exported import is_exported, load_exported
from ..interop.export.files import write_onnx
from ..interop.export.runtimes import OnnxSession, OpenVinoSession, Session
from ..interop.export.towers import ENCODER, TowerModule
from ..interop.vision_tower import PREFIXES, load_vision_tower, without_load_report
from ..interop.weights_file import local_folder
from ..records.machine import has_bf16_instructions
from ..records.nearest import nearest
from ..records.weights_digest import weights_digest
from .pixels import processed


logger = logging.getLogger(__name__)

POOLS, ENGINES = ("cls", "mean", "grid"), ("auto", "torch", "openvino", "onnx")
DTYPES, WAYS = ("float32", "bfloat16"), ("sdpa", "eager")
NAMED_ENGINES = (
    *(f"torch {way} {dtype}" for way in WAYS for dtype in DTYPES),
    *(f"openvino {dtype}" for dtype in DTYPES),
    "onnx float32",
    *(f"{kind} exported" for kind in ENGINES[1:]),
)
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnxruntime", "onnx", "onnxscript")}
# Model types that in transformers hide patches at random even in eval; as models of ours they see all of them.
RANDOM = ("vit_mae",)
AGREEMENT = 0.9999  # least cosine of an engine with torch in float32
ROUNDS = 3


class Pooled(nn.Module):
    """A vision model whose forward gives vectors: (batch, D), or (batch, patches, D) for `grid`."""

    def __init__(self, model: Any, pool: str, normalize: bool) -> None:
        super().__init__()
        self.model, self.pool, self.normalize = model, pool, normalize
        is_ours = model.config.model_type == "omni_vision" and isinstance(model, PreTrainedModel)
        self.options = {"cls_only": True} if pool == "cls" and is_ours else {}

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        output = self.model(pixel_values=pixel_values, **self.options)
        if self.pool == "cls":
            vectors = own_vectors(self.model, output, pixel_values)
        else:
            vectors = self._patches(output.last_hidden_state, pixel_values)
            vectors = vectors.mean(1) if self.pool == "mean" else vectors
        return nn.functional.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()

    def _patches(self, hidden: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 4:  # a convolutional network: (batch, D, rows, columns)
            return hidden.flatten(2).transpose(1, 2)
        patches = count_patches(self.model, pixel_values)
        # What stands in front of the patches; a model that merges patches has none.
        return hidden[:, hidden.shape[1] - patches :] if 0 < patches < hidden.shape[1] else hidden


def own_vectors(model: Any, output: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return what a model of transformers, without head, makes of each image (batch, D), as `pool` `cls` says.

    A pooler in BERT's way, tanh of a linear layer, is mostly untrained: it counts as none.
    """
    pooled: Any = getattr(output, "pooler_output", None)
    hidden: Any = getattr(output, "last_hidden_state", None)
    has_pooler = model.config.model_type != "vit" and not hasattr(getattr(model, "pooler", None), "dense")
    if pooled is not None and (has_pooler or hidden is None):
        return pooled.flatten(1)
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    has_cls = not 0 < hidden.shape[1] <= count_patches(model, pixel_values)
    return hidden[:, 0] if has_cls else hidden.mean(1)


def count_patches(model: Any, pixel_values: torch.Tensor) -> int:
    """Return the number of patches that a model cuts images into, 0 where its configuration does not say."""
    size = getattr(model.config, "patch_size", None)
    if not size:
        return 0
    rows, columns = (size, size) if isinstance(size, int) else size
    return (pixel_values.shape[-2] // rows) * (pixel_values.shape[-1] // columns)


@dataclass(frozen=True)
class Engine:
    """A runtime by name and what runs in it: `torch` with attention and type, `openvino bfloat16`, `onnx exported`."""

    name: str
    run: Callable[[torch.Tensor], torch.Tensor]


class VisionEncoder:
    """The tower of any vision checkpoint, with its image processor.

    Args:
        checkpoint: Folder or Hub id; or an exported folder.
        pool: `cls`, `mean` or `grid`.
        normalize: Scale vectors to length 1.
        revision: Commit, branch or tag on the Hub.
        trust_remote_code: Run code that comes with a checkpoint; ours needs none.

    Raises:
        ValueError: for a checkpoint that transformers cannot open as a vision model, or another `pool`.
    """

    def __init__(
        self,
        checkpoint: str,
        pool: str = "cls",
        normalize: bool = False,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"`pool` must be one of {', '.join(POOLS)}, got {pool!r}.")
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.exported: str | None = None  # the runtime
        try:
            if is_exported(checkpoint):
                model, self.exported = _load_exported_encoder(checkpoint, pool)
                self.processor = model.processor
            else:
                model = _load_tower(checkpoint, options)
                self.processor = AutoImageProcessor.from_pretrained(checkpoint, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"Expected a vision checkpoint with its image processor, got {checkpoint!r} "
                f"({' '.join(str(error).split())[:300]})."
            ) from error
        self.weights_digest = weights_digest(model)
        self.pooled = Pooled(model, pool, normalize).eval().requires_grad_(False)
        channels: Any = getattr(self.processor, "num_channels", None) or getattr(model.config, "num_channels", 3)
        self.num_channels: int = channels
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def example(self) -> torch.Tensor:
        """One noisy image as `pixel_values` (1, C, H, W)."""
        noise = torch.randint(256, (64, 64, self.num_channels), generator=torch.Generator().manual_seed(0))
        return processed(self.processor, noise.numpy().astype("uint8"))[None]

    @cached_property
    def vector_shape(self) -> list[int]:
        """Shape of what an image becomes: [D] or [patches, D]."""
        return list(self.reference(self.example).shape[1:])

    def reference(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the vectors of torch in float32, or of what was exported."""
        with torch.inference_mode():
            return self.pooled(pixel_values) if self.exported else self._torch("float32", None)(pixel_values)

    def engine(self, name: str, batch_size: int, report: Callable[[str], None]) -> Engine:
        """Return the engine of a name, `auto` for the fastest by a short calibration, which is reported.

        Args:
            name: One of `ENGINES`, or of `NAMED_ENGINES`, as `torch sdpa float32`, which is taken as it is.
            batch_size: Images in one forward.
            report: Called with a line about the calibration.

        Raises:
            ValueError: for an engine that is not installed, or gives other vectors than torch in float32.
        """
        kind, *details = name.split()
        check_engine(name)
        if self.exported:
            if name not in ("auto", self.exported, f"{self.exported} exported"):
                raise ValueError(
                    f"`engine` must be auto or {self.exported}, which this was exported for, got {name!r}."
                )
            return Engine(f"{self.exported} exported", self.reference)
        if details and details[0] not in (*DTYPES, *self._ways()):
            raise ValueError(
                f"`engine` {name!r} is none of {type(self.pooled.model).__name__}: take "
                f"{' or '.join(f'torch {way}' for way in self._ways())} and a type, or auto."
            )
        for package in PACKAGES.get(kind, ()):
            if not importlib.util.find_spec(package):
                raise ImportError(f"{package} is not installed.", name=package)
        names = [name] if details else [kind] if kind in PACKAGES else self._torch_names()
        if kind == "auto" and self.device.type == "cpu":
            # Making an ONNX file takes longer than most runs save by it.
            names += ["openvino"] if importlib.util.find_spec("openvino") else []
        return self._made(names[0], batch_size) if details else self._fastest(names, batch_size, report)

    def _torch_names(self) -> list[str]:
        has_bf16 = self.device.type == "cuda" or has_bf16_instructions()
        dtypes = ("bfloat16", "float32") if has_bf16 else ("float32",)
        return [f"torch {way} {dtype}" for dtype in dtypes for way in self._ways()]

    def _ways(self) -> tuple[str, ...]:
        return WAYS if getattr(self.pooled.model, "_supports_sdpa", False) else ("eager",)

    def _fastest(self, names: list[str], batch_size: int, report: Callable[[str], None]) -> Engine:
        batch, times, engines = self.example.repeat(batch_size, 1, 1, 1), dict[str, float](), dict[str, Engine]()
        expected = self.reference(self.example).flatten()
        for name in names:
            try:
                engine = self._made(name, batch_size)
                found = engine.run(batch)[0].flatten()
            except Exception as error:  # a runtime that cannot open this model is not chosen
                if len(names) == 1:
                    raise
                report(f"engine {name} cannot run this model: {' '.join(str(error).split())[:120]}")
                continue
            cosine = float(nn.functional.cosine_similarity(found, expected, dim=0))
            if cosine < AGREEMENT:
                report(f"engine {name} left out: cosine {cosine:.5f} with torch in float32")
                continue
            engines[engine.name], times[engine.name] = engine, float("inf")
        if not engines:
            raise ValueError(
                f"`engine` {' or '.join(names)} gives other vectors than torch in float32, with a cosine below "
                f"{AGREEMENT}. Take torch."
            )
        for _ in range(ROUNDS):
            for name, engine in engines.items():  # in turn, so that what else the machine does meets all of them
                start = time.process_time()
                engine.run(batch)
                times[name] = min(times[name], time.process_time() - start)
        best = min(times, key=lambda name: times[name])
        said = ", ".join(f"{name} {batch_size / max(seconds, 1e-9):,.0f}" for name, seconds in times.items())
        report(f"engine: {best} (images per CPU second: {said})")
        return engines[best]

    def _made(self, name: str, batch_size: int) -> Engine:
        kind, *details = name.split()
        if kind in PACKAGES:
            precision = details[0] if details else "bfloat16" if has_bf16_instructions() else "float32"
            session = self._openvino(batch_size, precision) if kind == "openvino" else self._onnx(batch_size)
            return Engine(f"{kind} {session.precision()}", functools.partial(_run_session, session))
        attention, dtype = details or (None, "float32")
        return Engine(name, self._torch(dtype, attention))

    def _torch(self, dtype: str, attention: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
        kind = getattr(torch, dtype)
        # A copy: weights that have been bfloat16 are no longer those of float32.
        module = copy.deepcopy(self.pooled).to(self.device)
        if kind != torch.float32:
            # Products alone: with a residual stream in bfloat16, too, the least cosine with float32 was 0.99987.
            for layer in module.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.to(kind)
        if attention:
            module.model.set_attn_implementation(attention)

        @torch.inference_mode()
        def run(pixel_values: torch.Tensor) -> torch.Tensor:
            if self.device.type == "cuda":
                pixel_values = pixel_values.pin_memory().to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=kind != torch.float32):
                return module(pixel_values).cpu()

        return run

    def _openvino(self, batch_size: int, precision: str) -> Session:
        import openvino

        shape = [batch_size, *self.example.shape[1:]]
        with warnings.catch_warnings(), without_load_report(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of torch's tracer
            model = openvino.convert_model(self.pooled, example_input=self.example, input=[shape])
        for port, name in ((model.inputs[0], "pixel_values"), (model.outputs[0], "vectors")):
            port.get_tensor().set_names({name})
        return OpenVinoSession(model, precision=precision)

    def _onnx(self, batch_size: int) -> Session:
        example, module = self.example.repeat(batch_size, 1, 1, 1), copy.deepcopy(self.pooled)
        if hasattr(module.model, "set_attn_implementation"):
            module.model.set_attn_implementation("eager")  # as SDPA the graph has checks for rows without any key
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            tower = TowerModule(module, outputs=("vectors",), inputs=("pixel_values",))
            write_onnx(torch.export.export(module, (example,)), tower, file)
            return OnnxSession(file)


def check_engine(name: str) -> None:
    """Raise a `ValueError` for a name that no engine has, with the nearest."""
    if name in (*ENGINES, *NAMED_ENGINES):
        return
    raise ValueError(
        f"`engine` must be one of {', '.join(ENGINES)}, or what a run stores, as {NAMED_ENGINES[0]!r}, got "
        f"{name!r}{nearest(name, (*NAMED_ENGINES, *ENGINES)) or '.'}"
    )


def _run_session(session: Session, pixel_values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(session({"pixel_values": pixel_values.numpy()})["vectors"]).float()


def _load_exported_encoder(checkpoint: str, pool: str) -> tuple[Any, str]:
    """Open an exported folder; return it with its runtime."""
    model = load_exported(checkpoint)
    if model.record["kind"] != ENCODER:
        raise ValueError(f"an exported {model.record['kind']} does not return its tokens: export an encoder")
    # As above: with a pooler in BERT's way the vector is CLS, one of the tokens.
    needs_tokens = pool != "cls" or getattr(model.config, "pooler_act", "linear") != "linear"
    if needs_tokens and model.record.get("outputs") == "vector":
        raise ValueError(
            f"it was exported with --outputs vector, and --pool {pool} reads tokens: export it with these"
        )
    return model, model.record["format"]


def _load_tower(checkpoint: str, options: dict[str, Any]) -> Any:
    """Load a model in float32 without heads; what else it is made of, such as a text model, is left out."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, **options)
    if config.model_type in (*PREFIXES, *RANDOM):
        return load_vision_tower(local_folder(checkpoint, options["revision"]), dtype=torch.float32)
    # A classifier on one tower of two: as the whole model, it would lack the other.
    is_part = hasattr(config, "vision_config") and classifies(config)
    kind: Any = AutoModelForImageClassification if is_part else AutoModel
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report lists the poolers that are not used
    try:
        model, report = kind.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"it lacks weights of {type(model).__name__}: {missing[:3]}")
    model = tower_of(model)
    refuse_other_inputs(model)
    return model.eval()


def classifies(config: Any) -> bool:
    """Return whether a checkpoint of transformers was saved with a head for classes of images."""
    return any("ForImageClassification" in name for name in config.architectures or ())


def tower_of(model: Any) -> Any:
    """Return the vision tower of a model of several parts, any other model as it is."""
    return getattr(model, "vision_model", getattr(model, "vision_tower", model))


def refuse_other_inputs(model: Any) -> None:
    """Raise a `ValueError` for a model that needs something else than images of one size as `pixel_values`."""
    name, found = type(model).__name__, inspect.signature(model.forward).parameters.values()
    needed = [one.name for one in found if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise ValueError(f"{name} takes {model.main_input_name}, no images")
    if others := [one for one in needed if one != "pixel_values"]:
        raise ValueError(f"{name} needs {', '.join(others)} beside pixel_values. Name a model of images of one size")


__all__ = [
    "AGREEMENT",
    "ENGINES",
    "NAMED_ENGINES",
    "POOLS",
    "RANDOM",
    "Engine",
    "VisionEncoder",
    "check_engine",
    "classifies",
    "own_vectors",
    "refuse_other_inputs",
    "tower_of",
]
