"""A static page that runs a model in the browser: ours, its native twin as ONNX, and transformers.js beside it.

`model` in the folder is an export like any other, with one output more: where the class token looks. Any host that
serves files serves the page, which asks no other host, and works offline after it was opened once.
"""

import base64
import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image

from ...data.stored_images import eight_bits
from ...data.synthetic.shapes import draw_scene
from ...image_processing_omni_vision import read_image
from ...records.metrics_file import write_json
from ..folder import atomic_output_dir
from ..page_colours import page_colours
from ..to_native import KNOWN, convert_to_native
from .export import ExportOptions, ExportReport, export_checkpoint
from .files import QUANTIZED
from .runtimes import SESSIONS
from .samples import Samples, image_arrays, load_samples
from .towers import CLASSIFIER, RETRIEVAL, Checkpoint, TowerModule, open_checkpoint, sides
from .vendor import ONNX_RUNTIME, PACKAGES, TRANSFORMERS_JS, vendored


PAGE = Path(__file__).parent.parent / "page"
EXAMPLES, EXAMPLE_SIDE = 12, 512
INDEXED, THUMBNAIL_SIDE = 100, 128
# Not needed on the CPU: kept by the browser once somebody chooses it.
ON_DEMAND = ("vendor/ort.webgpu.js", "vendor/ort.webgpu.wasm.gz")
IMPORTS = {"onnxruntime-common": "./vendor/ort.wasm.js", "onnxruntime-web/webgpu": "./vendor/ort.wasm.js"}
# The same file of transformers.js under a second address is a second module, with the runtime for WebGPU.
SCOPES = {"./vendor/transformers.js?webgpu": dict.fromkeys(IMPORTS, "./vendor/ort.webgpu.js")}
DTYPES = {False: "fp32", True: "q8"}  # as transformers.js calls them


class AttentionModule(TowerModule):
    """A vision tower with the output `attention`, of the class token to patches (batch, layers, heads, patches)."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the model for a batch, and the attention of all layers."""
        self.model.set_attn_implementation("eager")  # type: ignore[operator] # no other one returns attention
        found = self.model(*inputs, output_attentions=True)
        patches = np.prod(grid_of(self.model.config))
        rows = [one[:, :, 0, -int(patches) :] for one in found.attentions]
        return (*(found[name] for name in self.outputs[:-1]), torch.stack(rows, 1))


class PageCheckpoint(Checkpoint):
    """A checkpoint whose tower has its attention as an output."""

    def towers(self) -> dict[str, TowerModule]:
        """Return the one tower."""
        (plain,) = super().towers().values()
        return {"model": AttentionModule(self.model, (*plain.outputs, "attention"), plain.inputs)}


@dataclass(frozen=True)
class WebReport:
    """What was written: the export in `model`, and the bytes of a first visit as a browser downloads them, by file."""

    folder: Path
    export: ExportReport
    download: dict[str, int]

    @property
    def downloaded(self) -> int:
        """Bytes of a first visit on the CPU, where the host compresses with gzip."""
        return sum(self.download.values())


def export_web(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    dataset: str | None = None,
    split: str | None = None,
    images: Sequence[str] = (),
    count: int = 1000,
    vendor: str | Path | None = None,
) -> WebReport:
    """
    Write a static page that runs an encoder or a classifier in the browser.

    Args:
        model: Folder of an encoder, a classifier, or of its native twin.
        output: New or empty folder to write; nothing is left in it after an error.
        options: The page has weights of 8 bits, computed with in float32; `quantize="int8"` computes in int8 too, on
            images that are named, and `"none"` leaves the weights as they are. `max_drop` as elsewhere.
        dataset: Labelled images: to compare on, a few as examples on the page, and of an encoder up to 100 as the
            index in which it finds the nearest. Without images an encoder has an index of drawn scenes.
        split: Split to compare on; by default validation.
        images: Files and folders without labels, in place of a dataset.
        count: Images to compare on at most.
        vendor: Folder with the archives of `npm pack`; without one npm downloads them.

    Raises:
        `ValueError`: if an argument is wrong, the model is none that the page can show, an export is refused, or
            the JavaScript packages are missing or not those expected.
    """
    options = options or ExportOptions()
    quantize = {None: "weights", "none": None}.get(options.quantize, options.quantize)
    options = replace(options, format="onnx", quantize=quantize)
    options.check()
    if options.batch_size or options.dynamic_size or options.uint8:
        raise ValueError("The page has its own size and batch: leave out --batch_size, --dynamic_size and --uint8.")
    if options.outputs != "tokens":
        raise ValueError(f"The page reads tokens: leave out --outputs, got {options.outputs!r}.")
    if options.quantize == "int8" and not (dataset or images):
        raise ValueError("int8 is calibrated on images: name a --dataset or --images, or leave out --quantize.")
    with native(model) as folder:
        checkpoint = PageCheckpoint(**vars(shown_checkpoint(folder)))
        named = bool(dataset or images)
        # What training held out stands in the folder of the model, not in that of its twin.
        source = replace(checkpoint, folder=Path(model))
        samples = load_samples(source, dataset, split, images, count) if named else drawn_samples()
        code = vendored(vendor)
        with atomic_output_dir(output) as page:
            report = export_checkpoint(checkpoint, samples, page / "model", options, dataset, split)
            write_page(page, Path(model).resolve().name, checkpoint, report, samples, named, code)
            files = loaded_files(page)
            download = {name: transferred((page / name).read_bytes()) for name in files}
    return WebReport(Path(output), replace(report, folder=Path(output) / "model"), download)


