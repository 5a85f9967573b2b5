"""Fetch the common test suites of the installed transformers: they ship in its source archive, not in its wheel.

`python tests/fetch_transformers_suite.py` fills `.cache/transformers_suite/`; `make test` calls it.
`tests/test_transformers_suite.py` then runs OmniVision through them, as transformers does with its own models.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


CACHE = Path(__file__).parent.parent / ".cache" / "transformers_suite"
PACKAGE = "transformers_suite"
# The suites import these neighbours, which the archive leaves out; none of their content concerns an encoder.
STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": (
        "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True, 'dtype': 'float16',\n"
        "    'chunk_size_feed_forward': 5, 'id2label': {0: 'a', 1: 'b'}, 'label2id': {'a': 0, 'b': 1},\n"
        "    'problem_type': 'regression'}\n"
    ),
}


def suite_folder() -> Path:
    """Return the folder to put on `sys.path`, one for each transformers version."""
    return CACHE / transformers.__version__


def fetch() -> Path:
    """Download the source archive through pip, unpack its test modules, and return the folder holding them."""
    package = suite_folder() / PACKAGE
    if (package / "complete").exists():
        return package
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"transformers=={transformers.__version__}"
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:"]
        subprocess.run([*download, "-d", scratch, wanted], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            members = [member for member in tar.getmembers() if member.name.split("/")[1:2] == ["tests"]]
            for member in members:
                if member.isfile() and member.name.count("/") == 2:
                    content = tar.extractfile(member).read()
                    package.mkdir(parents=True, exist_ok=True)
                    (package / Path(member.name).name).write_bytes(content)
    for name, content in STAND_INS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content)
    (package / "complete").touch()
    return package


if __name__ == "__main__":
    print(
        f"transformers test suites: {fetch().relative_to(Path.cwd()) if CACHE.is_relative_to(Path.cwd()) else CACHE}"
    )
