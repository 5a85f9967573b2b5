"""What a student learns from: pixels of images decoded once, and teacher outputs computed once for each view.

Both lie in a folder as arrays, so that a stopped run goes on where it was, and a second run starts at once. Vectors
and tokens are kept in the student's width, in coordinates where its own vector is the teacher's: see `Basis`.
"""

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from transformers.utils.logging import tqdm

from ..data.augmentation import Rows, WithEpoch
from ..data.image_dataset import Normaliser
from ..data.image_files import LeftOut
from ..data.image_folder import warn_of_left_out
from ..data.integrity import read_failure
from ..embedding.pixels import PixelReader
from ..embedding.sources import Reader, Row, list_rows
from ..records.metrics_file import write_json
from .teacher import Teacher, TeacherOutput
from .views import Views, choose_view


logger = logging.getLogger(__name__)

SAVED_EVERY = 2048


@dataclass
class Images:
    """Images of one size in uint8, (N, 3, side, side), by the names of their rows, and those that failed.

    `key` changes with the files; `unread` are ids and paths of those that failed.
    """

    ids: list[str]
    paths: list[str]
    pixels: np.ndarray
    failed: list[dict[str, str]]
    key: str
    unread: frozenset[str] = frozenset()


def read_images(sources: Sequence[str], processor: Any, side: int, folder: Path, limit: int | None = None) -> Images:
    """Decode images once into `folder`, resized to a square of `side`; those that cannot be read are left out.

    Raises:
        ValueError: where there are no images.
    """
    left_out = LeftOut()
    rows = list(itertools.islice(list_rows(sources, [folder], left_out), limit))
    warn_of_left_out(left_out, ", ".join(map(str, sources)))
    if not rows:
        raise ValueError(f"Expected images in {list(sources)}, got none. Correct the path.")
    key = hashlib.sha256(repr([side, [(row.id, row.bytes, row.modified) for row in rows]]).encode()).hexdigest()
    about, array = folder / "pixels.json", folder / "pixels.npy"
    if not about.is_file() or json.loads(about.read_text(encoding="utf-8"))["key"] != key:
        folder.mkdir(parents=True, exist_ok=True)
        about.unlink(missing_ok=True)  # or a stopped run would leave half of other images under the old key
        failed = _decode(rows, PixelReader(processor, 3), side, array)
        write_json(about, {"key": key, "failed": failed})
    failed = json.loads(about.read_text(encoding="utf-8"))["failed"]
    kept = [number for number in range(len(rows)) if str(number) not in failed]
    if not kept:
        raise ValueError(f"Expected images that can be read, got none of {len(rows)}: {next(iter(failed.values()))}.")
    pixels: np.ndarray = np.load(array, mmap_mode="r")
    broken = [{"id": rows[int(number)].id, "reason": reason} for number, reason in failed.items()]
    for one in broken[:3]:
        logger.warning("%s cannot be read: %s", one["id"], one["reason"])
    chosen = pixels if len(kept) == len(rows) else pixels[kept]
    unread = frozenset(name for number in failed for name in (rows[int(number)].id, rows[int(number)].path))
    return Images([rows[one].id for one in kept], [rows[one].path for one in kept], chosen, broken, key, unread)


def _decode(rows: Sequence[Row], reader: PixelReader, side: int, array: Path) -> dict[str, str]:
    out = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(len(rows), 3, side, side))
    sources, failed = Reader(), dict[str, str]()

    def decode(number: int, source: Any) -> None:
        try:
            out[number] = reader.read(source).values.numpy()
        except Exception as error:  # decoders raise many kinds
            failed[str(number)] = read_failure(error, rows[number].path)

    with ThreadPoolExecutor(os.cpu_count()) as threads, tqdm(total=len(rows), desc="Decoding", unit=" images") as bar:
        for start in range(0, len(rows), 64):
            waiting = []
            for number in range(start, min(start + 64, len(rows))):
                try:
                    waiting.append(threads.submit(decode, number, sources.read(rows[number])))
                except Exception as error:  # file systems raise many kinds
                    failed[str(number)] = read_failure(error, rows[number].place)
            for one in waiting:
                one.result()
            bar.update(len(waiting))
    out.flush()
    return failed


