"""`metrics.json` as it may be published: read whole, with numbers that can have been measured, or refused."""

import json
from pathlib import Path
from typing import Any

from .spelling import number


METRICS_NAME = "metrics.json"
SECTIONS = ("training", "test", "evaluation", "robustness", "data_audit", "retrieval", "answers")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json, an empty dictionary where there is none; refuse one that is not an object of objects."""
    path = folder / METRICS_NAME
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{METRICS_NAME} must be JSON, got {error} in {str(path)!r}. Run the evaluation again."
        ) from error
    if not isinstance(metrics, dict) or not all(isinstance(metrics.get(name, {}), dict) for name in SECTIONS):
        raise ValueError(
            f"{METRICS_NAME} must hold the objects {SECTIONS}, got {str(metrics)[:200]!r}. Run the evaluation again."
        )
    return metrics


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant}, which is no number")


def inside(section: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object in a section, empty where there is none, or refuse what is no object."""
    found = section.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{METRICS_NAME}: {name} must be an object, got {found!r}. Run the evaluation again.")
    return found


def share(value: Any, section: str, name: str) -> float:
    """Return a measured share, or refuse what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{METRICS_NAME}: {section}.{name} must be a number from 0 to 1, got {value!r}. Run the evaluation again."
        )
    return float(value)


def amount(value: Any, section: str, name: str) -> float:
    """Return a measured number that is not negative, or refuse what is none."""
    if not number(value) or value < 0:
        raise ValueError(
            f"{METRICS_NAME}: {section}.{name} must be a number from 0, got {value!r}. Run the evaluation again."
        )
    return float(value)


__all__ = ["METRICS_NAME", "amount", "inside", "read_metrics", "share"]
