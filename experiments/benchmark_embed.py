"""Files to vectors: `omni-vision embed` beside the pipeline of transformers, in CPU seconds, and what `fast` costs.

    python -m experiments.benchmark_embed --output docs/embedding.json --labelled data/fashion_mnist

An untrained ViTTiny of 224 pixels and its native twin encode the same JPEG files in turn, from the first file opened
to the last shard closed; the figure is the median over rounds of the ratio within a round. Beside them stand reading
and encoding alone, one after the other: more than their ratio no way of joining them can reach. `--labelled` is a
folder of IDX files whose test images, enlarged and saved as JPEG, are classified after either way of decoding.
`--rows` measures peak memory of a run in a process of its own.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar, tqdm

from modeling_omni_vision.configuration_omni_vision import OmniVisionConfig
from modeling_omni_vision.data.image_files import LeftOut
from modeling_omni_vision.embedding.embed import BATCH_SIZE, Pipeline, write_shards
from modeling_omni_vision.embedding.pixels import PixelReader
from modeling_omni_vision.embedding.shards import Manifest
from modeling_omni_vision.embedding.sources import list_rows
from modeling_omni_vision.embedding.vision_encoder import VisionEncoder
from modeling_omni_vision.evaluation.evaluate import load_images
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor, read_image
from modeling_omni_vision.interop.to_native import convert_to_native
from modeling_omni_vision.modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from modeling_omni_vision.records.command import recorded_command
from modeling_omni_vision.records.machine import describe_machine, has_bf16_instructions, recorded_versions
from modeling_omni_vision.records.metrics_file import write_json


SIZES = {"500x375": (500, 375, 96), "1000x750": (1000, 750, 48), "4000x3000": (4000, 3000, 16)}
BUNDLED = "checkpoints/omni-vision-fashion-mnist"
QUALITY, NOISE, ENLARGED = 90, 4, 448
MEMORY = (
    "import sys; from modeling_omni_vision.embedding.embed import embed; embed(*sys.argv[1:2], "
    "sys.argv[2:3], sys.argv[3], engine=sys.argv[4]); "
    # Not ru_maxrss, which begins with the peak of the process that started this one.
    "print(next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)


def write_photographs(folder: Path, width: int, height: int, count: int) -> list[str]:
    """Write JPEG crops of two photographs, with noise as a camera's, and return their paths."""
    draws, photographs = np.random.default_rng(0), load_sample_images()["images"]
    folder.mkdir()
    for number in range(count):
        photograph = Image.fromarray(photographs[number % 2])
        side = int(draws.integers(300, 400))
        left, upper = int(draws.integers(0, 640 - side)), int(draws.integers(0, 427 - side * 3 // 4))
        crop = photograph.crop((left, upper, left + side, upper + side * 3 // 4)).resize((width, height), 3)
        noisy = np.asarray(crop, dtype=np.int16) + draws.integers(
            -NOISE, NOISE + 1, (height, width, 3), dtype=np.int16
        )
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.jpg", quality=QUALITY)
    return sorted(map(str, folder.iterdir()))


def models(folder: Path) -> tuple[Path, Path]:
    """Save an untrained ViTTiny with its processor, and its native twin."""
    torch.manual_seed(0)
    OmniVisionModel(OmniVisionConfig()).save_pretrained(folder / "ours")
    OmniVisionImageProcessor().save_pretrained(folder / "ours")
    convert_to_native(folder / "ours", folder / "twin")
    return folder / "ours", folder / "twin"


def measure_speed(rounds: int, engine: str) -> dict[str, Any]:
    """Time both, and return for each size the CPU seconds a round and image, and the medians of the ratios."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        ours, twin = models(Path(name))
        encoder = VisionEncoder(str(ours))
        chosen = encoder.engine(engine, BATCH_SIZE, print)
        batch = encoder.example.repeat(BATCH_SIZE, 1, 1, 1)
        peer = pipeline("image-feature-extraction", model=str(twin), batch_size=BATCH_SIZE, device="cpu")
        for size, (width, height, count) in SIZES.items():
            files = write_photographs(Path(name, size), width, height, count)

            def stock(files: list[str] = files) -> None:
                peer(files)

            ways: dict[str, Callable[[], None]] = {"pipeline": stock}
            for decode in ("exact", "fast"):
                pixels = PixelReader(encoder.processor, 3, decode)
                run = Pipeline(pixels, chosen, encoder.vector_shape, BATCH_SIZE)

                def embed_files(run: Pipeline = run, files: list[str] = files) -> None:
                    settings = {
                        "vector": encoder.vector_shape,
                        "weights_digest": "",
                        "pool": "cls",
                        "normalize": False,
                    }
                    with tempfile.TemporaryDirectory() as output:
                        manifest = Manifest(Path(output), settings, list_rows(files, [], LeftOut()), 4096)
                        with tqdm(disable=True) as bar:
                            write_shards(manifest, run, range(manifest.shards), bar)

                def parts(pixels: PixelReader = pixels, files: list[str] = files, count: int = count) -> None:
                    for file in files:
                        pixels.read(file)
                    for _ in range(count // BATCH_SIZE):
                        chosen.run(batch)

                ways[decode], ways[f"{decode} parts"] = embed_files, parts
            found[size] = {"images": count, **interleaved(ways, rounds, count)}
            print(size, json.dumps({way: found[size][way]["ratio"] for way in ways}), flush=True)
    return {"engine": chosen.name, "sizes": found}


def interleaved(ways: dict[str, Callable[[], None]], rounds: int, count: int) -> dict[str, Any]:
    """Run the ways in turn, each round in another order, after one round that is not counted."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(rounds + 1):
        for way in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            ways[way]()
            seconds[way].append(time.process_time() - start)
    ratios = {way: [a / b for a, b in zip(seconds["pipeline"][1:], seconds[way][1:], strict=True)] for way in ways}
    return {
        way: {
            "cpu_ms_an_image": round(1000 * statistics.median(seconds[way][1:]) / count, 2),
            "ratio": round(statistics.median(ratios[way]), 2),
            "range": [round(min(ratios[way]), 2), round(max(ratios[way]), 2)],
        }
        for way in ways
    }


def measure_accuracy(folder: str, count: int = 2000) -> dict[str, Any]:
    """Classify enlarged test images with the bundled classifier after either way of decoding."""
    rows = load_images(folder)["test"].select(range(count))
    model = OmniVisionForImageClassification.from_pretrained(BUNDLED).eval()
    processor = OmniVisionImageProcessor.from_pretrained(BUNDLED)
    readers = {decode: PixelReader(processor, model.config.num_channels, decode) for decode in ("exact", "fast")}
    logits: dict[str, list[torch.Tensor]] = {decode: [] for decode in readers}
    for row in rows:
        content = io.BytesIO()
        Image.fromarray(read_image(row["image"])).resize((ENLARGED, ENLARGED), 3).save(
            content, "JPEG", quality=QUALITY
        )
        for decode, reader in readers.items():
            with torch.inference_mode():
                logits[decode].append(model(reader.batch([reader.read(content.getvalue())])).logits[0])
    labels, best = (
        torch.tensor(rows["label"][:]),
        {decode: torch.stack(all_).argmax(-1) for decode, all_ in logits.items()},
    )
    return {
        "images": count,
        "pixels": ENLARGED,
        "accuracy": {decode: round(float((one == labels).float().mean()), 4) for decode, one in best.items()},
        "same_label": round(float((best["exact"] == best["fast"]).float().mean()), 4),
    }


def measure_engines(folder: str, count: int = 1000) -> dict[str, Any]:
    """Compare the vectors of each engine with those of torch in float32, and the nearest images by them."""
    rows, encoder, found = load_images(folder)["test"].select(range(count)), VisionEncoder(BUNDLED), dict[str, Any]()
    reader = PixelReader(encoder.processor, encoder.num_channels)
    batches = [reader.batch([reader.read(row["image"]) for row in batch]) for batch in batched(rows, BATCH_SIZE)]
    expected = torch.nn.functional.normalize(torch.cat([encoder.reference(batch) for batch in batches]), dim=1)
    for name in ("torch sdpa float32", "torch eager float32", "torch sdpa bfloat16", "openvino", "onnx"):
        engine = encoder.engine(name, BATCH_SIZE, print)
        vectors = torch.nn.functional.normalize(torch.cat([engine.run(batch) for batch in batches]), dim=1)
        nearest = [(one @ one.T).fill_diagonal_(-1).argmax(1) for one in (vectors, expected)]
        found[engine.name] = {
            "least_cosine": round(float((vectors * expected).sum(1).min()), 6),
            "same_nearest": round(float((nearest[0] == nearest[1]).float().mean()), 4),
        }
        print(engine.name, found[engine.name], flush=True)
    return {"images": count, "engines": found}


def batched(rows: Any, size: int) -> list[list[Any]]:
    """Return the rows in lists of one size; what is left at the end is left out."""
    return [[rows[start + one] for one in range(size)] for start in range(0, len(rows) - size + 1, size)]


def measure_memory(counts: Sequence[int], engine: str) -> dict[str, Any]:
    """Return the peak memory of processes that embed so many small images of one file, and bytes a row more."""
    content, found = io.BytesIO(), []
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(content, "PNG")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            source = Path(name, "images.parquet")
            pq.write_table(pa.table({"image": pa.array([content.getvalue()] * count)}), source, row_group_size=10_000)
            words = [sys.executable, "-c", MEMORY, BUNDLED, str(source), str(Path(name, "out")), engine]
            start = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            peak = int(done.stdout.splitlines()[-1])
            found.append({"rows": count, "peak_bytes": peak, "seconds": round(time.perf_counter() - start)})
            print(found[-1], flush=True)
    rows, peaks = ([one[name] for one in found] for name in ("rows", "peak_bytes"))
    return {"runs": found, "bytes_a_row": round(float(np.polyfit(rows, peaks, 1)[0]), 2) if len(found) > 1 else None}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the flags ask for, and keep what the record says about the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON record; sections that are not measured are kept")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the speed; 0 leaves it out")
    parser.add_argument("--engine", default="auto", help="auto, torch or openvino")
    parser.add_argument("--labelled", help="folder of IDX files")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="numbers of images to measure memory at")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    disable_progress_bar()
    path = Path(arguments.output)
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    about = {
        "machine": {**describe_machine(), "bf16": has_bf16_instructions()},
        "versions": recorded_versions("pillow"),
    }
    with contextlib.suppress(ImportError):
        import openvino

        about["versions"]["openvino"] = openvino.__version__
    command = recorded_command(
        "python", ["-m", "experiments.benchmark_embed", *(sys.argv[1:] if argv is None else argv)]
    )
    if arguments.rounds:
        record["speed"] = {
            **measure_speed(arguments.rounds, arguments.engine),
            "rounds": arguments.rounds,
            **about,
            "command": command,
        }
        write_json(path, record)
    if arguments.labelled:
        record["accuracy"] = measure_accuracy(arguments.labelled)
        write_json(path, record)
        record["engines"] = {**measure_engines(arguments.labelled), **about, "command": command}
        write_json(path, record)
    if arguments.rows:
        engine = "openvino" if arguments.engine == "auto" else arguments.engine
        record["memory"] = {**measure_memory(arguments.rows, engine), "engine": engine, **about, "command": command}
        write_json(path, record)


if __name__ == "__main__":
    main()
