"""`report.html` of a run: one file that opens from disk and asks no host, with every image inside it.

Numbers are those of `metrics.json`, tables the macros of the model card, plots those of evaluation: nothing is
computed or drawn here a second time. What cannot be drawn is named on the page; the rest is written.
"""

import base64
import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from datasets import DatasetDict
from PIL import Image

from ..data.summary import dataset_hints
from ..hub.card import CARD_NAME, some_tables
from ..hub.card_context import IMAGES, IMAGES_NAME, accuracies, classification, retrieval
from ..hub.formatting import basename, flatten, get_section
from ..interop.page_colours import page_colours
from ..interpretability.dataset_sheet import plot_dataset
from ..interpretability.plots import plot_training
from ..interpretability.style import DPI
from ..records.metrics_file import METRICS_FILE, read_metrics
from .arguments import _given
from .run_record import training_command, without_folders


logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
PAGE = Path(__file__).with_name("page")
# An image of more bytes is embedded as JPEG, the first of these widths that is small enough; beyond the sum images are
# left out, as the page says.
MAX_PNG_BYTES, WIDTHS, MAX_BYTES = 300_000, (2200, 1500, 1000), 2_000_000
# Sections of metrics.json with tables of their own, or with nothing to read.
TABLED = ("training", "test", "evaluation", "retrieval", "answers", "test_opened", "robustness", "conversion")
SHOWN_APART = ("command", "history", "evaluations", "machine", "versions")
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Picture:
    """A PNG file, its title, and what it was drawn from."""

    path: Path
    title: str
    caption: str = ""

    @classmethod
    def of(cls, path: Path, split: str = "") -> "Picture":
        """Return a picture with the title that cards give its file, or its name in words."""
        title = IMAGES.get(path.stem, path.stem.replace("_", " ").capitalize())
        return cls(path, title, f"Images of the {split} split." if split else "")

    def embedded(self) -> tuple[str, int]:
        """Return the image as a data URI, a large one as JPEG, and its width on a screen."""
        with Image.open(self.path) as opened:
            width = round(opened.width * 96 / opened.info.get("dpi", (DPI,))[0])
            image = opened.convert("RGB")
        content, kind = self.path.read_bytes(), "png"
        for side in WIDTHS if len(content) > MAX_PNG_BYTES else ():
            image.thumbnail((side, 4 * side))
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=85, subsampling=0)
            content, kind = stream.getvalue(), "jpeg"
            if len(content) <= 2 * MAX_PNG_BYTES:
                break
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width


def write_report(run: Any) -> Path:
    """Write the page of a finished `TrainingRun` into its folder, from its `metrics.json` and what the run draws."""
    metrics = read_metrics(run.folder)
    training = metrics["training"]
    with tempfile.TemporaryDirectory() as place:
        drawn, measured, failures = collect(run, training, Path(place))
        figures, left_out = embed(drawn)
    page = (
        environment()
        .get_template(f"{REPORT_FILE}.j2")
        .render(
            name=run.folder.resolve().name,
            task=type(run).__name__.removesuffix("Run"),
            training=training,
            command=command_of(run, training),
            colours=page_colours(),
            results=result_sections(metrics, measured),
            data=data_overview(run),
            model=model_facts(run),
            facts=flatten({name: value for name, value in training.items() if name not in SHOWN_APART}),
            machine=flatten(training.get("machine") or {}),
            versions=flatten(training.get("versions") or {}),
            figures=figures,
            failures=failures + left_out,
            files=[name for name in (METRICS_FILE, CARD_NAME, "skipped.jsonl") if (run.folder / name).is_file()],
            card=CARD_NAME,
        )
    )
    path: Path = run.folder / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def environment() -> jinja2.Environment:
    """Read the template; everything is escaped, as names of classes and files may hold anything."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def collect(
    run: Any, training: Mapping[str, Any], place: Path
) -> tuple[list[tuple[str, Picture]], dict[str, Any], list[str]]:
    """Draw everything: pictures by the section they belong to, numbers measured on the way, and what failed."""
    drawn: list[tuple[str, Picture]] = []
    measured: dict[str, Any] = {}
    failures = []
    sources: tuple[tuple[str, Callable[[], Iterable[Any]]], ...] = (
        ("curves", lambda: curves(training, place)),
        ("data", lambda: samples(run, place)),
        ("pictures", lambda: run.pictures(place)),
        ("pictures", lambda: left_by(run, drawn)),
    )
    for section, source in sources:
        try:
            for found in source():
                if isinstance(found, Picture):
                    drawn.append((section, found))
                else:
                    measured |= found
        except Exception as error:
            logger.warning("The report lacks some of its %s: %s", section, one_line(error))
            failures.append(f"Some of the {section} could not be drawn: {one_line(error)}")
    return drawn, measured, failures


def curves(training: Mapping[str, Any], place: Path) -> Iterator[Picture]:
    """Draw loss and metrics."""
    path = plot_training(training, place / "training.png")
    if path:
        yield Picture(path, "Loss and what was measured on validation", "The dotted line is the step that was kept.")


def samples(run: Any, place: Path) -> Iterator[Picture]:
    """Draw images of each class and how many there are, of the splits that the run opened."""
    opened = {split.split for split in run.found}
    if "train" in opened:
        data = DatasetDict({name: rows for name, rows in run.data.items() if name in opened})
        yield Picture(plot_dataset(data, run.found, place / "data.png"), "Samples, classes and sizes of images")


def left_by(run: Any, drawn: Iterable[tuple[str, Picture]]) -> Iterator[Picture]:
    """Yield the PNG files that a run wrote since it saved its weights, but not what is drawn already."""
    since, known = (run.folder / "config.json").stat().st_mtime, {picture.path.name for _, picture in drawn}
    for path in sorted([*run.folder.glob("*.png"), *run.folder.glob(f"{IMAGES_NAME}/*.png")]):
        if path.name not in known and path.stat().st_mtime >= since:
            yield Picture.of(path)


def embed(drawn: list[tuple[str, Picture]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return pictures as templates want them, and a sentence for each that would make the page too large."""
    figures, left_out, size = [], [], 0
    for section, picture in drawn:
        source, width = picture.embedded()
        if size + len(source) > MAX_BYTES * 4 / 3:
            left_out.append(f"{picture.title} is left out: the page would be too large.")
            continue
        size += len(source)
        about = {"title": picture.title, "caption": picture.caption}
        figures.append({"section": section, "source": source, "width": width, **about})
    return figures, left_out


