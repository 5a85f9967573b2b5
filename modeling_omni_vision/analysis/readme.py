"""The numbers of README.md and of the recipes, made from the files that hold them."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .benchmark import TABLE_HEAD, table_line
from .fusions import fusion_table
from .training_step import ATTENTION_HEAD, DATA_HEAD, attention_line, data_line


SEARCH = "checkpoints/omni-vision-search-scenes/metrics.json"
LANGUAGE = "checkpoints/omni-vision-language-scenes/metrics.json"
SHORT, AS_WRITTEN = "docs/runs/fashion_mnist_short.json", "docs/runs/fashion_mnist_as_written.json"
EMOJI, ZERO_SHOT, EASY_VQA = "docs/runs/emoji.json", "docs/runs/zero_shot.json", "docs/runs/easy_vqa.json"
BLIND = "docs/runs/language_scenes_blind.json"
ORACLE = "docs/runs/language_oracle.json"
SMOLLM2 = "docs/runs/language_smollm2.json"
EMOJI_ROWS = (
    ("test", "wholes", "picture_to_text", "held-out concepts, picture to name"),
    ("test", "wholes, keywords", "picture_to_text", "held-out concepts, picture to name with keywords"),
    ("test", "wholes, ensemble", "picture_to_text", "held-out concepts, picture to several texts at once"),
    ("test", "wholes, keywords", "text_to_picture", "held-out concepts, name with keywords to picture"),
    (
        "test_unseen_style",
        "wholes, keywords",
        "picture_to_text",
        "held-out concepts in an unseen style, picture to name with keywords",
    ),
)
SHOWN_NAMES = {
    "pictures": "pictures",
    "prior": "prior of the texts",
    "shuffled": "shuffled pictures",
    "nothing": "no picture",
    "blind": "trained blind",
    "oracle": "told in words",
}
LANGUAGE_COLUMNS = (
    ("test", "pictures"),
    ("held_out", "pictures"),
    ("test", "prior"),
    ("test", "shuffled"),
    ("test", "nothing"),
    ("test", "blind"),
    ("test", "oracle"),
    ("held_out", "oracle"),
)
SMOLLM2_COLUMNS = (
    ("test", "pictures"),
    ("held_out", "pictures"),
    ("test", "prior"),
    ("test", "shuffled"),
    ("test", "nothing"),
)
NAMED = {"parts": "late interaction", "wholes": "one vector"}


def read(root: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of the repository."""
    return json.loads((root / name).read_text(encoding="utf-8"))


def fashion_mnist(root: Path) -> str:
    """Describe the checkpoint in the box by its own metrics."""
    record = read(root, "checkpoints/omni-vision-fashion-mnist/metrics.json")
    training, evaluation = record["training"], record["evaluation"]
    data, machine = training["dataset"], training["machine"]
    low, high = evaluation["accuracy_interval"]
    return f"""`checkpoints/omni-vision-fashion-mnist`: 28 px, patch 4, grey, {training["parameters"]:,} parameters;
trained on {data["train"]:,} pictures of Fashion-MNIST, chosen on {data["validation"]:,} held out of them.

| measure | value |
|---|--:|
| test accuracy, {evaluation["num_examples"]:,} pictures | {evaluation["accuracy"]:.2%} |
| its 95 % bootstrap interval | {low:.2%} to {high:.2%} |
| macro-F1 | {evaluation["macro_f1"]:.4f} |
| expected calibration error | {evaluation["expected_calibration_error"]:.4f} |
| validation accuracy, best of {training["epochs"]:g} epochs | {training["validation_accuracy"]:.2%} |

One seed ({training["seed"]}), {training["minutes"]:.0f} minutes on {machine["threads"]} thread(s),
{machine["cpu"]}{last_part(training)}:

```text
{training["command"]}
```"""


def last_part(training: dict[str, Any]) -> str:
    """Say so where the minutes of a run are not all: it went on from another, or from a checkpoint of its own."""
    before = [training.get("arguments", {}).get("model"), training.get("resumed_from")]
    return f" for the last part, after {' and '.join(name for name in before if name)}" if any(before) else ""


