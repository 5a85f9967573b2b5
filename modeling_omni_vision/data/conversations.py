"""Conversations about images from files: easy-VQA, and any JSON lines.

easy-VQA (https://github.com/vzhou842/easy-VQA, MIT, `pip install --no-deps easy-vqa`) has 4,000 drawn images with
38,575 questions to train and 1,000 with 9,673 to test, 13 answers.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value

from .image_folder import assign_splits, split_of
from .stored_images import open_stored


IMAGE = "<image>"
SUFFIXES = (".jsonl", ".json")
# Images that are decoded to their last pixel before training; of more, only that they open is looked at.
DECODED = 5_000
EASY_VQA_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
EASY_VQA_SHAPES = ("circle", "rectangle", "triangle")
# A row: where an image stands, the `content` of a message says `<image>`; `answer` comes after the messages, `kind` is
# what it is measured by; `symbols` says in words what is in the images, for a text-only baseline; `source` is the file
# and line of a conversation.
FEATURES = Features(
    {
        "images": List(Image(decode=False)),
        "questions": List(
            {
                "messages": List({"role": Value("string"), "content": Value("string")}),
                "answer": Value("string"),
                "kind": Value("string"),
            }
        ),
        "symbols": Value("string"),
        "source": Value("string"),
    }
)


def load_easy_vqa(folder: str = "") -> dict[str, list[dict[str, Any]]]:
    """Read easy-VQA as rows of `FEATURES`, a row for each image; kinds are yes_no, colour and shape.

    Args:
        folder: Its data, with `train` and `test`; by default that of the installed package.

    Raises:
        ValueError: if there is none.
    """
    if not folder:
        package = importlib.util.find_spec("easy_vqa")
        if package is None or package.origin is None:
            raise ValueError(
                "'easy-vqa' comes with a package, got none. Install it with `pip install --no-deps easy-vqa`, or name "
                "the folder of its data: easy-vqa:FOLDER."
            )
        folder = str(Path(package.origin).parent / "data")
    root = Path(folder).expanduser()
    return {split: _easy_vqa_rows(root / split) for split in ("train", "test")}


def load_conversations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read conversations with images as rows of `FEATURES`: a JSON object on each line, or LLaVA's JSON array.

    `{"image": "a.png", "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A
    cat."}]}`: files lie beside the JSON lines; several are `"images": [...]`. LLaVA's `"conversations"`, with `"from"`
    and `"value"`, are read too. Images stand where the text has `<image>`, or before the first question. Each
    message of the assistant is an answer to all messages before it; one with `"weight": 0` is only read, as are all of
    such a conversation. `"kind"` and `"symbols"` are optional.

    Args:
        path: A `.jsonl` or `.json` file, or a folder of such; those named as splits (`train`, `val`, `test` and what
            else `image_folder.split_of` knows) are splits, and without one the only file is to train on.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for file, split in _files(path).items():
        rows.setdefault(split, []).extend(_read_file(file, split))
    return rows


def _files(path: Path) -> dict[Path, str]:
    """Return the split of each file of conversations."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return {path: "train"}
    beside = sorted(path.iterdir()) if path.is_dir() else []
    # Other JSON files are metrics and settings.
    found = [file for file in beside if file.suffix.lower() == ".jsonl" or _is_json_split(file)]
    if not found:
        raise ValueError(
            f"Expected scenes, easy-vqa, a .jsonl or .json file or a folder with a train.jsonl, got {str(path)!r}. "
            "Correct it."
        )
    splits = assign_splits((file.stem for file in found), repr(str(path)))
    if len(found) > 1 and not any(map(split_of, splits)):
        raise ValueError(
            f"Expected a train.jsonl in {str(path)!r}, got {sorted(splits)}, none of which names a split. Name a file."
        )
    return {file: splits[file.stem] for file in found}


def _is_json_split(file: Path) -> bool:
    return file.suffix.lower() == ".json" and split_of(file.stem) is not None


def _easy_vqa_rows(folder: Path) -> list[dict[str, Any]]:
    try:
        listed = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        asked: dict[int, list[tuple[str, str, str]]] = {}
        for text, answer, image in listed:
            kind = "colour" if answer in EASY_VQA_COLOURS else "shape" if answer in EASY_VQA_SHAPES else "yes_no"
            asked.setdefault(int(image), []).append((text, answer, kind))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"Expected the questions of easy-VQA in {str(folder)!r}, got {error}. Correct it.") from error
    return [
        question_row({"bytes": None, "path": str(folder / "images" / f"{image}.png")}, questions)
        for image, questions in asked.items()
    ]


def question_row(image: dict[str, Any], asked: Iterable[tuple[str, str, str]], symbols: str = "") -> dict[str, Any]:
    """Return a row of `FEATURES`: an image, and its questions as (text, answer, kind)."""
    questions = [
        {"messages": [{"role": "user", "content": f"{IMAGE}\n{text}"}], "answer": answer, "kind": kind}
        for text, answer, kind in asked
    ]
    return {"images": [image], "questions": questions, "symbols": symbols, "source": ""}


