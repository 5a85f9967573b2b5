"""The flags of a command, as its help lists them: for tests of pages and recipes."""

import contextlib
import importlib
import io
import re
from functools import cache

import pytest


@cache
def flags_of(module):
    """Return the flags of the command in a module; training lists those of transformers only in `--help_all`."""
    printed = help_of(module, "--help")
    if "--help_all" in printed:
        printed = "  --help_all\n" + help_of(module, "--help_all")
    # A line of the list begins so; examples and sentences do not.
    return {"--help", *re.findall(r"^  (?:-h, )?(--\w+)", printed, re.MULTILINE)}


def help_of(module, flag):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(module).main([flag])
    return printed.getvalue()