def result_sections(metrics: dict[str, Any], measured: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and rows of each table of results, by the macros of the model card.

    Args:
        metrics: What metrics.json holds.
        measured: Numbers of a classifier on validation.
    """
    parts = classification({**metrics, **({"evaluation": {**measured, "split": "validation"}} if measured else {})})
    searches, answers = retrieval(metrics), list(accuracies(get_section(metrics, "answers")))
    tables = some_tables({"measured": parts, "searches": searches, "accuracies": answers})
    found = [(part["split"] or part["name"], tables.classification(part["name"], part["results"])) for part in parts]
    found += [("retrieval", tables.retrieval())] * bool(searches) + [("answers", tables.answers())] * bool(answers)
    others = {name: value for name, value in metrics.items() if name not in TABLED and isinstance(value, dict)}
    found += [(name, tables.table(("measure", "value"), flatten(value))) for name, value in others.items()]
    return [(title.replace("_", " "), *cells_of(str(text))) for title, text in found if str(text).strip()]


def cells_of(markdown: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table in Markdown."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
    return cells[0], cells[2:]


def command_of(run: Any, training: Mapping[str, Any]) -> str | None:
    """Return the command that repeats a run, None where no command starts such a run."""
    given = without_folders({**_given(run.recipe), **getattr(run.args, "given", {})})
    return training.get("command") or (training_command(f"omni-vision {run.program}", given) if run.program else None)


def data_overview(run: Any) -> dict[str, Any]:
    """Return the splits with their lines of text, images of each class, what to look at, and what was skipped."""
    names = list(run.found[0].classes)[:MAX_CLASSES] if run.found else []
    config = getattr(run.trainer.core, "config", None)
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    side = max(size) if isinstance(size, (list, tuple)) else size
    return {
        "name": basename(str(getattr(run.recipe, "dataset", "") or "")),
        "splits": [(split.split, f"{split.num_images:,}", split.lines()[-2:]) for split in run.found],
        "names": [split.split for split in run.found],
        "classes": [(name, [f"{split.classes.get(name, 0):,}" for split in run.found]) for name in names],
        "hints": dataset_hints(run.found, side) if run.found else [],
        "skipped": len(run.skipped),
    }


def model_facts(run: Any) -> list[tuple[str, str]]:
    """Return what the model is: its class, and the fields of its vision tower."""
    config = getattr(run.trainer.core, "config", None)
    tower = getattr(config, "vision_config", config)
    fields = ("image_size", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads")
    facts = {name: getattr(tower, name, None) for name in (*fields, "num_register_tokens")}
    shown = [(name.replace("_", " "), str(value)) for name, value in facts.items() if value is not None]
    return [("class", type(run.trainer.core).__name__), *shown]


def one_line(error: BaseException) -> str:
    """Return an error as one line, with its kind where it says nothing of its own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


__all__ = ["REPORT_FILE", "Picture", "one_line", "write_report"]
