"""The image files below files and folders: one list for training, evaluation, prediction, embedding and indexing.

| found | taken as |
|---|---|
| a file that is named itself | an image, whatever its name |
| files with a suffix of the installed Pillow, by its own registry; without a suffix, what Pillow opens | images |
| links | what they lead to; circles end |
| hidden files and folders, `Thumbs.db`, `desktop.ini`, `__MACOSX` ... | ignored |
| other files, broken links, folders that cannot be read, runs and indexes of ours | left out, counted by reason |

Names are taken as they are. One that is no text is stored as a `file://` address and displayed escaped.
"""

import functools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from PIL import Image as PilImage

from ..image_processing_omni_vision import NOT_READ, open_undecoded, register_plugins


IGNORED = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "#recycle",
    "lost+found",
)
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# What makes images of files that Pillow does not open.
ADVICE = {
    **dict.fromkeys((".heic", ".heif"), "install pillow-heif"),
    ".jxl": "install pillow-jxl-plugin",
    **dict.fromkeys(ARCHIVES, "unpack it"),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".svg"), "save it as PNG"),
}
# Files that make a folder a run, a checkpoint, an index or vectors of ours: no image in it is the user's.
RESULTS = (
    {"config.json", "metrics.json"},
    {"config.json", "preprocessor_config.json"},
    {"index.json", "images.lance"},
    {"embed.json", "manifest"},
)
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # read by `metadata_folder`, and no images
WITHOUT_IMAGES = "without any image"
NAMED = 5  # files that are named for each reason
URI = "file://"


class LeftOut:
    """Files that are left out: how many for each reason, and the names of the first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, file: Path) -> None:
        """Count a file."""
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(displayed(file.name))

    def update(self, other: "LeftOut") -> None:
        """Count what another has counted."""
        self.counts += other.counts
        for reason, names in other.names.items():
            self.names[reason] = [*self.names.get(reason, []), *names][:NAMED]

    def __str__(self) -> str:
        """All reasons in one line, the most frequent first: `3 .txt (a.txt, b.txt ...), 1 .heic (...)`."""
        parts = []
        for reason, count in self.counts.most_common():
            names = self.names[reason]
            parts.append(f"{count:,} {reason} ({', '.join(names)}{' ...' if count > len(names) else ''})")
        return ", ".join(parts)


class FoundImage(NamedTuple):
    """An image file, and the file or folder of the question that it was found in."""

    file: Path
    place: Path

    @property
    def folder(self) -> str:
        """The folder of the file relative to its place, `.` for the place itself."""
        return "." if self.file == self.place else self.file.relative_to(self.place).parent.as_posix()


def find_images(places: Iterable[str | Path], exclude: Collection[Path] = ()) -> tuple[list[FoundImage], LeftOut]:
    """List the files named and the images below the folders named, sorted, each path once.

    Args:
        places: Files and folders.
        exclude: Folders that are not entered, such as an index that lies among its images.

    Raises:
        ValueError: if a place does not exist.
    """
    left_out, found, places = LeftOut(), dict[Path, Path](), [*places]
    closed = frozenset(map(os.path.realpath, exclude))
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"Expected files or folders of images, got {displayed(place)!r}, which does not exist.")
        if not (place.is_file() or place.is_dir()):  # a pipe would be waited for
            raise ValueError(f"Expected files or folders of images, got {displayed(place)!r}, which is neither.")
        files = [*images_below(place, left_out, closed)] if place.is_dir() else [place]
        if not files and len(places) > 1:  # a single one is for the caller to refuse
            left_out.add(WITHOUT_IMAGES, place)
        found |= {file: place for file in files if file not in found}
    return [FoundImage(file, place) for file, place in found.items()], left_out


def images_below(place: Path, left_out: LeftOut, closed: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the images below a folder, sorted, and count the other files; `closed` are real paths not to enter."""
    return (file for file in files_below(place, left_out, closed) if is_image(file, left_out))


def is_image(file: Path, left_out: LeftOut) -> bool:
    """Return whether the name of a file, or without a suffix its content, is that of an image; count it if not."""
    suffix = file.suffix.lower()
    if suffix in readable_suffixes() or (not suffix and _is_image_inside(file)):
        return True
    if file.name.casefold() not in METADATA:
        left_out.add(", ".join(filter(None, (suffix or "without a suffix", ADVICE.get(suffix)))), file)
    return False


def files_below(
    place: Path, left_out: LeftOut, closed: frozenset[str] = frozenset(), named: bool = True
) -> Iterator[Path]:
    """Yield the files below a folder, sorted, without hidden ones; links are followed, circles end.

    Folders of results are not entered, unless it is the one that was `named`.
    """
    real = os.path.realpath(place)
    if real in closed:
        return
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:
        left_out.add("folder that cannot be read", place)
        return
    kinds = {entry.name: _kind(entry) for entry in entries if not is_ignored(entry.name)}
    if not named and holds_results(kinds):
        left_out.add("of a run, checkpoint or index", place)
        return
    for name, kind in kinds.items():
        if kind == "file":
            yield place / name  # in Python 3.11 three times as fast as `Path(place, name)`
        elif kind != "folder":
            left_out.add(kind, place / name)
    for name, kind in kinds.items():
        if kind == "folder":
            yield from files_below(place / name, left_out, closed | {real}, named=False)


def holds_results(names: Iterable[str]) -> bool:
    """Return whether a folder of files of these names is a run, a checkpoint or an index of ours."""
    return any(marks <= {*names} for marks in RESULTS)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
    except OSError:  # a link to itself
        pass
    return "broken link" if entry.is_symlink() else "no regular file"


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or kept by an operating system for itself."""
    return name.startswith(".") or name.casefold() in IGNORED


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of all formats that the installed Pillow, with its plugins, opens."""
    register_plugins()
    formats = PilImage.registered_extensions()  # loads all plugins of Pillow
    return frozenset(suffix for suffix, kind in formats.items() if kind in PilImage.OPEN and kind not in NOT_READ)


def _is_image_inside(file: Path) -> bool:
    readable_suffixes()
    try:
        with open_undecoded(file, formats=[name for name in PilImage.OPEN if name not in NOT_READ]):
            return True
    except Exception:  # decoders raise many kinds
        return False


def stored_path(file: str | Path) -> str:
    """Return a path as text from which `path_of` makes the same path again, whatever bytes are in it."""
    text = os.fspath(file)
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no text
        return Path(text).absolute().as_uri()
    return text


def path_of(stored: str) -> Path:
    """Return the path that `stored_path` stored."""
    return Path(os.fsdecode(unquote_to_bytes(stored.removeprefix(URI))) if stored.startswith(URI) else stored)


def displayed(file: str | Path) -> str:
    r"""Return a path for people: bytes that are no text, and what cannot be printed, as `\xe9`."""
    text = os.fsencode(file).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


__all__ = [
    "METADATA",
    "WITHOUT_IMAGES",
    "FoundImage",
    "LeftOut",
    "displayed",
    "files_below",
    "find_images",
    "holds_results",
    "images_below",
    "is_ignored",
    "is_image",
    "path_of",
    "readable_suffixes",
    "stored_path",
]
