"""README.md keeps its word: its blocks run, in order, in a fresh folder; its numbers and links are right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|shell)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# What README's commands need beside them, as in a checkout.
CHECKOUT = ("checkpoints", "modeling_omni_vision", "model_card.md", "scripts")
LANGUAGE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The promise is that commands work; how long training takes is another one.
SHORT_TRAINING = " --max_steps 2 --per_device_train_batch_size 8"
END_OF_BLOCK = "end of block"
# Runs blocks, one in each line of its input, one after the other.
NOTEBOOK = f"""
import ast, sys
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    exec(compile(ast.literal_eval(line), "README.md", "exec"), names)
    print({END_OF_BLOCK!r}, flush=True)
"""


@pytest.fixture
def run(tmp_path, tiny_llama_folder):
    """A function that runs a program in a folder with README's surroundings and returns what it printed."""
    for name in CHECKOUT:
        (tmp_path / name).symlink_to(ROOT / name)
    # Nothing is downloaded: a folder by the name of README's language model holds a tiny one.
    (tmp_path / LANGUAGE_MODEL).parent.mkdir()
    (tmp_path / LANGUAGE_MODEL).symlink_to(tiny_llama_folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def call(*command, shell=False):
        program = command[0] if shell else command
        done = subprocess.run(
            program, shell=shell, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{program}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    return call


@pytest.fixture
def notebook(tmp_path):
    """A function that runs a block in one Python that goes on from block to block, and returns the printed lines."""
    with (tmp_path / "errors").open("w") as errors:
        program = subprocess.Popen(
            [sys.executable, "-c", NOTEBOOK],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

        def call(code):
            program.stdin.write(repr(code) + "\n")
            program.stdin.flush()
            lines = []
            for line in program.stdout:
                if line == END_OF_BLOCK + "\n":
                    return lines
                lines.append(line.rstrip("\n"))
            raise AssertionError(f"{code}\n{lines[-30:]}\n{(tmp_path / 'errors').read_text()[-3000:]}")

        yield call
        program.stdin.close()
        program.wait()
        program.stdout.close()


@pytest.mark.timeout(600)
def test_every_block_runs_in_order_and_prints_what_it_says(run, notebook):
    assert [language for language, _ in BLOCKS].count("shell") >= 2
    for language, code in BLOCKS:
        if language == "shell":
            for line in code.splitlines():
                run(line + SHORT_TRAINING * ("train.py" in line), shell=True)
            continue
        printed = notebook(code)
        promised = re.findall(r"^print\(.*\)  # (.+)$", code, flags=re.MULTILINE)
        exact = [(said, meant) for said, meant in zip(printed, promised, strict=False) if "batch," not in meant]
        assert [said for said, _ in exact] == [meant for _, meant in exact]


def test_readme_shows_runnable_python_on_its_first_screen():
    assert README.index("```python") < len("\n".join(README.splitlines()[:12]))


def test_every_number_of_readme_is_what_its_files_say(run):
    run(sys.executable, str(ROOT / "scripts" / "fill_readme.py"), "--check")


def test_files_that_readme_links_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []


def test_every_make_target_that_the_documents_name_exists():
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)`", text.replace("\n", " ")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"quickstart", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []
