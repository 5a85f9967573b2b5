import os

import pytest
from PIL import Image

from modeling_omni_vision.data.image_files import displayed, find_images, path_of, stored_path
from modeling_omni_vision.image_processing_omni_vision import read_image


def draw(root, *files):
    """Make a small image at each of these paths."""
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path, format="PNG")
    return root


def names(root, *places, **options):
    found, left_out = find_images([root / place for place in places] or [root], **options)
    return [os.path.relpath(one.file, root) for one in found], left_out.counts


def test_images_below_folders_are_found_and_the_rest_is_counted_by_reason(tmp_path):
    draw(tmp_path, "b.png", "a.JPG", "deep/er/c.webp", "deep/.hidden/d.png", "__MACOSX/e.png", "no suffix")
    for name in (".DS_Store", "Thumbs.db", "._a.jpg", "notes.txt", "words", "page.eps", "x.heic"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")
    found, left_out = names(tmp_path)
    assert found == ["a.JPG", "b.png", "no suffix", "deep/er/c.webp"]
    assert left_out == {
        ".txt": 1,
        "without a suffix": 1,
        ".eps": 1,
        ".heic, install pillow-heif": 1,
        "broken link": 2,
        "no regular file": 1,
    }


def test_the_first_five_names_are_said(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    assert str(find_images([tmp_path])[1]) == "7 .txt (0.txt, 1.txt, 2.txt, 3.txt, 4.txt ...)"


def test_a_file_that_is_named_is_taken_whatever_its_name_and_each_path_once(tmp_path):
    draw(tmp_path, "a/1.png", "a/odd.txt", "a/.hidden.png")
    assert names(tmp_path, "a/odd.txt", "a", "a/1.png", "a/.hidden.png")[0] == [
        "a/odd.txt",
        "a/1.png",
        "a/.hidden.png",
    ]
    with pytest.raises(ValueError, match="which does not exist"):
        find_images([tmp_path / "b"])


def test_an_excluded_folder_is_left_out_also_behind_a_link(tmp_path):
    draw(tmp_path, "images/a.png", "images/index/sheet.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "images" / "index")
    assert names(tmp_path, "images", exclude=[tmp_path / "images" / "index"])[0] == ["images/a.png"]


def test_the_folder_of_an_image_is_relative_to_the_place_it_was_found_in(tmp_path):
    draw(tmp_path, "a/b/1.png", "a/2.png")
    found, _ = find_images([tmp_path / "a", tmp_path / "a" / "b" / "1.png"])
    assert {one.file.name: one.folder for one in found} == {"1.png": "b", "2.png": "."}
    assert find_images([tmp_path / "a" / "2.png"])[0][0].folder == "."


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"\xff\xfe.png", b"a\nb.png", b"%41.png", b"[x]*?.png", b"-r.png", b" .png", b"a::b#.png"]
)
def test_a_path_of_any_bytes_is_stored_without_loss_read_and_displayed_in_one_line(tmp_path, name):
    draw(tmp_path / "images", os.fsdecode(name))
    (file,), _ = find_images([tmp_path / "images"])
    stored = stored_path(file.file)
    assert os.fsencode(path_of(stored)) == os.fsencode(file.file)
    stored.encode()
    assert read_image({"bytes": None, "path": stored}).shape == (4, 4, 3)
    assert displayed(file.file).isprintable()
    displayed(file.file).encode()


def test_a_name_that_is_no_text_is_displayed_escaped():
    assert displayed(os.fsdecode(b"caf\xe9 \xc3\xbc.png")) == "caf\\xe9 \u00fc.png"
    assert displayed("a\nb") == "a\\nb"
