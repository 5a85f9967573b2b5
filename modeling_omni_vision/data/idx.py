"""Converts folders of IDX files, the format of the MNIST family, into a dataset; torchvision reads no `.gz`.

Nothing is re-encoded: each image becomes a PGM or PPM file in memory (a header and the raw pixels).
"""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from .stored_images import netpbm_header


FILE_NAME = re.compile(r".*?(?P<split>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]idx\d-ubyte(\.gz)?")


def load_idx(folder: Path) -> DatasetDict:
    """Load a folder such as MNIST's, Fashion-MNIST's or KMNIST's, gzipped or not.

    Args:
        folder: Holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, for a test split, the same with
            `t10k` or `test`; each may end in `.gz`. A file `classes.txt` may name the classes, one per line.

    Returns:
        Splits `train` and, where present, `test`, with columns image and label.

    Raises:
        ValueError: naming the file that is missing, damaged, or does not fit the others.
    """
    files = find_idx_files(folder)
    arrays = {}
    for split in sorted({"train"} | {split for split, _ in files}, reverse=True):
        for kind in ("images", "labels"):
            if (split, kind) not in files:
                raise ValueError(f"Expected the {kind} of the {split} split in {folder}, got none. Add the file.")
        images, labels = read_idx(files[split, "images"]), read_idx(files[split, "labels"])
        grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
        if not grey_or_rgb or 0 in images.shape[1:3] or labels.shape != images.shape[:1]:
            raise ValueError(
                f"Expected grey or RGB images (n, height, width[, 3]) and one label for each, got shapes "
                f"{images.shape} in {files[split, 'images']} and {labels.shape} in {files[split, 'labels']}. Fetch "
                "both files again."
            )
        arrays[split] = images, labels
    largest = max(int(labels.max(initial=0)) for _, labels in arrays.values())
    features = Features({"image": Image(), "label": ClassLabel(names=_class_names(folder / "classes.txt", largest))})
    return DatasetDict(
        {
            split: Dataset.from_dict({"image": _stored(images), "label": labels.astype(np.int64)}, features=features)
            for split, (images, labels) in arrays.items()
        }
    )


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes as an array of the shape that its header gives.

    Raises:
        ValueError: naming the file, if it is not IDX, damaged, or shorter or longer than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or no gzip file ({error}). Fetch it again.") from error
    if content[:3] != b"\0\0\x08" or not content[3:4].strip(b"\0"):
        raise ValueError(
            f"{path} is no IDX file of unsigned bytes: expected it to start with 00 00 08, got "
            f"{content[:4].hex(' ')!r}. Fetch it again."
        )
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist())
    if math.prod(shape) != len(content) - start:
        raise ValueError(
            f"{path} is damaged: its header gives the shape {shape}, expected {math.prod(shape)} bytes, got "
            f"{max(len(content) - start, 0)}. Fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find_idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the IDX files of a folder, or of the `raw` folder in it, by split and kind (images or labels)."""
    files: dict[tuple[str, str], Path] = {}
    for path in sorted([*folder.glob("*"), *folder.glob("raw/*")]):
        match = FILE_NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        before = files.setdefault(("train" if match["split"] == "train" else "test", match["kind"]), path)
        if before.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
            raise ValueError(
                f"Expected one set of IDX files in {folder}, got both {before.name} and {path.name}. "
                "Move each set into a folder of its own."
            )
    return files


def _class_names(file: Path, largest: int) -> list[str]:
    if not file.is_file():
        return [str(label) for label in range(largest + 1)]
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) <= largest or len(set(names)) != len(names):
        raise ValueError(
            f"Expected a different name for each of the classes 0 to {largest} in {file}, got {names!r}. Correct it."
        )
    return names


def _stored(images: np.ndarray) -> pa.StructArray:
    """Return images as a column of datasets holds them; as dictionaries each would be looked through again."""
    header = netpbm_header(images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1)
    contents = pa.array([header + image.tobytes() for image in images], pa.binary())
    return pa.StructArray.from_arrays([contents, pa.nulls(len(images), pa.string())], ["bytes", "path"])


__all__ = ["find_idx_files", "load_idx", "read_idx"]
