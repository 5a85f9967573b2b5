"""README and docs keep their word: blocks run alone and print what they say; commands, figures and links are right."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_flags import flags_of
from packaging.version import Version
from transformers import __version__ as transformers_version


ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*/**/*.md"))]
NAMES = {path: str(path.relative_to(ROOT)) for path in DOCUMENTS}
# Their models need transformers 5.23.
COMPOSITES = (
    ("docs/retrieval.md", "docs/language.md", "docs/generation.md")
    if Version(transformers_version) < Version("5.23")
    else ()
)
# What the commands of the pages need beside them, as in a checkout.
CHECKOUT = ("checkpoints", "modeling_omni_vision", "model_card.md", "scripts", "experiments")
LANGUAGE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The promise is that commands work; how long training takes is another one.
SHORT_TRAINING = " --max_steps 2 --per_device_train_batch_size 8"
OMNI_VISION = f"""#!/bin/sh
exec {sys.executable} -c "from modeling_omni_vision.cli.main import main; main()" "$@"
"""
# Flags in the pages that belong to programs of others.
FOREIGN_FLAGS = {"--nproc_per_node", "--cpu", "--num_processes", "--no-deps"}


def blocks(language):
    """Return (page, line number, code) of every block in a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        (page, page.read_text(encoding="utf-8").count("\n", 0, found.start()) + 1, found[1])
        for page in PAGES
        for found in pattern.finditer(page.read_text(encoding="utf-8"))
        if NAMES[page] not in COMPOSITES
    ]


def text_of(page):
    """Return a page in one line for each paragraph, so that a code span across lines is whole."""
    return re.sub(r"(?<=\S)\n(?=[^\s|#<!-])", " ", page.read_text(encoding="utf-8"))


def spans(page):
    """Return the code spans of a page and the lines of its blocks."""
    text = text_of(page)
    code = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) + [line for block in code for line in block.splitlines()]


def commands(page):
    """Return (module, flags) of every command of ours that a page names."""
    found = []
    for span in spans(page):
        named = re.search(r"(?:omni-vision|scripts/(?=\w+\.py)|python -m experiments\.)\s?([a-z][\w-]*)(.*)", span)
        if named:
            room = "experiments" if "experiments." in named[0] else "modeling_omni_vision.cli"
            words = re.findall(r"(?<=\s)--\w+", named[2])
            found.append((f"{room}.{named[1].removesuffix('.py').replace('-', '_')}", set(words)))
    return found


@pytest.fixture
def run(tmp_path):
    """A function that runs a program in a folder with a checkout's surroundings and returns what it printed."""
    for name in CHECKOUT:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "omni-vision").write_text(OMNI_VISION)
    (tmp_path / "bin" / "omni-vision").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])

    def call(*command):
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    return call


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=f"{NAMES[page]}:{line}") for page, line, code in blocks("python")]
)
def test_a_python_block_runs_alone_in_a_fresh_process_and_prints_what_it_says(run, code):
    promised = re.findall(r"^print\(.*\)  # (.+)$", code, flags=re.MULTILINE)
    assert promised
    assert len(promised) == code.count("print(")
    assert run(sys.executable, "-c", code).splitlines() == promised


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page in {place for place, _, _ in blocks("shell")}], ids=NAMES.get
)
def test_the_shell_blocks_of_a_page_run_in_order(run, page, tmp_path, tiny_llama_folder):
    # Nothing is downloaded: a folder by the name of the pages' language model holds a tiny one.
    (tmp_path / LANGUAGE_MODEL).parent.mkdir()
    (tmp_path / LANGUAGE_MODEL).symlink_to(tiny_llama_folder)
    lines = [line for place, _, code in blocks("shell") if place == page for line in code.splitlines()]
    assert lines
    for line in lines:
        if not line.startswith("make "):
            run(*shlex.split(line + SHORT_TRAINING * (" train " in line)))


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_every_command_that_a_page_names_exists_and_knows_its_flags(page):
    pytest.importorskip("transformers", minversion="5.23")  # of which commands of composites read their flags
    assert [(name, flags - flags_of(name)) for name, flags in commands(page) if flags - flags_of(name)] == []


def test_every_flag_that_the_pages_name_by_itself_is_one_of_a_command():
    pytest.importorskip("transformers", minversion="5.23")
    modules = {name for page in PAGES for name, _ in commands(page)}
    assert len(modules) >= 15
    known = FOREIGN_FLAGS.union(*map(flags_of, modules))
    named = {span.split()[0] for page in PAGES for span in spans(page) if span.startswith("--")}
    assert len(named) >= 30
    assert named - known == set()


def test_readme_shows_images_and_the_two_commands_on_its_first_screen():
    first = "\n".join(README.read_text(encoding="utf-8").splitlines()[:14])
    assert re.search(r"^!\[.+\]\(docs/.+\.png\)$", first, re.MULTILINE)
    assert "make quickstart\nmake test\n" in first
    assert blocks("python")[0][0] == README


def test_readme_holds_at_most_six_numbers_and_no_page_is_longer_than_200_lines():
    assert len(re.findall(r"<!--=\w+-->", README.read_text(encoding="utf-8"))) <= 6
    assert [NAMES[page] for page in PAGES if len(page.read_text(encoding="utf-8").splitlines()) > 200] == []


def test_every_page_stands_in_the_index_of_readme():
    linked = re.findall(r"^\| \[\w+\]\((docs/\w+\.md)\)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(linked) == sorted(NAMES[page] for page in PAGES if page != README)


def test_every_figure_of_the_documents_is_what_the_records_say(run):
    run(sys.executable, str(ROOT / "experiments" / "results.py"), "--check")


def test_a_figure_that_differs_from_the_records_is_found(monkeypatch, tmp_path, capsys):
    results = importlib.import_module("experiments.results")
    page = tmp_path / "README.md"
    page.write_text("<!--=fashion_accuracy-->99.9%<!--/-->\n<!-- begin index -->\n| 1 |\n<!-- end index -->\n")
    monkeypatch.setattr(results, "PAGES", ("README.md",))
    filled = results.fill(page.read_text())
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for arguments, status in ((["--check"], 1), ([], 0), (["--check"], 0)):
        with pytest.raises(SystemExit) as end:
            results.main(arguments)
        assert end.value.code == status
    assert "stale: README.md" in capsys.readouterr().out
    assert page.read_text() == filled
    assert "99.9%" not in filled
    assert "| 1 |" not in filled


def test_a_page_with_an_unknown_block_or_number_is_refused():
    results = importlib.import_module("experiments.results")
    for text in ("<!-- begin nothing -->\n<!-- end nothing -->\n", "<!--=nothing-->1<!--/-->\n"):
        with pytest.raises(KeyError, match="nothing"):
            results.fill(text)


def slugs(page):
    """Return the anchors of a page, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=NAMES.get)
def test_links_of_a_document_lead_to_files_and_headings_that_exist(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=NAMES.get)
def test_files_of_the_repository_that_a_page_names_exist(page):
    rooms = r"(?:scripts|docs|checkpoints|tests|experiments|modeling_omni_vision|data/synthetic)/"
    named = {span for span in spans(page) if re.fullmatch(rf"{rooms}[\w./-]+", span) and "NAME" not in span}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_make_target_that_the_documents_name_exists():
    targets = {target for page in DOCUMENTS for span in spans(page) for target in re.findall(r"^make ([a-z-]+)", span)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"quickstart", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []
