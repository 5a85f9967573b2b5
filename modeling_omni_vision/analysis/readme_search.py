"""Numbers of README.md and of the recipes about search."""

from pathlib import Path

from .readme_records import read, where


SEARCH = "checkpoints/omni-vision-search-scenes/metrics.json"
EMOJI, ZERO_SHOT = "docs/runs/emoji.json", "docs/runs/zero_shot.json"
CLS = "docs/search"
# What held-out concepts are called, and how texts are ranked for a picture.
CALLED = {"wholes": "name", "wholes, keywords": "name with keywords", "wholes, ensemble": "several texts at once"}
RANKED = ("", ", without hubs", ", with neighbours", ", with neighbours, without hubs")
BACK = ("", ", with neighbours")
NAMED = {"parts": "late interaction", "wholes": "one vector"}


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


def search_recipe(root: Path) -> str:
    """Say what the recipe for search promises."""
    record = read(root, SEARCH)
    training, found = record["training"], record["retrieval"]["parts"]["test"]
    scores = ", ".join(f"{direction.replace('_', ' ')} {one['ndcg@10']:.3f}" for direction, one in found.items())
    return f"""{where(training)}
# {training["date"]}: nDCG@10 of held-out scenes with late interaction: {scores}."""


def emoji(root: Path) -> str:
    """Show what was found of emoji that training left out, beside peers."""
    record = read(root, EMOJI)
    training, found = record["training"], record["emoji"]
    words = []
    for split, drawn in (("test", "a trained style"), ("test_unseen_style", "an unseen style")):
        for way, what in CALLED.items():
            scores = [found["texts"][split][f"{way}{how}"]["picture_to_text"] for how in RANKED]
            back = [found["texts"][split][f"{way}{how}"]["text_to_picture"] for how in BACK]
            recalls = (
                " | ".join(f"{score['recall@5']:.1%}" for score in part) + f" | {part[0]['candidates']}"
                for part in (scores, back)
            )
            words.append(f"| {drawn} | {what} | {' | '.join(recalls)} |")
    rows = []
    for concepts, peers in found["styles"].items():
        for who in ("wholes", "ImageNet EfficientNet-Lite0", "pixels", "chance"):
            if who in peers:
                name = "OmniVision" if who == "wholes" else who
                rows.append(f"| unseen style to a trained one, {concepts} | {name} | {_recalls(peers[who])} |")
    texts, table = "\n".join(words), "\n".join(rows)
    machine, drawings = training["machine"], f"{training['pairs']['train']:,} drawings by two vendors"
    return f"""{drawings}, {training["steps"]:,} steps, {training["minutes"]:.0f} minutes on
{machine["threads"]} thread(s) of a shared {machine["cpu"]}, one seed ({training["seed"]}), one vector each.

Texts for pictures of concepts that were held out, and back, recall@5:

| pictures in | texts | cosines | without hubs | with neighbours | both | of | back: cosines | with neighbours | of |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
{texts}

The same concept in another style:

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
    return f"""{where(record["training"])}
# {record["training"]["date"]}: recall@5 of held-out names {words:.1%}, recall@1 from an unseen style {style:.1%}."""


def cls(root: Path) -> str:
    """Show who wins the words and where their maps point, for every seed that was studied."""
    studies = [read(root, str(path.relative_to(root))) for path in sorted((root / CLS).rglob("cls.json"))]
    seeds = [next(iter(study["checkpoints"].values()))["trained_with_seed"] for study in studies]
    names = dict.fromkeys(name for study in studies for name in study["checkpoints"])
    rows = []
    for name in names:
        found = [study["checkpoints"][name] for study in studies if name in study["checkpoints"]]
        cells = [
            [f"{one['ndcg@10'][way]:.3f}" if one["ndcg@10"] else "-" for one in found]
            for way in ("text_to_picture", "picture_to_text")
        ]
        cells.append([f"{one['dominance']['seen']['own picture, CLS kept']['shares']['cls']:.0%}" for one in found])
        cells += [
            [f"{one['grounding'][kind]['MaxSim']['pointing']:.0%}" for one in found] for kind in ("seen", "held out")
        ]
        rows.append(f"| {name} | {' | '.join(' / '.join(cell) for cell in cells)} |")
    order, table = ", ".join(map(str, seeds)), "\n".join(rows)
    return f"""Seeds {order}, in this order where there are several; {studies[0]["scenes"]} scenes of two objects. CLS
wins: the share of words whose best token it is, if kept among the tokens. Words that point: the best patch of a
colour or shape is on its object, in scenes of combinations that training showed, and of others.

| trained | nDCG@10, text to picture | back | CLS wins | words that point | of unseen combinations |
|---|--:|--:|--:|--:|--:|
{table}"""


def zero_shot_recipe(root: Path) -> str:
    """Say what the recipe for zero-shot classes promises."""
    record = read(root, ZERO_SHOT)
    training, found = record["training"], record["zero_shot"]
    right = f"{found['wholes']['accuracy']:.1%} of {found['pictures']} drawings, {found['classes']} classes"
    return f"""{where(training)}
# {training["date"]}: {right}."""


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


__all__ = ["cls", "emoji", "emoji_recipe", "index", "search", "search_recipe", "zero_shot_recipe"]
