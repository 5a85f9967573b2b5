"""Conversations about images from files: easy-VQA, and any JSON lines.

easy-VQA (https://github.com/vzhou842/easy-VQA, MIT, `pip install --no-deps easy-vqa`) has 4,000 drawn images with
38,575 questions to train and 1,000 with 9,673 to test, 13 answers.
"""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value


IMAGE = "<image>"
# LLaVA's names of the roles.
ROLES = {"human": "user", "gpt": "assistant"}
EASY_VQA_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
EASY_VQA_SHAPES = ("circle", "rectangle", "triangle")
# A row: where an image stands, the `content` of a message says `<image>`; `answer` comes after the messages, `kind` is
# what it is measured by; `symbols` says in words what is in the images, for a text-only baseline.
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
    """Read conversations with images, a JSON object on each line, as rows of `FEATURES`.

    `{"image": "a.png", "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A
    cat."}]}`: files lie beside the JSON lines; several are `"images": [...]`. LLaVA's `"conversations"`, with `"from"`
    and `"value"`, are read too. Images stand where the text has `<image>`, or before the first question. Each
    message of the assistant is an answer to all messages before it. `"kind"` and `"symbols"` are optional.

    Args:
        path: A `.jsonl` file, or a folder with `train.jsonl` and perhaps `validation.jsonl` and `test.jsonl`.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    names = ("train", "validation", "test")
    files = {"train": path} if path.is_file() else {name: path / f"{name}.jsonl" for name in names}
    found = {name: file for name, file in files.items() if file.is_file()}
    if "train" not in found or any(file.suffix != ".jsonl" for file in found.values()):
        raise ValueError(
            f"Expected scenes, easy-vqa, a .jsonl file or a folder with a train.jsonl, got {str(path)!r}. Correct it."
        )
    return {name: _read_lines(file) for name, file in found.items()}


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
    return {"images": [image], "questions": questions, "symbols": symbols}


def _read_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(_read_line(json.loads(line), file.parent))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"Expected a conversation with `messages` and an `image`, got line {number} of {str(file)!r} "
                    f"({error!r}). Correct it."
                ) from error
    if not rows:
        raise ValueError(f"Expected conversations in {str(file)!r}, got an empty file. Add some.")
    return rows


def _read_line(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    images = given.get("images", [given["image"]] if given.get("image") else [])
    spoken = given["messages"] if "messages" in given else given["conversations"]
    messages = [_message(turn) for turn in spoken]
    marked = sum(message["content"].count(IMAGE) for message in messages)
    if not marked and images:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = f"{IMAGE}\n" * len(images) + first["content"]
        marked = len(images)
    if marked != len(images):
        raise ValueError(f"{marked} times {IMAGE} for {len(images)} images")
    missing = [name for name in images if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"no image {missing[0]!r}")
    questions = [
        {"messages": messages[:index], "answer": message["content"], "kind": str(given.get("kind", "answer"))}
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    if not questions or not questions[0]["messages"]:
        raise ValueError("nothing that the assistant answers")
    return {
        "images": [{"bytes": None, "path": str(folder / name)} for name in images],
        "questions": questions,
        "symbols": str(given.get("symbols", "")),
    }


def _message(turn: dict[str, Any]) -> dict[str, str]:
    role = turn.get("role", turn.get("from"))
    content: Any = turn.get("content", turn.get("value"))
    if not isinstance(content, str):
        # Parts, as in the chats of transformers.
        content = "".join(f"{IMAGE}\n" if part["type"] == "image" else part["text"] for part in content)
    role = ROLES.get(str(role), str(role))
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"role {role!r}")
    return {"role": role, "content": content}


__all__ = ["FEATURES", "IMAGE", "load_conversations", "load_easy_vqa", "question_row"]
