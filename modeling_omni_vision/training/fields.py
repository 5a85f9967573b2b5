"""Fields of configurations on the command line, as JSON or a file of it."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..configuration_omni_vision import OmniVisionConfig


# Keywords of a configuration that are not fields of it and still mean something.
OTHER_CONFIG_KEYS = ("attn_implementation", "id2label", "label2id")


def read_fields(name: str, given: str | None, kind: Any = OmniVisionConfig) -> dict[str, Any]:
    """Read what an option says of a configuration; nothing where it was left out.

    Args:
        name: The option, for messages.
        given: JSON of an object, or a file of it.
        kind: Class of the configuration.

    Raises:
        ValueError: if it is neither, or has a key that the configuration does not know.
    """
    if given is None:
        return {}
    is_file = not given.lstrip().startswith("{")
    if is_file and not Path(given).is_file():
        raise ValueError(f"`{name}` must be JSON that starts with {{ or a file of it, got {given!r}.")
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8") if is_file else given)
    except ValueError as error:
        raise ValueError(f"`{name}` must be JSON, got {given!r} ({error}). Correct it.") from error
    known = {item.name for item in fields(kind)} | set(OTHER_CONFIG_KEYS)
    if not isinstance(found, dict) or not set(found) <= known:
        unknown = sorted(set(found) - known) if isinstance(found, dict) else found
        raise ValueError(f"`{name}` must hold fields of {kind.__name__}, got {unknown!r}. Correct or remove them.")
    return found


__all__ = ["read_fields"]
