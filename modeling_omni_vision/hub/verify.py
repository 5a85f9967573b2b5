"""Check a published folder offline: files, code note, card and outputs against its proof.

No code of the folder runs before its files are known to be those of the proof. Even then its Python runs only if it
is, byte for byte, that of the installed package, or if the caller trusts it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from .card import check_card
from .proof import compare, file_hashes, open_in_clean_process, read_proof, summarise, tolerance_of
from .remote_code import check_note, python_files


PACKAGE_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    folder: Path
    failures: tuple[str, ...]  # one sentence each; empty if nothing is wrong
    num_files: int = 0  # whose SHA-256 was compared
    difference: float | None = None  # largest, from the reference outputs; None if they were not computed
    digest: str | None = None  # of the proof, to compare with what the publisher says; None without a valid proof


def verify(folder: str | Path, trust_remote_code: bool = False) -> Verification:
    """
    Check a folder that `publish` wrote, a clone of its repository or a snapshot in a Hub cache.

    Outputs are compared only when the files are right, and the Python in the folder runs only if it is that of the
    installed package, or with `trust_remote_code`.
    """
    path = Path(folder)
    failures = check_files(path) if path.is_dir() else [f"Expected a folder, got {str(folder)!r}."]
    if failures:
        return Verification(path, tuple(failures))
    proof = read_proof(path)
    failures = check_content(path)
    largest = None
    if not (python_is_ours(path) or trust_remote_code):
        failures.append(
            "Outputs were not compared: the Python in this folder is not that of the installed package. Read it, "
            "then pass --trust_remote_code to run it."
        )
    elif not failures:
        largest, failures = check_outputs(path, proof["outputs"])
    return Verification(path, tuple(failures), len(proof["files"]), largest, proof["digest"])


def check_files(folder: Path) -> list[str]:
    """Return what is wrong with the proof and the files of a folder; reads every byte of it."""
    try:
        expected, found = read_proof(folder)["files"], file_hashes(folder)
    except (OSError, ValueError) as error:
        return [str(error)]
    failures = [f"{name}: missing" for name in sorted(set(expected) - set(found))]
    failures += [f"{name}: added, not in the proof" for name in sorted(set(found) - set(expected))]
    failures += [
        f"{name}: expected SHA-256 {digest}, got {found[name]}"
        for name, digest in expected.items()
        if name in found and found[name] != digest
    ]
    return failures


def check_content(folder: Path) -> list[str]:
    """Return what is wrong with REMOTE_CODE.md and with the numbers of the card."""
    return (check_note(folder) if python_files(folder) else []) + check_card(folder)


def python_is_ours(folder: Path) -> bool:
    """Whether every Python file of a folder is, byte for byte, at the root of the installed package."""
    ours = {path.relative_to(PACKAGE_ROOT): path.read_bytes() for path in PACKAGE_ROOT.glob("*.py")}
    return all(ours.get(path.relative_to(folder)) == path.read_bytes() for path in python_files(folder))


def check_outputs(folder: Path, expected: dict[str, list]) -> tuple[float | None, list[str]]:
    """Compute the outputs again in a clean process; return the largest difference and what is too far off."""
    try:
        found = summarise(open_in_clean_process(folder, trust_remote_code=bool(python_files(folder))))
        references = {name: torch.tensor(output) for name, output in expected.items()}
        allowed = {name: tolerance_of(name, reference, folder) for name, reference in references.items()}
    except (OSError, TypeError, ValueError) as error:
        return None, [str(error)]
    return compare(found, references, allowed)


__all__ = ["Verification", "check_content", "check_files", "verify"]
