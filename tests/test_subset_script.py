import collections
import sys
from pathlib import Path

import pytest

from modeling_omni_vision.data.sources import load_pictures


sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import subset


def test_a_part_has_every_class_in_equal_share_and_nothing_of_the_test_split(tmp_path, capsys):
    subset.main(["--dataset", "digits", "--pictures", "200", "--output", str(tmp_path / "part")])
    assert "200 pictures of 10 classes" in capsys.readouterr().out
    part, whole = load_pictures(str(tmp_path / "part"), validation_share=0.5), load_pictures("digits")
    pictures = [row["image"]["bytes"] for split in part.values() for row in split]
    assert set(part) == {"train", "validation"}
    assert len(pictures) == 200
    assert not set(pictures) & {row["image"]["bytes"] for row in whole["test"]}
    counts = collections.Counter(label for split in part.values() for label in split["label"])
    assert max(counts.values()) - min(counts.values()) <= 2


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    with pytest.raises(ValueError, match="new folder"):
        subset.main(["--dataset", "digits", "--pictures", "200", "--output", str(tmp_path)])
