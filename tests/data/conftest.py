import gzip
import struct

import numpy as np
import pytest


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def _write_idx(folder, splits=("train", "t10k"), gz=True, channels=(), prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for split in splits:
        images, labels = rng.integers(0, 256, (20, 6, 5, *channels)), np.arange(20) % 4
        written[split] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{prefix}{split}-{kind}-ubyte" + (".gz" if gz else "")
            (folder / name).write_bytes(gzip.compress(content) if gz else content)
    return written


@pytest.fixture
def write_idx():
    """A function that writes a folder of IDX files and returns what it wrote."""
    return _write_idx
