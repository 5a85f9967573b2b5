import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.version import Version
from transformers import __version__ as transformers_version


# Tests of the extra `demo`: `make test-extras EXTRAS=demo`.
collect_ignore_glob = []
if find_spec("gradio") is None or Version(transformers_version) < Version("5.23"):
    collect_ignore_glob.append("test_*.py")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


ROOT = Path(__file__).parent.parent.parent
KINDS = {"fashion-mnist": "classifier", "search-scenes": "retrieval model", "language-scenes": "vision-language model"}


class Served:
    """A bundled checkpoint, its page, where it is served, and a client."""

    def __init__(self, name):
        from modeling_omni_vision import auto_classes  # noqa: F401
        from modeling_omni_vision.cli.demo import TABS
        from modeling_omni_vision.demo.opened import OpenedCheckpoint
        from modeling_omni_vision.demo.page import build_page, serve

        kind = KINDS[name]
        self.folder = str(ROOT / "checkpoints" / f"omni-vision-{name}")
        self.opened = OpenedCheckpoint(self.folder, classifies=kind == "classifier")
        self.page = build_page(self.opened, TABS[kind])
        _, self.address, _ = serve(self.page, prevent_thread_lock=True)

    def client(self):
        from gradio_client import Client

        # Five seconds, by default, are few for fifty uploads at once on a busy machine.
        return Client(self.address, verbose=False, httpx_kwargs={"timeout": 120})


def _served(name):
    served = Served(name)
    yield served
    served.page.close(verbose=False)


@pytest.fixture(scope="session")
def classifier():
    yield from _served("fashion-mnist")


@pytest.fixture(scope="session")
def search():
    pytest.importorskip("lancedb")
    yield from _served("search-scenes")


@pytest.fixture(scope="session")
def language():
    yield from _served("language-scenes")
