import io
import json
import re
from collections import Counter
from unittest.mock import ANY

import numpy as np
import pytest
from datasets import disable_progress_bars
from PIL import Image

from modeling_omni_vision.data.conversations import FEATURES, load_conversations
from modeling_omni_vision.data.image_groups import group_rows, image_keys, order_groups
from modeling_omni_vision.data.questions import load_questions
from modeling_omni_vision.data.synthetic.scene_questions import (
    NUMBERS,
    OBJECT_KINDS,
    SCENE_KINDS,
    SLACK,
    centre,
    draw_counting,
    draw_objects,
    draw_questions,
    parse_kinds,
    scene_questions,
    scene_texts,
    symbols_of,
)
from modeling_omni_vision.data.synthetic.scenes import HELD_OUT_COMBINATIONS
from modeling_omni_vision.data.synthetic.shapes import COLOURS, SHAPES, draw_scene


HELD_OUT = {" ".join(pair) for pair in HELD_OUT_COMBINATIONS}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return draw_questions(size=32, sizes={"train": 120, "held_out": 40})


def asked(split):
    return [question for questions in split["questions"] for question in questions]


def text_of(question):
    return question["messages"][0]["content"].removeprefix("<image>\n")


def objects_of(symbols):
    """Read symbols again: colour, shape, column and row of each object."""
    words = (item.split() for item in symbols.split(", "))
    return [(colour, shape, int(x), int(y)) for colour, shape, x, y in words]


def answer_from(symbols, text):
    """Answer a question from the symbols alone, in another way than the generator does."""
    objects, words = objects_of(symbols), text.rstrip("?").split()
    if text.startswith("What colour"):
        return next(colour for colour, shape, _, _ in objects if shape == words[-1])
    if text.startswith("What shape"):
        return next(shape for colour, shape, _, _ in objects if colour == words[4])
    if text.startswith("How many"):
        wanted = words[2]
        found = [
            item
            for item in objects
            if wanted == "objects" or wanted == item[0] or wanted in (f"{item[1]}s", f"{item[1]}es")
        ]
        return NUMBERS[len(found) - 1]
    first, other = (next(o for o in objects if o[:2] == tuple(pair)) for pair in (words[2:4], words[-2:]))
    if "left" in words:
        return "left" if first[2] < other[2] else "right"
    return "above" if first[3] < other[3] else "below"


def test_every_row_has_an_image_and_questions_of_all_kinds_come_up(drawn):
    assert drawn["train"].features == FEATURES
    assert {question["kind"] for question in asked(drawn["train"])} == set(SCENE_KINDS)
    image = Image.open(io.BytesIO(drawn["train"][0]["images"][0]["bytes"]))
    assert (image.size, image.mode) == ((32, 32), "RGB")
    for question in asked(drawn["train"]):
        assert [turn["role"] for turn in question["messages"]] == ["user"]
        assert question["messages"][0]["content"].count("<image>") == 1


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_symbols_answer_every_question_so_that_an_oracle_can_be_right(drawn, split):
    for row in drawn[split]:
        for question in row["questions"]:
            if question["kind"] != "caption":
                assert answer_from(row["symbols"], text_of(question)) == question["answer"], (row, question)


def test_a_caption_names_all_objects_from_left_to_right(drawn):
    for row in drawn["train"]:
        caption = next(question["answer"] for question in row["questions"] if question["kind"] == "caption")
        found = [
            caption.index(f"{colour} {shape}")
            for colour, shape, *_ in sorted(objects_of(row["symbols"]), key=lambda o: o[2])
        ]
        ties = len({item[2] for item in objects_of(row["symbols"])}) < len(found)
        assert ties or found == sorted(found)


def test_no_text_has_one_answer_more_often_than_another_by_more_than_the_slack(drawn):
    counts = Counter((text_of(question), question["answer"]) for question in asked(drawn["train"]))
    for kind, answers in {
        "left or right": ("left", "right"),
        "above or below": ("above", "below"),
        "How many": NUMBERS,
    }.items():
        for text in {text for text, _ in counts if kind in text}:
            found = [counts[text, answer] for answer in answers]
            assert max(found) - min(found) <= SLACK, (text, found)