def _read_file(file: Path, split: str) -> list[dict[str, Any]]:
    readable = _ReadableImages()
    rows = []
    for source, line in _lines(file):
        try:
            given = json.loads(line) if source.startswith("line") else line
            if not isinstance(given, dict):
                raise ValueError(f"no JSON object but {given!r:.60}")
            if split_of(str(given.get("split"))) not in (None, split):
                raise ValueError(f"`split` {given['split']!r} in a file of {split}: give each split a file")
            row = _read_line(given, file.parent, readable)
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(
                f"Expected a conversation with `messages` and an `image`, got {source} ({reason}). Correct it."
            ) from error
        if row["questions"]:
            rows.append({**row, "source": source})
    if not rows:
        raise ValueError(f"Expected conversations in {str(file)!r}, got none with an answer to learn. Add some.")
    return rows


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield conversations, as text or read, with where they stand."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        listed = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError as error:
        raise ValueError(f"Expected JSON in UTF-8 in {str(file)!r}, got {error}. Save it so.") from error
    if isinstance(listed, list):
        yield from ((f"entry {number} of {str(file)!r}", entry) for number, entry in enumerate(listed, 1))
        return
    # Not `splitlines`: JSON may hold other separators, such as U+2028, inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number} of {str(file)!r}", line


def _read_line(given: dict[str, Any], folder: Path, readable: "_ReadableImages") -> dict[str, Any]:
    # Not at the top: transformers' composites are imported with it, which data alone do without.
    from ..processing_omni_vision_language import read_message

    images = _image_names(given)
    turns = given.get("messages", given.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"no list of turns as `messages` but {turns!r:.60}")
    for turn in turns:
        if not isinstance(turn.get("content", turn.get("value")), str | list | dict):
            raise ValueError(f"a turn without text: {turn!r:.80}")
    weights = [_weight(turn) for turn in turns]
    messages = [_message(read_message(turn)) for turn in turns]
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise ValueError("nothing that the assistant answers")
    if not any(message["role"] == "user" for message in messages[: answers[0]]):
        raise ValueError("the assistant speaks before any user, so nothing that the assistant answers")
    if any(IMAGE in messages[number]["content"] for number in answers):
        raise ValueError(f"{IMAGE} in an answer")
    marked = sum(message["content"].count(IMAGE) for message in messages)
    if not marked and images:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = f"{IMAGE}\n" * len(images) + first["content"]
        marked = len(images)
    if marked != len(images):
        raise ValueError(f"{marked} times {IMAGE} for {len(images)} images")
    for name in images:
        readable.check(folder / name, name)
    kind, learnt = str(given.get("kind") or "answer"), _weight(given)
    return {
        "images": [{"bytes": None, "path": str(folder / name)} for name in images],
        "questions": [
            {"messages": messages[:number], "answer": messages[number]["content"], "kind": kind}
            for number in answers
            if weights[number] and learnt
        ],
        "symbols": str(given.get("symbols") or ""),
    }


def _image_names(given: dict[str, Any]) -> list[str]:
    """Return the names of the images of a conversation, which stand in `images`, in `image`, or in neither."""
    found = [given[name] for name in ("images", "image") if given.get(name) not in (None, "")]
    listed = [names if isinstance(names, list) else [names] for names in found]
    if any(names != listed[0] for names in listed):
        raise ValueError(f"`images` {listed[0]!r} beside `image` {listed[1]!r}")
    names = listed[0] if listed else []
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"names of images that are no text, {names!r:.100}")
    return names


def _weight(given: dict[str, Any]) -> int:
    weight = given.get("weight", 1)
    if weight not in (0, 1, None):
        raise ValueError(f"`weight` {weight!r}, where 0 and 1 are possible")
    return 1 if weight is None else int(weight)


def _message(turn: dict[str, Any]) -> dict[str, str]:
    content, role = turn["content"], turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"role {role!r}")
    if not isinstance(content, str):
        named = [part["image"] for part in content if "image" in part]
        if named:
            raise ValueError(f"an image inside a part, {named[0]!r:.100}: name it in `images`")
        content = "".join(f"{IMAGE}\n" if part["type"] == "image" else part["text"] for part in content)
    return {"role": role, "content": content}


class _ReadableImages:
    """Opens each image once."""

    def __init__(self) -> None:
        self.opened: set[Path] = set()

    def check(self, path: Path, name: str) -> None:
        """Raise a `ValueError` for an image that is missing or cannot be read."""
        if path in self.opened:
            return
        if not path.is_file():
            raise ValueError(f"no image {name!r}")
        try:
            with open_stored({"bytes": None, "path": str(path)}) as image:
                if len(self.opened) < DECODED:
                    image.load()
        except Exception as error:  # Pillow's decoders raise many kinds
            raise ValueError(f"image {name!r} cannot be read: {error}") from error
        self.opened.add(path)


__all__ = ["FEATURES", "IMAGE", "load_conversations", "load_easy_vqa", "question_row"]
