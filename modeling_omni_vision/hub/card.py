"""The model card: a template filled from `metrics.json`, `config.json` and the weights.

The template is `model_card.md`, or for models of several parts one that extends it.

No number is typed and none is invented: what `metrics.json` does not hold is left out, what it holds wrongly is
refused, and a placeholder without a value is an error. `check_card` finds the numbers again in a finished card.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .clean_process import KINDS
from .facts import card_facts


CARD_NAME = "README.md"
TEMPLATE = Path(__file__).parents[2] / "model_card.md"
# Models of several parts say other things in the blocks of that template.
TEMPLATES = {kind: TEMPLATE.with_name(f"model_card_{kind}.md") for kind in KINDS.values()}
TASKS = {"search": "zero-shot-image-classification", "language": "image-text-to-text"}
TAGS = {
    "search": ["image-text-retrieval", "late-interaction", "sentence-transformers"],
    "language": ["vision-language"],
}
# Tables of more than two columns.
TABLES = ("per_class", "retrieval", "answers")


def render_card(folder: str | Path, name: str, template: str | Path | None = None) -> str:
    """
    Fill the template with the numbers of a checkpoint folder.

    Args:
        folder: Folder with config.json, model.safetensors and, for all but a bare encoder, metrics.json.
        name: What its users will open: a repository (`owner/name`) or a folder.
        template: Jinja template, which may extend `model_card.md`; by default the one for this kind of model at the
            root of a checkout.

    Returns:
        The card: Hub metadata in YAML, then Markdown.

    Raises:
        `ValueError`: if the template is not there or asks for what nobody measured, or if metrics.json holds
            what cannot be such a number.
    """
    facts = card_facts(Path(folder))
    path = Path(template) if template is not None else TEMPLATES.get(facts["kind"], TEMPLATE)
    if not path.is_file():
        raise ValueError(
            f"The template of the model card must be a file, got {str(path)!r}. A wheel does not carry it: "
            f"pass the {TEMPLATES.get(facts['kind'], TEMPLATE).name} of a checkout as `template`."
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, TEMPLATE.parent]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        filled = environment.from_string(path.read_text(encoding="utf-8")).render(
            card_data=card_metadata(facts, name).to_yaml(), name=name, **facts
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"Every placeholder of {str(path)!r} must have a value, got: {error}. Correct it.") from error
    text = re.sub(r"\n{3,}", "\n\n", filled)
    unfilled = re.search(r"\{\{|\{%|\[More Information Needed\]", text)
    if unfilled:
        raise ValueError(f"No placeholder may be left in a card, got {unfilled[0]!r} from {str(path)!r}. Correct it.")
    return ModelCard(text).content


def card_metadata(facts: dict[str, Any], name: str) -> ModelCardData:
    """Fill the Hub metadata: licence, library, task, tags, and each measured result for the model index."""
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=section["dataset"] or "unnamed",
            dataset_name=section["dataset"] or "unnamed",
            dataset_split=section["split"],
            metric_type="accuracy",
            metric_name="accuracy",
            metric_value=section["accuracy"],
        )
        for section in facts["measured"]
        if section["accuracy"] is not None
    ]
    results += [
        EvalResult(
            task_type="information-retrieval",
            dataset_type=facts["dataset"] or "unnamed",
            dataset_name=facts["dataset"] or "unnamed",
            dataset_split=split,
            metric_type=measure,
            metric_name=label,
            metric_value=value,
        )
        for split, measure, label, value in facts["retrieval"]["results"]
    ]
    # Only what can be a dataset of the Hub is linked: a namespace, and no folder of that name here.
    dataset = (facts["dataset"] or "").partition(":")[0]
    dataset = dataset if re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not Path(dataset).exists() else ""
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=TASKS.get(
            facts["kind"], "image-classification" if facts["is_classifier"] else "image-feature-extraction"
        ),
        tags=[
            "vision",
            facts["config"].model_type,
            *TAGS.get(facts["kind"], []),
            *([] if facts["is_native"] else ["custom_code"]),
        ],
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def check_card(folder: Path) -> list[str]:
    """Return what is wrong with the numbers of a finished card, found again in the weights and in metrics.json."""
    try:
        facts = card_facts(folder)
        card: Any = ModelCard((folder / CARD_NAME).read_text(encoding="utf-8"))
    except Exception as error:
        return [f"{CARD_NAME}: its numbers cannot be found again: {error}"]
    lines = [facts["parameter_count"], facts["release"]]
    lines += [facts["command"]] if facts["command"] else []
    lines += [f"| {label} | {value} |" for label, value in facts["training"]]
    lines += [f"| {label} | {value} |" for section in facts["measured"] for label, value in section["rows"]]
    lines += [f"| {' | '.join(row)} |" for name in TABLES for row in facts[name]["rows"]]
    lines += [f"| {label} | {value} |" for label, value in (facts["robustness"] or {"rows": []})["rows"]]
    lines += [f"| {label} | {value} |" for label, value in facts["data_audit"]]
    failures = [
        f"{CARD_NAME}: expected {line!r} as recomputed, found nowhere" for line in lines if line not in card.text
    ]
    expected = [result.metric_value for result in card_metadata(facts, "any/model").eval_results or ()]
    stated = [result.metric_value for result in card.data.eval_results or ()]
    if stated != expected:
        failures.append(f"{CARD_NAME}: expected results {expected!r} in its metadata, got {stated!r}")
    return failures


__all__ = ["CARD_NAME", "TEMPLATE", "check_card", "render_card"]
