"""Recipes call commands that there are, with options that these know, and pass on what they are given."""

import importlib
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from command_flags import flags_of
from packaging.version import Version
from transformers import __version__ as transformers_version


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

ROOT = Path(__file__).parent.parent
FOLDERS = ("scripts/recipes", "experiments/recipes")
RECIPES = sorted(
    f"{folder}/{path.name}" for folder in FOLDERS for path in (ROOT / folder).glob("*.sh") if path.name != "common.sh"
)
# Says what it was called with, a word in each line, and that the processor has bfloat16 instructions.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then echo True; else printf '%s\\n' "$@" "" >> calls; fi
"""


@pytest.fixture
def calls_of(tmp_path):
    """A function that runs a recipe with a Python that does nothing, and gives the words of each call of it."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "data" / "fashion_mnist").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)

    def call(recipe, *arguments):
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([tmp_path / recipe, *arguments], env=environment, check=True)
        return [words.splitlines() for words in (tmp_path / "calls").read_text().split("\n\n") if words]

    return call


def command(words):
    """Split a call into the module that runs and its arguments."""
    if words[0] == "-m":
        return words[1], words[2:]
    assert (ROOT / words[0]).is_file()
    return f"modeling_omni_vision.cli.{Path(words[0]).stem}", words[1:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_one_that_its_command_knows(calls_of, recipe):
    calls = calls_of(recipe)
    assert calls
    for words in calls:
        module, arguments = command(words)
        given = {word for word in arguments if word.startswith("--")}
        assert given
        assert given - flags_of(module) == set()


def test_every_command_of_a_recipe_is_a_program(calls_of):
    modules = {command(words)[0] for recipe in RECIPES for words in calls_of(recipe)}
    assert {"modeling_omni_vision.cli.train", "experiments.cls_study", "experiments.emoji_study"} <= modules
    for module in modules:
        if module.startswith("experiments."):
            assert (
                'if __name__ == "__main__":\n    main()\n'
                in Path(importlib.import_module(module).__file__).read_text()
            )


def test_recipes_find_out_by_themselves_whether_the_processor_has_bfloat16_instructions():
    program = 'source scripts/recipes/common.sh; echo "$BF16"'
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    told = subprocess.run(["bash", "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.stdout in ("True\n", "False\n"), told.stderr


def test_a_recipe_ends_within_the_minutes_that_it_is_given(calls_of, monkeypatch):
    monkeypatch.setenv("MINUTES", "8")
    calls = [dict(pairwise(words)) for words in calls_of("scripts/recipes/language_scenes_gpu.sh")]
    limits = [float(named["--max_minutes"]) for named in calls]
    assert min(limits) > 0
    # Tower and words can be trained beside each other.
    assert sum(limits) - limits[1] == pytest.approx(8)


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
    # SmolLM2 is converted from its package by a line of Python that is no command.
    made = {"runs/smollm2"} if "smollm2" in recipe else set()
    for words in calls_of(recipe):
        named = dict(pairwise(words))
        read = {named.get(name, "") for name in ("--model", "--vision", "--text", "--dataset")}
        assert {path for path in read if path.startswith("runs/")} - made == set()
        made |= {named.get(name, "") for name in ("--output_dir", "--output")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_stops_at_the_first_command_that_fails(calls_of, tmp_path, recipe):
    (tmp_path / "bin" / "python").write_text(PYTHON.replace("calls; fi", "calls; exit 3; fi"))
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        calls_of(recipe)
    assert len((tmp_path / "calls").read_text().strip().split("\n\n")) == 1
