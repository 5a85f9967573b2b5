"""A folder that is a Space of the Hub: package, checkpoint, images, what they need, and the page."""

import itertools
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from packaging.requirements import Requirement

from .opened import OpenedCheckpoint


PACKAGE = Path(__file__).parent.parent
# Beside the weights of a run: states to continue from, larger than all else, and the Hub's notes on downloads.
LEFT_OUT = shutil.ignore_patterns("checkpoint-*", "*.pt", "*.pth", "*.bin", "__pycache__", ".*")
# Their newer releases may change what a page looks like, or what a checkpoint computes.
PINNED = ("gradio", "transformers")
APP = """{index}from modeling_omni_vision.cli import demo


demo.main(["--model", "{checkpoint}"{options}])
"""
INDEX = """from modeling_omni_vision.cli import index


# Takes in what is new in the folder images, also when the Space starts again.
index.main(["--model", "{checkpoint}", "--images", "images", "--index", "index", "--measure", "false"])

"""
README = """---
{card_data}
---

# {name}

What `{name}` computes, tab by tab; `omni-vision demo --export_space` wrote this folder. On this machine:

    pip install -r requirements.txt
    python app.py
"""


def export_space(
    model: str, output: str, extras: Sequence[str], index: str | None = None, revision: str | None = None
) -> str:
    """Write a Space for a checkpoint into a new or empty folder, and return what to do with it.

    Args:
        model: Folder or Hub id.
        output: The folder.
        extras: Extras of this package that the page needs.
        index: Folder of an index of which the images are copied; the Space makes its own index of them.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ValueError: for a folder that holds anything, or an index of which no image is left.
    """
    from ..interop.folder import atomic_output_dir

    opened = OpenedCheckpoint(model, revision)
    needs, basename = requirements(extras), opened.name.rpartition("/")[2]
    card = SpaceCardData(
        title=opened.name,
        emoji="\N{LEFT-POINTING MAGNIFYING GLASS}",  # the Hub wants one
        colorFrom="blue",
        colorTo="indigo",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        pinned=False,
    )
    with atomic_output_dir(output) as folder:
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=LEFT_OUT)
        checkpoint = f"checkpoints/{basename}"
        shutil.copytree(opened.folder, folder / checkpoint, ignore=LEFT_OUT)
        if index:
            copy_images(index, folder / "images")
        options = ', "--index", "index"' if index else ""
        indexed = INDEX.format(checkpoint=checkpoint) if index else ""
        app = APP.format(index=indexed, checkpoint=checkpoint, options=options)
        (folder / "app.py").write_text(app, encoding="utf-8")
        (folder / "requirements.txt").write_text("\n".join(needs) + "\n", encoding="utf-8")
        text = README.format(card_data=card.to_yaml(), name=opened.name)
        SpaceCard(text).save(folder / "README.md")
    return f"{output}: python app.py starts it here; hf upload NAME {output} . --repo-type space publishes it"


def requirements(extras: Sequence[str]) -> list[str]:
    """Return what this package needs with extras, without itself, as lines of a requirements file."""
    try:
        every = [Requirement(line) for line in requires("omni-vision") or ()]
    except PackageNotFoundError as error:
        raise ValueError(
            'Expected omni-vision to be installed, which says what a Space needs. `pip install -e ".[demo]"` does it.'
        ) from error
    environments = [{"extra": extra} for extra in ("", *extras)]
    needed = [one for one in every if one.marker is None or any(map(one.marker.evaluate, environments))]
    lines = {one.name: f"{one.name}{one.specifier}" for one in needed if one.name not in PINNED}
    return sorted([*lines.values(), *(f"{name}=={version(name)}" for name in PINNED)])


def copy_images(index: str, target: Path) -> None:
    """Copy the images of an index, by its folders and names."""
    from ..data.image_files import path_of
    from ..retrieval.index import ImageIndex

    files = [(path_of(row["path"]), row["folder"]) for row in ImageIndex(index, make=False).rows()]
    left = [(file, folder) for file, folder in files if file.is_file()]
    if not left:
        raise ValueError(f"Expected images of the index {index!r} on this disk, got none of its {len(files)}.")
    for file, folder in left:
        within = Path(*(part for part in Path(folder).parts if part not in ("/", "..")))
        for number in itertools.count(1):
            wanted = target / within / (file.name if number == 1 else f"{file.stem}-{number}{file.suffix}")
            if not wanted.exists():
                break
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, wanted)


__all__ = ["export_space", "requirements"]
