"""Property tests of the resolver: whatever the names of a tree, its rows are all images, each once."""

import locale
import os
import shutil
from pathlib import Path

import pytest


pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_omni_vision.data.image_folder import resolve_images


CONTENT = b"\x89PNG\r\n\x1a\n"
WORDS = (
    "train",
    "Test",
    "val",
    "dev-board",
    "test tube",
    "cat",
    "2023",
    "holdout",
    "trainset",
    "\u00e9t\u00e9",
    "ISTANBUL",
)
NAME = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=6),
    st.binary(min_size=1, max_size=4).map(lambda raw: os.fsdecode(raw.replace(b"/", b"_").replace(b"\0", b"_"))),
)
SUFFIX = st.sampled_from((".png", ".JPG", ".webp", ".txt", ""))
TREE = st.lists(st.tuples(st.lists(NAME, max_size=3), NAME, SUFFIX), min_size=1, max_size=8)
LIMITS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def grow(root, tree):
    """Write a tree, of which some names may not be possible, and return its images that are not hidden."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for folders, name, suffix in tree:
        file = root.joinpath(*folders, name + suffix)
        try:
            if ".." in file.parts or root not in file.parents:
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(CONTENT)
        except OSError:  # a folder of that name, or a name of dots
            continue
    return {
        Path(parent, name)
        for parent, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in (".png", ".jpg", ".webp")
        and not any(part.startswith(".") for part in Path(parent, name).relative_to(root).parts)
    }


def rows_of(root):
    """The rows of a tree as (path, class, split) relative to it, or the refusal."""
    try:
        return sorted(
            (os.fsencode(row.file.relative_to(root)), row.kind, row.split) for row in resolve_images(root)[0]
        )
    except ValueError as error:
        return str(error)


@LIMITS
@given(TREE)
def test_rows_are_all_images_each_once(tmp_path_factory, tree):
    root = tmp_path_factory.getbasetemp() / "tree"
    images = grow(root, tree)
    if isinstance(rows_of(root), str):  # refused by a sentence
        return
    rows, _ = resolve_images(root)
    assert sorted(os.fsencode(row.file) for row in rows) == sorted(map(os.fsencode, images))
    # A class is the folder below the root, or below the split; where one folder is a split, all are.
    for row in rows:
        parents = row.file.relative_to(root).parts[:-1]
        assert (row.split is None) == (not parents)
        assert row.kind is None or len(parents) >= 1


@LIMITS
@given(TREE, st.randoms(use_true_random=False))
def test_the_order_in_which_files_were_written_does_not_matter(tmp_path_factory, tree, chance):
    root = tmp_path_factory.getbasetemp() / "ordered"
    files = [one for one in tree if not set(one[0]) & {".", ".."}]
    # Where a name is a file once and a folder another time, the first wins: those trees differ.
    names = {"/".join([*folders, name + suffix]) for folders, name, suffix in files}
    above = {"/".join(folders[:depth]) for folders, _, _ in files for depth in range(1, len(folders) + 1)}
    if names & above:
        return
    grow(root, files)
    before = rows_of(root)
    chance.shuffle(files)
    grow(root, files)
    assert rows_of(root) == before


@pytest.mark.parametrize("change", [str.upper, str.title, str.swapcase])
def test_classes_and_splits_do_not_depend_on_the_case_of_splits_and_suffixes(tmp_path, change):
    rows = {}
    for name, turned in (("plain", str), ("changed", change)):
        tree = [([turned(split), kind], str(number), turned(".png")) for split in ("train", "validation", "test")
                for kind in ("cat", "Dog") for number in range(2)]  # fmt: skip
        grow(tmp_path / name, tree)
        rows[name] = [(row.kind, row.split) for row in resolve_images(tmp_path / name)[0]]
    assert sorted(rows["plain"]) == sorted(rows["changed"])
    assert len(rows["plain"]) == 12


def test_classes_and_splits_do_not_depend_on_the_locale(tmp_path):
    kinds = ("I", "\u0131", "\u00e9", "z")
    tree = [([split, kind], "a", ".png") for split in ("TRAINING", "VALIDATION") for kind in kinds]
    grow(tmp_path / "tree", tree)
    before, old = rows_of(tmp_path / "tree"), locale.setlocale(locale.LC_ALL)
    try:
        for name in ("C", "tr_TR.UTF-8", "de_DE.ISO-8859-1"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            assert rows_of(tmp_path / "tree") == before
    finally:
        locale.setlocale(locale.LC_ALL, old)
    assert {split for _, _, split in before} == {"train", "validation"}
