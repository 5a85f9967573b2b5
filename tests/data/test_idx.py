import gzip
import struct

import numpy as np
import pytest

from modeling_omni_vision.data.idx import load_idx, read_idx


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_and_labels_come_out_as_they_were_written(tmp_path, write_idx, gz, channels):
    written = write_idx(tmp_path, gz=gz, channels=channels)
    loaded = load_idx(tmp_path)
    for split, name in (("train", "train"), ("t10k", "test")):
        images, labels = written[split]
        assert loaded[name]["label"][:] == labels.tolist()
        assert np.array_equal(np.stack([np.asarray(image) for image in loaded[name]["image"]]), images)
    assert loaded["train"].features["label"].names == ["0", "1", "2", "3"]


def test_torchvision_keeps_its_files_in_a_folder_called_raw_and_emnist_with_a_prefix(tmp_path, write_idx):
    write_idx(tmp_path / "FashionMNIST" / "raw")
    write_idx(tmp_path / "emnist", prefix="emnist-letters-", splits=("train", "test"))
    assert len(load_idx(tmp_path / "FashionMNIST")["test"]) == 20
    assert set(load_idx(tmp_path / "emnist")) == {"train", "test"}


def test_classes_are_named_by_a_file_beside_the_images(tmp_path, write_idx):
    write_idx(tmp_path)
    (tmp_path / "classes.txt").write_text("shirt\nshoe\n\nbag\ncoat\n")
    assert load_idx(tmp_path)["train"].features["label"].names == ["shirt", "shoe", "bag", "coat"]
    (tmp_path / "classes.txt").write_text("shirt\nshoe\n")
    with pytest.raises(ValueError, match=r"classes 0 to 3 in .*classes\.txt"):
        load_idx(tmp_path)


WHOLE = b"\0\0\x08\3" + struct.pack(">3I", 3, 2, 2) + bytes(12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], r"expected 12 bytes, got 11"),
        (WHOLE + b"x", r"expected 12 bytes, got 13"),
        (WHOLE[:7], r"damaged"),
        (b"", r"no IDX file"),
        (b"\0\0\x0d" + WHOLE[3:], r"no IDX file of unsigned bytes.*00 00 0d 03"),
        (b"\x89PNG\r\n", r"no IDX file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, message):
    for name, stored in (("a-ubyte", content), ("b-ubyte.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(ValueError, match=rf"(?s){name}.*{message}"):
            read_idx(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(WHOLE)[:-9], b"not gzip at all", gzip.compress(WHOLE)[:20] + b"????"],
    ids=["cut off", "not gzip", "damaged"],
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "c.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.gz is damaged"):
        read_idx(tmp_path / "c.gz")


def test_a_header_of_an_absurd_size_is_refused_without_being_believed(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ValueError, match="header gives"):
        read_idx(path)


def test_missing_or_unequal_files_are_named(tmp_path, write_idx):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="labels of the test split"):
        load_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\7" + bytes(7)))
    with pytest.raises(ValueError, match=r"one label for each, got shapes \(20, 6, 5\).* and \(7,\)"):
        load_idx(tmp_path)


def test_two_sets_in_one_folder_are_refused(tmp_path, write_idx):
    write_idx(tmp_path, prefix="a-")
    write_idx(tmp_path, prefix="b-")
    with pytest.raises(ValueError, match="one set of IDX files"):
        load_idx(tmp_path)
