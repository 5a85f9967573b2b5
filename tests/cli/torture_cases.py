"""Trees of folders and files as people bring them; what the commands make of each stands in `torture.md`.

A tree names folders with a number of images, and files with their content or with what makes them at their path.
"""

import functools
import gzip
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image, features


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


def image(
    kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (9, 9), level: int = 90, **options: Any
) -> bytes:
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
    head = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]


FORMATS = {"jfif": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF"}
NO_IMAGES = ("svg", "heic", "pdf", "mp4", "eps", "npy", "zip", "h5", "mpg", "dcm")
FORMATS |= {"ico": "ICO", "ppm": "PPM", "pcx": "PCX", "dds": "DDS"}
FORMATS |= {"avif": "AVIF"} if features.check("avif") else {}
MODES = [
    *((mode, "png") for mode in ("I;16", "LA", "RGBA", "P", "1")),
    *((mode, "tiff") for mode in ("F", "CMYK", "I")),
]
MODES.append(("CMYK", "jpeg"))
PETS = {"cat": 6, "dog": 6}
SPLIT = {"train/cat": 6, "train/dog": 6}


def one(name: str, content: Any) -> dict[str, Any]:
    return {**PETS, f"cat/{name}": content}


def metadata(name: str, content: Any, count: int = 12) -> dict[str, Any]:
    return {".": count, name: content}


def labelled(**changes: Any) -> list[dict[str, Any]]:
    return [{"file_name": f"{n}.png", "label": "cat" if n % 2 else "dog"} | changes for n in range(12)]


FRAMES = image("GIF", save_all=True, append_images=(Image.new("RGB", (9, 9)),))
TALK = {"image": "a.png", "messages": [{"role": role, "content": "a"} for role in ("user", "assistant")]}
TABLE12 = [("cat", "dog")[n % 2] for n in range(12)]
CASES: dict[str, Mapping[str, Any]] = {
    # splits
    "classes": PETS,
    "train and test": {**SPLIT, "test/cat": 2, "test/dog": 1},
    "capitals": {"Train/cat": 6, "Train/dog": 6, "Test/cat": 2, "Test/dog": 1},
    "all capitals": {"TRAIN/cat": 6, "TRAIN/dog": 6, "VAL/cat": 2, "TEST/dog": 1},
    "trainset and testset": {"trainset/cat": 6, "trainset/dog": 6, "testset/cat": 2},
    "training, validation and testing": {"training/cat": 6, "training/dog": 6, "validation/cat": 1, "testing/dog": 2},
    "train_set and dev_set": {"train_set/cat": 6, "train_set/dog": 6, "dev_set/cat": 1},
    "train-split and eval-split": {"train-split/cat": 6, "train-split/dog": 6, "eval-split/cat": 1},
    "holdout": {**SPLIT, "holdout/cat": 2},
    "train alone": SPLIT,
    "train1 and train2": {"train1/cat": 6, "train2/dog": 6},
    "train and Training": {"train/cat": 6, "Training/dog": 6},
    "an unknown split": {**SPLIT, "holdback/cat": 2},
    "test alone": {"test/cat": 6, "test/dog": 6},
    "validation and test alone": {"val/cat": 6, "test/dog": 6},
    "splits within classes": {"cat/train": 3, "cat/test": 3, "dog/train": 3, "dog/test": 3},
    "splits within one class": {"cat/train": 3, "cat/test": 3, "dog": 6},
    "splits within classes beside images": {"cat": 3, "cat/train": 3, "cat/test": 3, "dog": 6},
    "a class of trains within vehicles": {"vehicles/train": 3, "vehicles/bus": 3, "dog": 6},
    "one folder too high, classes": {"archive/cat": 6, "archive/dog": 6},
    "one folder too high, splits": {"archive/train/cat": 6, "archive/train/dog": 6, "archive/test/cat": 2},
    "images beside train": {**SPLIT, ".": 2},
    "images in train itself": {**SPLIT, "train": 2},
    "images beside classes": {**PETS, ".": 3},
    "a class of test alone": {**SPLIT, "test/cat": 2, "test/bird": 2},
    "a class of validation alone": {**SPLIT, "val/bird": 2},
    "a class like a split": {"train": 6, "bus": 6},
    "an empty test split": {**SPLIT, "test/cat": folder},
    "an empty train split": {"train": folder, "test/cat": 3, "test/dog": 3},
    "flat splits": {"train": 6, "test": 3},
    "unlabelled test split": {**SPLIT, "test": 3},
    # names
    "names with words of splits": {"freight train": 6, "test tube": 6},
    "names with words of splits 2": {"dev-board": 6, "val thorens": 6},
    "files called after splits": {"cat": 3, "dog": 6, **{f"cat/test_{n}.png": image(level=n) for n in range(3)}},
    "train.png": {"cat": 5, "dog": 6, "cat/train.png": image()},
    "years below classes": {"cat/2023": 3, "cat/2024": 3, "dog": 6},
    "eight folders deep": {"cat/a/b/c/d/e/f/g": 6, "dog": 6},
    "classes 1, 2, 10": {"1": 10, "2": 10, "10": 10},
    "classes that differ in case": {"Cat": 6, "cat": 6},
    "accents of two kinds": {"caf\u00e9": 3, "cafe\u0301": 3, "dog": 6},
    "blanks, brackets, stars and colons": {"a b [c]": 6, "d*::e?": 6},
    "a leading -": {"-r": 6, "--help": 6},
    "quotes, percent, hash": {"50%20#1": 6, 'it\'s "so"': 6},
    "emoji and Arabic": {"\U0001f408": 6, "\u0643\u0644\u0628": 6},
    "a line feed in a name": {"a\nb": 6, "dog": 6},
    "names that are no text": {**{b"caf\xe9/%d\xff.png" % n: image(level=n) for n in range(6)}, "dog": 6},
    "names of 255 bytes": {"c" * 255: 6, "d" * 255: 6},
    "dots at the end": {"cat.": 6, "dog.jpg": 6},
    "classes null and NA": {"null": 6, "NA": 6},
    "backslashes and commas": {"a\\b": 6, "c,d;e": 6},
    "a dollar and LaTeX": {"$x_1^2$": 6, "\\frac": 6},
    "a named place with ..": PETS,
    "a place with * and []": {"[a]*/cat": 6, "[a]*/dog": 6},
    "a place with ::": {"a::b/cat": 6, "a::b/dog": 6},
    # kept by systems
    "files of systems": {
        **PETS,
        ".DS_Store": "x",
        "cat/Thumbs.db": "x",
        "cat/._0.png": "x",
        "__MACOSX/cat/._0.png": "x",
    },
    "hidden folders": {**PETS, ".thumbnails": 3, "cat/.cache": 2},
    "notes": {**PETS, "cat/notes.txt": "x", "README.md": "x"},
    "checkpoints of notebooks": {**PETS, ".ipynb_checkpoints": 2},
    # few
    "an empty class": {**PETS, "bird": folder},
    "a class of text files": {**PETS, "bird/a.txt": "x"},
    "a class of HEIC": {**PETS, "bird/a.heic": "x"},
    "an empty folder": {},
    "text files only": {"a.txt": "x", "cat/b.txt": "x"},
    "no images but folders": {"cat": folder, "dog": folder},
    "one image": {".": 1},
    "one image in a class": {"cat": 1},
    "one class": {"cat": 6},
    "two images": {"cat": 1, "dog": 1},
    "a class of one image": {"cat": 12, "dog": 1},
    "a folder without classes": {".": 12},
    "a missing folder": {},
    "an image for a folder": {"a.png": image()},
    "an archive": {"a.zip": b"PK"},
    "archives in a folder": {"a.zip": b"PK", "b.tar": b"x"},
    "a table of names": {".": 12, "labels.csv": "file,label\n0.png,cat\n"},
    # links
    "a class behind a link": {"elsewhere/deep": 6, "data/dog": 6, "data/cat": link("../elsewhere/deep")},
    "an image behind a link": {
        "elsewhere": 1,
        "data/cat": 6,
        "data/dog": 6,
        "data/cat/l.png": link("../../elsewhere/0.png"),
    },
    "a link to the folder": {"cat": 10, "dog": 10, "link": link("cat")},
    "a circle": {**PETS, "cat/up": link("..")},
    "a link to itself": {**PETS, "cat/self.png": link("self.png")},
    "a broken link": {**PETS, "cat/gone.png": link("nope.png")},
    "a broken link to a class": {**PETS, "bird": link("/nope")},
    "the place is a link": {"data/cat": 6, "data/dog": 6, "place": link("data")},
    "a pipe": {**PETS, "cat/pipe.png": os.mkfifo},
    "a pipe that is named": {"pipe.png": os.mkfifo},
    # broken
    "half a PNG": one("x.png", image(size=(99, 99))[:90]),
    "half a JPEG": one("x.jpg", image("JPEG", size=(300, 300), quality=90)[:900]),
    "no bytes": one("x.png", b""),
    "text in a PNG": one("x.png", "hello"),
    "a page in a JPEG": one("x.jpg", "<html>404</html>"),
    "a pointer of LFS": one("x.jpg", "version https://git-lfs.github.com/spec/v1\n"),
    "zeros": one("x.png", bytes(1000)),
    "a huge header": one("x.png", png_header(60000, 60000)),
    "a wide header": one("x.png", png_header(2**31 - 1, 1)),
    "a header without pixels": one("x.png", png_header(0, 9)),
    "HEIC in a JPEG": one("x.jpg", b"\0\0\0\x18ftypheic" + bytes(99)),
    "all broken": {"cat/a.png": b"x", "dog/a.png": b"x"},
    "a class all broken": {"cat": 10, "dog": 10, **{f"bird/{n}.png": b"x" for n in range(10)}},
    "EPS in a PNG": one("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "a folder called like an image": {**PETS, "cat/x.png": 2},
    # suffixes
    "JPG in capitals": one("x.JPG", image("JPEG")),
    "a PNG called jpg": one("x.jpg", image()),
    "a JPEG called txt": one("x.txt", image("JPEG")),
    "no suffix": one("x", image()),
    "no suffix, no image": one("LICENSE", "x"),
    "half a download": one("x.png.part", image()[:60]),
    "a copy": one("x.png~", image()),
    "a blank at the end": one("x.png ", image()),
    **{f"a {name}": one(f"x.{name}", image(kind)) for name, kind in FORMATS.items()},
    **{f"a .{name}": one(f"x.{name}", "x") for name in NO_IMAGES},
    "only TGA": {
        **{f"cat/{n}.tga": image("TGA") for n in range(6)},
        **{f"dog/{n}.tga": image("TGA") for n in range(6)},
    },
    # pixels
    **{f"{mode} in {kind}": one(f"x.{kind}", image(kind.upper(), mode)) for mode, kind in MODES},
    "one pixel": one("x.png", image(size=(1, 1))),
    "a line of pixels": one("x.png", image(size=(3000, 1))),
    "frames": one("x.gif", FRAMES),
    "EXIF that is broken": one("x.jpg", image("JPEG", exif=b"Exif\0\0broken")),
    # metadata
    "metadata.jsonl": metadata("metadata.jsonl", lines(*labelled())),
    "metadata.jsonl with a BOM": metadata("metadata.jsonl", "\ufeff" + lines(*labelled())),
    "METADATA.JSONL": metadata("METADATA.JSONL", lines(*labelled())),
    "metadata.csv": metadata("metadata.csv", "file_name,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(12))),
    "metadata.csv with semicolons": metadata(
        "metadata.csv", "file_name;label\n" + "".join(f"{n}.png;{n % 2}\n" for n in range(12))
    ),
    "metadata.csv in Latin 1": metadata("metadata.csv", b"file_name,label\n0.png,caf\xe9\n"),
    "metadata.jsonl in Latin 1": metadata("metadata.jsonl", b'{"file_name": "0.png", "label": "caf\xe9"}\n'),
    "metadata.jsonl in UTF-16": metadata("metadata.jsonl", lines(*labelled()).encode("utf-16")),
    "metadata.csv in UTF-16": metadata("metadata.csv", "file_name,label\n0.png,1\n".encode("utf-16")),
    "metadata.parquet": metadata(
        "metadata.parquet", table(image=None, file_name=[f"{n}.png" for n in range(12)], label=TABLE12)
    ),
    "metadata of some": metadata("metadata.jsonl", lines(*labelled()), 15),
    "metadata of one that is not there": metadata(
        "metadata.jsonl", lines(*labelled(), {"file_name": "99.png", "label": "cat"})
    ),
    "metadata that leads out": {
        "0.png": image(),
        "data": 12,
        "data/metadata.jsonl": lines({"file_name": "../0.png", "label": "cat"}),
    },
    "metadata with an absolute path": metadata("metadata.jsonl", lines({"file_name": "/etc/passwd", "label": "cat"})),
    "metadata of one image twice": metadata(
        "metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": "dog"})
    ),
    "metadata of one image with two labels": metadata(
        "metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": "cat"})
    ),
    "metadata twice": {
        **metadata("metadata.jsonl", lines(*labelled())),
        "metadata.csv": "file_name,label\n" + "".join(f"{n}.png,{'cat' if n % 2 else 'dog'}\n" for n in range(12)),
    },
    "empty metadata": metadata("metadata.jsonl", ""),
    "metadata that is no JSON": metadata("metadata.jsonl", "{file_name: 0.png}\n"),
    "metadata as an array": metadata("metadata.jsonl", json.dumps(labelled(), indent=1)),
    "metadata without names": metadata("metadata.jsonl", lines({"label": "cat"})),
    "metadata with texts alone": metadata(
        "metadata.jsonl", lines(*({"file_name": f"{n}.png", "text": f"a {n}"} for n in range(12)))
    ),
    "metadata with mixed labels": metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png", "label": 3})),
    "metadata without a label": metadata("metadata.jsonl", lines(*labelled(), {"file_name": "0.png"})),
    "metadata with lists of labels": metadata("metadata.jsonl", lines(*labelled(label=["cat", "dog"]))),
    "metadata with objects": metadata("metadata.jsonl", lines(*labelled(label={"name": "cat"}))),
    "metadata of splits": {
        "train": 12,
        "train/metadata.jsonl": lines(*labelled()),
        "test": 2,
        "test/metadata.jsonl": lines(*labelled()[:2]),
    },
    "metadata of one split": {"train": 12, "train/metadata.jsonl": lines(*labelled()), "test": 2},
    "metadata of a class": {
        **PETS,
        "cat/metadata.jsonl": lines({"file_name": "0.png", "label": "lion"}, {"file_name": "1.png", "label": "tiger"}),
    },
    "metadata of a broken image": {**metadata("metadata.jsonl", lines(*labelled())), "0.png": b"x"},
    "metadata with a column image": metadata("metadata.jsonl", lines(*labelled(image="x"))),
    # Parquet
    "train.parquet": {"train.parquet": table(label=TABLE12)},
    "Train.parquet and Test.parquet": {"Train.parquet": table(label=TABLE12), "Test.parquet": table(label=["cat"])},
    "test.parquet alone": {"test.parquet": table(label=TABLE12)},
    "shards": {f"train-0000{n}-of-00002.parquet": table(label=TABLE12) for n in range(2)},
    "Parquet in folders": {"train/a.parquet": table(label=TABLE12), "test/a.parquet": table(label=["cat"])},
    "Parquet beside classes": {**PETS, "train.parquet": table(label=TABLE12)},
    "Parquet beside images": {".": 3, "train.parquet": table(label=TABLE12)},
    "Parquet beside notes": {"notes.txt": "x", "train.parquet": table(label=TABLE12)},
    "a named Parquet": {"a.PARQUET": table(label=TABLE12)},
    "integers": {"a.parquet": table(label=[10, 2] * 6)},
    "booleans": {"a.parquet": table(label=[True, False] * 6)},
    "whole floats": {"a.parquet": table(label=[1.0, 2.0] * 6)},
    "floats": {"a.parquet": table(label=[1.5, 2.0] * 6)},
    "a missing label": {"a.parquet": table(label=["cat", None] * 6)},
    "-1": {"a.parquet": table(label=[1, -1] * 6)},
    "empty text": {"a.parquet": table(label=["cat", ""] * 6)},
    "lists of labels": {"a.parquet": table(label=[["cat", "dog"], ["cat"]] * 6)},
    "dates": {"a.parquet": table(label=pa.array([1, 2] * 6, pa.timestamp("s")))},
    "dictionaries of Arrow": {"a.parquet": table(label=pa.array(TABLE12).dictionary_encode())},
    "decimals": {"a.parquet": table(label=pa.array([1, 2] * 6, pa.decimal128(5, 0)))},
    "unsigned bytes": {"a.parquet": table(label=pa.array([1, 2] * 6, pa.uint8()))},
    "binary labels": {"a.parquet": table(label=pa.array([b"cat", b"dog"] * 6, pa.binary()))},
    "large text": {"a.parquet": table(label=pa.array(TABLE12, pa.large_string()))},
    "no image": {"a.parquet": table(image=None, label=TABLE12, text=TABLE12)},
    "no label": {"a.parquet": table(caption=TABLE12)},
    "an image is null": {"a.parquet": table(image=[image()] * 11 + [None], label=TABLE12)},
    "an image is broken": {"a.parquet": table(image=[image(level=n) for n in range(11)] + [b"x"], label=TABLE12)},
    "images by paths that are gone": {
        "a.parquet": table(image=[{"bytes": None, "path": f"/nope/{n}.png"} for n in range(12)], label=TABLE12)
    },
    "half a Parquet": {"a.parquet": b"PAR1 half"},
    "an empty Parquet": {"a.parquet": b""},
    "a Parquet without rows": {"a.parquet": table(image=pa.array([], pa.binary()), label=pa.array([], pa.string()))},
    "Parquet of two kinds": {"train-0.parquet": table(label=TABLE12), "train-1.parquet": table(label=[0, 1] * 6)},
    # IDX
    "IDX": {"train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(12)},
    "IDX in gzip": {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(12, 4, 4)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(12)),
    },
    "IDX without labels": {"train-images-idx3-ubyte": idx(12, 4, 4)},
    "half an IDX": {"train-images-idx3-ubyte": idx(12, 4, 4)[:99], "train-labels-idx1-ubyte": idx(12)},
    "half a gzip": {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(12, 4, 4))[:30],
        "train-labels-idx1-ubyte": idx(12),
    },
    "IDX of other lengths": {"train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(9)},
    "IDX beside classes": {**PETS, "train-images-idx3-ubyte": idx(12, 4, 4), "train-labels-idx1-ubyte": idx(12)},
    "IDX in other types": {"train-images-idx3-ubyte": b"\0\0\x0d\1" + bytes(8), "train-labels-idx1-ubyte": idx(12)},
    # saved by datasets
    "save_to_disk": {
        "saved": lambda path: Dataset.from_dict({"image": [image()] * 12, "label": TABLE12}).save_to_disk(path)
    },
    "half of save_to_disk": {"state.json": "{", "dataset_info.json": "{}"},
    "save_to_disk beside classes": {**PETS, "dataset_dict.json": '{"splits": ["train"]}'},
    # others
    "conversations": {"train.jsonl": lines(*[TALK] * 12), "a.png": image()},
    "a named file of conversations": {"train.jsonl": lines(*[TALK] * 12), "a.png": image()},
    "a folder of a run among classes": {
        **PETS,
        "run/config.json": "{}",
        "run/metrics.json": "{}",
        "run/model.safetensors": "x",
        "run/mistakes.png": image(),
    },
    "an index among classes": {
        **PETS,
        "index/index.json": "{}",
        "index/images.lance/x": "x",
        "index/hits.png": image(),
    },
    "a folder that is read only": {**PETS, "dog/.x": lambda path: path.parent.chmod(0o555)},
    # where a split is empty, a class is broken, or an image comes twice
    "an empty validation split": {**SPLIT, "val": folder},
    "an image in two classes": {"cat": 6, "dog": 6, "dog/copy.png": link("../cat/0.png")},
    "a test image that is broken": {**SPLIT, "test/cat": 2, "test/cat/x.png": b"x"},
    "a training image that is broken": {**SPLIT, "train/cat/x.png": b"x"},
    "a link out and back": {**PETS, "cat/deep/back": link("../../dog")},
    "an empty folder in a class": {**PETS, "cat/empty": folder},
    "Windows files": {**PETS, "desktop.ini": "x", "$RECYCLE.BIN": 2, "System Volume Information/x": "x"},
    "eaDir of a NAS": {**PETS, "cat/@eaDir": 6},
    "upper-case METADATA in a class": {**PETS, "dog/Metadata.csv": "file_name,label\n9.png,dog\n"},
    "two suffixes": one("x.tar.png", image()),
    "a name of a dot": one("..png", image()),
    "a database of thumbnails": {**PETS, "index.db": "x"},
    "a video beside": {**PETS, "cat/film.MOV": "x"},
    "raw photographs": {**PETS, "cat/a.CR2": "x", "cat/b.nef": "x"},
    "sidecars": {**PETS, "cat/0.xmp": "x", "cat/0.json": "{}", "cat/0.txt": "a cat"},
    "masks beside images": {"images": 6, "masks": 6},
    "YOLO": {"images/train": 6, "images/val": 2, "labels/train/0.txt": "0 1 1 1 1", "data.yaml": "nc: 1"},
    "COCO": {"train2017": 6, "val2017": 2, "annotations/instances.json": "{}"},
    "YOLO in splits": {"train/images": 6, "train/labels/0.txt": "0", "valid/images": 2, "valid/labels/0.txt": "0"},
    "Pascal VOC": {
        "JPEGImages": 10,
        "SegmentationClass": 10,
        "Annotations/0.xml": "x",
        "ImageSets/Main/train.txt": "0",
    },
    "CVAT": {"images": 6, "annotations.xml": "<annotations/>"},
    "labelme": {".": 6, "0.json": "{}"},
    "Roboflow": {"train": 6, "train/_annotations.coco.json": "{}", "valid": 3, "test": 2},
    "Cityscapes": {"leftImg8bit/train/aachen": 3, "leftImg8bit/val/bonn": 2, "gtFine/train/aachen": 3},
    "archives of ImageNet": {"train/n01440764.tar": b"x", "val/n01440764": 2},
    "archives of classes": {"cat.zip": b"PK", "dog.zip": b"PK"},
    "an archive beside classes": {**PETS, "bird.zip": b"PK"},
    "numbered splits": {"01_train/cat": 6, "01_train/dog": 6, "02_test/cat": 2},
    "splits called after the data": {"pets_train/cat": 6, "pets_train/dog": 6, "pets_val/cat": 2},
    "splits in names of Parquet files": {f"my-{split}.parquet": table(label=TABLE12) for split in ("train", "test")},
    "classes and splits in one name": {"cat_train": 6, "cat_test": 3, "dog_train": 6},
    "classes that differ in blanks": {"hot dog": 6, "hot  dog": 6},
    "classes that differ in width": {"cat": 6, "\uff43\uff41\uff54": 6},
    "classes that differ in what nobody sees": {"a b": 6, "a\u00a0b\u200b": 6},
    "few of three classes": {"a": 6, "b": 6, "c": 6},
    "a fork of macOS": one("x.png", b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)),
    "pages": one("x.tiff", image("TIFF", save_all=True, append_images=(Image.new("RGB", (5, 5)),))),
    "frames of WebP": one("x.webp", image("WEBP", save_all=True, append_images=(Image.new("RGB", (9, 9)),))),
    "frames of PNG": one("x.png", image(save_all=True, append_images=(Image.new("RGB", (9, 9)),))),
    "SVG in a PNG": one("x.png", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a recycle bin": {**PETS, "#recycle": 2, "lost+found": folder},
    "metadata with a column split": metadata(
        "metadata.jsonl", lines(*(row | {"split": "Valid" if n > 9 else "train"} for n, row in enumerate(labelled())))
    ),
    "metadata with splits that are none": metadata("metadata.jsonl", lines(*labelled(split="fold 1"))),
    "metadata with some splits": metadata(
        "metadata.jsonl", lines(*(row | {"split": "rest" if n > 9 else "train"} for n, row in enumerate(labelled())))
    ),
    "Parquet with a column subset": {"a.parquet": table(label=TABLE12, subset=["train"] * 10 + ["validation"] * 2)},
    "metadata of Windows": {
        "img": 12,
        "metadata.csv": "file_name,label\r\n" + "".join(f"img\\{n}.png,{n % 2}\r\n" for n in range(12)),
    },
    "metadata with blanks": metadata(
        "metadata.csv", "file_name, label\n" + "".join(f"{n}.png, {n % 2}\n" for n in range(12))
    ),
    "metadata with a column twice": metadata("metadata.csv", "file_name,label,label\n0.png,a,b\n"),
    "metadata with numbers for names": metadata("metadata.csv", "file_name,label\n0,a\n1,b\n"),
    "metadata with addresses": metadata("metadata.jsonl", lines({"file_name": "https://a.org/0.png", "label": "a"})),
    "ImageNet": {"train/n01440764": 6, "train/n01443537": 6, "val/n01440764": 2, "val/n01443537": 2},
}
# What is named below the root, where it is not the root.
NAMED = {
    "a named place with ..": "cat/..",
    "a place with * and []": "[a]*",
    "a place with ::": "a::b",
    "a missing folder": "nope",
    "an image for a folder": "a.png",
    "an archive": "a.zip",
    "a class behind a link": "data",
    "an image behind a link": "data",
    "the place is a link": "place",
    "a pipe that is named": "pipe.png",
    "metadata that leads out": "data",
    "a named Parquet": "a.PARQUET",
    "save_to_disk": "saved",
    "a named file of conversations": "train.jsonl",
}
