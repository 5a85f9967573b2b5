"""Runs a script as users without this package do: what it loads must come from the checkpoint alone."""

import json
import os
import subprocess
import sys


BLOCK_PACKAGE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "modeling_omni_vision":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


def run_without_package(script, *arguments, cwd):
    """Run `script` offline in a fresh process and cache, and return the JSON of its last printed line."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(cwd / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", BLOCK_PACKAGE + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
