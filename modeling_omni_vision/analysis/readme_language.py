"""Numbers of README.md and of the recipes about language models with eyes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .fusions import fusion_table
from .readme_records import read, where


LANGUAGE = "checkpoints/omni-vision-language-scenes/metrics.json"
BLIND = "docs/runs/language_scenes_blind.json"
ORACLE = "docs/runs/language_oracle.json"
EASY_VQA, SMOLLM2 = "docs/runs/easy_vqa.json", "docs/runs/language_smollm2.json"
SHOWN_NAMES = {
    "pictures": "pictures",
    "prior": "prior of the texts",
    "shuffled": "shuffled pictures",
    "nothing": "no picture",
    "blind": "trained blind",
    "oracle": "symbols",
}
LANGUAGE_COLUMNS = (
    ("test", "pictures"),
    ("held_out", "pictures"),
    ("test", "prior"),
    ("test", "shuffled"),
    ("test", "nothing"),
    ("test", "blind"),
    ("test", "oracle"),
)
SMOLLM2_COLUMNS = (
    ("test", "pictures"),
    ("held_out", "pictures"),
    ("test", "prior"),
    ("test", "shuffled"),
    ("test", "nothing"),
)


def language(root: Path) -> str:
    """Describe the language checkpoint in the box by its own metrics, beside its controls."""
    record = read(root, LANGUAGE)
    training, answers = record["training"], record["answers"]
    answers["test"]["blind"] = read(root, BLIND)["answers"]["test"]["nothing"]
    oracle = read(root, ORACLE)
    answers["test"]["oracle"] = oracle["answers"]["test"]["symbol_map"]
    tested = answers["test"]["pictures"]["questions"]
    return f"""`checkpoints/omni-vision-language-scenes`: {training["parameters"]:,} parameters, one seed
({training["seed"]}), of the last stage {training["steps"]:,} steps, {training["minutes"]:.0f} minutes on
{training["machine"]["threads"]} thread(s) of a shared {training["machine"]["cpu"]}. Exact answers to {tested:,}
questions about {training["conversations"]["test"]:,} test pictures, with 95 % bootstrap intervals; "held out" asks
about combinations of colour and shape that no part of it was ever shown. Controls: the best that the texts alone
allow; its answers to the pictures of others and to none; the same decoder trained without any
(`scripts/recipes/language_blind.sh`); the same decoder with symbols in place of pixels, nothing to recognise
(`scripts/recipes/language_oracle.sh`, {oracle["training"]["steps"]:,} steps in its last stage).

{_answers(answers, LANGUAGE_COLUMNS)}"""


def language_recipe(root: Path) -> str:
    """Say what the recipe for language promises."""
    record = read(root, LANGUAGE)
    training, found = record["training"], record["answers"]
    test, held_out = (found[split]["pictures"]["accuracy"] for split in ("test", "held_out"))
    return f"""{where(training, " for the last stage")}
# {training["date"]}: exact answers {test:.1%}, about combinations never seen {held_out:.1%}."""


def oracle_recipe(root: Path) -> str:
    """Say what the recipe of the control that is shown symbols promises."""
    record = read(root, ORACLE)
    test, held_out = (record["answers"][split]["symbol_map"]["accuracy"] for split in ("test", "held_out"))
    return f"""{where(record["training"], " for the last stage")}
# {record["training"]["date"]}: exact answers {test:.1%}, about combinations never seen {held_out:.1%}."""


def easy_vqa(root: Path) -> str:
    """Show the answers about easy-VQA beside the controls."""
    return _answers(read(root, EASY_VQA)["answers"], (("test", "pictures"), ("test", "prior"), ("test", "shuffled")))


def easy_vqa_recipe(root: Path) -> str:
    """Say what the recipe for easy-VQA promises."""
    record = read(root, EASY_VQA)
    found = record["answers"]["test"]["pictures"]
    return f"""{where(record["training"])}
# {record["training"]["date"]}: exact answers {found["accuracy"]:.2%} of {found["questions"]:,} questions."""


def smollm2(root: Path) -> str:
    """Show what a real language model names that has been given eyes, and that it is the one that it was."""
    record = read(root, SMOLLM2)
    training, answers = record["training"], record["answers"]
    machine, asked = training["machine"], training["conversations"]
    kept = "those of before" if training["parts"]["text"]["unchanged"] else "others than before"
    return f"""{training["trained_parameters"]:,} of {training["parameters"]:,} parameters were trained, for
{training["steps"]:,} steps, {training["minutes"]:.0f} minutes on {machine["threads"]} thread(s) of a shared
{machine["cpu"]}, one seed ({training["seed"]}); the bits of the language model are {kept}.
Exact answers about {asked["test"]:,} objects, and about {asked["held_out"]:,} "held out", in combinations of colour
and shape that no part of it was ever shown, with 95 % bootstrap intervals; a name is colour and shape:

{_answers(answers, SMOLLM2_COLUMNS)}"""


def smollm2_recipe(root: Path) -> str:
    """Say what the recipe for a real language model promises."""
    record = read(root, SMOLLM2)
    test, held_out = (
        record["answers"][split]["pictures"]["kinds"]["name"]["accuracy"] for split in ("test", "held_out")
    )
    return f"""{where(record["training"])}
# {record["training"]["date"]}: colour and shape right {test:.1%}, in combinations never seen {held_out:.1%}."""


def fusions(root: Path) -> str:
    """Show tokens per picture against accuracy against speed."""
    record = read(root, "docs/language/fusions.json")
    (steps,) = {row["steps"] for row in record["rows"]}
    return f"""{fusion_table(record)}

Exact answers after {steps} steps each, tower trained too, one seed; vectors of a picture, places that they take in the
language model; CPU milliseconds, medians of {record["rounds"]} rounds in turns on a shared
{record["machine"]["cpu"]}: the prompt "{record["question"]}" with its picture and alone, and each further
token after either. The accuracies say which way learns fast, not which is best in the end."""


def _answers(answers: dict[str, Any], columns: Sequence[tuple[str, str]]) -> str:
    names = [
        ", ".join(filter(None, (SHOWN_NAMES.get(shown, ""), "held out" if split == "held_out" else "")))
        for split, shown in columns
    ]
    rows = [f"| question | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for kind in ("all", *answers["test"]["pictures"]["kinds"]):
        cells = []
        for split, shown in columns:
            found = answers[split][shown]
            found = found if kind == "all" else found["kinds"][kind]
            low, high = found["interval"]
            cells.append(f"{found['accuracy']:.1%} ({low:.1%} to {high:.1%})")
        rows.append(f"| {kind.replace('_', ' or ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


__all__ = [
    "easy_vqa",
    "easy_vqa_recipe",
    "fusions",
    "language",
    "language_recipe",
    "oracle_recipe",
    "smollm2",
    "smollm2_recipe",
]
