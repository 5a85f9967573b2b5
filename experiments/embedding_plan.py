"""What embedding past one machine costs: storage by the recall of each form of a vector, computing by measured rates.

    python -m experiments.embedding_plan --model MODEL --images SOURCE --output docs/embedding_plan.json \
        --core_hour 0.05 --gpu_hour 3 --gigabyte_month 0.023

Recall is that of the ten nearest images by exact search in the vectors of SOURCE as a form stores them, against
exact search by cosine in float32; the queries are images of SOURCE that are not searched. Prices are yours.
"""

import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import read
from modeling_omni_vision.cli.arguments import option, parse
from modeling_omni_vision.cli.program import program
from modeling_omni_vision.data.image_files import LeftOut
from modeling_omni_vision.embedding.embed import SHARD_ROWS
from modeling_omni_vision.embedding.pixels import PixelReader
from modeling_omni_vision.embedding.shards import PLAN, Manifest
from modeling_omni_vision.embedding.sources import Reader, list_rows
from modeling_omni_vision.embedding.vision_encoder import VisionEncoder
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json


NEAREST, QUERIES, BATCH, BLOCK = 10, 1000, 16, 500
# Rows fetched by their codes for each one that is wanted, before the finer vectors decide.
REFINED = (4, 10)
MILLION, BILLION, GIGA = 10**6, 10**9, 10**9
HOUR = 3600
Scores = Callable[[np.ndarray], np.ndarray]


def vectors_of(model: str, images: list[str]) -> np.ndarray:
    """Return the vectors (images, D) of length 1 in float32, not rounded as those on disk."""
    encoder = VisionEncoder(model, normalize=True)
    engine, reader = encoder.engine("torch sdpa float32", BATCH, print), Reader()
    pixels, rows = PixelReader(encoder.processor, encoder.num_channels), list(list_rows(images, [], LeftOut()))
    batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    return np.concatenate(
        [engine.run(pixels.batch([pixels.read(reader.read(row)) for row in batch])).numpy() for batch in batches]
    )


def int8(vectors: np.ndarray) -> np.ndarray:
    """Return vectors whose numbers are one of 256 steps between the least and the greatest of their dimension."""
    least, greatest = vectors.min(0), vectors.max(0)
    steps = np.maximum(greatest - least, 1e-12) / 255
    return np.rint((vectors - least) / steps).astype(np.uint8) * steps + least


