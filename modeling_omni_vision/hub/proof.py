"""`proof.json`: SHA-256 of every file of a folder, and outputs of its model on fixed inputs.

The proof holds a digest of itself and is valid in one canonical form only. It shows that a folder is complete and
computes what it did when it was published. It does not show who wrote it, as whoever can rewrite every file can
rewrite the proof: for that compare the digest that `publish` printed, or pin a revision.
"""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import ImageProcessingMixin

from .. import __version__
from ..interop.isolated_process import run_isolated
from ..records.machine import recorded_versions
from ..records.metrics_file import PROOF_NAME
from .clean_process import KINDS, RECIPES


# Put beside a checkpoint by git and by the Hub, never read by `from_pretrained`.
NOT_OURS = (".git", ".cache", ".gitattributes")
# Relative to the largest output where that exceeds 1. Between one process and the next on one machine 0 was
# measured, between eager and sdpa attention 1e-6; other processors and releases add other roundings.
OUTPUT_TOLERANCE = 1e-4
OPENING_SECONDS = 600


class OpeningError(ValueError):
    """A folder that cannot be opened without our package."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, or why it cannot be read, which equals no hash."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"


def file_hashes(folder: Path) -> dict[str, str]:
    """Hash every file below a folder but the proof and what git and the Hub put there."""
    # Links to files are followed, as a Hub cache consists of them; links to folders are listed as unreadable.
    found = {}
    for path in folder.rglob("*"):
        # A folder that cannot be listed counts as a file that cannot be read.
        is_folder = path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK)
        name = path.relative_to(folder)
        if not is_folder and name.parts[0] not in (PROOF_NAME, *NOT_OURS):
            found[name.as_posix()] = sha256(path)
    return dict(sorted(found.items()))


def release_name(hashes: dict[str, str]) -> str:
    """Name a folder by the hash of its code, weights, configuration and numbers; prose and images do not count."""
    kept = {name: digest for name, digest in hashes.items() if not name.endswith((".md", ".png"))}
    content = "".join(f"{digest}  {name}\n" for name, digest in sorted(kept.items()))
    return f"r-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def open_in_clean_process(folder: Path, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    """Compute `outputs_of_folder` in a new process without our package, a network, a cache or a current directory;
    raise `OpeningError` with the last line of its messages if that fails.
    """
    child = Path(__file__).with_name("clean_process.py")
    with tempfile.TemporaryDirectory(prefix="omni-vision-opening-") as scratch:
        answer = Path(scratch, "outputs.pt")
        asked = (folder.absolute(), answer, "trust" if trust_remote_code else "distrust")
        try:
            status, last = run_isolated(child, *asked, seconds=OPENING_SECONDS)
        except TimeoutError as error:
            raise OpeningError(f"{str(folder)!r} did not open within {OPENING_SECONDS} s.") from error
        if status:
            raise OpeningError(
                f"{str(folder)!r} must open in a clean process without our package, got exit status {status}: {last}"
            )
        return torch.load(answer, weights_only=True)


def difference(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """Return the largest absolute difference, infinite for missing tensors, other shapes and non-finite numbers."""
    if found is None or expected is None or found.shape != expected.shape:
        return float("inf")
    largest = float((found.double() - expected.double()).abs().max())
    return largest if math.isfinite(largest) else float("inf")


def compare(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], allowed: dict[str, float]
) -> tuple[float, list[str]]:
    """Return the largest difference between two sets of outputs, and a sentence on each that is not `allowed`."""
    differences = {name: difference(found.get(name), expected.get(name)) for name in sorted({*found, *expected})}
    failures = [
        f"{name}: expected within {allowed.get(name, 0.0):.1e} of the reference, got a difference of {size:.1e}"
        for name, size in differences.items()
        if size > allowed.get(name, 0.0)
    ]
    return max(differences.values()), failures


def summarise(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Reduce outputs to what a proof holds: of images about 8 x 8 pixels, CLS and the mean token, about 8 patches,
    about 256 logits of a language model after the prompt; everything else unchanged.
    """
    kept: dict[str, torch.Tensor] = {}
    for name, output in outputs.items():
        if name == "last_hidden_state":
            kept["cls"], kept["mean_token"] = output[:, 0], output.mean(dim=1)
        elif name == "patch_embeds":
            kept[name] = output[:, :: max(output.shape[1] // 8, 1)]
        elif name in ("logits_with_image", "logits_text_only"):
            kept[name] = output[:, -1, :: max(output.shape[2] // 256, 1)]
        elif name.startswith(("pixel_values", "decoded", "reconstruction")) and output.ndim == 4:
            steps = (max(side // 8, 1) for side in output.shape[2:])
            rows, columns = (slice(step // 2, None, step) for step in steps)
            kept[name] = output[:, :, rows, columns]
        else:
            kept[name] = output
    return kept


def rounding(expected: torch.Tensor) -> float:
    """Return the difference that rounding may make to an output; 0 for integers."""
    return OUTPUT_TOLERANCE * max(1.0, float(expected.abs().max())) if expected.is_floating_point() else 0.0


def tolerance_of(name: str, expected: torch.Tensor, folder: Path) -> float:
    """Return the tolerance of an output: rounding, of pixels one of 255 values, of token ids 0."""
    if not name.startswith("pixel_values"):
        return rounding(expected)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    normalised = settings.get("do_normalize", True)
    return 1.01 / 255 / (min(settings.get("image_std") or [1.0]) if normalised else 1.0)


def canonical(proof: dict[str, Any]) -> str:
    """Format a proof in its one valid form."""
    return json.dumps(proof, indent=1, sort_keys=True, allow_nan=False) + "\n"


def digest_of(proof: dict[str, Any]) -> str:
    """Return the digest of a proof, taken over everything in it but the digest."""
    content = canonical({name: value for name, value in proof.items() if name != "digest"})
    return hashlib.sha256(content.encode()).hexdigest()


def write_proof(folder: Path, outputs: dict[str, torch.Tensor], command: str) -> str:
    """Write `proof.json` for a folder with all other files, with the outputs of a clean process; return its digest."""
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    proof: dict[str, Any] = {
        "command": command,
        "files": file_hashes(folder),
        "inputs": RECIPES[KINDS.get(model_type, "vision")],
        "outputs": {name: output.tolist() for name, output in summarise(outputs).items()},
        "versions": {"omni-vision": __version__, **recorded_versions("huggingface_hub", "pillow")},
    }
    proof["digest"] = digest_of(proof)
    (folder / PROOF_NAME).write_text(canonical(proof), encoding="utf-8", newline="\n")
    return proof["digest"]


def read_proof(folder: Path) -> dict[str, Any]:
    """Read the proof of a folder; raise `ValueError` if there is none or one byte of it was changed."""
    path = folder / PROOF_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{PROOF_NAME} must be readable, got {error.strerror!r} in {str(folder)!r}. Folders have one that "
            "omni-vision publish wrote."
        ) from error
    try:
        proof = json.loads(raw)
        intact = canonical(proof).encode() == raw and proof["digest"] == digest_of(proof)
        intact = intact and isinstance(proof["files"], dict) and isinstance(proof["outputs"], dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise ValueError(f"{PROOF_NAME} was changed after it was written: its digest does not fit its content.")
    return proof


__all__ = ["PROOF_NAME", "OpeningError", "file_hashes", "open_in_clean_process", "read_proof", "release_name"]
__all__ += ["write_proof"]
