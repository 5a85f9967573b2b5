"""Shards by many processes: a Ray cluster, its killed workers and drivers, torchrun and SLURM."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from modeling_omni_vision.cli.program import explain
from modeling_omni_vision.data.integrity import UnreadableImagesError
from modeling_omni_vision.embedding import cluster, embed, shards
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


ROOT = Path(__file__).parents[2]
ENGINE = "torch sdpa float32"
ACTOR = b"ray::MapWorker(MapBatches(ShardWriter"
# A cluster of two CPUs, whatever machine this is; with no fourth word, one process without Ray.
DRIVER = """
import sys, ray
from modeling_omni_vision.embedding.embed import embed
if __name__ == "__main__":
    if sys.argv[4:]:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    options = {"engine": "torch sdpa float32", "batch_size": 2, "shard_rows": 6}
    embed(sys.argv[1], sys.argv[2:3], sys.argv[3], cluster="ray" if sys.argv[4:] else None, **options)
"""


STOPPED = (
    r"^1 of 6 images cannot be read: .*17\.jpg .*Repair or remove them, or leave them out with --on_error skip\.$"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
    from modeling_omni_vision.modeling_omni_vision import OmniVisionModel

    folder, size = tmp_path_factory.mktemp("cluster") / "model", {"height": 32, "width": 32}
    config = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    OmniVisionModel(OmniVisionConfig(**config)).save_pretrained(folder)
    OmniVisionImageProcessor(size=size).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sixty images that take a while to decode, one of them cut off."""
    folder, content = tmp_path_factory.mktemp("images"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG")
    for number in range(60):
        cut = 1000 if number == 17 else len(content.getvalue())
        (folder / f"{number:02d}.jpg").write_bytes(content.getvalue()[:cut])
    return str(folder)


@pytest.fixture(scope="module")
def whole(model, images, tmp_path_factory):
    """What one process writes without Ray."""
    output = tmp_path_factory.mktemp("whole") / "out"
    embed.embed(model, [images], output, engine=ENGINE, batch_size=2, shard_rows=6, workers=1)
    return files_of(output)


def files_of(output):
    return {path.name: path.read_bytes() for path in output.iterdir() if path.suffix in (".parquet", ".jsonl")}


def started(model, images, output, *words, **environment):
    command = [sys.executable, "-c", DRIVER, model, images, str(output), *words]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", **environment}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def actors(mark):
    """Return the processes of actors that the driver of a mark has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(ACTOR) and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # ended meanwhile, or not ours
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def shards_of(output):
    return list(output.glob("vectors-*.parquet"))


def test_without_ray_the_command_says_which_extra_brings_it(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError) as caught:
        embed.embed(model, [images], tmp_path / "out", cluster="ray")
    assert "[ray]" in explain(caught.value, [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"cluster": "dask"}, {"cluster": "ray", "shard": "0/2"}])
def test_other_clusters_and_shards_of_a_cluster_are_refused(options, model, images, tmp_path):
    with pytest.raises(ValueError, match="cluster"):
        embed.embed(model, [images], tmp_path / "out", **options)


def machine(cpus, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}


@pytest.mark.parametrize(
    ("machines", "pool", "resources"),
    [
        ([machine(1)], 1, {"num_cpus": 0.5}),
        ([machine(2)], 1, {"num_cpus": 1}),
        ([machine(4), machine(64, alive=False)], 1, {"num_cpus": 3}),
        ([machine(16), machine(64)], 2 + 9, {"num_cpus": 7}),
        ([machine(16, 1), machine(16)], 2 + 2, {"num_cpus": 7}),
    ],
)
def test_the_pool_leaves_a_cpu_of_each_machine_free(machines, pool, resources, monkeypatch):
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: False)
    assert cluster.actor_pool(machines) == (pool, resources)
    with pytest.raises(ValueError, match="Expected a Ray cluster with CPUs"):
        cluster.actor_pool([machine(4, alive=False)])


def test_a_driver_with_a_gpu_takes_one_actor_for_each_gpu(monkeypatch):
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: True)
    assert cluster.actor_pool([machine(16, 4), machine(8, 1), machine(64)]) == (5, {"num_cpus": 3, "num_gpus": 1})


LAUNCHERS = {
    "torchrun": ({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0"}, "1/4"),
    "array": ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}, "2/8"),
    "every second": (
        {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5"},
        "2/5",
    ),
    "srun": ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, "5/6"),
    "srun in an array": (
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        "3/6",
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_auto_is_the_part_that_the_launcher_says(launcher, monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="got none of them"):
        embed._part("auto")
    environment, part = LAUNCHERS[launcher]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert embed._part("auto") == embed._part(part)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_of_torchrun_write_what_one_writes(model, images, whole, tmp_path):
    words = ["--model", model, "--images", images, "--output", str(tmp_path / "out"), "--shard", "auto"]
    words += ["--engine", ENGINE.split()[0], "--batch_size", "2", "--shard_rows", "6"]
    # The command takes the runtime alone; which of its ways, the run has chosen already.
    (tmp_path / "out" / shards.MANIFEST).mkdir(parents=True)
    (tmp_path / "out" / shards.MANIFEST / shards.ENGINE).write_text(json.dumps({"engine": ENGINE}))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "scripts/embed.py", *words]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    assert files_of(tmp_path / "out") == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_writes_what_one_process_writes_and_nothing_twice(model, images, whole, tmp_path, caplog):
    ray = pytest.importorskip("ray")
    run = {"engine": ENGINE, "batch_size": 2, "shard_rows": 6, "cluster": "ray"}
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    try:
        record = embed.embed(model, [images], tmp_path / "out", **run)
        assert (record["rows"], record["failed"], record["last_run"]["images"]) == (59, 1, 60)
        assert files_of(tmp_path / "out") == whole
        assert embed.embed(model, [images], tmp_path / "out", **run)["last_run"]["images"] == 0
        shards_of(tmp_path / "out")[3].unlink()
        assert embed.embed(model, [images], tmp_path / "out", **run)["last_run"]["images"] == 6
        assert files_of(tmp_path / "out") == whole
        stops_at_a_failure(model, images, tmp_path / "stopped", run, whole)
        shards_of(tmp_path / "out")[3].unlink()
        stands_still(model, images, tmp_path / "out", run, caplog)
    finally:
        ray.shutdown()


def stops_at_a_failure(model, images, output, run, whole):
    """Image 17 ends the run in the sentence of one process; what is written is whole, and --on_error skip goes on."""
    for _ in range(2):
        with pytest.raises(UnreadableImagesError, match=STOPPED):
            embed.embed(model, [images], output, **run, on_error="stop")
        assert not list(output.glob("vectors-00002-*"))
    assert all(whole[name] == content for name, content in files_of(output).items())
    embed.embed(model, [images], output, **run)
    assert files_of(output) == whole
    with pytest.raises(UnreadableImagesError, match=STOPPED):
        embed.embed(model, [images], output, **run, on_error="stop")


def stands_still(model, images, output, run, caplog):
    """A shard that another process holds: the watchdog speaks, and gives up in the end."""
    with pytest.MonkeyPatch.context() as patch, FileLock(output / "manifest/00003.lock"):
        patch.setattr(cluster, "WARN_AFTER", 1.0)
        patch.setattr(cluster, "GIVE_UP_AFTER", 4.0)
        with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="Given up; what is finished stays"):
            embed.embed(model, [images], output, **run)
    assert "No image was embedded for 1 s. Ray has" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_costs_no_row(model, images, whole, tmp_path):
    pytest.importorskip("ray")
    output, mark = tmp_path / "out", f"OMNI_VISION_TEST={tmp_path}"
    driver = started(model, images, output, "ray", OMNI_VISION_TEST=str(tmp_path))
    try:
        wait_for(lambda: len(shards_of(output)) > 1)
        killed = actors(mark.encode())
        assert len(killed) == 1
        os.kill(killed[0], signal.SIGKILL)
        assert len(shards_of(output)) < 9
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert files_of(output) == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_a_killed_driver_the_same_call_goes_on(model, images, whole, tmp_path):
    pytest.importorskip("ray")
    output, mark = tmp_path / "out", f"OMNI_VISION_TEST={tmp_path}"
    driver = started(model, images, output, "ray", OMNI_VISION_TEST=str(tmp_path))
    try:
        wait_for(lambda: len(shards_of(output)) > 1)
        driver.kill()
        driver.wait()
        wait_for(lambda: not actors(mark.encode()))  # what it has started ends with it
        left = {path.name: path.stat().st_ino for path in shards_of(output)}
        assert len(left) < 10
        driver = started(model, images, output)  # without Ray: the same manifest
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert files_of(output) == whole
    assert all((output / name).stat().st_ino == inode for name, inode in left.items())


def test_the_images_that_kill_their_workers_are_named(model, images, whole, tmp_path):
    class Died(cluster.Counts):
        def begin(self, number):
            return cluster.DEATHS + 1

        def end(self, error):
            assert "workers died" in str(error)

    embed.embed(model, [images], tmp_path / "out", engine=ENGINE, batch_size=2, shard_rows=6, limit=7)
    job = cluster.Job(model, str(tmp_path / "out"), None, False, 1, os.getcwd())
    writer = cluster.ShardWriter(job, Died(None))
    with pytest.raises(ValueError, match=r"workers died at the images from '06.jpg' to '06.jpg'"):
        writer({"item": [1]})


def test_a_worker_that_is_to_stop_writes_no_shard_with_a_failure(model, images, tmp_path):
    class Counted(cluster.Counts):
        def begin(self, number):
            return 0

        def update(self, images):
            pass

        def set_postfix(self, failed):
            assert not failed

        def end(self, error):
            assert isinstance(error, UnreadableImagesError)

    run = {"engine": ENGINE, "batch_size": 2, "shard_rows": 6}
    embed.embed(model, [images], tmp_path / "out", **run, limit=18)
    for number in (0, 2):
        (tmp_path / "out" / f"vectors-0000{number}-of-00003.parquet").unlink()
    job = cluster.Job(model, str(tmp_path / "out"), None, False, 1, os.getcwd(), "stop")
    writer = cluster.ShardWriter(job, Counted(None))
    with pytest.raises(UnreadableImagesError, match=STOPPED):
        writer({"item": [2]})
    assert writer({"item": [0]})["images"] == [6]
    assert {path.name[8:13] for path in shards_of(tmp_path / "out")} == {"00000", "00001"}
