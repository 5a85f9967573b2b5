"""Export a model to another runtime, run it there on your images, and compare it with torch before it is called good.

    omni-vision export --model runs/digits --dataset digits --format onnx --quantize int8 --output runs/digits-onnx
    omni-vision export --model runs/encoder --images photos --format openvino --output runs/encoder-openvino
    omni-vision export --model runs/digits --dataset digits --format web --output runs/digits-page
    omni-vision export --model runs/digits --dataset digits --server triton --output runs/models

Encoders, classifiers, both towers of a retrieval model, and native twins. int8 is static: calibrated on images of the
train split, or on every second one of `--images`. Refused, with nothing written: a float32 export that differs by more
than 1e-4, one that loses more than `--max_drop` points, or whose outputs have a mean cosine below 0.98. The folder
holds the files, the processor, export.json with all numbers, and a README.md with lines that run it. ONNX folders are
laid out as transformers.js expects, with preprocess.mjs, which prepares images as Pillow does. A page (`--format web`)
is a folder for any static host, its weights of 8 bits unless `--quantize none`; its JavaScript comes from npm, or from
the folder that `--vendor` names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arguments import option, parse
from .program import program


if TYPE_CHECKING:
    from ..interop.export import ExportReport


@dataclass
class ExportArguments:
    """What to export, to what, and what to compare it on."""

    model: str = option("Folder of an encoder, a classifier, a retrieval model, or of a native twin.")
    output: str = option("New or empty folder to write.", folder=True)
    format: str = option("onnx, openvino, torch (torch.export), or web (a static page).", "onnx")
    outputs: str = option(
        "tokens, or vector: the pooled output alone, of encoders and retrieval models.",
        "tokens",
        choices=("tokens", "vector"),
    )
    quantize: str | None = option("int8: also write files of 8 bits; weights: of weights alone (onnx, web).", None)
    dataset: str | None = option("Images to compare on, as for the command that trains this kind of model.", None)
    split: str | None = option("Split to compare on; by default validation.", None)
    images: list[str] = option("Files and folders of images to compare on, in place of a dataset.", [])
    count: int = option("Images to compare on at most.", 1000, least=1)
    precision: str = option("float32, or bfloat16 for OpenVINO on processors with its instructions.", "float32")
    batch_size: int | None = option("Images in one forward, fixed; any number without it.", None, least=1)
    dynamic_size: bool = option("Take images of any size whose sides are multiples of the patch size.", False)
    uint8: bool = option("Take pixel values 0..255: rescaling and normalisation become part of the weights.", False)
    max_drop: float = option("Points of accuracy, or of agreement, that may be lost.", 0.5)
    server: str | None = option("ovms or triton: write a model repository of this server.", None)
    vendor: str | None = option("Folder with the archives of `npm pack` for a page; by default npm runs.", None)


@program
def main(argv: Sequence[str]) -> None:
    arguments = vars(parse(ExportArguments, argv))
    where = {name: arguments.pop(name) for name in ("model", "output", "dataset", "split", "images", "count")}
    vendor, server = arguments.pop("vendor"), arguments.pop("server")
    from ..interop.export import ExportOptions, export_for_server, export_model, export_web

    options = ExportOptions(**arguments)
    if options.format == "web" and server is None:
        page = export_web(options=options, vendor=vendor, **where)
        print_report(page.export)
        largest = sorted(page.download.items(), key=lambda item: -item[1])[:4]
        parts = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in largest)
        print(f"A first visit downloads {page.downloaded / 1e6:.2f} MB with gzip ({parts}).")
        print(f"OK: {page.folder}; look at it: python -m http.server --directory {page.folder}")
        return
    if vendor is not None:
        raise ValueError(f"--vendor is for --format web, got {options.format!r}. Leave it out.")
    report = export_for_server(server, options=options, **where) if server else export_model(options=options, **where)
    print_report(report)
    print(f"OK: {report.folder} ({report.record['images']} images, {report.record['cpu']})")


def print_report(report: "ExportReport") -> None:
    """Print a line for each file."""
    for file, found in report.record["files"].items():
        low, high = found["interval_points"]
        print(
            f"{file}: {found['precision']}; largest difference {found['largest_difference']:.1e}, mean cosine "
            f"{found['mean_cosine']:.5f}; {found['measure']} {found['before']:.2%} -> {found['after']:.2%}, "
            f"{found['drop_points']:.2f} points lost ({low:.2f} to {high:.2f}); {found['speed_ratio']:.2f}x torch"
        )
    if report.record["quantize"] == "int8" and not report.gain_of_int8() > 1:
        print("int8 is no faster than float on this processor.")
