"""Weights in and out: mu-Omni checkpoints become ours, ours become stock ones or part of a vision-language model.

Every conversion is exact, and writes a whole folder or none.
"""

from .compose import Composite, compose_language_model, prepare_tokenizer
from .from_muomni import SPECIFICATION_NAMES, convert_from_muomni
from .to_native import convert_to_native, convert_to_vit
from .vision_tower import load_vision_tower


__all__ = [
    "SPECIFICATION_NAMES",
    "Composite",
    "compose_language_model",
    "convert_from_muomni",
    "convert_to_native",
    "convert_to_vit",
    "load_vision_tower",
    "prepare_tokenizer",
]
