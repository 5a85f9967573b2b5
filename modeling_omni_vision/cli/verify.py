"""Check a published folder again, offline: its files, its card and what it computes.

    omni-vision verify published/digits

Exit status 1 and a list of what is wrong if anything is.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import option, parse
from .program import program


@dataclass
class VerifyArguments:
    """Which folder, and how much to trust it."""

    folder: str = option("Folder that `omni-vision publish` wrote, or a copy of it.", positional=True)
    trust_remote_code: bool = option("Run the Python in the folder even if it is not the installed package's.", False)


@program
def main(argv: Sequence[str]) -> None:
    arguments = parse(VerifyArguments, argv)
    if not os.path.isdir(arguments.folder):
        raise ValueError(f"Expected a folder, got {arguments.folder!r}. Correct the path.")
    from ..hub import verify

    found = verify(arguments.folder, arguments.trust_remote_code)
    if found.failures:
        print("\n".join((f"FAILED {found.folder}", *found.failures)))
        raise SystemExit(1)
    print(
        f"OK {found.folder}: {found.num_files} files, card and outputs as in the proof "
        f"(largest difference {found.difference:.1e}), proof {found.digest}"
    )