def benchmark(root: Path) -> str:
    """Show the benchmark, every contestant of equal dimensions."""
    record = read(root, "docs/benchmark.json")
    machine = record["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "timm"))
    rows = "\n".join(table_line(row) for row in record["rows"])
    best = sorted(record["best_attention"], key=lambda row: row["speed_relative_to_best_peer"])
    low, high = (
        "{speed_relative_to_best_peer:.2f} ({work}, batch {batch_size}, {dtype})".format(**best[i]) for i in (0, -1)
    )
    return f"""Speed of ViTTiny at 224 px beside peers of equal size, in CPU milliseconds, medians of
{record["rounds"]} interleaved rounds on {record["threads"]} thread(s) of a shared {machine["cpu"]}, {versions};
freed memory {"kept" if record["freed_memory_kept"] else "given back"};
in the column "ours / best peer" more than 1 means that ours is faster. With each side's best
attention, our speed is from {low} to {high} of the best peer's. `{record["command"]}`:

{TABLE_HEAD}
{rows}

In the row with dropout, transformers draws fewer masks than the specification has: none inside its MLP.{
        training_step(record)
    }"""


def training_step(record: dict[str, Any]) -> str:
    """Show what our training step waits for and which attention suits it, where the benchmark measured that."""
    data, attention = record.get("data"), record.get("attention")
    if not data or not attention:
        return ""
    shape = "{image_size} px, patch {patch_size}, {num_channels} channel(s), batch {batch_size}".format(**data[0])
    return "\n".join(
        [
            "\n\nThe share of a training step that waits for its data, in CPU time, made in the same process",
            f"from pictures in memory ({shape}, eager attention):\n",
            DATA_HEAD,
            *map(data_line, data),
            "\nEager attention against sdpa in a training step of ours; in the last column more than 1 means that",
            "eager is faster:\n",
            ATTENTION_HEAD,
            *map(attention_line, attention),
        ]
    )


def recipe(root: Path, name: str = "checkpoints/omni-vision-fashion-mnist/metrics.json") -> str:
    """Say what a recipe promises: where it ran, how long, what came out."""
    record = read(root, name)
    evaluation = record["evaluation"]
    low_high = "{:.2%} to {:.2%}".format(*evaluation["accuracy_interval"])
    return f"""{_where(record["training"])}
# {evaluation["date"]}: test accuracy {evaluation["accuracy"]:.2%}, 95 % bootstrap interval {low_high}."""


def short_recipe(root: Path) -> str:
    """Say what the short recipe promises."""
    return recipe(root, SHORT)


def as_written_recipe(root: Path) -> str:
    """Say what the recipe with the specification's geometry promises."""
    return recipe(root, AS_WRITTEN)


def other_runs(root: Path) -> str:
    """Show the other trainings on Fashion-MNIST beside the weights in the box."""
    rows = []
    for what, script, name in (
        ("the weights in the box", "fashion_mnist", "checkpoints/omni-vision-fashion-mnist/metrics.json"),
        ("short", "fashion_mnist_short", SHORT),
        ("as written: 224 px, patch 16", "fashion_mnist_as_written", AS_WRITTEN),
    ):
        record = read(root, name)
        training, evaluation = record["training"], record["evaluation"]
        low, high = evaluation["accuracy_interval"]
        rows.append(
            f"| {what} | `scripts/recipes/{script}.sh` | {training['epochs']:g} | {training['minutes']:.0f} | "
            f"{training['validation_accuracy']:.2%} | {evaluation['accuracy']:.2%} ({low:.2%} to {high:.2%}) |"
        )
    table = "\n".join(rows)
    return f"""| training | command | epochs | minutes | validation | test, with 95 % bootstrap interval |
|---|---|--:|--:|--:|--:|
{table}

Epochs and minutes (of one thread) of the box's weights are those of their last part. One seed each, each test split
opened once."""


def emoji(root: Path) -> str:
    """Show what was found of emoji that training left out, beside peers."""
    record = read(root, EMOJI)
    training, found = record["training"], record["emoji"]
    rows = []
    for split, who, direction, what in EMOJI_ROWS:
        scores = found["texts"][split][who][direction]
        rows.append(f"| {what} | OmniVision | {_recalls(scores)} |")
    for concepts, peers in found["styles"].items():
        for who in ("wholes", "ImageNet EfficientNet-Lite0", "pixels", "chance"):
            if who in peers:
                name = "OmniVision" if who == "wholes" else who
                rows.append(f"| unseen style to a trained one, {concepts} | {name} | {_recalls(peers[who])} |")
    table = "\n".join(rows)
    machine, drawings = training["machine"], f"{training['pairs']['train']:,} drawings by two vendors"
    return f"""{drawings}, {training["steps"]:,} steps, {training["minutes"]:.0f} minutes on
{machine["threads"]} thread(s) of a shared {machine["cpu"]}, one seed ({training["seed"]}), one vector each.

| what is asked | who | recall@1 | recall@5 | recall@10 | of |
|---|---|--:|--:|--:|--:|
{table}"""


def _recalls(scores: dict[str, float]) -> str:
    found = " | ".join(f"{scores[f'recall@{rank}']:.1%}" for rank in (1, 5, 10))
    return f"{found} | {scores['candidates']:,}"


def emoji_recipe(root: Path) -> str:
    """Say what the recipe for emoji promises."""
    record = read(root, EMOJI)
    words = record["emoji"]["texts"]["test"]["wholes"]["picture_to_text"]["recall@5"]
    style = record["emoji"]["styles"]["trained concepts"]["wholes"]["recall@1"]
    return f"""{_where(record["training"])}
# {record["training"]["date"]}: recall@5 of held-out names {words:.1%}, recall@1 from an unseen style {style:.1%}."""


def zero_shot_recipe(root: Path) -> str:
    """Say what the recipe for zero-shot classes promises."""
    record = read(root, ZERO_SHOT)
    training, found = record["training"], record["zero_shot"]
    right = f"{found['wholes']['accuracy']:.1%} of {found['pictures']} drawings, {found['classes']} classes"
    return f"""{_where(training)}
# {training["date"]}: {right}."""


def easy_vqa(root: Path) -> str:
    """Show the answers about easy-VQA beside the controls."""
    return _answers(read(root, EASY_VQA)["answers"], (("test", "pictures"), ("test", "prior"), ("test", "shuffled")))


def easy_vqa_recipe(root: Path) -> str:
    """Say what the recipe for easy-VQA promises."""
    record = read(root, EASY_VQA)
    found = record["answers"]["test"]["pictures"]
    return f"""{_where(record["training"])}
# {record["training"]["date"]}: exact answers {found["accuracy"]:.2%} of {found["questions"]:,} questions."""


def _where(training: dict[str, Any], more: str = "") -> str:
    machine, took = training["machine"], f"{training['minutes']:.0f} minutes{more or last_part(training)}"
    return f"# {machine['cpu']}, {machine['threads']} thread(s), shared; {took}."


def search(root: Path) -> str:
    """Describe the search checkpoint in the box by its own metrics."""
    record = read(root, SEARCH)
    training, found = record["training"], record["retrieval"]
    rows = [
        f"| {NAMED[vectors]} | {direction.replace('_', ' ')} | {scores['recall@1']:.1%} | {scores['recall@5']:.1%} | "
        f"{scores['ndcg@10']:.3f} |"
        for vectors, splits in found.items()
        for direction, scores in splits["test"].items()
    ]
    (candidates,) = {scores["candidates"] for splits in found.values() for scores in splits["test"].values()}
    zero_shot = record["zero_shot"]
    parts, wholes = (
        f"{zero_shot[name]['accuracy']:.1%} ({NAMED[name]}; combinations never seen {zero_shot[name]['held_out']:.1%})"
        for name in ("parts", "wholes")
    )
    table = "\n".join(rows)
    return f"""`checkpoints/omni-vision-search-scenes` is what it leaves: {training["parameters"]:,} parameters, one
seed ({training["seed"]}), {training["minutes"]:.0f} minutes on {training["machine"]["threads"]} thread(s) of a shared
{training["machine"]["cpu"]}. Test: {candidates} scenes of two objects, each with a combination of colour and
shape that no training picture showed; the answer is one of {candidates}.

| vectors | direction | recall@1 | recall@5 | nDCG@10 |
|---|---|--:|--:|--:|
{table}

Zero-shot, {zero_shot["classes"]} names for {zero_shot["pictures"]} fresh drawings of one object: {parts}, {wholes}."""


def index(root: Path) -> str:
    """Show recall, time and bytes of an index of drawn scenes."""
    record = read(root, "docs/search/index.json")
    rows = "\n".join(
        f"| {row['queries']} | {row['search']} | {row['recall']:.3f} | {row['recall_of_all_vectors']:.3f} | "
        f"{row['cpu_ms']:.0f} ms | {row['bytes_per_picture']:,.0f} |"
        for row in record["rows"]
    )
    (pictures,) = {row["pictures"] for row in record["rows"]}
    return f"""{pictures:,} drawn scenes on a shared {record["machine"]["cpu"]}, CPU milliseconds a query; recall@10
of exact search among the stored vectors, and among all before merging. Measured by `scripts/benchmark.py --part index
--checkpoint checkpoints/omni-vision-search-scenes`.

| queries | search | recall@10 | of all vectors | a query | bytes a picture |
|---|---|--:|--:|--:|--:|
{rows}"""


def search_recipe(root: Path) -> str:
    """Say what the recipe for search promises."""
    record = read(root, SEARCH)
    training, found = record["training"], record["retrieval"]["parts"]["test"]
    scores = ", ".join(f"{direction.replace('_', ' ')} {one['ndcg@10']:.3f}" for direction, one in found.items())
    return f"""{_where(training)}
# {training["date"]}: nDCG@10 of held-out scenes with late interaction: {scores}."""


def language(root: Path) -> str:
    """Describe the language checkpoint in the box by its own metrics, beside its controls."""
    record = read(root, LANGUAGE)
    training, answers = record["training"], record["answers"]
    answers["test"]["blind"] = read(root, BLIND)["answers"]["test"]["nothing"]
    oracle = read(root, ORACLE)
    for split in ("test", "held_out"):
        answers[split]["oracle"] = oracle["answers"][split]["symbols"]
    tested = answers["test"]["pictures"]["questions"]
    return f"""`checkpoints/omni-vision-language-scenes`: {training["parameters"]:,} parameters, one seed
({training["seed"]}), of the last stage {training["steps"]:,} steps, {training["minutes"]:.0f} minutes on
{training["machine"]["threads"]} thread(s) of a shared {training["machine"]["cpu"]}. Exact answers to {tested:,}
questions about {training["conversations"]["test"]:,} test pictures, with 95 % bootstrap intervals; "held out" asks
about combinations of colour and shape that no part of it was ever shown. Controls: the best that the texts alone
allow; its answers to the pictures of others and to none; the same decoder trained without any
(`scripts/recipes/language_blind.sh`); the same decoder told in words what is where
(`scripts/recipes/language_oracle.sh`, {oracle["training"]["steps"]:,} steps in its last stage).

{_answers(answers, LANGUAGE_COLUMNS)}"""


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
    return f"""{_where(record["training"])}
# {record["training"]["date"]}: colour and shape right {test:.1%}, in combinations never seen {held_out:.1%}."""


def oracle_recipe(root: Path) -> str:
    """Say what the recipe of the control that is told in words promises."""
    record = read(root, ORACLE)
    test, held_out = (record["answers"][split]["symbols"]["accuracy"] for split in ("test", "held_out"))
    return f"""{_where(record["training"], " for the last stage")}
# {record["training"]["date"]}: exact answers {test:.1%}, about combinations never seen {held_out:.1%}."""


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


def fusions(root: Path) -> str:
    """Show tokens per picture against accuracy against speed."""
    record = read(root, "docs/language/fusions.json")
    (steps,) = {row["steps"] for row in record["rows"]}
    return f"""{fusion_table(record)}

Exact answers after {steps} steps each, tower trained too, one seed; vectors of a picture, places that they take in the
language model; CPU milliseconds, medians of {record["rounds"]} rounds in turns on a shared
{record["machine"]["cpu"]}: the prompt "{record["question"]}" with its picture and alone, and each further
token after either. The accuracies say which way learns fast, not which is best in the end."""


def language_recipe(root: Path) -> str:
    """Say what the recipe for language promises."""
    record = read(root, LANGUAGE)
    training, found = record["training"], record["answers"]
    test, held_out = (found[split]["pictures"]["accuracy"] for split in ("test", "held_out"))
    return f"""{_where(training, " for the last stage")}
# {training["date"]}: exact answers {test:.1%}, about combinations never seen {held_out:.1%}."""


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
    "README.md": (fashion_mnist, other_runs, benchmark, search, emoji, index, language, easy_vqa, smollm2, fusions),
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


__all__ = ["fill"]