def test_combinations_held_out_are_in_every_scene_of_their_split_and_in_no_other(drawn):
    for row in drawn["train"]:
        assert HELD_OUT.isdisjoint(f"{colour} {shape}" for colour, shape, *_ in objects_of(row["symbols"]))
    about = Counter()
    for row in drawn["held_out"]:
        names = {f"{colour} {shape}" for colour, shape, *_ in objects_of(row["symbols"])}
        assert names & HELD_OUT
        for question in row["questions"]:
            if question["kind"] == "colour":
                assert f"{question['answer']} {text_of(question).rstrip('?').split()[-1]}" in HELD_OUT
            if question["kind"] == "shape":
                assert f"{text_of(question).split()[4]} {question['answer']}" in HELD_OUT
            about[question["kind"]] += 1
    assert min(about[kind] for kind in SCENE_KINDS) > 5


def test_positions_are_those_of_the_pixels_and_sides_are_asked_only_where_they_are_clear():
    scene = draw_scene(np.random.default_rng(3), [("red", "square"), ("blue", "circle")], 64)
    pixels = np.asarray(scene.image).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 100)
    assert centre(scene.objects[0]) == pytest.approx((np.nonzero(red)[1].mean(), np.nonzero(red)[0].mean()), abs=0.5)
    (x, y), (u, v) = map(centre, scene.objects)
    kinds = {question.kind for question in scene_questions(scene)}
    assert ("left_right" in kinds, "above_below" in kinds) == (abs(x - u) >= 8, abs(y - v) >= 8)
    assert symbols_of(scene).startswith(f"red square {int(x / 2)} {int(y / 2)}, ")


def test_what_is_not_unique_is_not_asked_for():
    scene = draw_scene(np.random.default_rng(0), [("red", "square"), ("blue", "square"), ("red", "star")], 64)
    texts = {question.text: question.answer for question in scene_questions(scene)}
    assert "What colour is the square?" not in texts
    assert "What shape is the red object?" not in texts
    assert texts["What colour is the star?"] == "red"
    assert texts["How many red objects are there?"] == texts["How many squares are there?"] == "two"
    assert texts["How many objects are there?"] == "three"


def test_what_can_be_named_without_finding_it_is_not_asked_for():
    alike = draw_scene(np.random.default_rng(0), [("red", "square"), ("red", "star")], 64)
    kinds = Counter(question.kind for question in scene_questions(alike))
    assert "colour" not in kinds
    different = draw_scene(np.random.default_rng(0), [("red", "square"), ("blue", "star")], 64)
    asked_for = {question.text: question.answer for question in scene_questions(different)}
    assert asked_for["What colour is the square?"] == "red"
    assert asked_for["What shape is the blue object?"] == "star"
    alone = draw_scene(np.random.default_rng(0), [("red", "square")], 64)
    assert {question.kind for question in scene_questions(alone)} == {"count", "caption"}


def test_the_words_of_scenes_are_known_without_drawing_any(drawn):
    def words(text):
        return {word for word in re.split(r"[\W]+", text.lower()) if word}

    known = set().union(*map(words, scene_texts()))
    used = set()
    for split in drawn.values():
        used = used.union(*map(words, split["symbols"][:]))
        for question in asked(split):
            used |= words(text_of(question)) | words(question["answer"])
    assert used <= known
    # Small images have few columns; besides those numbers nearly all words come up.
    assert {word for word in known - used if not word.isdigit()} <= {*COLOURS, *SHAPES}


