"""Check a published folder again, offline: its files, its card and what it computes.

    python scripts/verify.py published/digits

Exit status 1 and a list of what is wrong if anything is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..hub import verify


@dataclass
class VerifyArguments:
    """How much to trust the folder."""

    trust_remote_code: bool = field(
        default=False, metadata={"help": "run the Python in the folder even if it is not the installed package's"}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Verify and print one line, or what is wrong."""
    parser = HfArgumentParser(VerifyArguments)  # type: ignore[arg-type]
    parser.add_argument("folder", help="folder that scripts/publish.py wrote, or a copy of it")
    arguments, rest = parser.parse_args_into_dataclasses(argv)
    found = verify(rest.folder, arguments.trust_remote_code)
    if found.failures:
        print("\n".join((f"FAILED {found.folder}", *found.failures)))
        raise SystemExit(1)
    print(
        f"OK {found.folder}: {found.num_files} files, card and outputs as in the proof "
        f"(largest difference {found.difference:.1e}), proof {found.digest}"
    )


if __name__ == "__main__":
    main()
