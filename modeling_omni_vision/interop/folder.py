"""A folder that appears whole or not at all, and the JavaScript module that twins and exports carry."""

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_output_dir(output_dir: str | Path) -> Iterator[Path]:
    """Yield a staging folder to write into; it becomes `output_dir` only if the block ends without an error.

    It lies beside `output_dir`, so that the last step is one rename. Missing parents are made.

    Raises:
        `ValueError`: if `output_dir` is a file, or a folder that holds anything.
    """
    # Absolute, not resolved: a link stays what the user called it; and "." has no name to stage beside.
    output = Path(os.path.abspath(output_dir))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"The output must be a new or an empty folder, got {str(output_dir)!r}, which already holds something. "
            "Name another folder, or empty this one."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    of_this_machine = f".{output.name}.{platform.node()}-"
    _remove_left(output.parent, of_this_machine)
    staging = output.with_name(f"{of_this_machine}{os.getpid()}.partial")
    staging.mkdir()
    try:
        yield staging
        share_weights(staging)
        if output.exists():
            output.rmdir()
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_left(parent: Path, start: str) -> None:
    """Remove staging folders of processes of this machine that were killed."""
    for folder in parent.iterdir():
        pid = folder.name.removeprefix(start).removesuffix(".partial")
        if folder.name == f"{start}{pid}.partial" and pid.isdecimal() and not _lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C: nothing is removed
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def share_weights(folder: Path) -> None:
    """Let weights be read by whom the configuration beside them is: safetensors (0.8.0) lets the owner alone."""
    for file in folder.rglob("*.safetensors"):
        if (file.parent / "config.json").is_file():
            shutil.copymode(file.parent / "config.json", file)


def write_preprocess(folder: Path) -> None:
    """Copy the JavaScript module that prepares images as Pillow does, by the settings beside it."""
    shutil.copy(Path(__file__).parent / "javascript" / "preprocess.mjs", folder)


__all__ = ["atomic_output_dir", "share_weights", "write_preprocess"]
