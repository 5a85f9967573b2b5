"""Dataclasses as command lines: one small parser for all commands, and transformers' own for those that train.

A flag has the name of its field. Without torch, so that `--help` answers at once.
"""

import argparse
import difflib
import json
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..training.option import option


T = TypeVar("T")
REVISION = "Commit, branch or tag of the checkpoint on the Hub."
JSON = "File to write the result to as JSON; without a value, or as -, it is printed instead of the table."


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake in one line, and an unknown flag with the nearest one."""

    def __init__(self, module: str, **options: Any) -> None:
        super().__init__(**layout(module), **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: {message}{stop} `{self.prog} --help` lists all flags.\n")


class Layout(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Help that keeps the lines of a docstring."""


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
    from .. import auto_classes  # noqa: F401

    return arguments


def parse_training(kinds: Sequence[type[Any]], argv: Sequence[str], module: str) -> tuple[Any, ...]:
    """Read the arguments of a command that trains, of which transformers' `TrainingArguments` are a part.

    The docstring of `module` describes the command. Raises a `ValueError` for arguments that contradict each other.
    """
    from transformers import HfArgumentParser

    class TrainingParser(HfArgumentParser):
        error = Parser.error

    parser = TrainingParser(kinds, **{**layout(module), "formatter_class": Layout})  # type: ignore[arg-type]
    refuse_unknown(parser, argv)
    try:
        found = parser.parse_args_into_dataclasses(args=list(argv), look_for_args_file=False)
    except ValueError as error:  # transformers' own checks, too, are about what was given
        raise ValueError(str(error)) from error
    from .. import auto_classes  # noqa: F401

    return found


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
    if item.metadata.get("positional"):
        parser.add_argument(
            item.name, type=kind, help=text, nargs=None if default is MISSING else "?", default=default
        )
        return
    options: dict[str, Any] = {"nargs": "+"} if many else {}
    if kind is bool:
        kind, options = boolean, {"nargs": "?", "const": True, "metavar": "true|false"}
    elif "bare" in item.metadata:
        options = {"nargs": "?", "const": item.metadata["bare"]}
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
            near = difflib.get_close_matches(flag, known, 1)
            parser.error(f"unknown flag {flag}" + (f", did you mean {near[0]}?" if near else ""))


def write_result(result: Any, file: str | None) -> bool:
    """Write a result as JSON to the file that `--json` names, and return whether it was printed instead."""
    if file is None:
        return False
    text = json.dumps(result, ensure_ascii=False, indent=2)
    if file == "-":
        print(text)
    else:
        Path(file).write_text(text + "\n", encoding="utf-8")
    return file == "-"


__all__ = ["JSON", "REVISION", "Parser", "boolean", "option", "parse", "parse_training", "write_result"]
