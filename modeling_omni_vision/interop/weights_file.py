"""Weights of a foreign checkpoint: found in its folder, read without running code, taken one by one and checked."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file


WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# A checkpoint may hold many more files, such as the same weights for other frameworks.
SETTINGS_FILES = ("*.json", "*.txt", "*.model", "README.md")
# Longer lists of keys help nobody.
MAX_NAMED = 8


def local_folder(path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint; one that is named by its Hub repository is downloaded, or found in the cache.

    Raises:
        `ValueError`: if there is no such folder, and no such repository or it cannot be reached.
    """
    folder = Path(path).expanduser()
    if folder.exists() or str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        if not folder.exists():
            raise ValueError(f"Expected the folder, file or Hub name of a checkpoint, got {str(path)!r}. Name one.")
        return folder
    try:
        for weights in ("*.safetensors", "*.bin"):
            found = snapshot_download(str(path), revision=revision, allow_patterns=[*SETTINGS_FILES, weights])
            if any(Path(found).glob(weights)):
                break
    except Exception as error:  # the Hub client raises a dozen kinds
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Expected the folder or Hub name of a checkpoint, got {str(path)!r} ({type(error).__name__}: {reason}). "
            "Correct the name, or download it first."
        ) from error
    return Path(found)


def instead_of(folder: Path) -> str:
    """Return what to name in place of a folder that holds no model but an adapter, or checkpoints of a training."""
    if (folder / "adapter_config.json").is_file():
        return "It holds an adapter of PEFT: save the model that `merge_and_unload()` returns, and name that folder."
    steps = {int(place.name[11:]): place for place in folder.glob("checkpoint-*") if place.name[11:].isdecimal()}
    return f"Name {str(steps[max(steps)])!r} in it." if steps else "Name the folder of a checkpoint."


def read_state(path: Path, names: Sequence[str] = WEIGHTS_FILES) -> dict[str, torch.Tensor]:
    """Read all weights of a folder or of one file, sharded or not, safetensors or the older format with
    `weights_only`; raise `ValueError` for none, for a broken file and for quantised weights.
    """
    files = find_weights(path, names)
    state: dict[str, torch.Tensor] = {}
    try:
        if files[0].name.endswith(".index.json"):
            shards = json.loads(files[0].read_text(encoding="utf-8"))["weight_map"].values()
            files = [path / Path(name).name for name in sorted(set(shards))]
        for file in files:
            state |= _read_file(file)
    except Exception as error:  # torch, safetensors and the system raise a dozen kinds for what is no checkpoint
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        said = pickle_refusal(error) or f"{type(error).__name__}: {reason}. Download the checkpoint again."
        raise ValueError(f"The weights of {str(path)!r} must be readable, got {said}") from error
    wrong = sorted(name for name, value in state.items() if not torch.is_tensor(value))
    # Integers beside floats are tables of positions, of quantised weights they are the matrices.
    wrong += [name for name, value in state.items() if torch.is_tensor(value) and _quantised(name, value)]
    if wrong or not state:
        raise ValueError(
            f"The weights must be float32, bfloat16 or float16, got others in {str(path)!r}: {wrong[:MAX_NAMED]!r}. "
            "Name the checkpoint before quantisation."
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def find_weights(path: Path, names: Sequence[str] = WEIGHTS_FILES) -> list[Path]:
    """Return the file of the weights of a folder, or of its index, or raise `ValueError`."""
    files = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()][:1]
    if not files:
        raise ValueError(f"Expected one of {', '.join(names)} in {str(path)!r}, got none. Name a checkpoint.")
    return files


def _read_file(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        return load_file(file)
    # What torch wrote before 1.6 is no archive.
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    return dict(loaded.get("state_dict", loaded))


def pickle_refusal(error: Exception) -> str | None:
    """Return in our words why torch did not read a pickle, without its advice to run what is in it, or None."""
    if "Weights only load failed" not in str(error):
        return None
    found = re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", str(error))
    if found is None:
        return "a file that torch did not write, or a broken one. Download the checkpoint again."
    return (
        f"a pickle with more than tensors ({found[1]}), which could run code; none was run. Use a checkpoint with "
        "model.safetensors, or ask its author for one."
    )


def check_depth(layers: int, state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise a `ValueError` for more layers than a file can hold, before a model of them is built."""
    if state and layers > len(state):
        raise ValueError(
            f"The weights of {origin!r} must be those that its configuration describes, got {len(state)} weights for "
            f"{layers} layers. Correct the configuration, or name a complete checkpoint."
        )


def _quantised(name: str, value: torch.Tensor) -> bool:
    kept = value.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return not kept and not name.endswith(("position_ids", "num_batches_tracked"))


class Weights:
    """Weights that are taken by name and shape; what does not fit is collected, and named at once by `finish`."""

    def __init__(self, state: dict[str, torch.Tensor], origin: str):
        self.state, self.origin = state, origin
        self.missing: list[str] = []
        self.misshapen: list[str] = []
        self.used: set[str] = set()
        self.dtype = next((value.dtype for value in state.values()), torch.float32)

    def take(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Return a weight as `shape`; sizes of one in front of it may be left out in the file."""
        expected, found = tuple(shape), self.state.get(name)
        self.used.add(name)
        if found is None:
            self.missing.append(name)
            return torch.zeros(()).expand(expected)  # no memory for sizes that may be lies
        if _bare(found.shape) != _bare(expected):
            self.misshapen.append(f"{name} of shape {tuple(found.shape)} instead of {expected}")
            return torch.zeros(()).expand(expected)
        return found.reshape(expected)

    def replace(self, name: str, value: torch.Tensor) -> None:
        """Put a weight in the place of one of the file."""
        self.state[name] = value

    def finish(self, ignored: str) -> list[str]:
        """Raise one `ValueError` for all that is missing, misshapen or unknown; return which ones were left out.

        Args:
            ignored: Regular expression of the names that may be left out.
        """
        rest = [name for name in self.state if name not in self.used]
        unknown = [name for name in rest if not re.match(ignored, name)]
        kinds = {"missing": self.missing, "of another shape": self.misshapen, "unknown": unknown}
        found = [f"{kind}: {', '.join(names[:MAX_NAMED])}" + _more(names) for kind, names in kinds.items() if names]
        if found:
            raise ValueError(
                f"The weights of {self.origin!r} must be those that its configuration describes, got "
                f"{'; '.join(found)}. Nothing was written: correct the configuration, or name a complete checkpoint."
            )
        return [name for name in rest if re.match(ignored, name)]


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _more(names: list[str]) -> str:
    return f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""


__all__ = ["OPEN_CLIP_FILES", "WEIGHTS_FILES", "Weights", "check_depth", "find_weights", "instead_of", "local_folder"]
__all__ += ["pickle_refusal", "read_state"]
