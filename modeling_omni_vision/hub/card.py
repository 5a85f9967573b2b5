"""The model card: a template of `hub/templates` filled from `metrics.json`, `config.json` and the weights.

No number is typed and none is invented: what `metrics.json` does not hold is left out, what it holds wrongly is
refused, and a placeholder without a value is an error. `check_card` finds the numbers again in a finished card.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import meta

from .card_context import card_context
from .formatting import FILTERS


CARD_NAME = "README.md"
# One for each kind of model; the others extend vision.md.j2 and replace its blocks.
TEMPLATES, TABLES = Path(__file__).with_name("templates"), "tables.md.j2"
TASKS = {"retrieval": "zero-shot-image-classification", "language": "image-text-to-text"}
TASKS |= {"vae": "unconditional-image-generation"}
TAGS = {
    "retrieval": ["image-text-retrieval", "late-interaction", "sentence-transformers"],
    "language": ["vision-language"],
    "vae": ["vae", "variational-autoencoder"],
}


def render_card(folder: str | Path, name: str, template: str | Path | None = None) -> str:
    """
    Fill a template with the numbers of a checkpoint folder.

    Args:
        folder: Folder with config.json, model.safetensors and, for all but a bare encoder, metrics.json.
        name: What its users will open: a repository (`owner/name`) or a folder.
        template: Jinja template, which may extend `vision.md.j2`; by default the one for this kind of model.

    Returns:
        The card: Hub metadata in YAML, then Markdown.

    Raises:
        `ValueError`: if there is no such template or it asks for what nobody measured, or if metrics.json holds
            what cannot be such a number.
    """
    context = card_context(Path(folder))
    path = Path(template) if template is not None else TEMPLATES / f"{context['kind']}.md.j2"
    if not path.is_file():
        raise ValueError(
            f"The template of the model card must be a file, got {str(path)!r}. Copy one of {str(TEMPLATES)!r} to "
            "begin with, or leave it out."
        )
    try:
        template_of_card = environment(path.parent).get_template(path.name)
        values = {"card_data": card_metadata(context, name).to_yaml(), "name": name, "tables": result_tables(context)}
        filled = template_of_card.render(values, **context)
    except jinja2.TemplateError as error:
        raise ValueError(f"Every placeholder of {str(path)!r} must have a value, got: {error}. Correct it.") from error
    text = re.sub(r"\n{3,}", "\n\n", filled)
    unfilled = re.search(r"\{\{|\{%|\[More Information Needed\]", text)
    if unfilled:
        raise ValueError(f"No placeholder may be left in a card, got {unfilled[0]!r} from {str(path)!r}. Correct it.")
    return ModelCard(text).content


def environment(*folders: Path) -> jinja2.Environment:
    """Read templates from folders and from ours; unlike in `ModelCard.from_template` a missing value is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= FILTERS
    return found


def result_tables(context: dict[str, Any]) -> Any:
    """Return the macros of `tables.md.j2`; as a string every table of results, so that every number was checked."""
    return environment().get_template(TABLES).make_module(context)


def some_tables(context: dict[str, Any]) -> Any:
    """Return the macros of `tables.md.j2` for a part of what it asks for: what is not given is empty."""
    asked = meta.find_undeclared_variables(environment().parse((TEMPLATES / TABLES).read_text(encoding="utf-8")))
    nothing: dict[str, Any] = {**dict.fromkeys(asked, ()), "per_class": {"header": (), "rows": ()}}
    return result_tables({**nothing, **context})


def card_metadata(context: dict[str, Any], name: str) -> ModelCardData:
    """Fill the Hub metadata: licence, library, task, tags, and each measured result for the model index."""
    kind, results = context["kind"], context["eval_results"]
    # Only what can be a dataset of the Hub is linked: a namespace, and no folder of that name here.
    dataset = (context["dataset"] or "").partition(":")[0]
    is_on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not Path(dataset).exists()
    task = "image-classification" if context["is_classifier"] else "image-feature-extraction"
    conversion = context["conversion"]
    code = [] if context["is_native"] else ["custom_code"]
    code += ["onnx", *(["transformers.js"] if context["is_native"] else [])] if context["graphs"] else []
    return ModelCardData(
        license=conversion.get("license") if conversion else "apache-2.0",
        base_model=conversion.get("source") if "/" in conversion.get("source", "") else None,
        library_name="transformers",
        pipeline_tag=TASKS.get(kind, task),
        tags=["vision", context["config"].model_type, *TAGS.get(kind, []), *code],
        datasets=[dataset] if is_on_hub else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def check_card(folder: Path) -> list[str]:
    """Return what is wrong with the numbers of a finished card, found again in the weights and in metrics.json."""
    try:
        context = card_context(folder)
        rows = [line for line in str(result_tables(context)).splitlines() if line.startswith("| ")]
        card: Any = ModelCard((folder / CARD_NAME).read_text(encoding="utf-8"))
    except Exception as error:
        return [f"{CARD_NAME}: its numbers cannot be found again: {error}"]
    failures = [
        f"{CARD_NAME}: expected {line!r} as recomputed, found nowhere"
        for line in (context["parameter_count"], context["release"], context["command"], *rows)
        if line not in card.text
    ]
    expected = [result.metric_value for result in context["eval_results"]]
    stated = [result.metric_value for result in card.data.eval_results or ()]
    if stated != expected:
        failures.append(f"{CARD_NAME}: expected results {expected!r} in its metadata, got {stated!r}")
    return failures


__all__ = ["CARD_NAME", "TEMPLATES", "check_card", "render_card", "some_tables"]
