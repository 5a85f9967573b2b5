"""The console entry point `omni-vision NAME ...`; each NAME is a module beside this one."""

from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..records.nearest import nearest
from .program import fail, program


COMMANDS = {
    "train": "train a classifier on images",
    "train-retrieval": "train images and texts to find each other",
    "train-language": "train a vision-language model to answer questions about images",
    "pretrain": "train an encoder on images without labels, by what masks hide",
    "train-vae": "train an autoencoder that reconstructs and draws images, without labels",
    "distill": "make a tiny encoder out of a big one, on images without labels",
    "evaluate": "measure a model on data: accuracy, calibration, robustness, plots; recall; exact answers",
    "predict": "classify image files and folders",
    "inspect": "count the images of a dataset, and write some of them as PNG",
    "visualize": "draw attention, per-token similarity or occlusion maps",
    "zero-shot": "classify by the names of classes alone",
    "embed": "turn images into vectors on disk",
    "neighbours": "find the nearest images among vectors on disk",
    "duplicates": "find images that are one image among vectors on disk",
    "map": "draw vectors on disk as a map of images, PNG and HTML",
    "index": "put images into an index, or bring one up to date",
    "search": "find images of an index by words or by an image",
    "compose": "join a vision encoder and a language model, untrained",
    "ask": "ask a vision-language model about an image",
    "convert": "convert a checkpoint from or to another architecture, exactly",
    "export": "write a checkpoint for ONNX Runtime, OpenVINO or the browser, compared with torch",
    "demo": "show in a browser what a model computes, or write a Space of the Hub",
    "publish": "write a checkpoint as a folder for the Hub, with proof",
    "verify": "check a published folder again, offline",
    "benchmark": "time the forward pass of a model",
}


def overview() -> str:
    """Return one line for each command."""
    lines = [f"  {name:16} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        ["usage: omni-vision COMMAND [flags]", "", *lines, "", "omni-vision COMMAND --help lists the flags of one."]
    )


@program
def main(argv: Sequence[str]) -> None:
    """Run the command that the first word names with the words after it."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(f"omni-vision {__version__}")
    elif name in COMMANDS:
        import_module(f".{name.replace('-', '_')}", __package__).main(argv[1:])
    else:
        hint = nearest(name, [*COMMANDS]) or ". `omni-vision --help` lists all."
        fail(f"unknown command {name!r}{hint}", "omni-vision")
