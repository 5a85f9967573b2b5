import json
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from modeling_omni_vision.records import metrics_file
from modeling_omni_vision.records.metrics_file import METRICS_FILE, merge_metrics, read_metrics, write_json


WRITERS, SECTIONS = 4, 20


def write(folder, writer):
    for number in range(SECTIONS):
        merge_metrics(folder, {f"{writer}.{number}": {"value": number}})


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_writers_that_meet_lose_no_section(tmp_path, kind):
    writers = [kind(target=write, args=(tmp_path, writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    wanted = {f"{writer}.{number}" for writer in range(WRITERS) for number in range(SECTIONS)}
    assert set(read_metrics(tmp_path)) == wanted
    # Neither locks nor unfinished files are published.
    assert os.listdir(tmp_path) == [METRICS_FILE]


def test_sections_are_kept_beside_new_ones_and_replaced_whole(tmp_path):
    merge_metrics(tmp_path / "run", {"training": {"steps": 1, "epochs": 2}})
    path = merge_metrics(tmp_path / "run", {"training": {"steps": 3}, "test": {"accuracy": float("nan")}})
    assert json.loads(path.read_text()) == {"training": {"steps": 3}, "test": {"accuracy": None}}
    assert read_metrics(tmp_path) == {}


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(TypeError):
        write_json(path, {"kept": object()})
    assert json.loads(path.read_text()) == {"kept": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("broken", ["{", "[1]", "null"])
def test_a_file_that_is_no_object_is_refused_and_kept(tmp_path, broken):
    (tmp_path / METRICS_FILE).write_text(broken)
    with pytest.raises(ValueError, match="must hold a JSON object"):
        merge_metrics(tmp_path, {"test": {}})
    assert (tmp_path / METRICS_FILE).read_text() == broken


def test_metrics_are_read_without_torch():
    # The package's own `__init__` may import more; the module itself does not.
    source = metrics_file.__file__
    code = f"import runpy, sys; runpy.run_path({source!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
