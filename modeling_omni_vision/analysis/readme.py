"""README.md and the recipes, with the numbers of the files that hold them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .readme_language import (
    easy_vqa,
    easy_vqa_recipe,
    fusions,
    language,
    language_recipe,
    oracle_recipe,
    smollm2,
    smollm2_recipe,
)
from .readme_pictures import as_written_recipe, benchmark, fashion_mnist, other_runs, recipe, short_recipe
from .readme_search import cls, emoji, emoji_recipe, index, search, search_recipe, zero_shot_recipe


def filled(text: str, blocks: Sequence[Callable[[Path], str]], root: Path) -> str:
    """Put each block between its lines `begin NAME` and `end NAME`."""
    for block in blocks:
        begin, end = (
            re.search(rf"^.*\b{word} {block.__name__}\b.*$", text, re.MULTILINE) for word in ("begin", "end")
        )
        if begin is None or end is None:
            raise ValueError(f"Expected lines with 'begin {block.__name__}' and 'end {block.__name__}', found none.")
        text = f"{text[: begin.end()]}\n{block(root)}\n{text[end.start() :]}"
    return text


FILES: dict[str, Sequence[Callable[[Path], str]]] = {
    "README.md": (
        fashion_mnist,
        other_runs,
        benchmark,
        search,
        emoji,
        cls,
        index,
        language,
        easy_vqa,
        smollm2,
        fusions,
    ),
    "scripts/recipes/fashion_mnist.sh": (recipe,),
    "scripts/recipes/fashion_mnist_short.sh": (short_recipe,),
    "scripts/recipes/fashion_mnist_as_written.sh": (as_written_recipe,),
    "scripts/recipes/search_scenes.sh": (search_recipe,),
    "scripts/recipes/emoji.sh": (emoji_recipe,),
    "scripts/recipes/zero_shot.sh": (zero_shot_recipe,),
    "scripts/recipes/language_scenes.sh": (language_recipe,),
    "scripts/recipes/easy_vqa.sh": (easy_vqa_recipe,),
    "scripts/recipes/language_smollm2.sh": (smollm2_recipe,),
    "scripts/recipes/language_oracle.sh": (oracle_recipe,),
}


def fill(root: Path, check: bool = False) -> list[str]:
    """
    Write the numbers into the files that show them.

    Args:
        root: Folder of the checkout.
        check: Change nothing.

    Returns:
        The files that said, or with `check` still say, other numbers than they should.

    Raises:
        `ValueError`: if a file has no place for a block.
    """
    wrong = []
    for name, blocks in FILES.items():
        before = (root / name).read_text(encoding="utf-8")
        after = filled(before, blocks, root)
        if after != before:
            wrong.append(name)
            if not check:
                (root / name).write_text(after, encoding="utf-8")
    return wrong


__all__ = ["fill", "filled"]