@contextmanager
def native(model: str | Path) -> Iterator[Path]:
    """Yield the folder of a model that transformers.js knows: itself, or its native twin."""
    config = Path(model) / "config.json"
    is_ours = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") in KNOWN
    if not is_ours:
        yield Path(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield convert_to_native(model, Path(folder) / "twin").folder


def shown_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint that the page can show, or raise a `ValueError`."""
    found = open_checkpoint(folder)
    if found.kind == RETRIEVAL:
        raise ValueError(
            "Expected an encoder or a classifier for a page, got a retrieval model. Export it as --format onnx."
        )
    problem = getattr(found.model.config, "problem_type", None)
    if found.kind == CLASSIFIER and problem == "regression":
        raise ValueError("Expected a classifier of classes for a page, got one of problem_type 'regression'.")
    channels = found.vision_config.num_channels
    if channels not in (1, 3):
        raise ValueError(f"Expected a model of 1 or 3 channels, which a browser's images have, got {channels}.")
    return found


def drawn_samples() -> Samples:
    """Return drawn scenes, for a model to be compared on where no images are named."""
    draw = np.random.default_rng(0)
    scenes = [draw_scene(draw, 1 + index % 3) for index in range(INDEXED + EXAMPLES)]
    images, texts = [scene.image for scene in scenes], [scene.caption for scene in scenes]
    return Samples(images[:INDEXED], images[INDEXED:], texts=texts[:INDEXED], calibration_texts=texts[INDEXED:])


def write_page(
    page: Path,
    name: str,
    checkpoint: Checkpoint,
    report: ExportReport,
    samples: Samples,
    named: bool,
    code: dict[str, bytes],
) -> None:
    """Write everything but `model` into the folder of the page."""
    (page / "vendor").mkdir()
    for file, content in code.items():
        (page / "vendor" / file).write_bytes(content)
    for name_of_file in ("page.js", "icon.svg"):
        shutil.copy(PAGE / name_of_file, page / name_of_file)
    sheet = page_colours() + (PAGE / "page.css").read_text(encoding="utf-8")
    (page / "page.css").write_text(sheet, encoding="utf-8")
    # Not every host knows that .mjs is JavaScript.
    (page / "model" / "preprocess.mjs").rename(page / "preprocess.js")
    about = describe_page(page, checkpoint, report, samples, named)
    text = summary(checkpoint, report)
    importmap = json.dumps({"imports": IMPORTS, "scopes": SCOPES})
    digest = base64.b64encode(hashlib.sha256(importmap.encode()).digest()).decode()
    fill(
        "index.html",
        page,
        name=name,
        summary=text,
        is_classifier=checkpoint.kind == CLASSIFIER,
        about=footer(report),
        importmap=importmap,
        importmap_digest=digest,
    )
    write_json(page / "page.json", about | {"files": sorted(loaded_files(page, about))})
    write_service_worker(page, name)


def fill(template: str, page: Path, **values: Any) -> None:
    """Write a file of the page from its template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{template}.j2").render(**values)
    (page / template).write_text(text, encoding="utf-8")


def summary(checkpoint: Checkpoint, report: ExportReport) -> str:
    """Say in a sentence what the model is."""
    parameters = sum(one.numel() for one in checkpoint.model.parameters()) / 1e6
    what = "A vision encoder"
    if checkpoint.kind == CLASSIFIER:
        what = f"A classifier of {len(checkpoint.model.config.id2label)} classes"
    height, width = sides(checkpoint.vision_config.image_size)
    return f"{what} with {parameters:.2f} million parameters that sees {width} by {height} pixels."


def footer(report: ExportReport) -> str:
    """Say what the page is made of, and how far its files are from torch."""
    found = [
        f"{about['precision'].partition(' in ')[0]} {about['largest_difference']:.1e}"
        for about in report.record["files"].values()
    ]
    return (
        f"transformers.js {TRANSFORMERS_JS.version}, onnxruntime-web {ONNX_RUNTIME.version}. Largest difference from "
        f"PyTorch on {report.record['images']} images: {', '.join(found)}."
    )


def describe_page(
    page: Path, checkpoint: Checkpoint, report: ExportReport, samples: Samples, named: bool
) -> dict[str, Any]:
    """Return what the script of the page reads, after writing the images that it names."""
    config = checkpoint.model.config
    is_classifier = checkpoint.kind == CLASSIFIER
    files = sorted(report.record["files"].items(), key=lambda item: not item[1]["int8"])
    sources, others = samples.images, samples.calibration_images
    precisions = {False: "float32", True: "8 bits" if report.record["quantize"] == "weights" else "int8"}
    about = {
        "size": list(sides(config.image_size)),
        "grid": list(grid_of(config)),
        "channels": config.num_channels,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "labels": list(config.id2label.values()) if is_classifier else None,
        "multi_label": is_classifier and config.problem_type == "multi_label_classification",
        "models": [
            {
                "dtype": DTYPES[found["int8"]],
                "bytes": (page / "model" / name).stat().st_size,
                "precision": precisions[found["int8"]],
            }
            for name, found in files
        ],
        "runtimes": {
            one: (page / "vendor" / file).stat().st_size
            for one, file in {"wasm": "ort.wasm.gz", "webgpu": "ort.webgpu.wasm.gz"}.items()
        },
    }
    if is_classifier:
        shown = spread(sources, EXAMPLES) if named else []
        return about | {"examples": write_images(page, "examples", sources, shown, samples, EXAMPLE_SIDE, config)}
    index = spread(sources, INDEXED)
    texts = Samples(others, (), texts=samples.calibration_texts)
    examples = write_images(page, "examples", others, spread(others, EXAMPLES), texts, EXAMPLE_SIDE, config)
    images = write_images(page, "index", sources, index, samples, THUMBNAIL_SIDE, config)
    vectors = {}
    for name, found in files:
        dtype = DTYPES[found["int8"]]
        session = SESSIONS["onnx"](page / "model" / name)
        rows = [session(image_arrays(checkpoint, [sources[one]]))["pooler_output"] for one in index]
        unit = np.concatenate(rows).astype("<f4")
        vectors[dtype] = f"index/{dtype}.bin"
        (page / vectors[dtype]).write_bytes((unit / np.linalg.norm(unit, axis=1, keepdims=True)).tobytes())
    return about | {"examples": examples, "index": {"images": images, "vectors": vectors}}


def spread(sources: Sequence[Any], count: int) -> list[int]:
    """Return the numbers of up to `count` items, evenly spread."""
    return [int(one) for one in np.linspace(0, len(sources) - 1, min(count, len(sources)))]


def write_images(
    page: Path, folder: str, sources: Sequence[Any], chosen: list[int], samples: Samples, side: int, config: Any
) -> list[dict[str, str]]:
    """Write images as PNG, at most `side` pixels wide and high; return each file with what to call it."""
    (page / folder).mkdir()
    found = []
    for number, index in enumerate(chosen):
        image = Image.fromarray(eight_bits(read_image(sources[index])))
        image.thumbnail((side, side))
        file = f"{folder}/{number:03}.png"
        image.save(page / file, optimize=True)
        found.append({"file": file, "label": label_of(sources[index], index, samples, config)})
    return found


def label_of(source: Any, index: int, samples: Samples, config: Any) -> str:
    """Return what an image is called: its text, its class, the name of its file, or a number."""
    if samples.texts:
        return str(samples.texts[index])
    if samples.labels is not None and config.id2label and len(config.id2label) > int(samples.labels[index]):
        return str(config.id2label[int(samples.labels[index])])
    return source.name if isinstance(source, Path) else f"Image {index + 1}"


def grid_of(config: Any) -> tuple[int, int]:
    """Return the rows and columns of patches."""
    (height, width), (rows, columns) = sides(config.image_size), sides(config.patch_size)
    return height // rows, width // columns


def loaded_files(page: Path, about: dict[str, Any] | None = None) -> list[str]:
    """Return the files of a first visit on the CPU: all but those that are loaded when somebody chooses them."""
    about = about or json.loads((page / "page.json").read_text(encoding="utf-8"))
    dtype = about["models"][0]["dtype"]
    model = f"model/onnx/model{QUANTIZED if dtype == 'q8' else ''}.onnx"
    wanted = ["index.html", "page.js", "page.css", "icon.svg", "preprocess.js", "page.json", "model/config.json"]
    wanted += ["model/preprocessor_config.json", model, "vendor/transformers.js", "vendor/ort.wasm.js"]
    wanted += ["vendor/ort.wasm.gz", *(one["file"] for one in about["examples"])]
    if index := about.get("index"):
        wanted += [one["file"] for one in index["images"]] + [index["vectors"][dtype]]
    return wanted


def write_service_worker(page: Path, name: str) -> None:
    """Write what keeps the files in the browser, under a name that changes with any of them."""
    digest = hashlib.sha256()
    for file in sorted(one for one in page.rglob("*") if one.is_file()):
        digest.update(file.relative_to(page).as_posix().encode() + b"\0" + file.read_bytes())
    shell = ["./", "index.html", "page.css", "page.js", "preprocess.js", "page.json"]
    cache = json.dumps(f"{name}-{digest.hexdigest()[:16]}")[1:-1]
    fill("sw.js", page, cache=cache, shell=json.dumps(shell))


def transferred(content: bytes) -> int:
    """Return the bytes that a host sends which compresses with gzip what gets smaller."""
    return min(len(content), len(gzip.compress(content, 9)))


__all__ = ["PACKAGES", "WebReport", "export_web"]
