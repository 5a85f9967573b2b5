import os
import platform
import subprocess

import pytest

from modeling_omni_vision.interop.folder import atomic_output_dir


def test_a_folder_appears_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "a" / "b"
    with atomic_output_dir(target) as staging:
        (staging / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = f".out.{platform.node()}-"
    kept = [
        f"{here}{os.getppid()}.partial",
        f".out.elsewhere-{dead.pid}.partial",
        f"{here}x.partial",
        f".outer.{dead.pid}",
    ]
    for name in (*kept, f"{here}{dead.pid}.partial"):
        (tmp_path / name / "sub").mkdir(parents=True)
    with atomic_output_dir(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "out"])


def test_weights_get_the_rights_of_the_configuration_beside_them(tmp_path):
    with atomic_output_dir(tmp_path / "out") as staging:
        for name, mode in (("config.json", 0o640), ("model.safetensors", 0o600), ("sub/model.safetensors", 0o600)):
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).touch(mode)
            (staging / name).chmod(mode)
    modes = {file.relative_to(tmp_path).as_posix(): file.stat().st_mode & 0o777 for file in tmp_path.rglob("*.*")}
    assert modes == {"out/config.json": 0o640, "out/model.safetensors": 0o640, "out/sub/model.safetensors": 0o600}


def test_an_error_leaves_nothing_behind(tmp_path):
    def fail():
        with atomic_output_dir(tmp_path / "new") as staging:
            (staging / "file").write_text("half")
            raise KeyError("broken")

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_a_full_one_is_refused_untouched(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with atomic_output_dir(target) as staging:
        (staging / "first").write_text("1")
    with pytest.raises(ValueError, match="already holds something"), atomic_output_dir(target):
        pytest.fail("a full folder was given out")
    assert [path.name for path in target.iterdir()] == ["first"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="new or an empty folder"), atomic_output_dir(tmp_path / "file"):
        pytest.fail("a file was given out as a folder")
