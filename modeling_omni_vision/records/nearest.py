"""The known word nearest to a misspelt one, for messages. Without torch, so that commands answer at once."""

import difflib
from collections.abc import Collection


def nearest(word: str, known: Collection[str]) -> str:
    """Return a question that names the known word nearest to a misspelt one, nothing where none is near.

    One that is nearly the same comes first, then the first that holds the whole word, as num_train_epochs does epochs.
    """
    part = f"_{word.strip('-')}_"
    near = difflib.get_close_matches(word, known, 1, cutoff=0.8)
    near = near or [one for one in known if part in f"_{one.strip('-')}_"] or difflib.get_close_matches(word, known, 1)
    return f", did you mean {near[0]}?" if near else ""


__all__ = ["nearest"]
