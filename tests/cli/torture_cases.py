"""What people bring: a table of folders and files, and what inspect, train, predict and index make of each.

A tree names folders with a number of images, files with their content or, where it is a function, with what that
makes at their path. An expectation is what is found, or `!` and a part of the sentence that refuses with status 2.
"""

import functools
import gzip
import io
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image


class Case(NamedTuple):
    """A tree and what becomes of it.

    Attributes:
        name: In words.
        tree: What lies where, see the top of this file.
        found: Splits, numbers of images and classes that inspect finds.
        images: Images that predict and index take, with ` + 1` where one cannot be read; None: not run.
        says: Parts of what inspect and train say, of what they leave out above all.
        train: The same as `found` where None is not given.
        index: The same as `images` where not given.
        named: What is named, below the root of the tree.
    """

    name: str
    tree: Mapping[str, Any]
    found: str
    images: Any = None
    says: tuple[str, ...] = ()
    train: str | None = ""
    index: Any = ""
    named: str = ""


def build(root: Path, tree: Mapping[str, Any]) -> None:
    """Make a tree."""
    root.mkdir()
    for name, content in tree.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), name))) if isinstance(name, bytes) else root / name
        if isinstance(content, int):
            path.mkdir(parents=True, exist_ok=True)
            for number in range(content):
                (path / f"{number}.png").write_bytes(image(level=20 * number + len(name)))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@functools.cache
def image(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (9, 9), level: int = 90, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    grey = Image.new("L", size, level % 256)
    drawn = Image.new(mode, size, level) if mode in ("I", "F", "I;16") else grey.convert(mode)
    drawn.save(file, kind, **options)
    return file.getvalue()


def link(target: str) -> Callable[[Path], None]:
    """Return what makes a link to a path relative to its folder."""
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    """Make an empty folder."""
    path.mkdir(parents=True)


def lines(*rows: Any) -> str:
    """Return JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(**columns: Any) -> Callable[[Path], None]:
    """Return what writes a Parquet file with images and other columns."""

    def write(path: Path) -> None:
        given = {name: values for name, values in columns.items() if values is not None}
        if "image" not in columns:
            count = len(next(iter(given.values())))
            given = {"image": [image(level=9 * number) for number in range(count)]} | given
        pq.write_table(pa.table(given), path)

    return write


def idx(*shape: int, content: int | None = None) -> bytes:
    """Return an IDX file of unsigned bytes."""
    count = content if content is not None else int(functools.reduce(lambda a, b: a * b, shape))
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(n % 2 for n in range(count))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG whose header promises more than there is."""
    whole = image()
    import zlib

    head = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]


PETS = {"cat": 6, "dog": 6}
BOTH = "train 10, validation 2: cat dog"
SPLIT = {"train/cat": 6, "train/dog": 6}


def beside(**more: Any) -> dict[str, Any]:
    return PETS | more


def one(name: str, content: Any) -> dict[str, Any]:
    return {**PETS, f"cat/{name}": content}


def metadata(name: str, content: Any, count: int = 12) -> dict[str, Any]:
    return {".": count, name: content}


def labelled(**changes: Any) -> list[dict[str, Any]]:
    return [{"file_name": f"{n}.png", "label": "cat" if n % 2 else "dog"} | changes for n in range(12)]