def test_the_same_seed_draws_the_same_and_kinds_can_be_chosen(drawn):
    again = draw_questions(size=32, sizes={"train": 120, "held_out": 40})
    assert again["train"][:] == drawn["train"][:]
    captions = draw_questions(parse_kinds("caption"), size=32, sizes={"train": 3})
    assert [question["kind"] for question in asked(captions["train"])] == ["caption"] * 3
    with pytest.raises(ValueError, match="different ones of colour, shape"):
        load_questions("scenes:taste")


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """Nothing that was drawn before, perhaps by other code, is read again."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("fresh_cache")
def test_counting_asks_mostly_for_the_number_of_a_kind_and_each_number_equally_often(drawn):
    split = draw_counting(size=32, sizes={"train": 300})["train"]
    texts = Counter(text_of(question).split()[2] for question in asked(split))
    usual = Counter(text_of(question).split()[2] for question in asked(drawn["train"]) if question["kind"] == "count")
    assert texts["objects"] / texts.total() < 0.3 < 0.4 < usual["objects"] / usual.total()
    answers = Counter(question["answer"] for question in asked(split) if "objects" not in text_of(question).split()[2])
    assert set(answers) == set(NUMBERS)
    assert max(answers.values()) - min(answers.values()) <= SLACK * len(texts)
    for row in split:
        assert not HELD_OUT & {f"{colour} {shape}" for colour, shape, *_ in objects_of(row["symbols"])}
        for question in row["questions"]:
            assert answer_from(row["symbols"], text_of(question)) == question["answer"]


@pytest.mark.usefixtures("fresh_cache")
def test_one_object_is_asked_for_its_colour_its_shape_and_both_in_equally_many_combinations():
    drawn = draw_objects(size=32, sizes={"train": 80, "held_out": 16})
    for split, combinations, times in (("train", 40, 2), ("held_out", 8, 2)):
        names = Counter()
        for row in drawn[split]:
            ((colour, shape, _, _),) = objects_of(row["symbols"])
            answers = {question["kind"]: question["answer"] for question in row["questions"]}
            assert answers == {"colour": colour, "shape": shape, "name": f"{colour} {shape}"}
            names[answers["name"]] += 1
        assert (len(names), set(names.values())) == (combinations, {times})
        assert (set(names) <= HELD_OUT) == (split == "held_out")
        assert not set(names) & HELD_OUT or split == "held_out"
    # Nothing in the text gives the answer away: each kind has one text for all.
    assert {(question["kind"], text_of(question)) for question in asked(drawn["train"])} == set(OBJECT_KINDS.items())


@pytest.mark.usefixtures("fresh_cache")
def test_the_object_half_a_split_further_on_is_mostly_another_one():
    drawn = draw_objects(size=32, sizes={"train": 1, "validation": 80, "held_out": 32})
    for name, chance in (("validation", 1 / 40), ("held_out", 1 / 8)):
        names = [objects_of(symbols)[0][:2] for symbols in drawn[name]["symbols"][:]]
        alike = sum(names[place] == names[place - len(names) // 2] for place in range(len(names)))
        # In turns it would be all of them.
        assert alike / len(names) <= 3 * chance


@pytest.mark.usefixtures("fresh_cache")
def test_kinds_of_questions_about_objects_can_be_chosen(monkeypatch):
    monkeypatch.setattr("modeling_omni_vision.data.synthetic.scene_questions.OBJECT_SIZES", {"train": 2})
    chosen = load_questions("objects:name")
    assert [question["kind"] for question in asked(chosen["train"])] == ["name"] * 2
    with pytest.raises(ValueError, match="different ones of colour, shape, name"):
        load_questions("objects:count")


@pytest.fixture
def easy_vqa(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        (tmp_path / split / "images").mkdir(parents=True)
        questions = []
        for number in range(count):
            Image.new("RGB", (64, 64), (number, 128, 128)).save(tmp_path / split / "images" / f"{number}.png")
            questions += [["what color is the shape?", "teal", number], ["is there a circle?", "no", number]]
            questions += [["what shape is in the image?", "triangle", number]]
        (tmp_path / split / "questions.json").write_text(json.dumps(questions))
    return tmp_path


def test_easy_vqa_keeps_its_split_and_holds_images_not_questions_out_of_train(easy_vqa):
    data = load_questions(f"easy-vqa:{easy_vqa}", validation_fraction=0.2)
    assert {name: len(split) for name, split in data.items()} == {"train": 8, "validation": 2, "test": 2}
    assert [question["kind"] for question in data["test"][0]["questions"]] == ["colour", "yes_no", "shape"]
    paths = [row["images"][0]["path"] for name in ("train", "validation") for row in data[name]]
    assert len(set(paths)) == 10


def test_a_folder_without_easy_vqa_is_refused(tmp_path):
    with pytest.raises(ValueError, match="questions of easy-VQA"):
        load_questions(f"easy-vqa:{tmp_path}")


def test_several_sources_are_trained_on_together_and_measured_on_the_first(easy_vqa, tmp_path):
    (tmp_path / "mine").mkdir()
    talk = [turn("user", "What is it?"), turn("assistant", "Red.")]
    mine = write(
        tmp_path / "mine", *({"image": name, "messages": talk} for name in ("a.png", "b.png", "a.png", "a.png"))
    )
    data = load_questions(f"easy-vqa:{easy_vqa} + {mine}", validation_fraction=1)
    # Of the four rows of ours one is held out, or the three with the same image.
    assert {name: len(split) for name, split in data.items()} in (
        {"train": 9 + 3, "validation": 1, "test": 2},
        {"train": 9 + 1, "validation": 1, "test": 2},
    )
    kinds = [row["questions"][0]["kind"] for row in data["train"]]
    assert kinds == ["colour"] * 9 + ["answer"] * (len(kinds) - 9)
    assert data["validation"][0]["questions"][0]["kind"] == "colour"


def write(folder, *rows):
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "b.png")
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def turn(role, content):
    return {"role": role, "content": content}


def test_each_thing_that_the_assistant_says_is_an_answer_to_all_before_it(tmp_path):
    talk = [turn("user", "Colour?"), turn("assistant", "Red."), turn("user", "Sure?"), turn("assistant", "Yes.")]
    llava = {
        "image": "b.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Blue."}],
    }
    parts = [
        turn("user", [{"type": "image"}, {"type": "text", "text": "And"}, {"type": "image"}]),
        turn("assistant", "Two."),
    ]
    path = write(
        tmp_path, {"image": "a.png", "messages": talk}, llava, {"images": ["a.png", "b.png"], "messages": parts}
    )
    first, second, third = load_conversations(path)["train"]
    assert [question["answer"] for question in first["questions"]] == ["Red.", "Yes."]
    assert first["questions"][0]["messages"] == [turn("user", "<image>\nColour?")]
    assert first["questions"][1]["messages"] == [turn("user", "<image>\nColour?"), *talk[1:3]]
    assert second["questions"][0] == {
        "messages": [turn("user", "<image>\nWhat?")],
        "answer": "Blue.",
        "kind": "answer",
    }
    assert third["questions"][0]["messages"][0]["content"] == "<image>\nAnd<image>\n"
    # They are connected by their images: no row could be held out alone.
    with pytest.raises(ValueError, match="so many share images"):
        load_questions(str(tmp_path), validation_fraction=1)


TALK = [turn("user", "What?"), turn("assistant", "Red.")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png"}, "line 1 of"),
        ({"image": "c.png", "messages": [turn("user", "?"), turn("assistant", "!")]}, "no image 'c.png'"),
        (
            {"image": "a.png", "messages": [turn("user", "<image><image>"), turn("assistant", "!")]},
            "2 times <image> for 1",
        ),
        ({"image": "a.png", "messages": [turn("user", "?")]}, "nothing that the assistant answers"),
        ({"image": "a.png", "messages": [turn("robot", "?"), turn("assistant", "!")]}, "role 'robot'"),
        ({"image": "a.png", "messages": [turn("assistant", "!")]}, "speaks before any user"),
        ({"image": "a.png", "messages": [turn("system", "?"), turn("assistant", "!")]}, "speaks before any user"),
        ({"image": "a.png", "messages": [turn("user", "?"), turn("assistant", "<image>!")]}, "<image> in an answer"),
        ({"images": [], "image": "a.png", "messages": [turn("user", "?"), turn("assistant", "!")]}, "beside `image`"),
        ({"images": ["b.png"], "image": "a.png", "messages": [turn("user", "?"), turn("assistant", "!")]}, "beside"),
        ({"image": "broken.png", "messages": [turn("user", "?"), turn("assistant", "!")]}, "'broken.png' cannot be"),
        ({"image": {"bytes": ""}, "messages": [turn("user", "?"), turn("assistant", "!")]}, "are no text"),
        ({"image": "a.png", "weight": 0.5, "messages": [turn("user", "?"), turn("assistant", "!")]}, "`weight` 0.5"),
        (
            {"image": "a.png", "messages": [turn("user", [{"type": "video", "video": "a"}]), turn("assistant", "!")]},
            "text",
        ),
        (
            {"image": "a.png", "split": "test", "messages": TALK},
            "`split` 'test' in a file of train: give each split a",
        ),
        ({"messages": [turn("user", [{"image": "a.png"}]), turn("assistant", "!")]}, "inside a part, 'a.png'"),
        ({"image": "a.png", "messages": "What?"}, "no list of turns as `messages` but 'What"),
        ({"image": "a.png", "messages": {"user": "What?"}}, "no list of turns"),
        ({"image": "a.png", "messages": ["What?", "Red."]}, "no list of turns"),
        ({"image": "a.png", "conversations": None}, "no list of turns as `messages` but None"),
        ({"image": "a.png", "messages": [{"content": "What?"}, *TALK]}, "role None"),
        ({"image": "a.png", "messages": [{"role": "user"}, *TALK]}, "a turn without text: {'role': 'user'}"),
        ({"image": "a.png", "messages": [turn("user", 7), *TALK]}, "without text: .*7"),
        ({"image": "a.png", "messages": [turn("user", [7]), *TALK]}, "Expected a conversation"),
        (["a.png"], "entry 1 of .*no JSON object"),
        ("a.png", "line 1 of .*no JSON object"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, row, message):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=message):
        load_conversations(write(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "images", "said"),
    [
        ({"image": ["a.png", "b.png"], "messages": TALK}, 2, "<image>\n<image>\nWhat?"),
        ({"image": "a.png", "images": None, "messages": TALK}, 1, "<image>\nWhat?"),
        ({"image": "a.png", "images": ["a.png"], "messages": TALK}, 1, "<image>\nWhat?"),
        ({"image": None, "images": [], "messages": TALK}, 0, "What?"),
        ({"image": "", "messages": TALK}, 0, "What?"),
        ({"conversations": [{"from": "Human", "value": "What?"}, {"from": "GPT", "value": "Red."}]}, 0, "What?"),
        ({"messages": [turn("user", "What?"), {"role": "model", "content": "Red."}]}, 0, "What?"),
        ({"messages": [turn("user", {"type": "input_text", "text": "What?"}), TALK[1]]}, 0, "What?"),
        (
            {"image": "a.png", "messages": [turn("user", [{"type": "image_url"}, "What?"]), TALK[1]]},
            1,
            "<image>\nWhat?",
        ),
        ({"messages": [turn("user", "Wh\u2028at?"), TALK[1]]}, 0, "Wh\u2028at?"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "array", "lines with a BOM", "array with a BOM"])
def test_what_people_bring_is_read_from_lines_and_from_llavas_array(tmp_path, row, images, said, form):
    file = write(tmp_path, row)
    text = json.dumps([row] if "array" in form else row, ensure_ascii=False, indent=1 if "array" in form else None)
    file.write_text(text, encoding="utf-8-sig" if "BOM" in form else "utf-8")
    (found,) = load_conversations(file)["train"]
    assert len(found["images"]) == images
    assert found["questions"] == [{"messages": [turn("user", said)], "answer": "Red.", "kind": "answer"}]
    assert found["source"] == f"{'entry' if 'array' in form else 'line'} 1 of {str(file)!r}"


def test_answers_of_weight_0_are_read_and_not_learnt(tmp_path):
    talk = [
        turn("user", "A?"),
        {**turn("assistant", "Bad."), "weight": 0},
        turn("user", "B?"),
        turn("assistant", "Good."),
    ]
    path = write(tmp_path, {"messages": talk}, {"messages": TALK, "weight": 0}, {"messages": TALK, "weight": 1})
    first, last = load_conversations(path)["train"]
    assert [question["answer"] for question in first["questions"]] == ["Good."]
    assert first["questions"][0]["messages"][1] == turn("assistant", "Bad.")
    assert last["source"].startswith("line 3 of")
    with pytest.raises(ValueError, match="none with an answer to learn"):
        load_conversations(write(tmp_path, {"messages": TALK, "weight": 0}))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train.jsonl", "val.jsonl", "Test.jsonl"), {"train", "validation", "test"}),
        (("train.jsonl", "dev.jsonl"), {"train", "validation"}),
        (("Training_set.json", "holdout.json", "metrics.json"), {"train", "test"}),
        (("mine.jsonl",), {"train"}),
        (("test.jsonl",), "only"),
        (("train.jsonl", "extra.jsonl"), "'extra'"),
        (("one.jsonl", "two.jsonl"), "none of which names a split"),
        (("metrics.json",), "a folder with a train"),
    ],
)
def test_files_beside_each_other_are_splits_by_their_whole_names(tmp_path, names, splits):
    line = json.dumps({"messages": TALK})
    for name in names:
        (tmp_path / name).write_text(f"[{line}]" if name.endswith(".json") else line)
    if isinstance(splits, set):
        assert set(load_conversations(tmp_path)) == splits
        return
    with pytest.raises(ValueError, match=splits):
        load_conversations(tmp_path)


def test_a_file_that_is_no_json_in_utf_8_is_refused(tmp_path):
    for number, content in enumerate((b"\xff\xfe{}", b"[{}", b"{")):
        file = tmp_path / f"{number}.jsonl"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{number}.jsonl"):
            load_conversations(file)


def test_rows_that_share_an_image_by_path_or_content_are_held_out_together(tmp_path):
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"copy{number}.png").write_bytes((tmp_path / f"{number}.png").read_bytes())
    rows = [{"image": f"{name}{number}.png", "messages": TALK} for name in ("", "copy") for number in range(8)] * 2
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_questions(str(tmp_path), validation_fraction=0.2)
    found = [{row["images"][0]["path"][-5] for row in data[name]} for name in ("train", "validation")]
    assert min(map(len, found)) > 0
    assert not found[0] & found[1]
    assert len(data["validation"]) == 8  # 6 of 32, raised to two images of four rows


def test_groups_are_connected_by_any_image_and_keep_the_order_of_the_draw():
    groups = group_rows([["a"], ["b", "c"], ["d"], ["c", "a"], [], ["e"], []])
    assert groups.tolist() == [0, 0, 2, 0, 4, 5, 6]
    order, number = order_groups(np.array([5, 3, 2, 6, 0, 1, 4]), groups, 2)
    assert (order.tolist(), number) == ([5, 3, 0, 1, 2, 6, 4], 4)
    assert image_keys([[{"bytes": b"1", "path": None}], [{"bytes": b"1", "path": "x"}], []]) == [[ANY], [ANY], []]


def test_equal_images_have_one_key_wherever_they_are_and_what_is_missing_is_an_image_of_its_own(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"333")):
        (tmp_path / name).write_bytes(content)
    rows = [[{"bytes": None, "path": str(tmp_path / name)}] for name in "abcd"]
    keys = image_keys([*rows, [{"bytes": b"1", "path": None}, {"bytes": b"333", "path": "c"}], rows[3]])
    assert len({key for row in keys for key in row}) == 4
    assert keys[4:] == [[*keys[0], *keys[2]], keys[3]]


def test_a_source_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a folder with a train\.jsonl"):
        load_questions(str(tmp_path / "nowhere"))
    only = write(tmp_path, {"image": "a.png", "messages": [turn("user", "?"), turn("assistant", "!")]})
    with pytest.raises(ValueError, match=r"rows on both sides, got 0\.1 of 1"):
        load_questions(str(only))
