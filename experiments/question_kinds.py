"""Store in a checkpoint which kinds of questions it learned, and measure how well it tells others from them.

    python -m experiments.question_kinds --model checkpoints/omni-vision-language-scenes --dataset scenes \
        --others docs/language/other_questions.txt --output docs/language/question_kinds.json --save true

Training does the first part by itself (`learned_questions` of the processor). Measured are questions of the splits
that were not trained on, also as people type them (false alarms), and a list of others, written by hand. A question of
the list that the data do ask is no other one: those of held-out splits are left out of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.question_kinds import learn_questions
from modeling_omni_vision.data.questions import load_questions
from modeling_omni_vision.processing_omni_vision_language import (
    FLATTEN_CONTENT,
    OmniVisionProcessor,
    is_learned,
    question_words,
)
from modeling_omni_vision.training.language_data import replace_images


@dataclass
class KindsArguments:
    """The data of a checkpoint, and questions of other kinds."""

    dataset: str = option("What the checkpoint was trained on, as for train-language.")
    others: str = option("File of questions of other kinds, one a line.")
    output: str = option("JSON file to write, joined with what it holds of other data.")
    model: str | None = option("Folder of the checkpoint, with `save`.", None)
    save: bool = option("Store the kinds, and the chat template of this version, in the folder.", False)


def measure(learned: dict[str, Any], valid: set[str], others: Sequence[str]) -> dict[str, Any]:
    """Return the fractions of valid questions that are refused, also as typed in other ways, and of others caught."""
    typed = {text: [text, text.upper(), text.rstrip("?"), f"  {text.replace(' ', '  ')} ?"] for text in valid}
    alarms = [text for forms in typed.values() for text in forms if not is_learned(question_words(text), learned)]
    asked = {" ".join(question_words(text)) for text in valid}
    new = [text for text in others if " ".join(question_words(text)) not in asked]
    missed = [text for text in new if is_learned(question_words(text), learned)]
    return {
        "valid_questions": sum(map(len, typed.values())),
        "false_alarms": len(alarms) / sum(map(len, typed.values())),
        "other_questions": len(new),
        "caught": 1 - len(missed) / len(new),
        "missed": missed,
    }


def texts_of(rows: Any) -> list[str]:
    """Return the texts of the questions of a split."""
    return [
        replace_images(question["messages"])[-1]["content"] for asked in rows["questions"][:] for question in asked
    ]


def store(folder: str, learned: dict[str, Any]) -> None:
    """Write the kinds into the processor of a checkpoint, with the way in which chats are flattened now."""
    processor = OmniVisionProcessor.from_pretrained(folder)
    processor.learned_questions = learned
    # What the language model's own template is stands after the loop that joins parts.
    own = str(processor.chat_template).partition("{%- set messages = turns.flat -%}\n")[2]
    processor.chat_template = FLATTEN_CONTENT.replace("IMAGE_TOKEN", processor.image_token) + own
    settings = Path(folder, "processor_config.json")
    saved = json.loads(settings.read_text(encoding="utf-8"))
    saved = {name: saved.get(name) for name in sorted({*saved, "learned_questions"})} | {"learned_questions": learned}
    settings.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    Path(folder, "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")


@program
def main(argv: Sequence[str]) -> None:
    given = parse(KindsArguments, argv)
    data = load_questions(given.dataset)
    learned = learn_questions(texts_of(data["train"]), texts_of(data["validation"]))
    if learned is None:
        raise ValueError(f"Expected questions of few kinds in {given.dataset!r}, got too many. Nothing is stored.")
    valid = {text for name in data if name != "train" for text in texts_of(data[name])}
    others = [line for line in Path(given.others).read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {"templates": len(learned["templates"]), **measure(learned, valid, others)}
    path = Path(given.output)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**before, given.dataset.partition(":")[0]: found}, indent=2) + "\n", encoding="utf-8")
    if given.save and given.model is not None:
        store(given.model, learned)
    alarms = f"{found['false_alarms']:.2%} false alarms of {found['valid_questions']}"
    print(f"{alarms}, {found['caught']:.1%} caught of {found['other_questions']}")


if __name__ == "__main__":
    main()
