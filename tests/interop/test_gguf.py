import pytest

from modeling_omni_vision.interop import convert_from_gguf


def test_what_holds_no_language_model_is_named_and_no_folder_is_left(tmp_path):
    for source in ("no_such_package", "json", str(tmp_path / "missing.gguf")):
        with pytest.raises(ValueError, match=r"Expected a GGUF file or an installed package .* got .* with 0 of them"):
            convert_from_gguf(source, tmp_path / "text")
    assert not any(tmp_path.iterdir())


def test_a_package_with_several_files_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "two_models"
    package.mkdir()
    for name in ("__init__.py", "a.gguf", "b.gguf"):
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'two_models' with 2 of them"):
        convert_from_gguf("two_models", tmp_path / "text")


def test_the_package_that_reads_the_file_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package gguf"):
        convert_from_gguf(tmp_path / "a.gguf", tmp_path / "text")
