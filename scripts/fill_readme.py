"""Write the numbers of README.md and of the recipes from the files that hold them; none is typed.

    python scripts/fill_readme.py           # after a new checkpoint or benchmark
    python scripts/fill_readme.py --check   # exit 1 if they say anything else

Between the lines `begin NAME` and `end NAME` stands what the function NAME of `analysis/readme.py` makes of its file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_omni_vision.analysis.readme import fill


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    check = parser.parse_args(argv).check
    wrong = fill(Path(__file__).parent.parent, check)
    if check and wrong:
        sys.exit(f"{', '.join(wrong)} say other numbers than their files: run python scripts/fill_readme.py")
    print(f"rewritten: {', '.join(wrong) or 'nothing'}")


if __name__ == "__main__":
    main()
