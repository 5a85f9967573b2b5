"""The colours of every page that this package writes, light and dark, as variables of CSS."""

from pathlib import Path


def page_colours() -> str:
    """Return the style sheet that defines them."""
    return Path(__file__).with_name("page").joinpath("colours.css").read_text(encoding="utf-8")


__all__ = ["page_colours"]