def bits(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return a bit for each number, whether it is above its mean."""
    return np.packbits(vectors > centre, axis=1)


def nearest(scores: Scores, queries: np.ndarray, limit: int) -> np.ndarray:
    """Return the positions (queries, limit) of the highest scores, highest first."""
    found = []
    for start in range(0, len(queries), BLOCK):
        block = scores(queries[start : start + BLOCK])
        some = np.argpartition(-block, limit, axis=1)[:, :limit]
        found.append(np.take_along_axis(some, np.argsort(-np.take_along_axis(block, some, 1), axis=1), 1))
    return np.concatenate(found)


def measured_forms(vectors: np.ndarray) -> list[dict[str, Any]]:
    """Return bytes, recall, and mean cosine lost by what is found instead, of each form of storage."""
    order = np.random.default_rng(0).permutation(len(vectors))
    queries, base = vectors[order[:QUERIES]], vectors[order[QUERIES:]]
    centre, width = base.mean(0), base.shape[1]
    half, bytes_, codes = base.astype(np.float16).astype(np.float32), int8(base), bits(base, centre)

    def hamming(some: np.ndarray) -> np.ndarray:
        return -np.stack([np.bitwise_count(codes ^ code).sum(1, dtype=np.int32) for code in bits(some, centre)])

    truth = nearest(lambda some: some @ base.T, queries, NEAREST)
    forms: dict[str, tuple[float, np.ndarray]] = {
        "float32": (4 * width, truth),
        "float16": (2 * width, nearest(lambda some: some @ half.T, queries, NEAREST)),
        "int8": (width, nearest(lambda some: some @ bytes_.T, queries, NEAREST)),
        "binary": (width / 8, nearest(hamming, queries, NEAREST)),
    }
    for factor in REFINED:
        near = nearest(hamming, queries, factor * NEAREST)
        best = np.take_along_axis(near, np.argsort(-cosines(queries, half, near), axis=1)[:, :NEAREST], 1)
        forms[f"binary, best {factor * NEAREST} by float16"] = (width / 8 + 2 * width, best)
    best = cosines(queries, base, truth).mean()
    return [
        {
            **{"form": name, "bytes": size, "gigabytes_a_billion": size * BILLION / GIGA},
            **{"recall": recall(found, truth), "cosine_lost": float(best - cosines(queries, base, found).mean())},
        }
        for name, (size, found) in forms.items()
    ]


def cosines(queries: np.ndarray, base: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the cosine (queries, n) of each query with the vectors at its positions (queries, n)."""
    return np.einsum("qd,qnd->qn", queries, base[positions])


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the true nearest that is found."""
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, truth, strict=True)]))


def measured_listing() -> dict[str, float]:
    """Return what it costs to list a million images and to write the plan of a run."""
    with tempfile.TemporaryDirectory() as name:
        source, before = Path(name, "list.txt"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        source.write_text("".join(f"s3://bucket/folder {n % 1000}/{n:09d}.jpg\n" for n in range(MILLION)))
        start, rows = time.process_time(), list_rows([str(source)], [], LeftOut())
        manifest = Manifest(Path(name, "out"), {"vector": [1]}, rows, SHARD_ROWS)
        plan = (manifest.manifest / PLAN).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time.process_time() - start
    return {"images": MILLION, "cpu_seconds": seconds, "plan_bytes": plan, "memory_bytes": peak * 1024}


def costs(rates: Iterable[dict[str, Any]], prices: dict[str, float]) -> list[dict[str, Any]]:
    """Return what a million images cost by each measured rate, and how long a billion take on a thousand."""
    return [
        {
            **rate,
            "hours_a_million": rate["seconds_an_image"] * MILLION / HOUR,
            "dollars_a_million": rate["seconds_an_image"] * MILLION / HOUR * prices[rate["of"]],
            "hours_a_billion_on_1000": rate["seconds_an_image"] * BILLION / HOUR / 1000,
        }
        for rate in rates
    ]


def measured_rates() -> Iterator[dict[str, Any]]:
    """Yield the rates of docs/embedding.json on its CPU, and of the encoder alone on the GPU of docs/gpu.json."""
    speed = read("docs/embedding.json")["speed"]
    machine = speed["machine"]
    for size, ways in speed["sizes"].items():
        for decode in ("exact", "fast"):
            work = f"JPEG {size}, {decode}, {speed['engine']}"
            about = {"hardware": f"{machine['cpu']} core{'' if machine['bf16'] else ', AVX2 only'}", "of": "core"}
            yield {"work": work, **about, "seconds_an_image": ways[decode]["cpu_ms_an_image"] / 1000}
    gpu = read("docs/gpu.json")
    batch, took = 1024, gpu["forward"]["tiny 1024"]["ours"]["ms"] / 1000
    about = {"hardware": gpu["machine"]["device"], "of": "gpu"}
    yield {"work": f"encoder alone, bfloat16, batch {batch}", **about, "seconds_an_image": took / batch}


@dataclass
class EmbeddingPlanArguments:
    """What to measure, and prices in dollars."""

    output: Path = option("JSON file to write.")
    core_hour: float = option("Price of a CPU core for an hour.")
    gpu_hour: float = option("Price of a GPU for an hour.")
    gigabyte_month: float = option("Price of a gigabyte for a month.")
    model: str | None = option("Vision checkpoint whose vectors are stored; without it the forms are kept.", None)
    images: list[str] = option("Images to embed and search.", [])


@program
def main(argv: Sequence[str]) -> None:
    args = parse(EmbeddingPlanArguments, argv)
    command = recorded_command("python", ["-m", "experiments.embedding_plan", *argv])
    record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    if args.model:
        vectors = vectors_of(args.model, args.images)
        record["images"], record["width"], record["queries"] = *vectors.shape, QUERIES
        record |= {"model": args.model, "forms": measured_forms(vectors), "forms_command": command}
    record["listing"] = measured_listing()
    for form in record["forms"]:
        form["dollars_a_month_a_billion"] = form["gigabytes_a_billion"] * args.gigabyte_month
    prices = {"core": args.core_hour, "gpu": args.gpu_hour, "gigabyte_month": args.gigabyte_month}
    record |= {"prices": prices, "costs": costs(measured_rates(), prices)}
    record |= {"machine": describe_machine(), "versions": recorded_versions("pillow"), "command": command}
    write_json(args.output, record)


if __name__ == "__main__":
    main()
