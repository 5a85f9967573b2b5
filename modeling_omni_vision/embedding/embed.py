"""Any number of images to vectors, in shards that a killed run goes on from.

Decoding runs in threads ahead of the encoder, by no more than two batches. A batch always has the same size, filled up
with blank images, so that neither a broken image nor the end of a shard changes how the others are computed.
"""

import importlib.util
import itertools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from filelock import FileLock
from transformers.utils.logging import tqdm

from ..data.image_files import LeftOut
from ..data.image_folder import warn_of_left_out
from ..data.integrity import check_on_error, read_failure, refuse_unreadable
from ..records.machine import cpu_model, describe_machine, recorded_versions
from .pixels import PixelReader, Pixels
from .shards import ENGINE, MANIFEST, SETTINGS, Manifest, read_json, write_whole
from .sources import Reader, Row, list_rows
from .vision_encoder import Engine, VisionEncoder, check_engine


logger = logging.getLogger(__name__)

BATCH_SIZE, SHARD_ROWS = 16, 4096
Result = tuple["np.ndarray | str", tuple[int, int]]


def embed(
    model: str,
    images: Sequence[str],
    output: str | Path,
    pool: str = "cls",
    normalize: bool = False,
    engine: str = "auto",
    decode: str = "exact",
    batch_size: int = BATCH_SIZE,
    shard_rows: int = SHARD_ROWS,
    workers: int | None = None,
    on_error: str = "skip",
    limit: int | None = None,
    shard: str | None = None,
    cluster: str | None = None,
    npy: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Turn images into vectors on disk; called again, it goes on where it stopped.

    Args:
        model: Folder or Hub id of a vision model, or an exported folder.
        images: Sources, see `sources`.
        output: Folder to write.
        pool: `cls`, `mean`, or `grid` for the vectors of all patches.
        normalize: Scale vectors to length 1.
        engine: `auto` for the fastest by calibration, `torch`, `openvino` or `onnx`; or exactly one, as
            `torch sdpa bfloat16`, the way in which a run stores it.
        decode: `exact` for the image processor's pixels, `fast` to scale JPEG while decoding.
        batch_size: Images in one forward.
        shard_rows: Images of one file; what a killed process has to do again at most.
        workers: Threads that decode, by default one for each core.
        on_error: `skip` goes on without images that cannot be read; `stop` refuses the first shard with such an
            image. It does not look at all of them first, which would take as long as the decoding.
        limit: Take the first images alone.
        shard: `i/n` to write only every n-th shard from i on, 0 the first: one part of several processes. `auto`
            takes i and n from what torchrun or SLURM has set.
        cluster: `ray` to let the machines of a Ray cluster write the shards, see `cluster`.
        npy: Also write all vectors as one array, vectors.npy.
        revision: Commit, branch or tag of the checkpoint on the Hub.
        trust_remote_code: Run code that comes with the checkpoint.
        report: Called with lines about engine and progress.

    Returns:
        What embed.json says, or None while other processes have shards to write.

    Raises:
        ValueError: for what cannot be embedded, or an output that was begun with something else; where `on_error` is
            stop, naming images that cannot be read.
    """
    output, started = Path(output), (time.perf_counter(), time.process_time())
    check_on_error(on_error)
    _check_numbers(batch_size=batch_size, shard_rows=shard_rows, workers=workers, limit=limit)
    check_engine(engine)
    _check_output(output)
    part, parts = _part(shard)
    _check_cluster(cluster, shard)
    encoder = VisionEncoder(model, pool, normalize, revision, trust_remote_code)
    pixels = PixelReader(encoder.processor, encoder.num_channels, decode)
    chosen = _engine(encoder, output / MANIFEST, engine, batch_size, report)
    settings = {
        "weights_digest": encoder.weights_digest,
        "vector": encoder.vector_shape,
        "processor": processor_settings(encoder.processor),
        **{"pool": pool, "normalize": normalize, "decode": decode, "engine": chosen.name, "batch_size": batch_size},
        "cpu": cpu_model() + " " + torch.backends.cpu.get_cpu_capability(),
        "versions": recorded_versions() | {"pillow": PIL.__version__},
    }
    left_out = LeftOut()
    rows = itertools.islice(list_rows(images, [output], left_out), limit)
    manifest = Manifest(output, settings, rows, shard_rows)
    warn_of_left_out(left_out, ", ".join(map(str, images)))
    if not manifest.images:
        raise ValueError(f"Expected images in {list(images)}, got none. Correct the path.")
    pipeline = Pipeline(pixels, chosen, encoder.vector_shape, batch_size, workers)
    with tqdm(total=manifest.images, unit=" images", desc="Embedding") as bar:
        if cluster:
            written, elsewhere = _write_on_cluster(
                manifest, model, revision, trust_remote_code, workers, on_error, bar
            )
        else:
            mine = range(part, manifest.shards, parts)
            written, elsewhere = write_shards(manifest, pipeline, mine, bar, on_error), 0.0
    seconds, cpu_seconds = (
        now - then for now, then in zip((time.perf_counter(), time.process_time()), started, strict=True)
    )
    cpu_seconds += elsewhere
    rates = {"images": written, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}
    rates["images_per_cpu_second"] = round(written / max(cpu_seconds, 1e-9), 1)
    return manifest.finish({"model": model, "last_run": rates, "machine": describe_machine()}, npy)


def processor_settings(processor: Any) -> dict[str, Any]:
    """Return what decides about the pixels in the settings of an image processor."""
    names = ("size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor", "num_channels")
    flags = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "background_color")
    saved = processor.to_dict()
    return {"type": type(processor).__name__} | {
        name: _plain(saved[name]) for name in (*names, *flags) if name in saved
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, dict) else value


def _engine(
    encoder: VisionEncoder, manifest: Path, engine: str, batch_size: int, report: Callable[[str], None]
) -> Engine:
    """Return the engine that this run began with; of processes that start together, one chooses for all."""

    def begun() -> str:
        files = (manifest / SETTINGS, manifest / ENGINE)
        known = next((read_json(file)["engine"] for file in files if file.is_file()), "")
        return known if engine in ("auto", known, known.split(" ")[0]) else ""

    manifest.mkdir(parents=True, exist_ok=True)
    if not begun():
        with FileLock(manifest / "engine.lock"):
            if not begun():
                chosen = encoder.engine(engine, batch_size, report)
                write_whole(manifest / ENGINE, json.dumps({"engine": chosen.name}))
                return chosen
    return encoder.engine(begun(), batch_size, report)


def _part(shard: str | None) -> tuple[int, int]:
    said = _launched() if shard == "auto" else shard or "0/1"
    try:
        part, parts = map(int, said.split("/"))
        if 0 <= part < parts:
            return part, parts
    except ValueError:
        pass
    raise ValueError(f"`shard` must be auto, or i/n with 0 <= i < n, as 0/4, got {said!r}.")


def _launched() -> str:
    """Return which process this is of those that torchrun, a SLURM array, srun, or both of these have started."""

    def said(name: str, otherwise: int) -> int:
        return int(os.environ.get(name, otherwise))

    if "WORLD_SIZE" in os.environ:
        return f"{said('RANK', 0)}/{said('WORLD_SIZE', 1)}"
    if not {"SLURM_ARRAY_TASK_ID", "SLURM_PROCID"} & set(os.environ):
        raise ValueError(
            "`shard` auto reads RANK and WORLD_SIZE (torchrun), or SLURM_ARRAY_TASK_ID and SLURM_PROCID (SLURM), "
            "got none of them. Say i/n."
        )
    array = (said("SLURM_ARRAY_TASK_ID", 0) - said("SLURM_ARRAY_TASK_MIN", 0)) // said("SLURM_ARRAY_TASK_STEP", 1)
    tasks = said("SLURM_NTASKS", 1)
    return f"{array * tasks + said('SLURM_PROCID', 0)}/{said('SLURM_ARRAY_TASK_COUNT', 1) * tasks}"


def _check_numbers(batch_size: int, shard_rows: int, workers: int | None, limit: int | None) -> None:
    """Refuse what would be found out only after the output is begun with it, or never."""
    numbers = {"batch_size": batch_size, "shard_rows": shard_rows}
    numbers |= {name: one for name, one in (("workers", workers), ("limit", limit)) if one is not None}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"Expected a whole `{name}` of at least 1, got {number!r}. Correct it or leave it out.")


def _check_output(output: Path) -> None:
    """Refuse a folder of somebody's files: those would be taken for results, and no image in it be listed any more."""
    if output.exists() and not (output / MANIFEST).is_dir() and (not output.is_dir() or any(output.iterdir())):
        held = "with other files in it" if output.is_dir() else "which is a file"
        raise ValueError(
            f"Expected a new or an empty folder as output, or one that embedding began, got {str(output)!r} {held}. "
            "Name another."
        )


def _check_cluster(cluster: str | None, shard: str | None) -> None:
    if cluster not in (None, "ray"):
        raise ValueError(f"`cluster` must be ray, or left out, got {cluster!r}.")
    if cluster and shard:
        raise ValueError(f"`cluster` shares the shards itself: leave out `shard`, got {shard!r}.")
    if cluster and not importlib.util.find_spec("ray"):
        raise ImportError("Ray is not installed.", name="ray")


def _write_on_cluster(
    manifest: Manifest,
    model: str,
    revision: str | None,
    trust_remote_code: bool,
    workers: int | None,
    on_error: str,
    bar: Any,
) -> tuple[int, float]:
    from .cluster import Job, write_on_ray

    job = Job(model, str(manifest.folder.resolve()), revision, trust_remote_code, workers, os.getcwd(), on_error)
    return write_on_ray(manifest, job, bar)


def write_shards(
    manifest: Manifest, pipeline: "Pipeline", numbers: Sequence[int], bar: Any, on_error: str = "skip"
) -> int:
    """Write the shards that no other process writes, then wait for theirs and write what they left; count images."""
    written = failed = 0
    for wait in (False, True):
        for number in numbers:
            if entry := manifest.entry(number):
                refuse_failures(entry, on_error)
                continue
            with manifest.claim(number, wait) as is_ours:
                if not is_ours:
                    continue
                rows = manifest.rows(number)
                results = list(pipeline.run(rows, bar))
                vectors, sizes = zip(*results, strict=True)
                broken = [
                    {"path": row.path, "reason": one}
                    for row, one in zip(rows, vectors, strict=True)
                    if isinstance(one, str)
                ]
                refuse_failures({"rows": len(rows) - len(broken), "failures": broken}, on_error)
                failed += len(manifest.write(number, rows, vectors, sizes)["failures"])
                written += len(rows)
                bar.set_postfix(failed=failed)
    return written


def refuse_failures(entry: Mapping[str, Any] | None, on_error: str) -> None:
    """Raise a `ValueError` that names the images of a shard that cannot be read, where `on_error` is stop."""
    if entry and entry["failures"] and on_error == "stop":
        broken = [(one["path"], one["reason"]) for one in entry["failures"]]
        refuse_unreadable(broken, entry["rows"] + len(broken), on_error)


class Pipeline:
    """Rows to vectors: threads decode ahead of the encoder, results come in order.

    Args:
        pixels: Reads images.
        engine: Encodes batches.
        vector_shape: Shape of what an image becomes.
        batch_size: Images in one forward.
        workers: Threads, by default one for each core.
    """

    def __init__(
        self,
        pixels: PixelReader,
        engine: Engine,
        vector_shape: Sequence[int],
        batch_size: int,
        workers: int | None = None,
    ) -> None:
        self.pixels, self.engine, self.vector_shape, self.batch_size = pixels, engine, tuple(vector_shape), batch_size
        self.pool = ThreadPoolExecutor(workers or os.cpu_count())
        self.reader = Reader()

    def run(self, rows: Sequence[Row], bar: Any = None) -> Iterator[Result]:
        """Yield for each row its vector in float16, or the reason why it has none, and its width and height."""
        waiting, todo = deque[Future[Pixels | str]](), iter(rows)
        for start in range(0, len(rows), self.batch_size):
            for row in itertools.islice(todo, 3 * self.batch_size - len(waiting)):
                waiting.append(self._submit(row))
            batch = [waiting.popleft().result() for _ in rows[start : start + self.batch_size]]
            yield from self.encode(batch)
            if bar is not None:
                bar.update(len(batch))

    def _submit(self, row: Row) -> "Future[Pixels | str]":
        try:
            source = self.reader.read(row)  # containers are read in order, by one thread
        except Exception as error:  # file systems and formats raise many kinds
            failed: Future[Pixels | str] = Future()
            failed.set_result(read_failure(error, row.place))
            return failed
        return self.pool.submit(self._decode, row, source)

    def _decode(self, row: Row, source: Any) -> "Pixels | str":
        try:
            return self.pixels.read(source)
        except Exception as error:  # decoders raise many kinds
            return read_failure(error, row.path)

    def encode(self, batch: Sequence["Pixels | str"]) -> Iterator[Result]:
        """Yield the same for one batch, of no more than `batch_size` images that are read."""
        results: list[Result] = [(one, (0, 0)) if isinstance(one, str) else ("", one.size) for one in batch]
        groups: dict[Any, list[int]] = {}
        for position, one in enumerate(batch):
            if not isinstance(one, str):
                groups.setdefault((one.values.shape, one.normalized), []).append(position)
        for positions in groups.values():
            for position, vector in zip(positions, self._vectors([batch[one] for one in positions]), strict=True):
                results[position] = (self._checked(vector), results[position][1])
        yield from results

    def _vectors(self, images: Sequence[Any]) -> np.ndarray:
        blank = images[0]._replace(values=torch.zeros_like(images[0].values))
        filled = [*images, *[blank] * (self.batch_size - len(images))]
        return self.engine.run(self.pixels.batch(filled))[: len(images)].numpy()

    def _checked(self, vector: np.ndarray) -> "np.ndarray | str":
        with np.errstate(over="ignore"):
            stored = vector.astype(np.float16)
        if not np.isfinite(vector).all():
            return "its vector is not finite: the model computes NaN or infinity"
        if not np.isfinite(stored).all():
            return "its vector has values that float16 does not hold: pass --normalize"
        if len(self.vector_shape) == 1 and stored.shape != self.vector_shape:
            return f"its vector has the shape {stored.shape}, expected {self.vector_shape}"
        return stored


__all__ = ["BATCH_SIZE", "SHARD_ROWS", "Pipeline", "embed", "refuse_failures", "write_shards"]
