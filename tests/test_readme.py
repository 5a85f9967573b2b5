"""Every code block of README.md runs, in order, from the folder of a fresh checkout."""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|shell)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if language == "shell" for line in code.splitlines() if line.strip()]


def test_readme_shows_runnable_python_on_its_first_screen():
    assert README.index("```python") < len("\n".join(README.splitlines()[:12]))


def test_every_number_table_of_readme_is_what_its_files_say():
    fill = [sys.executable, str(ROOT / "scripts" / "fill_readme.py"), "--check"]
    assert subprocess.run(fill, capture_output=True, text=True, cwd=ROOT, check=False).returncode == 0


def test_files_that_readme_links_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
