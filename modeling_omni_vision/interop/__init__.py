"""Weights in and out: mu-Omni checkpoints become ours, ours become stock ones.

Every conversion is exact, and writes a whole folder or none.
"""

from .muomni import SPECIFICATION_NAMES, convert_from_muomni
from .native import convert_to_native, convert_to_vit


__all__ = ["SPECIFICATION_NAMES", "convert_from_muomni", "convert_to_native", "convert_to_vit"]
