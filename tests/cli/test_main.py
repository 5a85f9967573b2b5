"""The console entry point: what it lists, what a mistake and a fault look like, what `--help` costs."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import modeling_omni_vision
from modeling_omni_vision.cli import main as module
from modeling_omni_vision.cli.main import COMMANDS, main
from modeling_omni_vision.cli.program import explain, program


ROOT = Path(__file__).parents[2]
TRAINING = ("train", "train-retrieval", "train-language", "train-vae", "pretrain", "distill")
# What the extras bring: None in `sys.modules` makes them look as if they were not installed.
WITHOUT_EXTRAS = """
import runpy, sys
for name in ("lancedb", "peft", "sentence_transformers", "timm"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
heavy = sys.argv.pop().split()
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *(name for name in heavy if sys.modules.get(name)))
"""


# All of these in one process, whose imports take many times as long as an answer.
HELP_OF_TRAININGS = """
import contextlib, io, json, runpy, sys
for name in ("lancedb", "peft", "sentence_transformers", "timm"):
    sys.modules[name] = None
found = {}
for script in sys.argv[1:]:
    for flag in ("--help", "--help_all"):
        sys.argv, said, code = [script, flag], io.StringIO(), 0
        with contextlib.redirect_stdout(said):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                code = end.code
        found[script + flag] = [code or 0, said.getvalue()]
