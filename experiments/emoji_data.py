"""Emoji of three vendors with names and keywords: one concept, three drawing styles.

The images come with npm, `npm install --prefix emoji PACKAGES`, and stay where they are licensed:
emoji-datasource-google (Noto, Apache-2.0), emoji-datasource-twitter (Twemoji, CC-BY-4.0) and
@lobehub/fluent-emoji-3d (MIT); unicode-emoji-json and emojilib (MIT) have the words.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, List, Value


TRAINED_VENDORS = ("google", "twitter")
HELD_OUT_VENDOR = "fluent"
IMAGES = (*(f"emoji-datasource-{vendor}" for vendor in TRAINED_VENDORS), "@lobehub/fluent-emoji-3d")
PACKAGES = (*IMAGES, "unicode-emoji-json", "emojilib")
# The split of the held-out vendor's drawings for each split by concept.
UNSEEN_STYLE = {"train": "unseen_style", "validation": "validation_unseen_style", "test": "test_unseen_style"}
# Concepts held out of training, about as many for choices and for the test.
HELD_OUT = {"validation": 285, "test": 285}
# Words that siblings differ in: "man running", "woman running"; "one o'clock", "two-thirty"; "left arrow".
SIBLING_WORDS = re.compile(
    r"\b(?:man|woman|person|people|men|women|boy|girl|male|female|mr|mrs|mx|ms|child|adult|baby|old|older|"
    r"red|orange|yellow|green|blue|purple|brown|black|white|grey|pink|light|dark|small|medium|large|heavy|"
    r"left|right|up|down|upwards|downwards|back|facing|pointing|clockwise|counterclockwise|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirty|\d+|keycap|and|with|in|of|s|the|"
    r"curly|bald|blond|beard|face|button|hand|hands)\b"
)
FEATURES = Features(
    {"image": Image(decode=False), "texts": List(Value("string"))}
    | {name: Value("string") for name in ("concept", "group", "vendor")}
)


def load_emoji(folder: Path, seed: int = 0) -> DatasetDict:
    """Read the packages from a folder as npm lays them out, with or without `node_modules`, and split them by concept,
    so that no sibling of a held-out concept is trained on.

    Returns:
        Splits with the columns `image`, `texts` (the name, then its keywords), `concept`, `group`, `vendor`:
        `train` (two vendors), `validation` and `test` (concepts without any training image, the same two
        vendors), `unseen_style` (the third vendor's drawings of the trained concepts), `validation_unseen_style` and
        `test_unseen_style` (the third vendor's of the concepts of `validation` and of `test`).

    Raises:
        ValueError: if a package is missing; says how to get it.
    """
    home, folder = folder, folder / "node_modules" if (folder / "node_modules").is_dir() else folder
    if missing := [package for package in PACKAGES if not (folder / package).is_dir()]:
        raise ValueError(
            f"Expected the packages {', '.join(PACKAGES)} in {folder}, got none of the name {', '.join(missing)}. "
            f"Get them with: npm install --prefix {home} {' '.join(PACKAGES)}"
        )
    rows = _rows(folder)
    parts = _split_concepts(sorted({row["concept"] for row in rows}), seed)
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in (*UNSEEN_STYLE, *UNSEEN_STYLE.values())}
    for row in rows:
        part = parts[row["concept"]]
        splits[part if row["vendor"] in TRAINED_VENDORS else UNSEEN_STYLE[part]].append(row)
    return DatasetDict({name: Dataset.from_list(chosen, features=FEATURES) for name, chosen in splits.items()})


def family_of(name: str) -> str:
    """Reduce a name to what siblings share, "running" for "woman running"; the name itself if nothing is left.

    Flags and clocks are one family each: they differ in what cannot be known from others.
    """
    if name.startswith("flag"):
        return "flag"
    if re.search(r"\bo\Wclock", name) or name.endswith("-thirty"):
        return "clock"
    words = re.sub(r"[^\w\s]", " ", name.lower())
    rest = " ".join(sorted(set(SIBLING_WORDS.sub(" ", words).split())))
    return rest or words.strip()


def _split_concepts(concepts: list[str], seed: int) -> dict[str, str]:
    """Deal whole families of concepts out to the splits."""
    families: dict[str, list[str]] = {}
    for concept in concepts:
        families.setdefault(family_of(concept), []).append(concept)
    order: list[str] = np.random.default_rng(seed).permutation(sorted(families)).tolist()
    parts: dict[str, str] = {}
    for split, wanted in HELD_OUT.items():
        held = 0
        for family in list(order):
            # A family so large would be most of what is asked for.
            if held + len(families[family]) <= wanted and len(families[family]) <= max(1, wanted // 20):
                parts |= dict.fromkeys(families[family], split)
                held += len(families[family])
                order.remove(family)
    return {concept: parts.get(concept, "train") for concept in concepts}


def _rows(folder: Path) -> list[dict[str, Any]]:
    named = json.loads((folder / "unicode-emoji-json" / "data-by-emoji.json").read_text(encoding="utf-8"))
    keywords = json.loads((folder / "emojilib" / "dist" / "emoji-en-US.json").read_text(encoding="utf-8"))
    rows = []
    for entry in json.loads((folder / "emoji-datasource-google" / "emoji.json").read_text(encoding="utf-8")):
        emoji = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        key = emoji if emoji in named else emoji.replace("\ufe0f", "")
        if key not in named:
            continue
        name, group = named[key]["name"], named[key]["group"]
        words = keywords.get(key) or keywords.get(emoji.replace("\ufe0f", "")) or []
        # The first keyword is the name once more, with underscores.
        texts = [name, *(word.replace("_", " ") for word in words[1:] if word.replace("_", " ") != name)]
        for vendor, file in _files(folder, entry).items():
            if file.is_file():
                image = {"bytes": file.read_bytes(), "path": None}
                rows.append({"image": image, "texts": texts, "concept": name, "group": group, "vendor": vendor})
    return rows


def _files(folder: Path, entry: dict[str, Any]) -> dict[str, Path]:
    name = entry["image"]
    drawn = {vendor: folder / f"emoji-datasource-{vendor}/img/{vendor}/64/{name}" for vendor in TRAINED_VENDORS}
    return {**drawn, HELD_OUT_VENDOR: folder / "@lobehub/fluent-emoji-3d/assets" / Path(name).with_suffix(".webp")}


__all__ = ["PACKAGES", "family_of", "load_emoji"]
