"""OmniVision: a small vision encoder compatible with Hugging Face transformers.

Importing the package registers its classes with the Auto classes of transformers (`auto_classes.py`). In a process
that runs one of our commands this waits until the flags are read, so that `--help` answers without importing torch.
Published checkpoints carry the files `*_omni_vision*.py` beside this one, but neither this file nor the folders.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"


def _runs_a_command() -> bool:
    """Return whether the running program is `omni-vision` or one of `scripts/` in this checkout."""
    program, package = Path(sys.argv[0] if sys.argv else "").resolve(), Path(__file__).resolve().parent
    if program.parent == package.parent / "scripts" and program.suffix == ".py":
        return (package / "cli" / f"{program.stem.removesuffix('_images')}.py").is_file()
    return program.stem == "omni-vision"


def __getattr__(name: str) -> Any:
    # Only for names that are not here yet: those of `auto_classes`, in a process that runs a command.
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.auto_classes"), name)


if TYPE_CHECKING or not _runs_a_command():
    from .auto_classes import *  # noqa: F403
    from .auto_classes import __all__  # noqa: F401
