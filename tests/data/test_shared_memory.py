import copy
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PilImage
from started_process import write_and_tell

from modeling_omni_vision.data import shared_memory
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset
from modeling_omni_vision.data.integrity import BROKEN, KEPT
from modeling_omni_vision.data.shared_memory import allocate
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


@pytest.fixture
def together(monkeypatch):
    """Run a function in two threads that stand for two processes, and return what it returns in each."""
    rank, barrier, values, machines = threading.local(), threading.Barrier(2, timeout=20), [None, None], ["a", "a"]

    def gathered(value):
        values[rank.number] = value
        barrier.wait()
        found = [*values]
        barrier.wait()
        return found

    for name in ("is_available", "is_initialized"):
        monkeypatch.setattr(shared_memory.dist, name, lambda: True)
    monkeypatch.setattr(shared_memory.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(shared_memory.dist, "get_rank", lambda: rank.number)
    monkeypatch.setattr(shared_memory.platform, "node", lambda: machines[rank.number])
    monkeypatch.setattr(shared_memory, "_gathered", gathered)

    def run(function, names=("a", "a")):
        machines[:], found = names, [None, None]

        def one(number):
            rank.number = number
            found[number] = function()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return found

    return run


def is_one_memory(first, second):
    first.content[3] = 7
    return second.content[3] == 7


def test_processes_of_a_machine_have_one_memory_of_a_file_without_a_name(together, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "IN_MEMORY", str(tmp_path))
    first, second = together(lambda: allocate(10_000, shared=True))
    assert [(one.process, one.processes) for one in (first, second)] == [(0, 2), (1, 2)]
    assert not first.content.any()
    assert is_one_memory(first, second)
    assert not [*tmp_path.iterdir()]
    assert together(lambda: first.wait(failed=shared_memory.dist.get_rank() == 1)) == [True, True]
    assert together(lambda: first.wait()) == [False, False]


def test_processes_of_other_machines_or_without_a_place_to_share_have_memory_of_their_own(
    together, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(shared_memory, "IN_MEMORY", str(tmp_path))
    apart = together(lambda: allocate(10_000, shared=True), names=("a", "b"))
    # They wait for each other all the same.
    assert together(lambda: apart[0].wait(failed=shared_memory.dist.get_rank() == 1)) == [True, True]
    assert not caplog.text
    for name, broken in (("_reserve", lambda *_: False), ("_new_file", lambda _: None), ("_open", lambda _: None)):
        with monkeypatch.context() as patch:
            patch.setattr(shared_memory, name, broken)
            apart += together(lambda: allocate(10_000, shared=True))
    assert "own copy" in caplog.text
    for one, other in zip(apart[::2], apart[1::2], strict=True):
        assert (one.process, one.processes) == (other.process, other.processes) == (0, 1)
        assert not is_one_memory(one, other)
    assert not [*tmp_path.iterdir()]


def test_a_single_process_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "_new_file", None)
    assert not allocate(100, shared=True).content.any()


def noise_in_memory(count=4):
    noise = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    rows = Dataset.from_dict({"image": list(noise)}, features=Features({"image": Image(decode=False)}))
    return ImageDataset(rows, OmniVisionImageProcessor(size={"height": 8, "width": 8}))


def open_files():
    return [name for name in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if "omni_vision_images_" in name]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_process_that_is_started_with_images_maps_them_and_copies_nothing(method, capfd):
    gc.collect()
    before, starts = open_files(), multiprocessing.get_context(method)
    images, queue = noise_in_memory(), starts.SimpleQueue()
    last = images[3]["image"].flatten().tolist()
    process = starts.Process(target=write_and_tell, args=(images, queue))
    process.start()
    assert queue.get() == (last, [str(os.fstat(images._shared.descriptor).st_ino)])
    process.join()
    assert (process.exitcode, images._memory[0].unique().tolist()) == (0, [7])
    assert not capfd.readouterr().err
    del images, process
    gc.collect()
    assert open_files() == before


def test_copies_of_images_have_memory_of_their_own():
    images = noise_in_memory()
    other = copy.deepcopy(images)
    assert torch.equal(other._memory, images._memory)
    other._memory[0] = 7
    assert images._memory[0].unique().tolist() != [7]
    assert other._shared.descriptor is None  # the first closes its file


@pytest.mark.slow
@pytest.mark.parametrize(("place", "files"), [("no such folder", 1), ("nowhere", 0)])
def test_two_processes_see_the_same_images_in_one_memory(tmp_path, place, files):
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(1300)]
    for path in paths:
        PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    Path(paths[-1]).write_bytes(b"no image")
    rows = Dataset.from_dict({"image": paths}, features=Features({"image": Image(decode=False)}))
    rows.save_to_disk(tmp_path / "rows")
    root = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    program = [str(Path(__file__).with_name("image_processes.py")), str(tmp_path), place]
    subprocess.run([*torchrun, *program], cwd=tmp_path, env=environment, check=True, timeout=250)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [len(one["files"]) for one in seen] == [files, files]
    assert seen[0]["files"] == seen[1]["files"]
    assert seen[0]["states"] == seen[1]["states"] == [KEPT] * 1299 + [BROKEN]
    assert (seen[0]["written"], seen[1]["written"] == 7) == (7, files == 1)
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    batch = ImageCollator(processor)(ImageDataset(rows, processor, of_run=True).__getitems__(range(1299)))
    assert seen[0]["pixels"] == seen[1]["pixels"] == float(batch["pixel_values"].double().sum())
