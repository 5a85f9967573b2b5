from dataclasses import dataclass

import pytest

from modeling_omni_vision.cli.arguments import option, parse, parse_training, write_result
from modeling_omni_vision.cli.ask import AskArguments
from modeling_omni_vision.cli.search import SearchArguments
from modeling_omni_vision.cli.visualize import VisualizeArguments
from modeling_omni_vision.training.arguments import RecipeArguments


@dataclass
class Some:
    """Arguments of each kind."""

    folder: str = option("A folder.", positional=True)
    model: str = option("100 % a model.")
    images: list[str] = option("Images.", [])  # noqa: RUF009
    count: int = option("A number.", 3)
    share: float | None = option("A fraction.", None)
    exact: bool = option("Exactly.", False)
    measure: bool = option("Measure.", True)
    json: str | None = option("JSON.", None, bare="-")
    text: str | None = option("A text.", None, words=True)


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        parse(Some, words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_not_given_has_its_default_and_lists_are_not_shared():
    first, second = parse(Some, ["f", "--model", "m"]), parse(Some, ["f", "--model", "m"])
    assert first == Some("f", "m", [], 3, None, False, True, None)
    assert first.images is not second.images


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("1", True), ("no", False)])
def test_booleans_take_a_value_or_none(text, value):
    words = ["f", "--model", "m"]
    assert parse(Some, [*words, "--exact"]).exact is True
    assert parse(Some, [*words, "--exact", text, "--measure", text]).exact is value
    assert parse(Some, [*words, f"--measure={text}"]).measure is value


def test_values_have_the_type_of_their_field():
    words = ["f", "--model", "m", "--images", "a", "b", "--count", "5", "--share", "0.5", "--json"]
    assert parse(Some, words) == Some("f", "m", ["a", "b"], 5, 0.5, False, True, "-")
    assert parse(Some, [*words, "out.json"]).json == "out.json"


def test_a_mistake_is_one_line_with_the_nearest_flag(capsys):
    assert "unknown flag --imges, did you mean --images?" in refusal(capsys, "f", "--imges", "a")
    assert "unknown flag --mod" in refusal(capsys, "f", "--mod", "m")
    assert "unknown flag --zzzzzz. " in refusal(capsys, "f", "--model", "m", "--zzzzzz=3")
    assert "required: --model" in refusal(capsys, "f")
    assert "--count: invalid int value: 'x'" in refusal(capsys, "f", "--model", "m", "--count", "x")
    assert "expected true or false, got 'perhaps'" in refusal(capsys, "f", "--model", "m", "--exact", "perhaps")


def test_a_text_needs_no_quotes_and_words_that_belong_to_no_flag_are_named(capsys):
    words = ["f", "--model", "m", "--text"]
    assert parse(Some, [*words, "a", "red", "circle", "--count", "5"]).text == "a red circle"
    assert parse(Some, [*words, "a red  circle"]).text == "a red  circle"
    assert "'g h' belongs to no flag: put quotes around" in refusal(capsys, "f", "--model", "m", "g", "h")
    question = ["--model", ".", "--image", "a.png", "What", "colour", "is", "it?"]
    assert parse(AskArguments, question).question == "What colour is it?"
    assert parse(AskArguments, [*question[4:], *question[:4]]).question == "What colour is it?"
    assert parse(SearchArguments, ["--model", ".", "--index", "i", "--text", "a", "ring"]).text == "a ring"
    assert parse(VisualizeArguments, ["--model", ".", "--text", "a", "ring", "--output", "o"]).text == "a ring"
    with pytest.raises(SystemExit):
        parse_training((RecipeArguments,), ["--dataset", "my", "images"], __name__)
    assert "'images' belongs to no flag" in capsys.readouterr().err


def test_help_names_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Some, ["--help"])
    assert not stop.value.code
    said = " ".join(capsys.readouterr().out.split())
    for part in ("--images IMAGES [IMAGES ...]", "A number. Default: 3.", "100 % a model.", "--exact [true|false]"):
        assert part in said


def test_results_are_printed_or_written(tmp_path, capsys):
    assert not write_result({"a": "ü"}, None)
    assert not write_result({"a": "ü"}, str(tmp_path / "out.json"))
    assert capsys.readouterr().out == ""
    assert write_result({"a": "ü"}, "-")
    assert capsys.readouterr().out == (tmp_path / "out.json").read_text(encoding="utf-8") == '{\n  "a": "ü"\n}\n'