class Basis:
    """Coordinates of the student's width in which its own vector stands for the teacher's.

    The teacher's vectors go to their principal axes, as many as fit, turned within the space of zero mean over
    channels, where a residual stream is kept: at random for a new student, for another to where its own vectors are.
    The map is an isometry of these axes: cosines of the student's vectors are cosines in the teacher's space, without
    a head.

    Args:
        vectors: The teacher's (N, D), from which the axes come.
        width: Of the student.
        student: What it says about the same images before it is taught, (N, width). One that learned from this teacher
            before keeps what it learned: the axes go where they agree best (orthogonal Procrustes).
    """

    def __init__(self, vectors: torch.Tensor, width: int, student: torch.Tensor | None = None, seed: int = 0) -> None:
        unit = nn.functional.normalize(vectors.double(), dim=-1)
        energy, axes = torch.linalg.eigh(unit.T @ unit)
        count = min(width - 1, unit.shape[1])
        axes, kept = axes.flip(1)[:, :count], energy.flip(0)[:count]
        draws = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        draws[:, 0] = 1
        free = torch.linalg.qr(draws).Q[:, 1:]  # spans what has zero mean
        turned = free[:, :count]
        if student is not None:
            known = nn.functional.normalize(student.double(), dim=-1) @ free
            left, _, right = torch.linalg.svd((unit @ axes).T @ known, full_matrices=False)
            turned = free @ (left @ right).T
        self.energy = float(kept.sum() / energy.sum())  # of the squared length of unit vectors
        self.matrix = self._near = (axes @ turned.T).float()  # (D, width)

    @classmethod
    def of(cls, matrix: torch.Tensor, energy: float) -> "Basis":
        """Return the coordinates of a matrix that was kept."""
        basis = cls.__new__(cls)
        basis.matrix = basis._near = matrix
        basis.energy = energy
        return basis

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return vectors (..., D) in coordinates of the student (..., width), in float32."""
        if self._near.device != vectors.device:
            self._near = self.matrix.to(vectors.device)
        return vectors.float() @ self._near


class TeacherOutputs:
    """Teacher outputs of rows and views, in arrays of a folder that a stopped run fills further.

    Args:
        teacher: Asked for what is not there yet.
        pixels: Images in uint8 (N, 3, side, side).
        rows: Of which views are needed; of whole images all are.
        views: How views are cut.
        bases: Coordinates of vectors and tokens.
        folder: Of the arrays.
        key: What the outputs depend on beside the view; another key starts anew.
        wanted: Which of `tokens` and `logits` are kept.
    """

    def __init__(
        self,
        teacher: Teacher,
        pixels: np.ndarray,
        rows: Sequence[int],
        views: Views,
        bases: dict[str, Basis],
        folder: Path,
        key: str,
        wanted: Sequence[str],
    ) -> None:
        self.teacher, self.pixels, self.rows, self.views, self.bases = teacher, pixels, rows, views, bases
        self.folder, self.key, self.wanted = folder, key, tuple(wanted)
        self._open: dict[int, dict[str, np.ndarray]] = {}
        self._always: dict[str, np.ndarray] | None = None
        self.on_device: torch.Tensor | None = None  # all images, of those that are kept there

    @property
    def bytes_on_device(self) -> int | None:
        """Memory that the images need on a device."""
        return self.pixels.nbytes

    def move_to(self, device: torch.device) -> None:
        """Keep the images on a device: views are cut there."""
        self.on_device = torch.empty(self.pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self.pixels), SAVED_EVERY):
            part = torch.from_numpy(np.array(self.pixels[start : start + SAVED_EVERY]))
            self.on_device[start : start + SAVED_EVERY].copy_(part)

    def images(self, rows: Sequence[int]) -> torch.Tensor:
        """Return images (rows, 3, side, side) in uint8, from the device if they are there."""
        if self.on_device is None:
            return torch.from_numpy(np.stack([self.pixels[row] for row in rows]))
        return self.on_device[torch.tensor(rows).to(self.on_device.device, non_blocking=True)]

    def always(self, arrays: dict[str, np.ndarray]) -> "TeacherOutputs":
        """Say the same of each view, whatever the teacher would; returns this object."""
        self._always = arrays
        return self

    @property
    def says_always(self) -> bool:
        """Whether it says the same of each view."""
        return self._always is not None

    def view(self, number: int, desc: str = "Teacher") -> dict[str, np.ndarray]:
        """Return arrays of all rows for one view, computed if they are not there."""
        if self._always is not None:
            return self._always
        if number not in self._open:
            # Plain arrays of the same memory: rows of a memmap take long to look up.
            self._open[number] = {name: np.asarray(array) for name, array in self._filled(number, desc).items()}
        return self._open[number]

    def _filled(self, number: int, desc: str) -> dict[str, np.ndarray]:
        about = self.folder / f"view-{number}.json"
        known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        done = known["rows"] if known.get("key") == self.key else 0
        names = ["vectors", *self.wanted]
        arrays = {name: np.load(self._file(number, name), mmap_mode="r+") for name in names} if done else {}
        wanted = self.rows if number else range(len(self.pixels))
        total, label = len(wanted), f"{desc}, view {number}"
        batch = self.teacher.batch
        bar = tqdm(total=total, initial=done, desc=label, unit=" images", disable=done >= total)
        with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(done, total, batch):
                rows = list(wanted[start : start + batch])
                found = self.outputs(rows, [number] * len(rows), threads=threads)
                if not arrays:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    about.unlink(missing_ok=True)  # of another key: a stopped run must not leave it to new arrays
                    arrays = {
                        name: np.lib.format.open_memmap(
                            self._file(number, name), "w+", np.float16, (len(self.pixels), *found[name].shape[1:])
                        )
                        for name in names
                    }
                for name in names:
                    arrays[name][rows] = found[name].half().cpu().numpy()
                bar.update(len(rows))
                stop = start + len(rows)
                if stop == total or stop % SAVED_EVERY < batch:
                    for array in arrays.values():
                        array.flush()
                    write_json(about, {"key": self.key, "rows": stop})
        return arrays

    def _file(self, number: int, name: str) -> Path:
        return self.folder / f"view-{number}-{name}.npy"

    def outputs(
        self,
        rows: Sequence[int],
        views: Sequence[int],
        images: torch.Tensor | None = None,
        threads: ThreadPoolExecutor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Ask the teacher about views of rows: vectors and tokens in the student's coordinates, logits.

        Args:
            rows: Which images.
            views: Number of the view of each.
            images: The views, if they have been cut at the size at which images are kept.
            threads: To cut views on.
        """
        if images is None:
            whole = self.images(rows).to(self.teacher.device, non_blocking=True)
            images = self.views.cut_all(whole, rows, views, self.pixels.shape[-1], threads)
        said = self.teacher(images)
        found = {"vectors": self.bases["vectors"](said.vectors)}
        if said.tokens is not None and "tokens" in self.wanted:
            found["tokens"] = self.bases["tokens"](said.tokens)
        if said.logits is not None and "logits" in self.wanted:
            found["logits"] = said.logits.float()
        return found


