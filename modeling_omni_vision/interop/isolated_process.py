"""A script in a new process that has neither our package nor a network, a cache or a current directory."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


SETTINGS = ("HF_", "TRANSFORMERS_", "HUGGINGFACE_", "PYTHON")  # of the environment, which are not passed on


def run_isolated(script: Path, *arguments: str | Path, seconds: float) -> tuple[int, str]:
    """Run a script of Python without our package, a network, a cache or a current directory.

    Args:
        script: Imports nothing of ours.
        *arguments: What it is called with; paths are absolute.
        seconds: How long it may take.

    Returns:
        Its exit status, and the last line of its messages.

    Raises:
        TimeoutError: if it takes longer.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    with tempfile.TemporaryDirectory(prefix="omni-vision-isolated-") as scratch:
        empty = Path(scratch, "empty")
        empty.mkdir()
        try:
            done = subprocess.run(
                [sys.executable, "-I", script, *arguments],
                cwd=empty,
                env={**kept, "HF_HOME": str(Path(scratch, "home")), "HF_HUB_OFFLINE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{script.name} did not end within {seconds} s.") from error
    return done.returncode, (done.stderr.strip().splitlines() or ["no message"])[-1]


__all__ = ["run_isolated"]
