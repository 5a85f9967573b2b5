"""`REMOTE_CODE.md`: the code that `trust_remote_code` runs, file by file, for whoever has to approve it."""

import ast
import re
from pathlib import Path

from .proof import sha256


NOTE_NAME = "REMOTE_CODE.md"
HASH_LINE = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)


def python_files(folder: Path) -> list[Path]:
    """List the Python files of a folder, at any depth, in order of their names."""
    return sorted(folder.rglob("*.py"))


def describe(path: Path) -> str:
    """Describe in two sentences what a file is and what it imports, from its docstring and its syntax tree."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    summary = " ".join((ast.get_docstring(tree) or "It has no docstring.").split("\n\n")[0].split())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." + (node.module or "") if node.level else (node.module or "").partition(".")[0])
    names = ", ".join(f"`{name}`" for name in sorted(imported)) or "nothing"
    return f"{summary.rstrip('.:')}. It imports {names}."


def write_note(folder: Path) -> None:
    """Write the note for the Python files of a folder."""
    files = python_files(folder)
    hashes = "\n".join(f"{sha256(path)}  {path.name}" for path in files)
    purposes = "\n".join(
        f"- `{path.name}` ({len(path.read_text().splitlines())} lines): {describe(path)}" for path in files
    )
    text = f"""# Code that runs with `trust_remote_code=True`

These files and no others. They open no file, start no process and use no network when they are imported, and the
image processor reads only the images that it is given. Compare with `sha256sum -c REMOTE_CODE.md`:

```
{hashes}
```

{purposes}

To be sure of what runs, read the files at one revision and pin it: `revision=` pins code and weights together.
"""
    (folder / NOTE_NAME).write_text(text, encoding="utf-8", newline="\n")


def check_note(folder: Path) -> list[str]:
    """Return what is wrong with the note of a folder: it must give the SHA-256 of each Python file and of no other."""
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in python_files(folder)}
    note = folder / NOTE_NAME
    text = note.read_text(encoding="utf-8") if note.is_file() else ""
    listed = {name: digest for digest, name in HASH_LINE.findall(text)}
    return [
        f"{NOTE_NAME}: expected {found.get(name, 'no such file')} for {name}, got {listed.get(name, 'nothing')}"
        for name in sorted({*found, *listed})
        if found.get(name) != listed.get(name)
    ]


__all__ = ["NOTE_NAME", "check_note", "python_files", "write_note"]