print(json.dumps(found))
"""


def script_of(command):
    name = command.replace("-", "_")
    return ROOT / "scripts" / f"{'inspect_images' if name == 'inspect' else name}.py"


def run_script(script, *words, heavy="torch transformers"):
    command = [sys.executable, "-c", WITHOUT_EXTRAS, str(script), *words, heavy]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd="/", check=False
    )


def as_program(monkeypatch, function, *words):
    monkeypatch.setattr(sys, "argv", ["omni-vision", *words])
    with pytest.raises(SystemExit) as stop:
        program(function)()
    return stop.value.code


def test_the_overview_has_a_line_for_each_command_and_its_script(capsys):
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for command, summary in COMMANDS.items():
        assert f"  {command:16} {summary}" in lines
        assert script_of(command).is_file()
        assert callable(import_module(f"modeling_omni_vision.cli.{command.replace('-', '_')}").main)
    main([])
    assert capsys.readouterr().out.splitlines() == lines
    assert {path.name for path in (ROOT / "scripts").glob("*.py")} == {script_of(name).name for name in COMMANDS}


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"omni-vision {modeling_omni_vision.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("predcit", "did you mean predict?"), ("zero_shot", "did you mean zero-shot?"), ("xyz", "--help")],
)
def test_a_misspelt_command_is_answered_with_the_nearest(typed, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        main([typed])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(typed) in line
    assert hint in line


def test_a_command_gets_the_words_after_its_name(monkeypatch):
    got = []
    monkeypatch.setattr(import_module("modeling_omni_vision.cli.zero_shot"), "main", got.append)
    module.main(["zero-shot", "--model", "m"])
    assert got == [["--model", "m"]]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in TRAINING])
def test_help_needs_no_extra_and_imports_no_torch(command):
    done = run_script(script_of(command), "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: omni-vision {command} " in done.stdout
    assert done.stdout.endswith("imported:\n")


def test_help_of_training_needs_no_extra_and_help_all_lists_the_arguments_of_transformers():
    scripts = [str(script_of(command)) for command in TRAINING]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", HELP_OF_TRAININGS, *scripts]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/", check=True)
    found = json.loads(done.stdout)
    for command, script in zip(TRAINING, scripts, strict=True):
        (code, brief), (code_of_all, everything) = found[f"{script}--help"], found[f"{script}--help_all"]
        assert (code, code_of_all) == (0, 0), command
        assert "--muon_learning_rate" in brief
        assert "--gradient_accumulation_steps" not in brief
        assert brief.startswith(f"usage: omni-vision {command} ")
        assert "--gradient_accumulation_steps" in everything


def test_a_missing_extra_is_one_line_that_says_how_to_install_it():
    done = run_script(script_of("search"), "--model", "m", "--index", "i", "--text", "t")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith('`pip install -e ".[retrieval]"` installs it.')
    assert "Traceback" not in done.stderr


def test_a_mistake_is_one_line_and_a_function_still_raises(monkeypatch, capsys):
    from modeling_omni_vision.cli.convert import main as convert

    words = ["--model", "m", "--output", "o"]
    with pytest.raises(ValueError, match="Exactly one of"):
        convert(words)
    assert as_program(monkeypatch, convert.__wrapped__, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("omni-vision: Exactly one of `--source auto`")


def test_a_path_of_the_user_that_does_not_exist_is_a_mistake(monkeypatch, capsys, tmp_path):
    def opens(argv):
        (Path(argv[1]) / "config.json").read_text()

    assert as_program(monkeypatch, opens, "--model", str(tmp_path / "nowhere")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "nowhere") in line


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    from modeling_omni_vision.data import idx

    def converts(argv):
        int("x")

    # As if this line stood in the package: it raises, but not by a `raise` of ours.
    exec(compile("def converts(argv): int('x')", "ours.py", "exec"), vars(idx))
    for function in (converts, idx.converts, lambda argv: Path("/elsewhere/file").read_text(), lambda argv: {}["key"]):
        monkeypatch.setattr(sys, "argv", ["omni-vision", "--model", "m"])
        with pytest.raises((ValueError, OSError, KeyError)):
            program(function)()
    del idx.converts


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (
            RuntimeError("lance error: LanceError(IO): Read-only file system (os error 30), writer.rs:1"),
            "Read-only",
        ),
        (Exception("Permission denied (os error 13)"), "Permission denied"),
        (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"), "disk is full"),
        (RuntimeError("No such file or directory (os error 2)"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_a_full_disk_is_a_line_whichever_library_meets_it(error, said):
    found = explain(error, [])
    assert (said in found) if said else found is None


def test_an_error_that_ours_caused_is_a_mistake_too(monkeypatch, capsys):
    from modeling_omni_vision import OmniVisionConfig

    assert as_program(monkeypatch, lambda argv: OmniVisionConfig(hidden_size=-1), "--config", "c") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "hidden_size" in line


def test_contradicting_arguments_of_training_are_a_mistake(monkeypatch, capsys, tmp_path):
    from modeling_omni_vision.cli.train import main as train

    words = ["--dataset", "digits", "--output_dir", str(tmp_path / "run")]
    for wrong in (["--ema_decay", "2"], ["--eval_strategy", "steps", "--save_strategy", "epoch"]):
        assert as_program(monkeypatch, train.__wrapped__, *words, *wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert as_program(monkeypatch, train.__wrapped__, *words, "--learning_rat", "1") == 2
    assert "unknown flag --learning_rat, did you mean --learning_rate?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_importing_the_package_registers_its_classes_before_anything_is_used():
    code = f"""
import json, sys
import modeling_omni_vision
from transformers import AutoModel
model = AutoModel.from_pretrained({str(ROOT / "checkpoints" / "omni-vision-fashion-mnist")!r}, trust_remote_code=False)
print(json.dumps([type(model).__module__, sorted(modeling_omni_vision.__all__)[0]]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout) == ["modeling_omni_vision.modeling_omni_vision", "ImageReadError"]


def test_in_a_command_classes_are_registered_when_one_is_used(tmp_path):
    # What decides is the name of the program.
    code = """
import sys
import modeling_omni_vision
before = "torch" in sys.modules
from modeling_omni_vision import OmniVisionModel
from transformers import AutoConfig
print(before, AutoConfig.for_model("omni_vision").model_type, "OmniVisionModel" in modeling_omni_vision.__all__)
"""
    (tmp_path / "omni-vision").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "omni-vision")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "omni_vision", "True"]
