"""Dataclasses as command lines: one small parser for all commands, and transformers' own for those that train.

A flag has the name of its field. Without torch, so that `--help` answers at once.
"""

import argparse
import json
import os
import re
import socket
import sys
import types
import typing
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from ..records.nearest import nearest
from ..training.option import option
from .program import fail


T = TypeVar("T")
REVISION = "Commit, branch or tag of the checkpoint on the Hub."
# Flags that may name something on the Hub (`text` beside `vision`, elsewhere it is a query), and what never does.
HUB_FLAGS, BUILT_IN = ("model", "vision", "text", "dataset"), ("new", "minilm")
UNRECOGNIZED = "unrecognized arguments: "  # as argparse says it
INVALID_CHOICE = re.compile(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)")
FILES = ("sheet", "csv", "json")  # flags that name a file to write
# What no folder is called, and no file of another kind.
SUFFIXES = (".png", ".jpg", ".jpeg", ".csv", ".json", ".jsonl", ".html", ".parquet", ".npy", ".onnx", ".safetensors")
DTYPES = ("float32", "bfloat16", "float16")
JSON = "File to write the result to as JSON; without a value, or as -, it is printed instead of the table."


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake in one line, and an unknown flag or choice with the nearest one."""

    def __init__(self, module: str, **options: Any) -> None:
        super().__init__(**layout(module), **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        wrong = INVALID_CHOICE.fullmatch(message)
        if wrong:
            flag, got, known = wrong[1], wrong[2], [name.strip(" '") for name in wrong[3].split(",")]
            message = f"{flag} must be one of {', '.join(known)}, got {got!r}{nearest(got, known)}"
        if message.startswith(UNRECOGNIZED):
            rest = message.removeprefix(UNRECOGNIZED)
            message = f"{rest!r} belongs to no flag: put quotes around a value of several words"
        stop = "" if message.endswith("?") else "."
        fail(f"{message}{stop} `{self.prog} --help` lists all flags.", self.prog)


class Words(argparse.Action):
    """Joins the words of a text that was written without quotes."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, " ".join(values))


