"""What the encoder alone needs is in the oldest supported transformers; `make test-older` runs the rest there."""

import subprocess
import sys
from importlib import import_module

import pytest


# Commands whose models have several parts, which need transformers 5.23.
COMPOSITES = ("ask", "compose", "index", "search", "train_language", "train_retrieval", "train_vae", "zero_shot")
ENCODERS = """
import importlib, pkgutil, sys
import modeling_omni_vision.cli as commands

composites = [name for name in sys.modules if name.endswith(("_vision_retrieval", "_vision_language", "_vision_vae"))]
assert len(composites) == 8, composites
sys.modules.update(dict.fromkeys(composites))  # None: whoever imports one of them fails
names = [f"{commands.__name__}.{one.name}" for one in pkgutil.iter_modules(commands.__path__)]
names = [name for name in names if name.rpartition(".")[2] not in sys.argv[1:]]
others = ("embedding.embed", "hub", "evaluation", "training.classification", "training.distillation", "interop.export")
names += [f"modeling_omni_vision.{name}" for name in others]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_code_of_encoders_does_without_what_composites_need():
    pytest.importorskip("transformers", minversion="5.23", reason="nothing is taken away from an older one")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENCODERS, *COMPOSITES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_the_commands_of_composites_exist():
    assert all(import_module(f"modeling_omni_vision.cli.{name}").main for name in COMPOSITES)
