import json

import pytest
from PIL import Image

from experiments import emoji_data as emoji
from experiments.emoji_data import PACKAGES, family_of, load_emoji
from modeling_omni_vision.data.pairs import load_pairs


NAMES = [*(f"thing {chr(97 + number)}" for number in range(24)), "man running", "woman running", "person running"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The five packages with 27 concepts, the third vendor without the last."""
    monkeypatch.setattr(emoji, "HELD_OUT", {"validation": 4, "test": 4})
    root = tmp_path / "node_modules"
    entries, named, words = [], {}, {}
    for number, name in enumerate(NAMES):
        sign = chr(0x1F600 + number)
        entries.append({"unified": f"{ord(sign):X}", "image": f"{ord(sign):x}.png"})
        named[sign] = {"name": name, "group": "Things"}
        words[sign] = [name.replace(" ", "_"), "some_thing", name]
        for vendor, file in (
            ("emoji-datasource-google/img/google/64", f"{ord(sign):x}.png"),
            ("emoji-datasource-twitter/img/twitter/64", f"{ord(sign):x}.png"),
            ("@lobehub/fluent-emoji-3d/assets", f"{ord(sign):x}.webp"),
        ):
            if number == len(NAMES) - 1 and file.endswith("webp"):
                continue
            (root / vendor).mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (8, 8), (number, 0, 0, 255)).save(root / vendor / file)
    for path, content in (
        ("emoji-datasource-google/emoji.json", entries),
        ("unicode-emoji-json/data-by-emoji.json", named),
        ("emojilib/dist/emoji-en-US.json", words),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content))
    return tmp_path


def test_concepts_are_split_by_family_and_the_third_vendor_is_never_trained_on(packages):
    data = load_emoji(packages)
    concepts = {name: set(split["concept"]) for name, split in data.items()}
    assert len(concepts["validation"]) == len(concepts["test"]) == 4
    assert not concepts["train"] & (concepts["validation"] | concepts["test"])
    assert not concepts["validation"] & concepts["test"]
    assert {"man running", "woman running", "person running"} <= concepts["train"]
    vendors = {name: set(split["vendor"]) for name, split in data.items()}
    assert vendors["train"] == vendors["test"] == {"google", "twitter"}
    for name in ("unseen_style", "validation_unseen_style", "test_unseen_style"):
        assert vendors[name] == {"fluent"}
    assert concepts["unseen_style"] == concepts["train"] - {"person running"}
    for name in ("validation", "test"):
        assert concepts[f"{name}_unseen_style"] == concepts[name]


def test_texts_are_the_name_and_the_keywords_that_are_not_the_name(packages):
    row = next(row for row in load_emoji(packages)["train"] if row["concept"] == "man running")
    assert row["texts"] == ["man running", "some thing"]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("man running", "woman running"),
        ("person with white hair", "woman with red hair"),
        ("one o\u2019clock", "eleven-thirty"),
        ("flag Norway", "flag Chile"),
        ("left arrow", "up-right arrow"),
        ("red square", "blue square"),
    ],
)
def test_siblings_are_one_family(name, other):
    assert family_of(name) == family_of(other)


@pytest.mark.parametrize(("name", "other"), [("dog face", "cat face"), ("red apple", "green salad"), ("one", "two")])
def test_others_are_not(name, other):
    assert family_of(name) != family_of(other)


def test_missing_packages_are_named_with_the_command_that_gets_them(tmp_path):
    (tmp_path / "node_modules" / PACKAGES[0]).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"none of the name emoji-datasource-twitter, .*npm install") as error:
        load_emoji(tmp_path)
    assert f"npm install --prefix {tmp_path} " in str(error.value)


def test_saved_pairs_are_trained_on_with_their_own_splits_and_concepts(packages, tmp_path):
    data = load_emoji(packages)
    data.save_to_disk(tmp_path / "pairs")
    pairs = load_pairs(str(tmp_path / "pairs"), text_column="texts")
    assert set(pairs) == {"train", "validation", "test"}
    # The vendors of this test draw alike: rows of equal images are one.
    for name, split in pairs.items():
        assert [*map(tuple, split["texts"][:])] == [*dict.fromkeys(map(tuple, data[name]["texts"][:]))]
        assert len(set(split["concept"][:])) == len(set(data[name]["concept"][:]))
