import pytest

from modeling_omni_vision.interop import from_source
from modeling_omni_vision.interop.isolated_process import run_isolated


def written(tmp_path, code):
    script = tmp_path / "child.py"
    script.write_text(code)
    return script


def test_the_script_gets_neither_our_settings_nor_our_files(tmp_path, monkeypatch):
    for name in ("PYTHONPATH", "HF_TOKEN", "TRANSFORMERS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    code = (
        "import os, sys\n"
        "given = sorted(name for name in os.environ if name.startswith(('HF_', 'TRANSFORMERS_', 'PYTHON')))\n"
        "sys.exit(f'{sys.argv[1:]} {given} {os.listdir()} {os.path.exists(os.environ[\"HF_HOME\"])}')\n"
    )
    assert run_isolated(written(tmp_path, code), "asked", seconds=60) == (
        1,
        "['asked'] ['HF_HOME', 'HF_HUB_OFFLINE'] [] False",
    )


def test_a_script_that_does_not_end_is_stopped_and_named(tmp_path):
    with pytest.raises(TimeoutError, match=r"child\.py did not end within 0\.5 s"):
        run_isolated(written(tmp_path, "import time\ntime.sleep(60)\n"), seconds=0.5)


def test_a_comparison_that_does_not_end_is_one_sentence(monkeypatch):
    monkeypatch.setattr(from_source, "COMPARISON_SECONDS", 0.01)
    with pytest.raises(ValueError, match=r"The comparison must end within 0\.01 s\. Nothing was written\."):
        from_source.run_comparison({"library": "transformers"})
