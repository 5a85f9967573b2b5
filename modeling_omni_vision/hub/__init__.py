"""Publishing with proof: the model card, the folder, and the check that anyone can repeat."""

from .card import render_card
from .proof import OpeningError
from .publish import Published, publish
from .verify import Verification, verify


__all__ = ["OpeningError", "Published", "Verification", "publish", "render_card", "verify"]
