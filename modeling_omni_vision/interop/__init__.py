"""Weights in and out: foreign checkpoints become ours, ours become stock ones or part of a vision-language model.

Every conversion is exact, and writes a whole folder or none.
"""

from .compose import Composite, compose_language_model, prepare_tokenizer
from .from_muomni import SPECIFICATION_NAMES, convert_from_muomni
from .from_source import SourceReport, convert_from_source
from .to_native import convert_to_native, convert_to_vit
from .vision_tower import load_classifier_weights, load_image_processor, load_vision_config, load_vision_tower


__all__ = [
    "SPECIFICATION_NAMES",
    "Composite",
    "SourceReport",
    "compose_language_model",
    "convert_from_muomni",
    "convert_from_source",
    "convert_to_native",
    "convert_to_vit",
    "load_classifier_weights",
    "load_image_processor",
    "load_vision_config",
    "load_vision_tower",
    "prepare_tokenizer",
]
