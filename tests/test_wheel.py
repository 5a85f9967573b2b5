"""The wheel is whole: it holds all rooms, installs only our package, and runs the quickstart outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PACKAGE = "modeling_omni_vision"
CONFIG = '{"image_size": 16, "patch_size": 4, "num_channels": 1}'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of what git tracks or would track: built from a copy, so that no old `build` folder adds to it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / PACKAGE, source / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # Nothing is downloaded: setuptools of this environment builds it.
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", target, source]
    subprocess.run([sys.executable, "-m", *command], check=True)
    (file,) = target.glob("*.whl")
    return file


def test_it_holds_every_file_of_the_package_and_no_other_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert [top for top in tops if not top.endswith(".dist-info")] == [PACKAGE]
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - names == set()
    assert {f"{PACKAGE}/cli/main.py", f"{PACKAGE}/data/synthetic/shapes.py", f"{PACKAGE}/auto_classes.py"} <= files
    (information,) = (top for top in tops if top.endswith(".dist-info"))
    with zipfile.ZipFile(wheel) as opened:
        assert opened.read(f"{information}/top_level.txt").decode().split() == [PACKAGE]
        entry_points = opened.read(f"{information}/entry_points.txt").decode()
    assert f"omni-vision = {PACKAGE}.cli.main:main" in entry_points


@pytest.fixture
def run(wheel, tmp_path):
    """A function that runs `omni-vision` in a fresh environment, outside the checkout, and returns what it printed."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([python, *install], check=True)
    # The dependencies are those of this environment; not so our package, whose editable install is a .pth file there.
    packages = sysconfig.get_path("purelib", vars={"base": tmp_path / "venv", "platbase": tmp_path / "venv"})
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "work").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1"
    }

    def call(*words):
        done = subprocess.run(
            [tmp_path / "venv" / "bin" / "omni-vision", *words],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    call.python, call.folder, call.environment = python, tmp_path / "work", environment
    return call


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_environment_runs_the_quickstart(run):
    found = subprocess.run(
        [run.python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=run.folder,
        env=run.environment,
    )
    assert "/venv/" in found.stdout
    assert run("--version").startswith("omni-vision ")
    assert "zero-shot" in run("--help")
    words = ["--dataset", "digits", "--output_dir", "run", "--config", CONFIG, "--max_steps", "2"]
    assert "test accuracy" in run("train", *words)
    assert "digits test: accuracy" in run("evaluate", "--model", "run", "--dataset", "digits", "--split", "test")
    assert "20 images in images" in run("inspect", "--dataset", "digits", "--export", "images")
    said = run("predict", "--model", "run", "--images", "images", "--sheet", "sheet.png")
    assert "of 20 images" in said
    assert (run.folder / "sheet.png").is_file()
    assert json.loads((run.folder / "run" / "metrics.json").read_text())["evaluation"]["num_examples"] == 360
