"""Which image files to encode, and why one of them could not be read."""

from collections.abc import Iterable
from pathlib import Path


def image_files(places: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """List the files named and all below the folders named, sorted, each once.

    Hidden files and folders within a place are left out; a file of any name may hold an image.

    Returns:
        The absolute path of each file, and its folder relative to the place it was found in.

    Raises:
        ValueError: if a place does not exist.
    """
    found: dict[Path, str] = {}
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"Expected files or folders of images, got {str(place)!r}, which does not exist.")
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            relative = file.relative_to(place) if place.is_dir() else Path(file.name)
            if file.is_file() and not any(part.startswith(".") for part in relative.parts):
                found.setdefault(file.resolve(), relative.parent.as_posix())
    return list(found.items())


def read_failure(error: Exception, file: Path) -> str:
    """Return in one line why a file cannot be read, without its name, which is reported beside it."""
    text = " ".join(str(error).split())
    for name in (repr(str(file)), str(file)):
        text = text.replace(name, "the file")
    return text.removeprefix("image 0: ").removeprefix("the file: ")[:200] or type(error).__name__


__all__ = ["image_files", "read_failure"]