def sample_outputs(teacher: Teacher, pixels: np.ndarray, rows: Sequence[int]) -> Iterator[TeacherOutput]:
    """Yield what a teacher says about whole images."""
    for start in range(0, len(rows), teacher.batch):
        chosen = rows[start : start + teacher.batch]
        yield teacher(torch.from_numpy(np.stack([pixels[row] for row in chosen])))


def vectors_of(teacher: Teacher, pixels: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Return a teacher's vectors (rows, D) of whole images, in float32.

    They are copied into one array: a small block that is kept for each batch would hold the memory of the batch, which
    cannot be used again around it (0.7 MB an image with EfficientNet-Lite0 and glibc).
    """
    found, start = np.empty((0, 0), np.float32), 0
    for said in sample_outputs(teacher, pixels, rows):
        if not start:
            found = np.empty((len(rows), said.vectors.shape[1]), np.float32)
        found[start : start + len(said.vectors)] = said.vectors.float().cpu().numpy()
        start += len(said.vectors)
    return found


class DistillationDataset(WithEpoch, TorchDataset):
    """Views of images with what the teacher says about them, as batches.

    Args:
        outputs: Of the teacher.
        rows: Which images.
        views: Number of views that take turns; 0 for a new one in each epoch; None for whole images.
        sizes: Size of the image in an epoch.
    """

    def __init__(self, outputs: TeacherOutputs, rows: Sequence[int], views: int | None, sizes: Sequence[int]) -> None:
        super().__init__()
        self.outputs, self.rows, self.views, self.sizes = outputs, np.asarray(rows), views, list(sizes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the batch of one image."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Rows) -> dict[str, Any]:
        """Return a batch: images in uint8, and the teacher's outputs by name."""
        rows, epoch = self.rows[np.asarray(indices)].tolist(), self.epoch
        numbers = [0 if self.views is None else choose_view(row, epoch, self.views) for row in rows]
        size = self.sizes[min(epoch, len(self.sizes) - 1)]
        images = self.outputs.views.cut_all(self.outputs.images(rows), rows, numbers, size)
        batch: dict[str, Any] = {"images": images}
        if self.views is not None:
            batch["rows"] = np.asarray(rows)
        if self.views == 0 and not self.outputs.says_always:
            is_teachers = size == self.outputs.pixels.shape[-1]
            return batch | self.outputs.outputs(rows, numbers, images if is_teachers else None)
        kept = [self.outputs.view(number) for number in numbers]
        return batch | {
            name: torch.from_numpy(np.stack([one[name][row] for one, row in zip(kept, rows, strict=True)]))
            for name in kept[0]
        }


class DistillationCollator(Normaliser):
    """Normalise the images of a batch as the student's image processor does."""

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Return `pixel_values`, `labels` (the teacher's vectors), `teacher_tokens`, `teacher_logits`, `rows`."""
        if isinstance(batch, list):
            batch = {
                name: np.concatenate([one[name] for one in batch])
                if name == "rows"
                else torch.cat([one[name] for one in batch])
                for name in batch[0]
            }
        found = {"pixel_values": self.normalise(batch["images"]), "labels": batch["vectors"]}
        found |= {f"teacher_{name}": batch[name] for name in ("tokens", "logits") if name in batch}
        return found | {name: batch[name] for name in ("rows",) if name in batch}


__all__ = ["Basis", "DistillationCollator", "DistillationDataset", "Images", "TeacherOutputs", "read_images"]
__all__ += ["sample_outputs", "vectors_of"]