MORE = "train 11, validation 2: cat dog"
TABLE12 = [("cat", "dog")[n % 2] for n in range(12)]
X = "?"
CASES = [
    # splits
    Case("classes", PETS, BOTH, 12),
    Case("train and test", {**SPLIT, "test/cat": 2, "test/dog": 1}, X, X),
    Case("capitals", {"Train/cat": 6, "Train/dog": 6, "Test/cat": 2, "Test/dog": 1}, X, X),
    Case("all capitals", {"TRAIN/cat": 6, "TRAIN/dog": 6, "VAL/cat": 2, "TEST/dog": 1}, X, X),
    Case("trainset and testset", {"trainset/cat": 6, "trainset/dog": 6, "testset/cat": 2}, X, X),
    Case("training, validation and testing", {"training/cat": 6, "training/dog": 6, "validation/cat": 1, "testing/dog": 2}, X, X),
    Case("train_set and dev_set", {"train_set/cat": 6, "train_set/dog": 6, "dev_set/cat": 1}, X, X),
    Case("train-split and eval-split", {"train-split/cat": 6, "train-split/dog": 6, "eval-split/cat": 1}, X, X),
    Case("holdout", {**SPLIT, "holdout/cat": 2}, X, X),
    Case("train alone", SPLIT, X, X),
    Case("train1 and train2", {"train1/cat": 6, "train2/dog": 6}, X, X),
    Case("train and Training", {"train/cat": 6, "Training/dog": 6}, X, X),
    Case("an unknown split", {**SPLIT, "holdback/cat": 2}, X, X),
    Case("test alone", {"test/cat": 6, "test/dog": 6}, X, X),
    Case("validation and test alone", {"val/cat": 6, "test/dog": 6}, X, X),
    Case("splits within classes", {"cat/train": 3, "cat/test": 3, "dog/train": 3, "dog/test": 3}, X, X),
    Case("splits within one class", {"cat/train": 3, "cat/test": 3, "dog": 6}, X, X),
    Case("splits within classes beside images", {"cat": 3, "cat/train": 3, "cat/test": 3, "dog": 6}, X, X),
    Case("a class of trains within vehicles", {"vehicles/train": 3, "vehicles/bus": 3, "dog": 6}, X, X),
    Case("one folder too high, classes", {"archive/cat": 6, "archive/dog": 6}, X, X),
    Case("one folder too high, splits", {"archive/train/cat": 6, "archive/train/dog": 6, "archive/test/cat": 2}, X, X),
    Case("images beside train", {**SPLIT, ".": 2}, X, X),
    Case("images in train itself", {**SPLIT, "train": 2}, X, X),
    Case("images beside classes", {**PETS, ".": 3}, X, X),
    Case("a class of test alone", {**SPLIT, "test/cat": 2, "test/bird": 2}, X, X),
    Case("a class of validation alone", {**SPLIT, "val/bird": 2}, X, X),
    Case("a class like a split", {"train": 6, "bus": 6}, X, X),
    Case("an empty test split", {**SPLIT, "test/cat": folder}, X, X),
    Case("an empty train split", {"train": folder, "test/cat": 3, "test/dog": 3}, X, X),
    Case("flat splits", {"train": 6, "test": 3}, X, X),
    Case("unlabelled test split", {**SPLIT, "test": 3}, X, X),
    # names
    Case("names with words of splits", {"freight train": 6, "test tube": 6}, X, X),
    Case("names with words of splits 2", {"dev-board": 6, "val thorens": 6}, X, X),
    Case("files called after splits", {"cat": 3, "dog": 6, **{f"cat/test_{n}.png": image(level=n) for n in range(3)}}, X, X),
    Case("train.png", {"cat": 5, "dog": 6, "cat/train.png": image()}, X, X),
    Case("years below classes", {"cat/2023": 3, "cat/2024": 3, "dog": 6}, X, X),
    Case("eight folders deep", {"cat/a/b/c/d/e/f/g": 6, "dog": 6}, X, X),
    Case("classes 1, 2, 10", {"1": 6, "2": 6, "10": 6}, X, X),
    Case("classes that differ in case", {"Cat": 6, "cat": 6}, X, X),
    Case("accents of two kinds", {"caf\u00e9": 3, "cafe\u0301": 3, "dog": 6}, X, X),
    Case("blanks, brackets, stars and colons", {"a b [c]": 6, "d*::e?": 6}, X, X),
    Case("a leading -", {"-r": 6, "--help": 6}, X, X),
    Case("quotes, percent, hash", {"50%20#1": 6, "it's \"so\"": 6}, X, X),
    Case("emoji and Arabic", {"\U0001f408": 6, "\u0643\u0644\u0628": 6}, X, X),
    Case("a line feed in a name", {"a\nb": 6, "dog": 6}, X, X),
    Case("names that are no text", {b"caf\xe9/a.png": image(), b"caf\xe9/\xff.png": image(), "dog": 6, "cat": 6}, X, X),
    Case("names of 255 bytes", {"c" * 255: 6, "d" * 255: 6}, X, X),
    Case("dots at the end", {"cat.": 6, "dog.jpg": 6}, X, X),
    Case("classes null and NA", {"null": 6, "NA": 6}, X, X),
    Case("backslashes and commas", {"a\\b": 6, "c,d;e": 6}, X, X),
    Case("a dollar and LaTeX", {"$x_1^2$": 6, "\\frac": 6}, X, X),
    Case("a named place with ..", PETS, BOTH, X, named="cat/.."),
    Case("a place with * and []", {"[a]*/cat": 6, "[a]*/dog": 6}, X, X, named="[a]*"),
    Case("a place with ::", {"a::b/cat": 6, "a::b/dog": 6}, X, X, named="a::b"),
    # kept by systems
    Case("files of systems", {**PETS, ".DS_Store": "x", "cat/Thumbs.db": "x", "cat/._0.png": "x", "__MACOSX/cat/._0.png": "x"}, X, X),
    Case("hidden folders", {**PETS, ".thumbnails": 3, "cat/.cache": 2}, X, X),
    Case("notes", {**PETS, "cat/notes.txt": "x", "README.md": "x"}, X, X),
    Case("checkpoints of notebooks", {**PETS, ".ipynb_checkpoints": 2}, X, X),
    # few
    Case("an empty class", {**PETS, "bird": folder}, X, X),
    Case("a class of text files", {**PETS, "bird/a.txt": "x"}, X, X),
    Case("a class of HEIC", {**PETS, "bird/a.heic": "x"}, X, X),
    Case("an empty folder", {}, X, X),
    Case("text files only", {"a.txt": "x", "cat/b.txt": "x"}, X, X),
    Case("no images but folders", {"cat": folder, "dog": folder}, X, X),
    Case("one image", {".": 1}, X, X),
    Case("one image in a class", {"cat": 1}, X, X),
    Case("one class", {"cat": 6}, X, X),
    Case("two images", {"cat": 1, "dog": 1}, X, X),
    Case("a class of one image", {"cat": 12, "dog": 1}, X, X),
    Case("a folder without classes", {".": 12}, X, X),
    Case("a missing folder", {}, X, X, named="nope"),
    Case("an image for a folder", {"a.png": image()}, X, X, named="a.png"),
    Case("an archive", {"a.zip": b"PK"}, X, X, named="a.zip"),
    Case("archives in a folder", {"a.zip": b"PK", "b.tar": b"x"}, X, X),
    Case("a table of names", {".": 12, "labels.csv": "file,label\n0.png,cat\n"}, X, X),
    # links
    Case("a class behind a link", {"elsewhere/deep": 6, "data/dog": 6, "data/cat": link("../elsewhere/deep")}, X, X, named="data"),
    Case("an image behind a link", {"elsewhere": 1, "data/cat": 6, "data/dog": 6, "data/cat/l.png": link("../../elsewhere/0.png")}, X, X, named="data"),
    Case("a link to the folder", {"cat": 6, "dog": 6, "link": link("cat")}, X, X),
    Case("a circle", {**PETS, "cat/up": link("..")}, X, X),
    Case("a link to itself", {**PETS, "cat/self.png": link("self.png")}, X, X),
    Case("a broken link", {**PETS, "cat/gone.png": link("nope.png")}, X, X),
    Case("a broken link to a class", {**PETS, "bird": link("/nope")}, X, X),
    Case("the place is a link", {"data/cat": 6, "data/dog": 6, "place": link("data")}, X, X, named="place"),
    Case("a pipe", {**PETS, "cat/pipe.png": os.mkfifo}, X, X),
    Case("a pipe that is named", {"pipe.png": os.mkfifo}, X, X, named="pipe.png"),
    # broken
    Case("half a PNG", one("x.png", image(size=(99, 99))[:90]), X, X),
    Case("half a JPEG", one("x.jpg", image("JPEG", size=(300, 300), quality=90)[:900]), X, X),
    Case("no bytes", one("x.png", b""), X, X),
    Case("text in a PNG", one("x.png", "hello"), X, X),
    Case("a page in a JPEG", one("x.jpg", "<html>404</html>"), X, X),
    Case("a pointer of LFS", one("x.jpg", "version https://git-lfs.github.com/spec/v1\n"), X, X),
    Case("zeros", one("x.png", bytes(1000)), X, X),
    Case("a huge header", one("x.png", png_header(60000, 60000)), X, X),
    Case("a wide header", one("x.png", png_header(2**31 - 1, 1)), X, X),
    Case("a header without pixels", one("x.png", png_header(0, 9)), X, X),
    Case("HEIC in a JPEG", one("x.jpg", b"\0\0\0\x18ftypheic" + bytes(99)), X, X),
    Case("all broken", {"cat/a.png": b"x", "dog/a.png": b"x"}, X, X),
    Case("a class all broken", {**PETS, "bird/a.png": b"x", "bird/b.png": b"x"}, X, X),
    Case("EPS in a PNG", one("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), X, X),
    Case("a folder called like an image", {**PETS, "cat/x.png": 2}, X, X),
    # suffixes
    Case("JPG in capitals", one("x.JPG", image("JPEG")), X, X),
    Case("a PNG called jpg", one("x.jpg", image()), X, X),
    Case("a JPEG called txt", one("x.txt", image("JPEG")), X, X),
    Case("no suffix", one("x", image()), X, X),
    Case("no suffix, no image", one("LICENSE", "x"), X, X),
    Case("half a download", one("x.png.part", image()[:60]), X, X),
    Case("a copy", one("x.png~", image()), X, X),
    Case("a blank at the end", one("x.png ", image()), X, X),
    *(
        Case(f"a {suffix}", one(f"x.{suffix}", image(kind)), MORE, "13")
        for suffix, kind in {"jfif": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "webp": "WEBP", "gif": "GIF", "bmp": "BMP",
                             "tiff": "TIFF", "ico": "ICO", "ppm": "PPM", "pcx": "PCX", "dds": "DDS", "avif": "AVIF"}.items()
    ),
    *(
        Case(f"a .{suffix}", one(f"x.{suffix}", "x"), BOTH, "12", (f"1 .{suffix}",))
        for suffix in ("svg", "heic", "pdf", "mp4", "eps", "npy", "zip", "h5", "mpg", "dcm")
    ),
    Case("only TGA", {**{f"cat/{n}.tga": image("TGA") for n in range(6)}, **{f"dog/{n}.tga": image("TGA") for n in range(6)}}, X, X),
    # pixels
    *(
        Case(f"{mode} in {kind}", one(f"x.{kind}", image(kind.upper(), mode)), MORE, "13")
        for mode, kind in (("CMYK", "jpeg"), ("I;16", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("F", "tiff"), ("CMYK", "tiff"), ("I", "tiff"))
    ),
    Case("one pixel", one("x.png", image(size=(1, 1))), X, X),
    Case("a line of pixels", one("x.png", image(size=(3000, 1))), X, X),
    Case("frames", one("x.gif", image("GIF", "P") + b""), X, X),
    Case("EXIF that is broken", one("x.jpg", image("JPEG", exif=b"Exif\0\0broken")), X, X),
    # metadata
    Case("metadata.jsonl", metadata("metadata.jsonl", lines(*labelled())), X, X),
    Case("metadata.jsonl with a BOM", metadata("metadata.jsonl", "\ufeff" + lines(*labelled())), X, X),
    Case("METADATA.JSONL", metadata("METADATA.JSONL", lines(*labelled())), X, X),
    Case("metadata.csv", metadata("metadata.csv", "file_name,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(12))), X, X),
    Case("metadata.csv with semicolons", metadata("metadata.csv", "file_name;label\n" + "".join(f"{n}.png;{n % 2}\n" for n in range(12))), X, X),
    Case("metadata.csv in Latin 1", metadata("metadata.csv", b"file_name,label\n0.png,caf\xe9\n"), X, X),
    Case("metadata.jsonl in Latin 1", metadata("metadata.jsonl", b'{"file_name": "0.png", "label": "caf\xe9"}\n'), X, X),
    Case("metadata.jsonl in UTF-16", metadata("metadata.jsonl", lines(*labelled()).encode("utf-16")), X, X),
    Case("metadata.csv in UTF-16", metadata("metadata.csv", "file_name,label\n0.png,1\n".encode("utf-16")), X, X),
    Case("metadata.parquet", metadata("metadata.parquet", table(image=None, file_name=[f"{n}.png" for n in range(12)], label=TABLE12)), X, X),
    Case("metadata of some", metadata("metadata.jsonl", lines(*labelled()), 15), X, X),
    Case("metadata of one that is not there", metadata("metadata.jsonl", lines(*labelled(), {"file_name": "99.png", "label": "cat"})), X, X),
    Case("metadata that leads out", {"0.png": image(), "data": 12, "data/metadata.jsonl": lines({"file_name": "../0.png", "label": "cat"})}, X, X, named="data"),
    Case("metadata with an absolute path", metadata("metadata.jsonl", lines({"file_name": "/etc/passwd", "label": "cat"})), X, X),
    Case("metadata of one image twice", metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": "dog"})), X, X),
    Case("metadata of one image with two labels", metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": "cat"})), X, X),
    Case("metadata twice", {**metadata("metadata.jsonl", lines(*labelled())), "metadata.csv": "file_name,label\n" + "".join(f"{n}.png,{'cat' if n % 2 else 'dog'}\n" for n in range(12))}, X, X),
    Case("empty metadata", metadata("metadata.jsonl", ""), X, X),
    Case("metadata that is no JSON", metadata("metadata.jsonl", "{file_name: 0.png}\n"), X, X),
    Case("metadata as an array", metadata("metadata.jsonl", json.dumps(labelled(), indent=1)), X, X),
    Case("metadata without names", metadata("metadata.jsonl", lines({"label": "cat"})), X, X),
    Case("metadata with texts alone", metadata("metadata.jsonl", lines(*({"file_name": f"{n}.png", "text": f"a {n}"} for n in range(12)))), X, X),
    Case("metadata with mixed labels", metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": 3})), X, X),
    Case("metadata without a label", metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png"})), X, X),
    Case("metadata with lists of labels", metadata("metadata.jsonl", lines(*labelled(label=["cat", "dog"]))), X, X),
    Case("metadata with objects", metadata("metadata.jsonl", lines(*labelled(label={"name": "cat"}))), X, X),
    Case("metadata of splits", {"train": 12, "train/metadata.jsonl": lines(*labelled()), "test": 2, "test/metadata.jsonl": lines(*labelled()[:2])}, X, X),
    Case("metadata of one split", {"train": 12, "train/metadata.jsonl": lines(*labelled()), "test": 2}, X, X),
    Case("metadata of a class", {**PETS, "cat/metadata.jsonl": lines({"file_name": "0.png", "label": "lion"}, {"file_name": "1.png", "label": "tiger"})}, X, X),
    Case("metadata of a broken image", {**metadata("metadata.jsonl", lines(*labelled())), "0.png": b"x"}, X, X),
    Case("metadata with a column image", metadata("metadata.jsonl", lines(*labelled(image="x"))), X, X),
    # Parquet
    Case("train.parquet", {"train.parquet": table(label=TABLE12)}, X, X),
    Case("Train.parquet and Test.parquet", {"Train.parquet": table(label=TABLE12), "Test.parquet": table(label=["cat"])}, X, X),
    Case("test.parquet alone", {"test.parquet": table(label=TABLE12)}, X, X),
    Case("shards", {f"train-0000{n}-of-00002.parquet": table(label=TABLE12) for n in range(2)}, X, X),
    Case("Parquet in folders", {"train/a.parquet": table(label=TABLE12), "test/a.parquet": table(label=["cat"])}, X, X),
    Case("Parquet beside classes", {**PETS, "train.parquet": table(label=TABLE12)}, X, X),
    Case("Parquet beside images", {".": 3, "train.parquet": table(label=TABLE12)}, X, X),
    Case("Parquet beside notes", {"notes.txt": "x", "train.parquet": table(label=TABLE12)}, X, X),
    Case("a named Parquet", {"a.PARQUET": table(label=TABLE12)}, X, X, named="a.PARQUET"),
    Case("integers", {"a.parquet": table(label=[10, 2] * 6)}, X, X),
    Case("booleans", {"a.parquet": table(label=[True, False] * 6)}, X, X),
    Case("whole floats", {"a.parquet": table(label=[1.0, 2.0] * 6)}, X, X),
    Case("floats", {"a.parquet": table(label=[1.5, 2.0] * 6)}, X, X),
    Case("a missing label", {"a.parquet": table(label=["cat", None] * 6)}, X, X),
    Case("-1", {"a.parquet": table(label=[1, -1] * 6)}, X, X),
    Case("empty text", {"a.parquet": table(label=["cat", ""] * 6)}, X, X),
    Case("lists of labels", {"a.parquet": table(label=[["cat", "dog"], ["cat"]] * 6)}, X, X),
    Case("dates", {"a.parquet": table(label=pa.array([1, 2] * 6, pa.timestamp("s")))}, X, X),
    Case("dictionaries of Arrow", {"a.parquet": table(label=pa.array(TABLE12).dictionary_encode())}, X, X),
    Case("decimals", {"a.parquet": table(label=pa.array([1, 2] * 6, pa.decimal128(5, 0)))}, X, X),
    Case("unsigned bytes", {"a.parquet": table(label=pa.array([1, 2] * 6, pa.uint8()))}, X, X),
    Case("binary labels", {"a.parquet": table(label=pa.array([b"cat", b"dog"] * 6, pa.binary()))}, X, X),
    Case("large text", {"a.parquet": table(label=pa.array(TABLE12, pa.large_string()))}, X, X),
    Case("no image", {"a.parquet": table(image=None, label=TABLE12, text=TABLE12)}, X, X),
    Case("no label", {"a.parquet": table(caption=TABLE12)}, X, X),
    Case("an image is null", {"a.parquet": table(image=[image()] * 11 + [None], label=TABLE12)}, X, X),
    Case("an image is broken", {"a.parquet": table(image=[image(level=n) for n in range(11)] + [b"x"], label=TABLE12)}, X, X),
    Case("images by paths that are gone", {"a.parquet": table(image=[{"bytes": None, "path": "/nope.png"}] * 12, label=TABLE12)}, X, X),
    Case("half a Parquet", {"a.parquet": b"PAR1 half"}, X, X),
    Case("an empty Parquet", {"a.parquet": b""}, X, X),
    Case("a Parquet without rows", {"a.parquet": table(image=pa.array([], pa.binary()), label=pa.array([], pa.string()))}, X, X),
    Case("Parquet of two kinds", {"train-0.parquet": table(label=TABLE12), "train-1.parquet": table(label=[0, 1] * 6)}, X, X),
    # IDX
    Case("IDX", {"train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(12)}, X, X),
    Case("IDX in gzip", {"train-images-idx3-ubyte.gz": gzip.compress(idx(12, 4, 4)), "train-labels-idx1-ubyte.gz": gzip.compress(idx(12))}, X, X),
    Case("IDX without labels", {"train-images-idx3-ubyte": idx(12, 4, 4)}, X, X),
    Case("half an IDX", {"train-images-idx3-ubyte": idx(12, 4, 4)[:99], "train-labels-idx1-ubyte": idx(12)}, X, X),
    Case("half a gzip", {"train-images-idx3-ubyte.gz": gzip.compress(idx(12, 4, 4))[:30], "train-labels-idx1-ubyte": idx(12)}, X, X),
    Case("IDX of other lengths", {"train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(9)}, X, X),
    Case("IDX beside classes", {**PETS, "train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(12)}, X, X),
    Case("IDX in other types", {"train-images-idx3-ubyte": b"\0\0\x0d\1" + bytes(8), "train-labels-idx1-ubyte": idx(12)}, X, X),
    # saved by datasets
    Case("save_to_disk", {"saved": lambda path: Dataset.from_dict({"image": [image()] * 12, "label": TABLE12}).save_to_disk(path)}, X, X, named="saved"),
    Case("half of save_to_disk", {"state.json": "{", "dataset_info.json": "{}"}, X, X),
    Case("save_to_disk beside classes", {**PETS, "dataset_dict.json": '{"splits": ["train"]}'}, X, X),
    # others
    Case("conversations", {"train.jsonl": lines({"image": "a.png", "messages": []}), "a.png": image()}, X, X),
    Case("a named file of conversations", {"train.jsonl": lines({"image": "a.png", "messages": []}), "a.png": image()}, X, X, named="train.jsonl"),
    Case("a folder of a run among classes", {**PETS, "run/config.json": "{}", "run/metrics.json": "{}", "run/model.safetensors": "x", "run/mistakes.png": image()}, X, X),
    Case("an index among classes", {**PETS, "index/index.json": "{}", "index/images.lance/x": "x", "index/hits.png": image()}, X, X),
    Case("a folder that is read only", {**PETS, "dog/.x": lambda path: path.parent.chmod(0o555)}, X, X),
    Case("a folder that cannot be entered", {**PETS, "bird": 2, "bird/.x": lambda path: path.parent.chmod(0)}, X, X),
]