class Layout(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Help that keeps the lines of a docstring, and names each flag by its first spelling."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        words = self._format_args(action, action.dest.upper())
        return " ".join(filter(None, (action.option_strings[0], words)))


def layout(module: str) -> dict[str, Any]:
    """Return how the parser of a command is named and described."""
    name = f"omni-vision {module.rpartition('.')[2].replace('_', '-')}" if ".cli." in module else None
    options = {"description": sys.modules[module].__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    return {"prog": name, "allow_abbrev": False, **options}


def parse(kind: type[T], argv: Sequence[str]) -> T:
    """Read the arguments of a command, then register our classes with transformers."""
    parser, hints = Parser(kind.__module__), typing.get_type_hints(kind)
    for item in fields(kind):  # type: ignore[arg-type]
        add_flag(parser, item, hints[item.name])
    refuse_unknown(parser, argv)
    arguments = kind(**vars(parser.parse_args(argv)))
    for item in fields(kind):  # type: ignore[arg-type]
        if item.metadata.get("folder"):
            check_folder(item.name, getattr(arguments, item.name))
        check_number(item, getattr(arguments, item.name))
    check_files(vars(arguments))
    prepare(arguments)
    return arguments


def parse_training(kinds: Sequence[type[Any]], argv: Sequence[str], module: str) -> tuple[Any, ...]:
    """Read the arguments of a command that trains, of which transformers' `TrainingArguments` are a part.

    The docstring of `module` describes the command. Raises a `ValueError` for arguments that contradict each other.
    """
    from transformers import HfArgumentParser

    class TrainingParser(HfArgumentParser):
        error = Parser.error

    parser = TrainingParser(kinds, **{**layout(module), "formatter_class": Layout})  # type: ignore[arg-type]
    parser.add_argument("--help_all", action="help", help="Show every argument of transformers' Trainer, too.")
    put_ours_first(parser, kinds, everything="--help_all" in argv)
    refuse_unknown(parser, argv)
    try:
        *found, rest = parser.parse_args_into_dataclasses(
            args=list(argv), look_for_args_file=False, return_remaining_strings=True
        )
    except ValueError as error:  # transformers' own checks, too, are about what was given
        raise ValueError(str(error)) from error
    if rest:
        parser.error(UNRECOGNIZED + " ".join(rest))  # type: ignore[misc]
    for one in found:
        check_folder("output_dir", getattr(one, "output_dir", None))
    prepare(*found)
    return tuple(found)


def prepare(*arguments: Any) -> None:
    """Register our classes with transformers without bars for loading weights; look once for the Hub where needed."""
    given = [vars(one) for one in arguments]
    # Also of paths: a default may be one.
    named = [
        (flag, str(one.get(flag) or "")) for one in given for flag in HUB_FLAGS if flag != "text" or "vision" in one
    ]
    for flag, value in named:
        if value and flag != "dataset" and is_path(value) and not os.path.exists(value):
            raise ValueError(f"Expected an existing path or a name of the Hub as --{flag}, got {value!r}. Correct it.")
    if any(value and on_hub(value, flag) for flag, value in named):
        use_cache_without_network()
    from transformers.utils.logging import disable_progress_bar

    from .. import auto_classes  # noqa: F401

    disable_progress_bar()


def check_folder(flag: str, value: str | None) -> None:
    """Raise a `ValueError` for a file, or the name of one, where a folder is to be written."""
    place = Path(value or ".")
    if place.exists() and not place.is_dir():
        raise ValueError(f"Expected a folder as --{flag}, got the file {value!r}. Name another.")
    if not place.exists() and place.suffix.lower() in SUFFIXES:
        raise ValueError(
            f"Expected a folder as --{flag}, got {value!r}, the name of a file. Leave out {place.suffix}."
        )


def check_number(item: Field[Any], value: float | None) -> None:
    """Raise a `ValueError` for a number that is smaller or larger than a flag takes, before any work is done."""
    least, most = item.metadata.get("least"), item.metadata.get("most")
    # Written so that nan, which is neither smaller nor larger, is refused too.
    if value is not None and not ((least is None or value >= least) and (most is None or value <= most)):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"Expected a number {wanted} as --{item.name}, got {value!r}. Correct it.")


def check_files(given: Mapping[str, Any]) -> None:
    """Refuse names of files that cannot be written, before the work whose result they are for.

    Raises:
        ValueError: for a folder, the suffix of another kind of file, a place that cannot be written, an image that is
            read.
    """
    read = [*(given.get("images") or ()), *filter(None, [given.get("image")])]
    for flag in FILES:
        value = given.get(flag) or "-"
        file = Path(value)
        place = next(folder for folder in file.absolute().parents if folder.exists())
        ends = ".png" if flag == "sheet" else f".{flag}"
        if value == "-":
            continue
        if file.is_dir() or value.endswith(("/", os.sep)):
            raise ValueError(f"Expected a file to write as --{flag}, got the folder {value!r}. Name a file in it.")
        if (flag == "sheet" or file.suffix.lower() in SUFFIXES) and file.suffix.lower() != ends:
            raise ValueError(f"Expected a name that ends in {ends} as --{flag}, got {value!r}. Correct it.")
        if not place.is_dir() or not os.access(file if file.exists() else place, os.W_OK):
            raise ValueError(f"Expected a place that can be written as --{flag}, got {value!r}. Name another.")
        if file.exists() and any(os.path.exists(one) and os.path.samefile(one, file) for one in read):
            raise ValueError(f"Expected a new file as --{flag}, got the image {value!r}, which is read. Name another.")


def is_path(value: str) -> bool:
    """Return whether a value cannot be a name of the Hub."""
    return value.startswith((".", "/", "~")) or value.count("/") > 1


def on_hub(value: str, flag: str) -> bool:
    """Return whether a value names something on the Hub: nothing built in or on this disk, and data have an owner."""
    local = value.partition(":")[0] in BUILT_IN or is_path(value) or os.path.exists(value)
    return not local and ("/" in value or flag != "dataset")


def use_cache_without_network(seconds: float = 5) -> None:
    """Keep the client of the Hub to its cache if the Hub cannot be reached: it would try five times for each file."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or urllib.request.getproxies().get(address.scheme):
        return
    try:
        port = address.port or {"http": 80}.get(address.scheme, 443)
        socket.create_connection((address.hostname or "", port), seconds).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        print(f"{constants.ENDPOINT} cannot be reached: only what was downloaded before is used.", file=sys.stderr)


def put_ours_first(parser: argparse.ArgumentParser, kinds: Sequence[type[Any]], everything: bool) -> None:
    """Order the help of a training command: our flags, then (with `everything`) those of transformers."""
    package = __name__.partition(".")[0]
    classes = [base for kind in kinds for base in kind.__mro__ if base.__module__.partition(".")[0] == package]
    ours = {"help", "help_all", *(name for base in classes for name in vars(base).get("__annotations__", ()))}
    for action in parser._actions:
        if isinstance(action, argparse._StoreFalseAction):
            action.help = f"The same as --{action.dest} false."
        if not everything and (action.dest not in ours or isinstance(action, argparse._StoreFalseAction)):
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        group._group_actions.sort(key=lambda action: action.dest not in ours)
    parser.usage = "%(prog)s --dataset DATASET --output_dir FOLDER [--FLAG VALUE ...]"
    if not everything:
        parser.epilog = "The arguments of transformers' Trainer work as well: --help_all lists them."


def add_flag(parser: argparse.ArgumentParser, item: Field[Any], hint: Any) -> None:
    """Add the flag of a field: of text, a number, a boolean, or a list of these."""
    if isinstance(hint, types.UnionType):
        (hint,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    many = typing.get_origin(hint) is list
    kind = typing.get_args(hint)[0] if many else hint
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    text = item.metadata["help"].replace("%", "%%")
    if default not in (MISSING, None, False, "") and default != []:
        text += f" Default: {' '.join(map(str, default)) if many else default}."
    joined: dict[str, Any] = {"nargs": "+", "action": Words} if item.metadata.get("words") else {}
    if item.metadata.get("positional"):
        options = joined or {"nargs": None if default is MISSING else "?"}
        parser.add_argument(item.name, type=kind, help=text, default=default, **options)
        return
    options = {"nargs": "+"} if many else joined
    if kind is bool:
        kind, options = boolean, {"nargs": "?", "const": True, "metavar": "true|false"}
    elif "bare" in item.metadata:
        options = {"nargs": "?", "const": item.metadata["bare"]}
    if "choices" in item.metadata:
        options["choices"] = item.metadata["choices"]
    given = {"required": True} if default is MISSING else {"default": default}
    parser.add_argument(f"--{item.name}", type=kind, help=text, **given, **options)


def boolean(text: str) -> bool:
    """Read true or false, also yes, no, 1 and 0."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def refuse_unknown(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Stop at the first flag that the parser does not know."""
    # argparse itself would first miss the flags that are required, of which one may be the misspelt one.
    known = list(parser._option_string_actions)
    for word in argv:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in (*known, "--"):
            parser.error(f"unknown flag {flag}{nearest(flag, known)}")


def write_result(result: Any, file: str | None) -> bool:
    """Write a result as JSON to the file that `--json` names, and return whether it was printed instead."""
    if file is None:
        return False
    text = json.dumps(result, ensure_ascii=False, indent=2)
    if file == "-":
        print(text)
    else:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text + "\n", encoding="utf-8")
    return file == "-"


__all__ = [
    "DTYPES",
    "JSON",
    "REVISION",
    "Parser",
    "boolean",
    "option",
    "parse",
    "parse_training",
    "write_result",
]
