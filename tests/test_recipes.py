"""Recipes call scripts that there are, with options that these know, and pass on what they are given."""

import dataclasses
import importlib
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.version import Version
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.name for path in (ROOT / "scripts" / "recipes").glob("*.sh") if path.name != "common.sh")
# Says what it was called with, a word in each line, and that the processor computes in bfloat16.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then echo True; else printf '%s\\n' "$@" "" >> calls; fi
"""


@pytest.fixture
def calls_of(tmp_path):
    """A function that runs a recipe with a Python that does nothing, and gives the words of each call of it."""
    shutil.copytree(ROOT / "scripts" / "recipes", tmp_path / "scripts" / "recipes")
    (tmp_path / "data" / "fashion_mnist").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)

    def call(recipe, *arguments):
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([tmp_path / "scripts" / "recipes" / recipe, *arguments], env=environment, check=True)
        return [words.splitlines() for words in (tmp_path / "calls").read_text().split("\n\n") if words]

    return call


def options_of(script):
    """Name the options of a script: the fields of the arguments that it knows."""
    module = importlib.import_module(f"scripts.{Path(script).stem}")
    kinds = [kind for name, kind in vars(module).items() if "Arguments" in name and dataclasses.is_dataclass(kind)]
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_one_that_its_script_knows(calls_of, recipe):
    calls = calls_of(recipe)
    assert calls
    for script, *words in calls:
        assert (ROOT / script).is_file()
        given = {word[2:] for word in words if word.startswith("--")}
        assert given
        assert given - options_of(script) == set()


@pytest.mark.parametrize("recipe", RECIPES)
def test_arguments_given_to_a_recipe_come_last_in_one_of_its_commands(calls_of, recipe):
    calls = calls_of(recipe, "--seed", "7")
    assert ["--seed", "7"] in [words[-2:] for words in calls]


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_runs_of_a_recipe_go_where_the_caller_wants_them(calls_of, monkeypatch, recipe):
    monkeypatch.setenv("RUNS", "elsewhere")
    for words in calls_of(recipe):
        assert [word for word in words if "runs/" in word] == []
        assert any("elsewhere" in word for word in words)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_starts_from_it_has_made_before(calls_of, recipe):
    made = set()
    for words in calls_of(recipe):
        named = dict(pairwise(words))
        read = {named.get(name, "") for name in ("--model", "--vision", "--text", "--model")}
        assert {path for path in read if path.startswith("runs/")} - made == set()
        made |= {named.get(name, "") for name in ("--output_dir", "--output")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_stops_at_the_first_command_that_fails(calls_of, tmp_path, recipe):
    (tmp_path / "bin" / "python").write_text(PYTHON.replace("calls; fi", "calls; exit 3; fi"))
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        calls_of(recipe)
    assert (tmp_path / "calls").read_text().count("scripts/") == 1
