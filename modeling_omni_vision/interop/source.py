"""Which library a foreign checkpoint is of, and the reader for it."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from .converted import Converted
from .from_clip import read_clip
from .from_open_clip import CONFIG_FILE, read_open_clip, read_open_clip_config
from .from_timm import read_timm, read_timm_config
from .from_transformers import FAMILIES, WHOLE, read_transformers
from .weights_file import OPEN_CLIP_FILES, instead_of, local_folder, read_state


LIBRARIES = ("transformers", "timm", "open_clip")


def read_source(
    path: str | Path,
    library: str = "auto",
    revision: str | None = None,
    architecture: str | None = None,
    hidden_act: str | None = None,
    encoder_only: bool = False,
) -> Converted:
    """
    Read a foreign checkpoint, whatever library it is of. No code of it is run.

    Args:
        path: Folder, Hub name, or a file with a state dict of timm.
        library: One of `LIBRARIES`, or `"auto"` to see it from the files.
        revision: Commit, branch or tag of a checkpoint on the Hub.
        architecture: timm's name of the architecture, for a file with a state dict.
        hidden_act: Activation of a timm model in place of what architecture and tag say.
        encoder_only: Leave out a head, and of a model with a text tower all but the vision tower.

    Raises:
        `ValueError`: if it cannot be read, is of another kind, or has what ours has no place for.
    """
    folder = local_folder(path, revision)
    try:
        return _read(folder, str(path), library, architecture, hidden_act, encoder_only)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        json.JSONDecodeError,
    ) as error:
        # What libraries raise for a configuration of other types or sizes than they expect.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The configuration of {str(path)!r} must describe a model, got {type(error).__name__}: {reason}. Correct "
            "it, or download it again."
        ) from error


def _read(
    folder: Path, path: str, library: str, architecture: str | None, hidden_act: str | None, encoder_only: bool
) -> Converted:
    kind = find_library(folder) if library == "auto" else library
    if folder.is_file():
        if architecture is None:
            raise ValueError(f"A file of weights needs the name of its architecture, got {path!r}: --architecture.")
        config = {"architecture": architecture, "pretrained_cfg": {}, "model_args": {}}
        state = read_state(folder)
        config["model_args"] = {"num_classes": len(state["head.weight"]) if "head.weight" in state else 0}
        return _named(read_timm(config, state, path, not encoder_only, hidden_act), folder, config)
    if kind == "timm":
        config = read_timm_config(folder)
        return _named(read_timm(config, read_state(folder), path, not encoder_only, hidden_act), folder, config)
    if kind == "open_clip":
        config = read_open_clip_config(folder)
        state = read_state(folder, OPEN_CLIP_FILES)
        return _named(read_open_clip(config, state, path, whole=not encoder_only), folder, config)
    return _named(_read_transformers(folder, path, encoder_only), folder, {})


def find_library(folder: Path) -> str:
    """Return the library of a checkpoint by its configuration; raise `ValueError` for one of another kind."""
    config = _read_json(folder / "config.json") if folder.is_dir() else {}
    if "model_type" not in config:
        if (folder / CONFIG_FILE).is_file():
            return "open_clip"
        if folder.is_file() or "architecture" in config:
            return "timm"
        raise ValueError(
            f"Expected config.json of transformers or timm, or {CONFIG_FILE}, in {str(folder)!r}, got neither. "
            f"{instead_of(folder)}"
        )
    # Some repositories hold both, with weights of one.
    if (
        (folder / CONFIG_FILE).is_file()
        and not any(folder.glob("model*.safetensors"))
        and not any(folder.glob("pytorch*"))
    ):
        return "open_clip"
    return "transformers"


def is_foreign(model_type: str) -> bool:
    """Return whether a model type of transformers is one that is read here."""
    return model_type in FAMILIES or model_type in WHOLE


def _read_transformers(folder: Path, origin: str, encoder_only: bool) -> Converted:
    written = _read_json(folder / "config.json")
    if not is_foreign(written["model_type"]):
        known = ", ".join((*FAMILIES, *WHOLE))
        raise ValueError(
            f"The checkpoint must be of one of these model types: {known}; got {written['model_type']!r} in "
            f"{origin!r}. Name another checkpoint."
        )
    if written.get("quantization_config"):
        raise ValueError(f"{origin!r} is quantised, expected float weights. Name the checkpoint before quantisation.")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of transformers or of its strict configurations, neither a ValueError
        reason = " ".join(str(error).split())
        raise ValueError(f"The configuration of {origin!r} must be valid, got: {reason}. Correct it.") from error
    state = read_state(folder)
    architecture = (config.architectures or [""])[0]
    if config.model_type in WHOLE and not encoder_only and architecture in ("CLIPModel", "SiglipModel", ""):
        converted = read_clip(config, state, origin, load_tokenizer(folder))
    else:
        converted = read_transformers(config, state, origin, head=not encoder_only)
    converted.origin["architecture"] = architecture
    return converted


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, None where it has no file of one."""
    if not any(folder.glob("*tokenizer*")) and not (folder / "vocab.json").is_file():
        return None
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must be JSON, got {error}. Download it again.") from error
    return found if isinstance(found, dict) else {}


def _named(converted: Converted, folder: Path, config: dict[str, Any]) -> Converted:
    converted.origin |= {"folder": folder, "config": config}
    return converted


__all__ = ["LIBRARIES", "find_library", "is_foreign", "load_tokenizer", "read_source"]
