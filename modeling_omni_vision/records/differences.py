"""Which settings of two runs differ, in a few words: for messages, where whole dicts would hide it."""

from collections.abc import Mapping
from typing import Any


MAX_LENGTH = 48  # of a value; a digest is longer, and told apart by its beginning


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one text for each setting that differs, as `processor.size.height 28, now 224`; None is one not made."""
    old, new = _flat(before), _flat(now)
    return [
        f"{name} {', now '.join(_told_apart(old.get(name), new.get(name)))}"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _told_apart(before: Any, now: Any) -> tuple[str, str]:
    """Return both values in short, or whole where they are one text in short."""
    pair = _short(before), _short(now)
    return pair if pair[0] != pair[1] else (repr(before), repr(now))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:12]}..."


__all__ = ["differences"]
