"""The shards of a run written by the machines of a Ray cluster.

Ray Data hands the numbers of missing shards to stateful actors. Each is what one process is without Ray: it reads the
bytes of the images, decodes them by our reader, encodes, and writes whole shards under their locks and names, so that
only numbers travel, and a run that lost workers or its driver goes on by the manifest.

Ray starts a killed worker again and says nothing where its pool finds no place; a watchdog does.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

from ..data.integrity import UnreadableImagesError
from .embed import refuse_failures, write_shards
from .embedded import Encode
from .shards import Manifest


logger = logging.getLogger(__name__)

POLL, WARN_AFTER, GIVE_UP_AFTER = 0.5, 60.0, 1800.0
# CPUs of an actor: its threads decode for one encoder.
CORES = 8
# Numbers of shards travel in so many blocks at most.
BLOCKS = 10_000
# Workers that may die at one shard.
DEATHS = 3


@dataclass(frozen=True)
class Job:
    """What an actor needs besides the manifest; relative paths are those of `cwd`, the driver's folder."""

    model: str
    output: str
    revision: str | None
    trust_remote_code: bool
    workers: int | None
    cwd: str
    on_error: str = "skip"


class Counts:
    """Images embedded and failed so far, counted by the actors; it stands in for their progress bar.

    Args:
        actor: Handle of the actor that adds up.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, number: int) -> int:
        """Return how often a shard has been begun before."""
        import ray

        return ray.get(self.actor.begin.remote(number))

    def update(self, images: int) -> None:
        """Count images."""
        self.actor.add.remote(images, 0)

    def set_postfix(self, failed: int) -> None:
        """Count failures of a shard."""
        self.actor.add.remote(0, failed)

    def end(self, error: Exception) -> None:
        """Say why the run ends: of an error in an actor, Ray Data passes on that there was one."""
        import ray

        ray.get(self.actor.end.remote(str(error), isinstance(error, UnreadableImagesError)))


class ShardWriter:
    """An actor: writes the shards whose numbers it is given.

    Args:
        job: What to open.
        counts: Told about each batch.
    """

    def __init__(self, job: Job, counts: Counts) -> None:
        if os.path.isdir(job.cwd):  # on another machine it may not be there; addresses and absolute paths are enough
            os.chdir(job.cwd)
        self.manifest, self.counts, self.on_error = Manifest.begun(Path(job.output)), counts, job.on_error
        record = {**self.manifest.settings, "model": job.model}
        self.pipeline = Encode(record, job.revision, job.trust_remote_code, job.workers).pipeline

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[float]]:
        """Return how many images were written, and the CPU seconds they took.

        Raises:
            ValueError: if workers died at this shard before: Ray would start them for ever.
            UnreadableImagesError: where `on_error` is stop, for a shard with such images.
        """
        start, number = time.process_time(), int(batch["item"][0])
        try:
            self._check_deaths(number)
            written = write_shards(self.manifest, self.pipeline, [number], self.counts, self.on_error)
        except Exception as error:
            self.counts.end(error)
            raise
        return {"images": [written], "cpu_seconds": [time.process_time() - start]}

    def _check_deaths(self, number: int) -> None:
        if self.counts.begin(number) > DEATHS:
            rows = self.manifest.rows(number)
            raise ValueError(
                f"{DEATHS + 1} workers died at the images from {rows[0].id!r} to {rows[-1].id!r}: one may break its "
                "decoder, or memory is short. Leave it out, or lower `batch_size`."
            )


def write_on_ray(manifest: Manifest, job: Job, bar: Any) -> tuple[int, float]:
    """Let a Ray cluster write the missing shards; count images, and the CPU seconds of its actors.

    The cluster is the one that this process is connected to, else that of `RAY_ADDRESS` or of this machine, else one
    that is started here and ends with the call.

    Raises:
        ValueError: if an actor fails, nothing happens for `GIVE_UP_AFTER` seconds, or `on_error` is stop and images
            cannot be read.
    """
    missing = []
    for number in range(manifest.shards):
        if entry := manifest.entry(number):
            refuse_failures(entry, job.on_error)
        else:
            missing.append(number)
    if not missing:
        return 0, 0.0
    with _connected() as ray:
        counts = _counting_actor(ray)
        pool, resources = actor_pool(ray.nodes())
        numbers = ray.data.from_items(missing, override_num_blocks=min(len(missing), BLOCKS))
        written = numbers.map_batches(
            ShardWriter,
            batch_size=1,
            fn_constructor_args=(job, Counts(counts)),
            compute=ray.data.ActorPoolStrategy(size=min(pool, len(missing))),
            **resources,
        )
        with _watched(ray, counts, bar):
            rows = written.take_all()
    return int(sum(row["images"] for row in rows)), float(sum(row["cpu_seconds"] for row in rows))


@contextmanager
def _connected() -> Iterator[Any]:
    """Yield `ray`, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
    import ray
    import ray.data

    context, is_ours = ray.data.DataContext.get_current(), not ray.is_initialized()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its tracebacks are our sentences
    if is_ours:
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def actor_pool(nodes: Sequence[dict[str, Any]]) -> tuple[int, dict[str, float]]:
    """Return how many actors the machines of a cluster take, and what each of them occupies.

    One CPU of each machine is left to Ray: a pool as large as the machine may wait forever. On GPUs there is one actor
    for each, if the driver has one too: it has chosen the engine.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    if not machines:
        raise ValueError("Expected a Ray cluster with CPUs, got none. Start its machines, see `ray status`.")
    with_gpu = [one for one in machines if one.get("GPU")]
    if with_gpu and torch.cuda.is_available():
        cpus = min((one["CPU"] - 1) // one["GPU"] for one in with_gpu)
        return int(sum(one["GPU"] for one in with_gpu)), {"num_cpus": max(cpus, 1), "num_gpus": 1}
    if with_gpu:
        logger.warning("The GPUs of the cluster stay unused: start the command on a machine that has one.")
    smallest = min(one["CPU"] for one in machines)
    cpus = (smallest - 1) // max(1, round(smallest / CORES))
    if cpus < 1:
        return len(machines), {"num_cpus": 0.5}
    return int(sum((one["CPU"] - 1) // cpus for one in machines)), {"num_cpus": cpus}


def _counting_actor(ray: Any) -> Any:
    class Counted:  # in here, so that its process does not import this package
        def __init__(self) -> None:
            self.images = self.failed = 0
            self.begun = dict[int, int]()
            self.reason: tuple[str, bool] | None = None

        def begin(self, number: int) -> int:
            self.begun[number] = self.begun.get(number, -1) + 1
            return self.begun[number]

        def add(self, images: int, failed: int) -> None:
            self.images, self.failed = self.images + images, self.failed + failed

        def get(self) -> tuple[int, int]:
            return self.images, self.failed

        def end(self, reason: str, unreadable: bool) -> None:
            self.reason = self.reason or (reason, unreadable)

        def ended(self) -> tuple[str, bool] | None:
            return self.reason

    return ray.remote(num_cpus=0)(Counted).remote()


@contextmanager
def _watched(ray: Any, counts: Any, bar: Any) -> Iterator[None]:
    """Move the bar while Ray works in this thread; say so where nothing moves, and in the end interrupt it."""
    given_up, ended = list[str](), Event()
    is_main = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        seen, since, said = 0, time.monotonic(), 0.0
        while not ended.wait(POLL):
            images, failed = _counted(ray, counts, seen)
            quiet = time.monotonic() - since
            if images > seen:
                bar.update(min(images, bar.total) - bar.n)  # a shard of a killed worker is counted twice
                bar.set_postfix(failed=failed)
                seen, since, said = images, time.monotonic(), 0.0
            elif is_main and quiet > GIVE_UP_AFTER:
                given_up.append(_standstill(ray, quiet))
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            elif quiet > said + WARN_AFTER:
                said = quiet
                logger.warning("%s", _standstill(ray, quiet))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        if not given_up:
            raise
        raise ValueError(f"{given_up[0]} Given up; what is finished stays: start the same command again.") from None
    except ray.exceptions.RayError as error:
        reason, unreadable = ray.get(counts.ended.remote()) or (_reason(error), False)
        if unreadable:
            raise UnreadableImagesError(reason) from None
        raise ValueError(
            f"A worker of the cluster failed: {reason} What is finished stays: mend it and start the same "
            "command again."
        ) from error
    finally:
        ended.set()
        watcher.join()


def _counted(ray: Any, counts: Any, seen: int) -> tuple[int, int]:
    try:
        return ray.get(counts.get.remote(), timeout=POLL)
    except ray.exceptions.RayError:  # no answer in time, or the actor is gone
        return seen, 0


def _standstill(ray: Any, seconds: float) -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    return (
        f"No image was embedded for {seconds:.0f} s. Ray has {free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPUs "
        f"free on {sum(node['Alive'] for node in ray.nodes())} machines: workers that are still opening the model, "
        "slow storage, another process that writes the same shards, or a pool without place (`ray status`)."
    )


def _reason(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return str(cause or error).strip().splitlines()[-1]


__all__ = ["Job", "actor_pool", "write_on_ray"]
